import Glibc

// Directories, links and small files, as the kernel and this tool keep them.

/// The names in a directory, without order; nil and errno if it cannot be read.
func entries(of directory: String) -> [String]? {
    guard let opened = opendir(directory) else { return nil }
    defer { closedir(opened) }
    var names: [String] = []
    while let entry = readdir(opened) {
        names.append(
            withUnsafeBytes(of: entry.pointee.d_name) {
                String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self)
            })
    }
    return names
}

/// Where a symbolic link leads; nil if it is none.
func linkTarget(_ path: String) -> String? {
    var target = [CChar](repeating: 0, count: 4096)
    let count = readlink(path, &target, target.count)
    guard count > 0 else { return nil }
    return String(decoding: target.prefix(count).map(UInt8.init(bitPattern:)), as: UTF8.self)
}

/// What is in a file of less than 64 KiB; nil and errno if it cannot be read.
func contents(of path: String) -> [UInt8]? {
    guard let file = fopen(path, "re") else { return nil }
    defer { fclose(file) }
    var bytes = [UInt8](repeating: 0, count: 65536)
    let count = fread(&bytes, 1, bytes.count, file)
    guard ferror(file) == 0 else { return nil }
    guard count < bytes.count else {
        errno = EFBIG
        return nil
    }
    return Array(bytes.prefix(count))
}
