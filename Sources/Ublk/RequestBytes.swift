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
        move(count) { pread(descriptor, target + $0, count - $0, place($0)) }
    }

    /// Gives a read `count` bytes from `source`. 0 or -errno.
    public func give(from source: UnsafeRawPointer, count: Int) -> Int32 {
        move(count) { pwrite(descriptor, source + $0, count - $0, place($0)) }
    }

    private func place(_ done: Int) -> off_t { off_t(position + UInt64(done)) }

    /// `copy` moves what is left after so many bytes, or a part of it.
    @inline(__always) private func move(_ count: Int, _ copy: (_ done: Int) -> Int) -> Int32 {
        var done = 0
        while done < count {
            let copied = copy(done)
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
