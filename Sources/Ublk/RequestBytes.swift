import Glibc

/// The bytes of a request from one of them on, as the driver gives and takes them in user copy.
///
/// They are copied at once, by a system call each. In a ring the same would go to a thread of the
/// kernel's, because the file cannot say that it never waits: that costs many times as much
/// (Decision 0012).
public struct RequestBytes: Equatable, Sendable {
    private let descriptor: Int32
    private let position: UInt64

    init(descriptor: Int32, position: UInt64) {
        self.descriptor = descriptor
        self.position = position
    }

    /// Copies `count` bytes of a write to `target`. 0 or -errno.
    public func take(into target: UnsafeMutableRawPointer, count: Int) -> Int32 {
        var done = 0
        while done < count {
            let copied = pread(
                descriptor, target + done, count - done, off_t(position + UInt64(done)))
            if copied > 0 {
                done += copied
            } else if copied == 0 {
                return -EIO
            } else if errno != EINTR {
                return -errno
            }
        }
        return 0
    }

    /// Gives a read `count` bytes from `source`. 0 or -errno.
    public func give(from source: UnsafeRawPointer, count: Int) -> Int32 {
        var done = 0
        while done < count {
            let copied = pwrite(
                descriptor, source + done, count - done, off_t(position + UInt64(done)))
            if copied > 0 {
                done += copied
            } else if copied == 0 {
                return -EIO
            } else if errno != EINTR {
                return -errno
            }
        }
        return 0
    }
}
