import Glibc

/// A file that stands for a disk. Every block of it is written once, so that no later write has to
/// allocate space. A file without a name of its own is gone with the process, however that ends.
final class BackingFile {
    /// Leads to the file as long as this object lives.
    let path: String
    private let descriptor: Int32

    init(path named: String?, directory: String, byteCount: Int) throws {
        if let named {
            descriptor = open(named, O_RDWR | O_CREAT | O_CLOEXEC, 0o600)
            path = named
        } else {
            var template = Array("\(directory)/ublk-cas-bench.XXXXXX".utf8CString)
            descriptor = mkstemp(&template)
            if descriptor >= 0 { unlink(template) }
            path = "/proc/self/fd/\(descriptor)"
        }
        guard descriptor >= 0 else {
            throw BenchError("making a file in \(named ?? directory): \(errorText)")
        }
        try fill(byteCount)
    }

    deinit { close(descriptor) }

    private func fill(_ byteCount: Int) throws {
        guard lseek(descriptor, 0, SEEK_END) < off_t(byteCount) else { return }
        guard ftruncate(descriptor, 0) == 0, lseek(descriptor, 0, SEEK_SET) == 0 else {
            throw BenchError("emptying \(path): \(errorText)")
        }
        let zeroes = [UInt8](repeating: 0, count: 1 << 20)
        var left = byteCount
        while left > 0 {
            let count = write(descriptor, zeroes, min(left, zeroes.count))
            guard count > 0 else { throw BenchError("writing \(path): \(errorText)") }
            left -= count
        }
        guard fdatasync(descriptor) == 0 else { throw BenchError("\(path): \(errorText)") }
    }

    private var errorText: String { String(cString: strerror(errno)) }
}
