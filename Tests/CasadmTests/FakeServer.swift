import ControlProtocol
import Foundation
import Glibc
import Synchronization

/// A control server on a real socket, one connection at a time, that answers what a test wants.
final class FakeServer: Sendable {
    struct Call: Sendable {
        var method: String
        var path: String
        var body: Data
    }

    struct Answer: Sendable {
        /// Nil hangs up instead of answering.
        var status: Int?
        var body = Data()

        static let hangUp = Answer()

        static func with(_ status: Int, _ body: some Encodable) -> Answer {
            Answer(status: status, body: (try? JSONEncoder().encode(body)) ?? Data())
        }
    }

    typealias Handler = @Sendable (Call) -> Answer

    private let listener: Int32
    private let socketPath: String
    private let log = Mutex<[String]>([])
    private let version: String
    private let handler: Handler

    /// As "POST /v1/flush", in order.
    var calls: [String] { log.withLock { $0 } }

    init(
        cacheID: UInt16, in directory: String, version: String = String(Endpoints.protocolVersion),
        _ handler: @escaping Handler
    ) {
        self.handler = handler
        self.version = version
        socketPath = RunDirectory.socketPath(cacheID: cacheID, in: directory)
        listener = Self.listen(socketPath)
        let thread = Thread { [self] in serve() }
        thread.start()
    }

    /// Nobody answers any more, and the socket is gone.
    func stop() {
        unlink(socketPath)
        shutdown(listener, Int32(SHUT_RDWR))
    }

    /// A socket as a killed server leaves it.
    static func leaveStaleSocket(cacheID: UInt16, in directory: String) {
        close(listen(RunDirectory.socketPath(cacheID: cacheID, in: directory)))
    }

    private static func listen(_ path: String) -> Int32 {
        let descriptor = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0)
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: Array(path.utf8)) }
        unlink(path)
        let bound = withUnsafePointer(to: &address) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                bind(descriptor, $0, socklen_t(MemoryLayout<sockaddr_un>.size))
            }
        }
        precondition(bound == 0 && Glibc.listen(descriptor, 16) == 0, "cannot listen on \(path)")
        return descriptor
    }

    private func serve() {
        while true {
            let connection = accept(listener, nil, nil)
            guard connection >= 0 else { break }
            answer(connection)
            close(connection)
        }
        close(listener)
    }

    private func answer(_ connection: Int32) {
        guard let call = Self.call(connection) else { return }
        log.withLock { $0.append("\(call.method) \(call.path)") }
        let reply = handler(call)
        guard let status = reply.status else { return }
        let head = """
            HTTP/1.1 \(status) X\r\ncontent-length: \(reply.body.count)\r\n\
            \(Endpoints.versionHeader): \(version)\r\nconnection: close\r\n\r\n
            """
        let bytes = Array(head.utf8) + Array(reply.body)
        _ = send(connection, bytes, bytes.count, Int32(MSG_NOSIGNAL))
    }

    /// Nil where the other side hangs up first, as a client that only looks for a listener does.
    private static func call(_ connection: Int32) -> Call? {
        var bytes = Data()
        var chunk = [UInt8](repeating: 0, count: 4096)
        let end = Data("\r\n\r\n".utf8)
        while true {
            if let range = bytes.range(of: end) {
                let head = String(decoding: bytes[..<range.lowerBound], as: UTF8.self)
                let lines = head.components(separatedBy: "\r\n")
                let length = lines.compactMap { line -> Int? in
                    let parts = line.lowercased().components(separatedBy: ": ")
                    return parts[0] == "content-length" ? Int(parts[1]) : nil
                }
                let body = bytes[range.upperBound...]
                if body.count >= length.first ?? 0 {
                    let words = lines[0].components(separatedBy: " ")
                    return Call(method: words[0], path: words[1], body: Data(body))
                }
            }
            let count = recv(connection, &chunk, chunk.count, 0)
            guard count > 0 else { return nil }
            bytes += chunk[..<count]
        }
    }
}
