import ControlPlane
import ControlProtocol
import Foundation
import Hummingbird
import Logging
import Synchronization
import Testing

/// The control interface over a real socket, with a fake cache behind it.
private func withServer(
    _ body: (FakeService, HTTPClient, StopCount) async throws -> Void
) async throws {
    let folder = TemporaryFolder()
    let path = folder.path + "/cache.sock"
    let service = FakeService()
    let stops = StopCount()
    var logger = Logger(label: "test")
    logger.logLevel = .critical
    let server = ControlServer(service: service) {
        stops.add()
    }
    let application = server.application(socketPath: path, logger: logger)
    let running = Task { try await application.run() }
    defer { running.cancel() }
    let isThere = await eventually {
        let descriptor = HTTPClient.connected(path)
        if descriptor >= 0 { close(descriptor) }
        return descriptor >= 0
    }
    try #require(isThere, "the server does not come up")
    try await body(service, HTTPClient(socketPath: path), stops)
    service.release()
    running.cancel()
    _ = await running.result
}

private final class StopCount: Sendable {
    private let count = Atomic(0)
    func add() { count.add(1, ordering: .sequentiallyConsistent) }
    var value: Int { count.load(ordering: .sequentiallyConsistent) }
}

@Suite struct ControlServerTests {
    @Test func itTellsItsVersionAndTheCache() async throws {
        try await withServer { _, client, _ in
            let version = try await client.get(Endpoints.version)
            #expect(version.status == 200)
            #expect(version.headers["content-type"] == "application/json")
            #expect(
                try version.decoded(VersionBody.self)
                    == VersionBody(
                        protocolVersion: Endpoints.protocolVersion,
                        programVersion: ProgramVersion.current))
            let cache = try await client.get(Endpoints.cache)
            #expect(cache.status == 200)
            #expect(try cache.decoded(CacheSnapshot.self) == Fixtures.snapshot)
        }
    }

    @Test func aCoreIsAdded() async throws {
        try await withServer { service, client, _ in
            let answer = try await client.post(Endpoints.cores, #"{"device":"/dev/sdb"}"#)
            #expect(answer.status == 200)
            #expect(
                try answer.decoded(AddedCore.self)
                    == AddedCore(id: 1, exportedDevice: "/dev/cas5-1"))
            _ = try await client.post(Endpoints.cores, #"{"device":"/dev/sdc","id":9}"#)
            #expect(service.calls == ["add /dev/sdb -", "add /dev/sdc 9"])
        }
    }

    @Test func whatMayTakeLongIsAnOperation() async throws {
        try await withServer { service, client, _ in
            let asked: [(String, String, String?, OperationStatus.Kind)] = [
                ("DELETE", Endpoints.core(4, flush: false), nil, .removeCore),
                ("DELETE", Endpoints.core(4095, flush: true), nil, .removeCore),
                ("DELETE", "/v1/cores/0", nil, .removeCore),
                ("POST", Endpoints.flush, "{}", .flush),
                ("POST", Endpoints.flush, #"{"core":3}"#, .flush),
                ("POST", Endpoints.mode, #"{"mode":"wt","flush":true}"#, .setMode),
                ("POST", Endpoints.mode, #"{"mode":"pt"}"#, .setMode),
            ]
            for (number, (method, path, body, kind)) in asked.enumerated() {
                let answer = try await client.ask(method, path, body)
                #expect(answer.status == 202)
                let begun = try answer.decoded(OperationStatus.self)
                #expect(begun.id == UInt64(number + 1) && begun.kind == kind)
                let ended = try await client.end(of: begun.id)
                #expect(ended.state == .done && ended.progress == 1 && ended.error == nil)
            }
            #expect(
                service.calls == [
                    "remove 4 false", "remove 4095 true", "remove 0 true", "flush all", "flush 3",
                    "mode wt true", "mode pt -",
                ])
        }
    }

    @Test func anOperationIsFollowedAndCancelled() async throws {
        try await withServer { service, client, _ in
            service.hold()
            let id = try await client.post(Endpoints.flush, "{}").decoded(OperationStatus.self).id
            #expect(
                try await eventually {
                    try await client.get(Endpoints.operation(id)).decoded(OperationStatus.self)
                        == OperationStatus(id: id, kind: .flush, state: .running, progress: 0.5)
                })
            let cancelled = try await client.ask("DELETE", Endpoints.operation(id))
            #expect(cancelled.status == 200)
            let end = try await client.end(of: id)
            #expect(end.state == .cancelled && end.error == nil)
        }
    }

    @Test func anOperationThatFailsTellsWhy() async throws {
        try await withServer { service, client, _ in
            let error = ErrorBody(code: ErrorBody.Code.noSuchCore, message: "There is no core 9.")
            service.refuseNext(error)
            let answer = try await client.post(Endpoints.flush, #"{"core":9}"#)
            #expect(answer.status == 202)
            let end = try await client.end(of: try answer.decoded(OperationStatus.self).id)
            #expect(end.state == .failed && end.error == error)
        }
    }

    @Test func duringAnOperationQuestionsAreAnsweredAndChangesRefused() async throws {
        try await withServer { service, client, _ in
            service.hold()
            let id = try await client.post(Endpoints.flush, "{}").decoded(OperationStatus.self).id
            #expect(try await client.get(Endpoints.cache).status == 200)
            let refusals = [
                try await client.post(Endpoints.flush, "{}"),
                try await client.post(Endpoints.cores, #"{"device":"/dev/sdb"}"#),
                try await client.post(Endpoints.stop, #"{"flush":true}"#),
                try await client.ask("DELETE", Endpoints.core(1, flush: true)),
            ]
            for answer in refusals {
                #expect(answer.status == 409)
                #expect(answer.error?.code == ErrorBody.Code.flushInProgress)
                #expect(answer.error?.message == "Another flush operation in progress")
            }
            #expect(try await client.post(Endpoints.resetCounters, "{}").status == 204)
            service.release()
            #expect(try await client.end(of: id).state == .done)
            #expect(service.calls == ["flush all", "reset all"])
        }
    }

    @Test func countersAreReset() async throws {
        try await withServer { service, client, _ in
            let answer = try await client.post(Endpoints.resetCounters, #"{"core":2}"#)
            #expect(answer.status == 204 && answer.body.isEmpty)
            #expect(answer.headers[Endpoints.versionHeader] == "1")
            #expect(service.calls == ["reset 2"])
        }
    }

    /// The server ends when its client has read that the cache was stopped, and once.
    @Test func afterAStopTheServerIsToldToEnd() async throws {
        try await withServer { service, client, stops in
            let id = try await client.post(Endpoints.stop, #"{"flush":false}"#)
                .decoded(OperationStatus.self).id
            #expect(await eventually { service.calls == ["stop false"] })
            for _ in 0..<3 { #expect(try await client.end(of: id).state == .done) }
            #expect(await eventually { stops.value == 1 })
            try await Task.sleep(for: .milliseconds(300))
            #expect(stops.value == 1)
        }
    }

    @Test func aStopThatFailsEndsNothing() async throws {
        try await withServer { service, client, stops in
            service.refuseNext(ErrorBody(code: ErrorBody.Code.deviceBusy, message: "In use."))
            let id = try await client.post(Endpoints.stop, #"{"flush":true}"#)
                .decoded(OperationStatus.self).id
            #expect(try await client.end(of: id).error?.message == "In use.")
            try await Task.sleep(for: .milliseconds(300))
            #expect(stops.value == 0)
            #expect(try await client.get(Endpoints.cache).status == 200)
        }
    }
}

@Suite struct RefusalTests {
    @Test(arguments: [
        (ErrorBody.Code.badRequest, 400), (ErrorBody.Code.noSuchCore, 404),
        (ErrorBody.Code.deviceBusy, 409), (ErrorBody.Code.deviceNotFound, 409),
        (ErrorBody.Code.failed, 409), ("something-new", 409),
    ])
    func aRefusalOfTheCacheIsPassedOn(code: String, status: Int) async throws {
        try await withServer { service, client, _ in
            let error = ErrorBody(code: code, message: "Not with '/dev/sdb': \u{e4}.")
            service.refuseNext(error)
            let answer = try await client.post(Endpoints.cores, #"{"device":"/dev/sdb"}"#)
            #expect(answer.status == status && answer.error == error)
            #expect(answer.headers[Endpoints.versionHeader] == "1")
            service.refuseNext(error)
            #expect(try await client.post(Endpoints.resetCounters, "{}").error == error)
        }
    }

    @Test func whatIsNoRequestIsRefusedBeforeTheCacheHearsOfIt() async throws {
        try await withServer { service, client, _ in
            let asked: [(String, String, String?, String)] = [
                ("POST", Endpoints.cores, "{}", "The request's body is not what this endpoint"),
                ("POST", Endpoints.cores, "", "The request's body is not"),
                ("POST", Endpoints.cores, #"{"device":"x","id":70000}"#, "The request's body"),
                ("POST", Endpoints.flush, "not json", "The request's body is not"),
                ("POST", Endpoints.mode, #"{"mode":"wx"}"#, "The request's body is not"),
                ("POST", Endpoints.stop, "{}", "The request's body is not"),
                ("DELETE", "/v1/cores/x", nil, "A core id is a number from 0 to 4095."),
                ("DELETE", "/v1/cores/-1", nil, "A core id is a number from 0 to 4095."),
                ("DELETE", "/v1/cores/1?flush=maybe", nil, "'flush' must be true or false."),
            ]
            for (method, path, body, sentence) in asked {
                let answer = try await client.ask(method, path, body)
                #expect(answer.status == 400, "\(method) \(path)")
                #expect(answer.error?.code == ErrorBody.Code.badRequest)
                #expect(answer.error?.message.hasPrefix(sentence) == true)
                #expect(answer.headers[Endpoints.versionHeader] == "1")
            }
            #expect(service.calls == [])
        }
    }

    @Test(arguments: ["/v1/operations/1", "/v1/operations/x", "/v1/operations/-1"])
    func anUnknownOperationIsToldSo(path: String) async throws {
        try await withServer { _, client, _ in
            for method in ["GET", "DELETE"] {
                let answer = try await client.ask(method, path)
                #expect(answer.status == 404)
                #expect(answer.error?.code == ErrorBody.Code.noSuchOperation)
                #expect(
                    answer.error?.message
                        == "There is no such operation; it may have ended long ago.")
            }
        }
    }

    private static func expectNoEndpoint(_ method: String, _ path: String) async throws {
        try await withServer { _, client, _ in
            let answer = try await client.ask(method, path)
            #expect(answer.status >= 400)
            #expect(answer.error?.code == ErrorBody.Code.noSuchEndpoint)
            #expect(answer.headers[Endpoints.versionHeader] == "1")
        }
    }

    @Test(arguments: ["GET", "POST", "DELETE"], ["/v2/cache", "/nothing"])
    func anUnknownEndpointIsToldSo(method: String, path: String) async throws {
        try await Self.expectNoEndpoint(method, path)
    }

    /// Where Hummingbird's router does not come to a route "/**".
    @Test(arguments: [
        ("GET", "/v1/nothing"), ("GET", "/v1/nothing/here"), ("POST", "/v1/cores/1/nothing"),
        ("DELETE", "/v1/nothing"), ("POST", "/v1/version"), ("GET", "/v1/flush"), ("GET", "/"),
        ("PUT", "/v1/cache"), ("PATCH", "/v1/cache"),
    ])
    func whatIsKnownInPartIsNoEndpoint(method: String, path: String) async throws {
        try await Self.expectNoEndpoint(method, path)
    }

    @Test func aBodyThatIsTooLongIsRefused() async throws {
        try await withServer { service, client, _ in
            let body = #"{"device":""# + String(repeating: "x", count: 70_000) + #""}"#
            let answer = try await client.post(Endpoints.cores, body)
            #expect(answer.status >= 400 && answer.error != nil)
            #expect(service.calls == [])
            #expect(try await client.get(Endpoints.cache).status == 200)
        }
    }
}
