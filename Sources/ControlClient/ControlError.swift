package import ControlProtocol

/// Why a request to a cache's server brought no answer; `description` is a sentence for the admin.
package enum ControlError: Error, Equatable, CustomStringConvertible {
    /// No server listens for this cache.
    case notRunning(cacheID: UInt16)
    /// Somebody else's privileges are needed to talk to the server.
    case denied(cacheID: UInt16, socket: String)
    /// The server did not answer, or not in time.
    case unreachable(cacheID: UInt16, reason: String)
    /// The server answered what this client does not understand.
    case misunderstood(cacheID: UInt16, reason: String)
    case otherProtocol(cacheID: UInt16, theirs: String)
    /// The server refused, and says why.
    case refused(ErrorBody)

    package var description: String {
        switch self {
        case .notRunning(let id):
            "Cache Id \(id) not running"
        case .denied(let id, let socket):
            "The server of cache \(id) may be asked only by root (\(socket))."
        case .unreachable(let id, let reason):
            "The server of cache \(id) does not answer: \(reason). See the log of casd."
        case .misunderstood(let id, let reason):
            "The answer of the server of cache \(id) makes no sense: \(reason)."
        case .otherProtocol(let id, let theirs):
            """
            The server of cache \(id) speaks control protocol \(theirs), this program \
            \(Endpoints.protocolVersion). Use the program that was installed with that server.
            """
        case .refused(let body):
            body.message
        }
    }
}
