import AsyncHTTPClient
package import ControlProtocol
import FoundationEssentials
import NIOCore
import NIOHTTP1

/// Requests to the server of one cache, over its Unix socket.
///
/// Every call asks once: what did not get an answer is not repeated, for it may have been done.
package struct CacheConnection: Sendable {
    package let cacheID: UInt16
    private let base: String

    /// Fails where no server listens for this cache.
    package init(cacheID: UInt16, in directory: String) throws(ControlError) {
        let socket = RunDirectory.socketPath(cacheID: cacheID, in: directory)
        switch RunningCaches(in: directory).listener(cacheID: cacheID) {
        case .listening: break
        case .absent: throw .notRunning(cacheID: cacheID)
        case .denied: throw .denied(cacheID: cacheID, socket: socket)
        }
        self.cacheID = cacheID
        base = "http+unix://" + Self.percentEncoded(socket)
    }

    package func version() async throws(ControlError) -> VersionBody {
        try await answer(.GET, Endpoints.version)
    }

    package func snapshot() async throws(ControlError) -> CacheSnapshot {
        try await answer(.GET, Endpoints.cache)
    }

    /// Returns when the exported device can be used.
    package func addCore(device: String, id: UInt16?) async throws(ControlError) -> AddedCore {
        let body = AddCoreBody(device: device, id: id)
        return try await answer(.POST, Endpoints.cores, body, patience: .minutes(5))
    }

    package func removeCore(
        _ id: UInt16, flush: Bool
    ) async throws(ControlError) -> OperationStatus {
        try await answer(.DELETE, Endpoints.core(id, flush: flush))
    }

    package func flush(core: UInt16?) async throws(ControlError) -> OperationStatus {
        try await answer(.POST, Endpoints.flush, FlushBody(core: core))
    }

    package func setMode(
        _ mode: CacheMode, flush: Bool?
    ) async throws(ControlError) -> OperationStatus {
        try await answer(.POST, Endpoints.mode, ModeBody(mode: mode, flush: flush))
    }

    package func stop(flush: Bool) async throws(ControlError) -> OperationStatus {
        try await answer(.POST, Endpoints.stop, StopBody(flush: flush))
    }

    package func setParameters(_ body: ParametersBody) async throws(ControlError) {
        _ = try await exchange(
            .POST, Endpoints.parameters, try encoded(body), patience: .seconds(60))
    }

    package func resetCounters(core: UInt16?) async throws(ControlError) {
        let body = try encoded(ResetCountersBody(core: core))
        _ = try await exchange(.POST, Endpoints.resetCounters, body, patience: .seconds(30))
    }

    package func operation(_ id: UInt64) async throws(ControlError) -> OperationStatus {
        try await answer(.GET, Endpoints.operation(id))
    }

    /// Asks an operation to end early. Its final state still has to be polled for.
    package func cancel(_ id: UInt64) async throws(ControlError) -> OperationStatus {
        try await answer(.DELETE, Endpoints.operation(id))
    }
}

extension CacheConnection {

    private func answer<Answer: Decodable>(
        _ method: HTTPMethod, _ path: String
    ) async throws(ControlError) -> Answer {
        try decoded(await exchange(method, path, nil, patience: .seconds(30)))
    }

    private func answer<Answer: Decodable>(
        _ method: HTTPMethod, _ path: String, _ body: some Encodable,
        patience: TimeAmount = .seconds(30)
    ) async throws(ControlError) -> Answer {
        try decoded(await exchange(method, path, try encoded(body), patience: patience))
    }

    private func exchange(
        _ method: HTTPMethod, _ path: String, _ body: ByteBuffer?, patience: TimeAmount
    ) async throws(ControlError) -> ByteBuffer {
        var request = HTTPClientRequest(url: base + path)
        request.method = method
        if let body {
            request.headers.add(name: "content-type", value: "application/json")
            request.body = .bytes(body)
        }
        let response: HTTPClientResponse
        let content: ByteBuffer
        do {
            response = try await HTTPClient.shared.execute(request, timeout: patience)
            content = try await response.body.collect(upTo: 64 << 20)
        } catch {
            throw .unreachable(cacheID: cacheID, reason: String(describing: error))
        }
        try checkProtocol(response.headers.first(name: Endpoints.versionHeader))
        guard response.status.code < 400 else { throw refusal(response.status, content) }
        return content
    }

    private func checkProtocol(_ theirs: String?) throws(ControlError) {
        guard let theirs else {
            throw .misunderstood(cacheID: cacheID, reason: "it does not name its protocol")
        }
        guard theirs == String(Endpoints.protocolVersion) else {
            throw .otherProtocol(cacheID: cacheID, theirs: theirs)
        }
    }

    private func refusal(_ status: HTTPResponseStatus, _ content: ByteBuffer) -> ControlError {
        let data = Data(content.readableBytesView)
        guard let body = try? JSONDecoder().decode(ErrorBody.self, from: data) else {
            let reason = "HTTP status \(status.code) without an explanation"
            return .misunderstood(cacheID: cacheID, reason: reason)
        }
        return .refused(body)
    }

    private func encoded(_ body: some Encodable) throws(ControlError) -> ByteBuffer {
        do {
            return ByteBuffer(bytes: try JSONEncoder().encode(body))
        } catch {
            throw .misunderstood(cacheID: cacheID, reason: String(describing: error))
        }
    }

    private func decoded<Answer: Decodable>(
        _ content: ByteBuffer
    ) throws(ControlError) -> Answer {
        do {
            return try JSONDecoder().decode(Answer.self, from: Data(content.readableBytesView))
        } catch {
            throw .misunderstood(cacheID: cacheID, reason: String(describing: error))
        }
    }

    /// A path as the host part of a URL: all but unreserved characters escaped.
    private static func percentEncoded(_ path: String) -> String {
        let digits = Array("0123456789ABCDEF")
        var text = ""
        for byte in path.utf8 {
            let scalar = Character(UnicodeScalar(byte))
            if byte < 128, scalar.isLetter || scalar.isNumber || "-._~".contains(scalar) {
                text.append(scalar)
            } else {
                text.append("%")
                text.append(digits[Int(byte >> 4)])
                text.append(digits[Int(byte & 15)])
            }
        }
        return text
    }
}
