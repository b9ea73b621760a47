package import ControlProtocol
import Foundation
import Glibc

/// The supervisor's hold on the record of its cache.
///
/// A new content is a new file, locked before it takes the place of the old one: readers see one or
/// the other whole, and a record without a lock is one whose supervisor is gone.
package final class RecordFile {
    private var descriptor: Int32 = -1
    private let path: String

    package init(cacheID: UInt16, in directory: String = RunDirectory.path) {
        path = RunDirectory.recordPath(cacheID: cacheID, in: directory)
    }

    deinit { if descriptor >= 0 { close(descriptor) } }

    /// False if it could not be written; then `casadm -L` tells less.
    @discardableResult package func write(_ record: CacheRecord) -> Bool {
        guard let bytes = try? JSONEncoder().encode(record) else { return false }
        let temporary = path + ".new"
        let opened = open(temporary, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0o600)
        guard opened >= 0 else { return false }
        let written = bytes.withUnsafeBytes { Glibc.write(opened, $0.baseAddress, $0.count) }
        guard written == bytes.count, flock(opened, LOCK_EX | LOCK_NB) == 0,
            rename(temporary, path) == 0
        else {
            close(opened)
            unlink(temporary)
            return false
        }
        if descriptor >= 0 { close(descriptor) }
        descriptor = opened
        return true
    }

    package func remove() {
        unlink(path)
        if descriptor >= 0 { close(descriptor) }
        descriptor = -1
    }
}

/// The log that this process's standard error goes to, if it is a file.
enum LogFile {
    static func lastLines(_ count: Int) -> [String] {
        var status = stat()
        guard fstat(STDERR_FILENO, &status) == 0, status.st_mode & S_IFMT == S_IFREG,
            let file = FileHandle(forReadingAtPath: "/proc/self/fd/2")
        else { return [] }
        defer { try? file.close() }
        let start = UInt64(max(0, Int64(status.st_size) - 16384))
        guard (try? file.seek(toOffset: start)) != nil, let bytes = try? file.readToEnd() else {
            return []
        }
        let lines = String(decoding: bytes, as: UTF8.self).split(separator: "\n")
        return lines.suffix(count).map(String.init)
    }
}
