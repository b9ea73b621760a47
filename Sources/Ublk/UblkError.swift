import Glibc

/// A step on the way to or from a ublk device that failed.
public struct UblkError: Error, Equatable, Sendable, CustomStringConvertible {
    /// The step, for example "adding the device".
    public let step: String
    /// The kernel's error number, positive.
    public let errno: Int32

    public init(_ step: String, errno: Int32) {
        self.step = step
        self.errno = errno
    }

    public var reason: String {
        switch errno {
        case ETIME: "the kernel did not answer in time"
        default: String(cString: strerror(errno))
        }
    }

    public var description: String { "\(step) failed: \(reason) (error \(errno))" }
}
