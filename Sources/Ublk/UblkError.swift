import Glibc

/// A step on the way to or from a ublk device that failed.
package struct UblkError: Error, Equatable, Sendable, CustomStringConvertible {
    /// The step, for example "adding the device".
    package let step: String
    /// The kernel's error number, positive.
    package let errno: Int32

    package init(_ step: String, errno: Int32) {
        self.step = step
        self.errno = errno
    }

    package var reason: String {
        switch errno {
        case ETIME: "the kernel did not answer in time"
        default: String(cString: strerror(errno))
        }
    }

    package var description: String { "\(step) failed: \(reason) (error \(errno))" }
}
