package import ControlProtocol
import Glibc

/// The claim of a process on a cache id: a locked file in the run directory.
///
/// The lock ends with the process, however it ends, so no claim is ever stale. Whoever holds it may
/// remove a socket a dead server left behind.
package final class RunLock: Sendable {
    package let cacheID: UInt16
    private let descriptor: Int32

    private init(cacheID: UInt16, descriptor: Int32) {
        self.cacheID = cacheID
        self.descriptor = descriptor
    }

    deinit { close(descriptor) }

    package static let cacheIDs: ClosedRange<UInt16> = 1...16384

    /// Claims the id, or the first free one.
    package static func claim(_ wanted: UInt16?) throws(ErrorBody) -> RunLock {
        try makeDirectory()
        if let wanted {
            guard cacheIDs.contains(wanted) else {
                throw ErrorBody(
                    code: ErrorBody.Code.badRequest,
                    message: "Invalid cache id \(wanted), must be in the range 1-16384.")
            }
            guard let lock = try tryClaim(wanted) else {
                throw ErrorBody(
                    code: ErrorBody.Code.cacheIDTaken, message: "Cache ID already exists")
            }
            return lock
        }
        for id in cacheIDs {
            if let lock = try tryClaim(id) { return lock }
        }
        throw ErrorBody(code: ErrorBody.Code.failed, message: "All cache ids are in use.")
    }

    private static func makeDirectory() throws(ErrorBody) {
        let path = RunDirectory.path
        if mkdir(path, 0o700) != 0, errno != EEXIST {
            throw failure("Making the directory '\(path)' failed", errno)
        }
    }

    private static func tryClaim(_ id: UInt16) throws(ErrorBody) -> RunLock? {
        let path = "\(RunDirectory.path)/cache-\(id).lock"
        let descriptor = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0o600)
        guard descriptor >= 0 else { throw failure("Opening '\(path)' failed", errno) }
        guard flock(descriptor, LOCK_EX | LOCK_NB) == 0 else {
            let code = errno
            close(descriptor)
            if code == EWOULDBLOCK { return nil }
            throw failure("Locking '\(path)' failed", code)
        }
        return RunLock(cacheID: id, descriptor: descriptor)
    }

    private static func failure(_ what: String, _ code: Int32) -> ErrorBody {
        ErrorBody(
            code: ErrorBody.Code.failed, message: "\(what): \(String(cString: strerror(code))).")
    }

    /// Removes the socket of an earlier server of this cache.
    package func removeSocket() { unlink(RunDirectory.socketPath(cacheID: cacheID)) }
}
