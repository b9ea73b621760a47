import CacheRuntime
import Glibc

/// A file that stands for a disk, removed with its owner.
final class TemporaryFile: Sendable {
    let path: String

    init(byteCount: Int, directory: String = "/tmp") {
        let number = UInt64.random(in: 0 ..< .max)
        path = "\(directory)/ublk-cas-test-\(getpid())-\(number)"
        let descriptor = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0o600)
        precondition(descriptor >= 0 && ftruncate(descriptor, off_t(byteCount)) == 0)
        close(descriptor)
    }

    deinit { unlink(path) }

    func resize(_ byteCount: Int) {
        precondition(truncate(path, off_t(byteCount)) == 0)
    }

    /// Overwrites bytes behind everybody's back.
    func poke(_ bytes: [UInt8], at offset: Int) {
        let descriptor = open(path, O_RDWR | O_CLOEXEC)
        precondition(descriptor >= 0)
        precondition(pwrite(descriptor, bytes, bytes.count, off_t(offset)) == bytes.count)
        close(descriptor)
    }

    func peek(_ count: Int, at offset: Int) -> [UInt8] {
        let descriptor = open(path, O_RDONLY | O_CLOEXEC)
        precondition(descriptor >= 0)
        var bytes = [UInt8](repeating: 0, count: count)
        precondition(pread(descriptor, &bytes, count, off_t(offset)) == count)
        close(descriptor)
        return bytes
    }
}

/// The code of the error that `body` throws; nil if it throws none.
func code(of body: () throws(CacheError) -> Void) -> CacheError.Code? {
    do throws(CacheError) {
        try body()
        return nil
    } catch {
        return error.code
    }
}

func message(of body: () throws(CacheError) -> Void) -> String? {
    do throws(CacheError) {
        try body()
        return nil
    } catch {
        return error.message
    }
}
