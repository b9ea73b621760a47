import ControlProtocol
import Glibc

/// The caches of this machine that have a server, found by their sockets.
package enum RunningCaches {
    /// Whether anybody listens on a cache's socket.
    package enum Listener: Equatable, Sendable {
        case listening
        /// No socket, or one left over by a server that is gone.
        case absent
        case denied
    }

    /// Ids of the caches with a live server, ascending. A socket nobody listens on is passed over.
    package static func ids() -> [UInt16] {
        socketIDs().filter { listener(cacheID: $0) != .absent }
    }

    /// The smallest cache id without a live server.
    package static func firstFreeID() -> UInt16 {
        let taken = Set(ids())
        return (1...16384).first { !taken.contains($0) } ?? 16384
    }

    /// Connects, and hangs up at once: much cheaper than starting an HTTP client.
    package static func listener(cacheID: UInt16) -> Listener {
        let descriptor = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
        guard descriptor >= 0 else { return .absent }
        defer { close(descriptor) }
        guard var address = UnixAddress(path: RunDirectory.socketPath(cacheID: cacheID)) else {
            return .absent
        }
        let result = address.withPointer { connect(descriptor, $0, $1) }
        if result == 0 { return .listening }
        // A full backlog is a busy server, not an absent one.
        if errno == EAGAIN { return .listening }
        return errno == EACCES || errno == EPERM ? .denied : .absent
    }

    private static func socketIDs() -> [UInt16] {
        guard let directory = opendir(RunDirectory.path) else { return [] }
        defer { closedir(directory) }
        var found: [UInt16] = []
        while let entry = readdir(directory) {
            let name = withUnsafePointer(to: &entry.pointee.d_name) { pointer in
                pointer.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
            }
            if let id = RunDirectory.cacheID(socketName: name) { found.append(id) }
        }
        return found.sorted()
    }
}

/// The address of a Unix socket; nil where the path does not fit (108 bytes with its end).
struct UnixAddress {
    private var address = sockaddr_un()

    init?(path: String) {
        address.sun_family = sa_family_t(AF_UNIX)
        let capacity = MemoryLayout.size(ofValue: address.sun_path)
        let bytes = Array(path.utf8)
        guard bytes.count < capacity else { return nil }
        withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: bytes) }
    }

    mutating func withPointer<R>(_ body: (UnsafePointer<sockaddr>, socklen_t) -> R) -> R {
        withUnsafePointer(to: &address) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                body($0, socklen_t(MemoryLayout<sockaddr_un>.size))
            }
        }
    }
}
