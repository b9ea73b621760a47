import ControlProtocol
import Foundation
import Testing

/// An answer as it came.
struct Answer: Sendable {
    var status = 0
    /// Names in lower case.
    var headers: [String: String] = [:]
    var body = ""

    /// The `ErrorBody`, if it is one and the answer says so.
    var error: ErrorBody? { status >= 400 ? try? decoded(ErrorBody.self) : nil }

    func decoded<T: Decodable>(_: T.Type) throws -> T {
        try JSONDecoder().decode(T.self, from: Data(body.utf8))
    }

    init?(_ text: String) {
        guard let end = text.range(of: "\r\n\r\n") else { return nil }
        let lines = text[..<end.lowerBound].components(separatedBy: "\r\n")
        let words = lines[0].split(separator: " ")
        guard words.count > 1, let status = Int(words[1]) else { return nil }
        self.status = status
        for line in lines.dropFirst() {
            guard let colon = line.firstIndex(of: ":") else { continue }
            headers[line[..<colon].lowercased()] = line[line.index(after: colon)...]
                .trimmingCharacters(in: .whitespaces)
        }
        body = String(text[end.upperBound...])
    }
}

/// The plainest HTTP client there is, a connection for each request.
struct HTTPClient: Sendable {
    let socketPath: String

    func ask(_ method: String, _ path: String, _ body: String? = nil) async throws -> Answer {
        let request =
            "\(method) \(path) HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n"
            + (body.map { "content-length: \($0.utf8.count)\r\n\r\n\($0)" } ?? "\r\n")
        let path = socketPath
        // On a thread of its own: the server shares the pool of tasks with the tests.
        let text = await withCheckedContinuation { continuation in
            Thread { continuation.resume(returning: Self.exchange(path, request)) }.start()
        }
        let answer = try #require(text, "nobody answers")
        return try #require(Answer(answer))
    }

    func get(_ path: String) async throws -> Answer { try await ask("GET", path) }
    func post(_ path: String, _ body: String) async throws -> Answer {
        try await ask("POST", path, body)
    }

    /// The operation's status as soon as it has ended.
    func end(of id: UInt64) async throws -> OperationStatus {
        _ = try await eventually {
            try await get(Endpoints.operation(id)).decoded(OperationStatus.self).state != .running
        }
        return try await get(Endpoints.operation(id)).decoded(OperationStatus.self)
    }

    private static func exchange(_ path: String, _ request: String) -> String? {
        let descriptor = connected(path)
        guard descriptor >= 0 else { return nil }
        defer { close(descriptor) }
        var left = Array(request.utf8)[...]
        while !left.isEmpty {
            let count = left.withUnsafeBytes {
                send(descriptor, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL))
            }
            if count < 0, errno == EINTR { continue }
            // A server that has heard enough may hang up early.
            guard count > 0 else { break }
            left = left.dropFirst(count)
        }
        var bytes: [UInt8] = []
        var chunk = [UInt8](repeating: 0, count: 4096)
        while true {
            let count = recv(descriptor, &chunk, chunk.count, 0)
            // With a time limit it is not begun again by itself, even if a process is only frozen.
            if count < 0, errno == EINTR { continue }
            guard count > 0 else { return String(decoding: bytes, as: UTF8.self) }
            bytes += chunk[..<count]
        }
    }

    static func connected(_ path: String) -> Int32 {
        let descriptor = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0)
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: path.utf8) }
        var patience = timeval(tv_sec: 20, tv_usec: 0)
        setsockopt(
            descriptor, SOL_SOCKET, SO_RCVTIMEO, &patience, socklen_t(MemoryLayout<timeval>.size))
        let result = withUnsafePointer(to: &address) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_un>.size))
            }
        }
        guard result == 0 else {
            close(descriptor)
            return -1
        }
        return descriptor
    }
}
