import Glibc

// Directories, links and small files, as the kernel in /proc and /sys, and this project's programs,
// keep them.

/// What is in a small file; nil and errno if it cannot be read.
package func readBytes(_ path: String) -> [UInt8]? {
    let descriptor = open(path, O_RDONLY | O_CLOEXEC)
    guard descriptor >= 0 else { return nil }
    defer { close(descriptor) }
    var content: [UInt8] = []
    var piece = [UInt8](repeating: 0, count: 16384)
    while true {
        let count = read(descriptor, &piece, piece.count)
        if count < 0 && errno == EINTR { continue }
        guard count >= 0 else { return nil }
        if count == 0 { return content }
        content.append(contentsOf: piece[0..<count])
    }
}

/// The content as text, white space at its ends removed.
package func readText(_ path: String) -> String? {
    guard let bytes = readBytes(path) else { return nil }
    let isSpace = { (byte: UInt8) in byte == 0x20 || byte == 0x0a || byte == 0x09 }
    let text = bytes.drop(while: isSpace).reversed().drop(while: isSpace).reversed()
    return String(decoding: text, as: UTF8.self)
}

/// The content as an unsigned decimal number.
package func readNumber(_ path: String) -> UInt64? {
    readText(path).flatMap { UInt64($0) }
}

/// The names in a directory, without `.` and `..`, in no order; nil and errno if it cannot be read.
package func namesInDirectory(_ path: String) -> [String]? {
    guard let directory = opendir(path) else { return nil }
    defer { closedir(directory) }
    var names: [String] = []
    while let entry = readdir(directory) {
        let name = withUnsafeBytes(of: &entry.pointee.d_name) { bytes in
            String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self)
        }
        if name != "." && name != ".." { names.append(name) }
    }
    return names
}

/// Where a symbolic link leads; nil if it is none.
package func linkTarget(_ path: String) -> String? {
    var target = [CChar](repeating: 0, count: Int(PATH_MAX))
    let count = readlink(path, &target, target.count)
    guard count > 0 else { return nil }
    return String(decoding: target.prefix(count).map(UInt8.init(bitPattern:)), as: UTF8.self)
}

/// Writes a setting of /sys or /proc. Whether it was taken is not known.
package func writeText(_ text: String, to path: String) {
    let descriptor = open(path, O_WRONLY | O_CLOEXEC)
    guard descriptor >= 0 else { return }
    defer { close(descriptor) }
    var bytes = Array(text.utf8)
    _ = write(descriptor, &bytes, bytes.count)
}
