package import ControlProtocol
import FoundationEssentials
import Glibc
import SystemFiles

/// The caches of this machine that have a server, found by their sockets.
package struct RunningCaches: Sendable {
    /// Where their sockets are.
    package let directory: String

    package init(in directory: String) {
        self.directory = directory
    }

    /// Whether anybody listens on a cache's socket.
    package enum Listener: Equatable, Sendable {
        case listening
        /// No socket, or one left over by a server that is gone.
        case absent
        case denied
    }

    /// Ids of the caches with a live server, ascending. A socket nobody listens on is passed over.
    package func ids() -> [UInt16] {
        socketIDs().filter { listener(cacheID: $0) != .absent }
    }

    /// The smallest cache id without a live server.
    package func firstFreeID() -> UInt16 {
        let taken = Set(ids())
        return (1...16384).first { !taken.contains($0) } ?? 16384
    }

    /// Connects, and hangs up at once: much cheaper than starting an HTTP client.
    package func listener(cacheID: UInt16) -> Listener {
        let descriptor = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
        guard descriptor >= 0 else { return .absent }
        defer { close(descriptor) }
        guard
            var address = UnixAddress(
                path: RunDirectory.socketPath(cacheID: cacheID, in: directory))
        else {
            return .absent
        }
        let result = address.withPointer { connect(descriptor, $0, $1) }
        if result == 0 { return .listening }
        // A full backlog is a busy server, not an absent one.
        if errno == EAGAIN { return .listening }
        return errno == EACCES || errno == EPERM ? .denied : .absent
    }

    /// Whether a server still holds its claim on the id, listening or not. The kernel's list of
    /// locks is read, for trying the lock would disturb a server that is about to take it.
    package func isClaimed(cacheID: UInt16) -> Bool {
        isLocked(RunDirectory.lockPath(cacheID: cacheID, in: directory))
    }

    private func isLocked(_ path: String) -> Bool {
        var status = stat()
        guard stat(path, &status) == 0, let locks = fopen("/proc/locks", "re")
        else { return false }
        defer { fclose(locks) }
        var line = [CChar](repeating: 0, count: 256)
        while fgets(&line, Int32(line.count), locks) != nil {
            let text = String(
                decoding: line.prefix { $0 != 0 }.map(UInt8.init(bitPattern:)), as: UTF8.self)
            let fields = text.split(separator: " ")
            guard fields.count > 5, fields[1] == "FLOCK" else { continue }
            if fields[5].split(separator: ":").last == Substring(String(status.st_ino)) {
                return true
            }
        }
        return false
    }

    /// A cache that was started, not stopped, and has no server that could be asked.
    package struct Unserved: Equatable, Sendable {
        package let record: CacheRecord
        /// Its supervisor is there, and another server about to come.
        package let isRestarting: Bool

        package init(record: CacheRecord, isRestarting: Bool) {
            self.record = record
            self.isRestarting = isRestarting
        }
    }

    /// Caches that nobody serves at this moment, by ascending ids.
    package func unserved() -> [Unserved] {
        names().compactMap(RunDirectory.cacheID(recordName:)).sorted().compactMap(unserved)
    }

    /// What a cache's supervisor has noted.
    package func record(_ id: UInt16) -> CacheRecord? {
        let path = RunDirectory.recordPath(cacheID: id, in: directory)
        guard let text = try? Data(contentsOf: URL(filePath: path)) else { return nil }
        return try? JSONDecoder().decode(CacheRecord.self, from: text)
    }

    package func unserved(_ id: UInt16) -> Unserved? {
        guard listener(cacheID: id) == .absent, let record = record(id) else { return nil }
        let path = RunDirectory.recordPath(cacheID: id, in: directory)
        return Unserved(record: record, isRestarting: isLocked(path) && record.failure == nil)
    }

    private func socketIDs() -> [UInt16] {
        names().compactMap(RunDirectory.cacheID(socketName:)).sorted()
    }

    private func names() -> [String] { namesInDirectory(directory) ?? [] }
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
