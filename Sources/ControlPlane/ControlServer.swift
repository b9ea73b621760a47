import ControlProtocol
import Foundation
import HTTPTypes
package import Hummingbird
package import Logging
import NIOCore
import Synchronization

/// The control interface of one cache: HTTP and JSON over a Unix socket (see `Endpoints`).
package struct ControlServer: Sendable {
    private let service: any CacheService
    private let operations = OperationTable()
    private let ending: Ending

    /// `whenStopped` is called once, when the cache was stopped and its client has read so (or
    /// after five seconds).
    package init(service: any CacheService, whenStopped: @escaping @Sendable () -> Void) {
        self.service = service
        ending = Ending(whenStopped)
    }

    /// The application to be run on the socket; the socket is made when it runs. `whenListening` is
    /// called when clients can connect.
    package func application(
        socketPath: String, logger: Logger,
        whenListening: @escaping @Sendable () -> Void = {}
    ) -> some ApplicationProtocol {
        Application(
            router: router(),
            configuration: .init(
                address: .unixDomainSocket(path: socketPath), serverName: "ublk-cas"),
            onServerRunning: { _ in whenListening() }, logger: logger)
    }

    package func router() -> Router<BasicRequestContext> {
        let router = Router()
        router.add(middleware: RefusalsAsErrorBodies())
        router.get("/v1/version") { _, _ in
            try Self.json(
                VersionBody(
                    protocolVersion: Endpoints.protocolVersion,
                    programVersion: ProgramVersion.current))
        }
        router.get("/v1/cache") { _, _ in
            try Self.json(await blocking { [service] in service.snapshot() })
        }
        addCoreRoutes(router)
        addOperationRoutes(router)
        return router
    }
}

/// What the router itself refuses is told as every other refusal.
private struct RefusalsAsErrorBodies<Context: RequestContext>: RouterMiddleware {
    func handle(
        _ request: Hummingbird.Request, context: Context,
        next: (Hummingbird.Request, Context) async throws -> Response
    ) async throws -> Response {
        do {
            return try await next(request, context)
        } catch let error as HTTPError where error.status == .notFound {
            return ControlServer.refusal(
                ErrorBody(
                    code: ErrorBody.Code.noSuchEndpoint,
                    message: "This server has no such endpoint."))
        }
    }
}

// MARK: - Routes

extension ControlServer {
    private func addCoreRoutes(_ router: Router<BasicRequestContext>) {
        router.post("/v1/cores") { [service, operations] request, _ in
            await Self.answer {
                let body = try await Self.body(AddCoreBody.self, of: request)
                return try Self.json(
                    try await blocking {
                        try operations.runExclusively { () throws(ErrorBody) in
                            try service.addCore(body)
                        }
                    })
            }
        }
        router.delete("/v1/cores/{id}") { [service] request, context in
            await Self.answer {
                guard let id = context.parameters.get("id").flatMap({ UInt16($0) }) else {
                    throw Self.badRequest("A core id is a number from 0 to 4095.")
                }
                let flush = request.uri.queryParameters.get(Endpoints.flushQuery) ?? "true"
                guard flush == "true" || flush == "false" else {
                    throw Self.badRequest("'\(Endpoints.flushQuery)' must be true or false.")
                }
                return try start(.removeCore) { watch throws(ErrorBody) in
                    try service.removeCore(id, flush: flush == "true", watch)
                }
            }
        }
        router.post("/v1/parameters") { [service] request, _ in
            await Self.answer {
                let body = try await Self.body(ParametersBody.self, of: request)
                try await blocking { try service.setParameters(body) }
                return Self.response(.noContent, nil)
            }
        }
        router.post("/v1/counters/reset") { [service] request, _ in
            await Self.answer {
                let body = try await Self.body(ResetCountersBody.self, of: request)
                try await blocking { try service.resetCounters(core: body.core) }
                return Self.response(.noContent, nil)
            }
        }
    }

    private func addOperationRoutes(_ router: Router<BasicRequestContext>) {
        router.post("/v1/flush") { [service] request, _ in
            await Self.answer {
                let body = try await Self.body(FlushBody.self, of: request)
                return try start(.flush) { watch throws(ErrorBody) in
                    try service.flush(core: body.core, watch)
                }
            }
        }
        router.post("/v1/mode") { [service] request, _ in
            await Self.answer {
                let body = try await Self.body(ModeBody.self, of: request)
                return try start(.setMode) { watch throws(ErrorBody) in
                    try service.setMode(body, watch)
                }
            }
        }
        router.post("/v1/stop") { [service, ending] request, _ in
            await Self.answer {
                let body = try await Self.body(StopBody.self, of: request)
                return try start(.stop) { watch throws(ErrorBody) in
                    try service.stop(flush: body.flush, watch)
                    ending.cacheStopped()
                }
            }
        }
        router.get("/v1/operations/{id}") { [operations, ending] _, context in
            await Self.answer {
                let status = try Self.known(context) { operations.status($0) }
                if status.kind == .stop, status.state == .done { ending.statusRead() }
                return try Self.json(status)
            }
        }
        router.delete("/v1/operations/{id}") { [operations] _, context in
            await Self.answer {
                try Self.json(try Self.known(context) { operations.cancel($0) })
            }
        }
    }

    private func start(
        _ kind: OperationStatus.Kind,
        _ work: @escaping @Sendable (OperationWatch) throws(ErrorBody) -> Void
    ) throws -> Response {
        try Self.json(try operations.start(kind, work), status: .accepted)
    }

    private static func known(
        _ context: BasicRequestContext, _ find: (UInt64) -> OperationStatus?
    ) throws(ErrorBody) -> OperationStatus {
        guard let id = context.parameters.get("id").flatMap({ UInt64($0) }), let status = find(id)
        else {
            throw ErrorBody(
                code: ErrorBody.Code.noSuchOperation,
                message: "There is no such operation; it may have ended long ago.")
        }
        return status
    }
}

// MARK: - Bodies and answers

extension ControlServer {
    private static func badRequest(_ message: String) -> ErrorBody {
        ErrorBody(code: ErrorBody.Code.badRequest, message: message)
    }

    private static func body<T: Decodable>(_: T.Type, of request: Hummingbird.Request) async throws
        -> T
    {
        let buffer = try await request.body.collect(upTo: 64 * 1024)
        do {
            return try JSONDecoder().decode(T.self, from: Data(buffer.readableBytesView))
        } catch {
            throw badRequest("The request's body is not what this endpoint takes: \(error)")
        }
    }

    private static func answer(_ work: () async throws -> Response) async -> Response {
        do {
            return try await work()
        } catch let error as ErrorBody {
            return refusal(error)
        } catch {
            return refusal(ErrorBody(code: ErrorBody.Code.failed, message: "\(error)"))
        }
    }

    fileprivate static func refusal(_ error: ErrorBody) -> Response {
        let status: HTTPResponse.Status =
            switch error.code {
            case ErrorBody.Code.badRequest: .badRequest
            case ErrorBody.Code.noSuchCore, ErrorBody.Code.noSuchEndpoint,
                ErrorBody.Code.noSuchOperation:
                .notFound
            default: .conflict
            }
        return (try? json(error, status: status)) ?? response(.internalServerError, nil)
    }

    private static func json(_ value: some Encodable, status: HTTPResponse.Status = .ok) throws
        -> Response
    {
        response(status, try JSONEncoder().encode(value))
    }

    private static func response(_ status: HTTPResponse.Status, _ body: Data?) -> Response {
        var headers = HTTPFields()
        if let name = HTTPField.Name(Endpoints.versionHeader) {
            headers[name] = String(Endpoints.protocolVersion)
        }
        guard let body else { return Response(status: status, headers: headers) }
        headers[.contentType] = "application/json"
        return Response(
            status: status, headers: headers, body: .init(byteBuffer: ByteBuffer(bytes: body)))
    }
}

/// Runs blocking work on a thread of its own, never on an event loop.
private func blocking<R: Sendable>(_ work: @escaping @Sendable () throws -> R) async throws -> R {
    try await withCheckedThrowingContinuation { continuation in
        let thread = Thread { continuation.resume(with: Result { try work() }) }
        thread.name = "control"
        thread.start()
    }
}

/// When a server whose cache was stopped may go away.
private final class Ending: Sendable {
    private let whenStopped: @Sendable () -> Void
    private let isOver = Atomic(false)
    private let graceSeconds = 5.0

    init(_ whenStopped: @escaping @Sendable () -> Void) { self.whenStopped = whenStopped }

    /// The cache is stopped: the client has some seconds to hear of it.
    func cacheStopped() {
        let thread = Thread { [self] in
            Thread.sleep(forTimeInterval: graceSeconds)
            finish()
        }
        thread.start()
    }

    /// The client knows; its answer still has to get out.
    func statusRead() {
        let thread = Thread { [self] in
            Thread.sleep(forTimeInterval: 0.1)
            finish()
        }
        thread.start()
    }

    private func finish() {
        if !isOver.exchange(true, ordering: .acquiringAndReleasing) { whenStopped() }
    }
}
