package import ControlProtocol
import Foundation
import Glibc
import Hummingbird
package import Logging
import ServiceLifecycle
import Synchronization
import UnixSignals

/// The process that serves one cache: devices, worker threads, control interface.
package struct WorkerProcess {
    private let options: StartOptions
    private let ready: ReadyPipe
    private let logger: Logger
    /// For a spare worker: nothing of the cache is touched before it is called.
    private let waitingPlace: WaitingPlace?
    /// What can be done before the cache is known to be ours; the product's is
    /// `RuntimeService.prepare`.
    private let prepare: @Sendable (Logger) throws(ErrorBody) -> Void
    /// Starts the cache; the product's is `RuntimeService.start`.
    private let startService: @Sendable (StartOptions, Logger) throws(ErrorBody) -> StartedService

    package init(
        options: StartOptions, ready: ReadyPipe, logger: Logger,
        waitingPlace: WaitingPlace? = nil,
        prepare: @escaping @Sendable (Logger) throws(ErrorBody) -> Void = { _ in },
        startService:
            @escaping @Sendable (StartOptions, Logger) throws(ErrorBody) -> StartedService
    ) {
        self.waitingPlace = waitingPlace
        self.prepare = prepare
        self.options = options
        self.ready = ready
        self.logger = logger
        self.startService = startService
    }

    /// Runs until the cache is stopped; returns the process's exit code.
    package func run() async -> Int32 {
        signal(SIGPIPE, SIG_IGN)
        EarlySignal.catch()
        umask(0o077)
        let started: StartedService
        do throws(ErrorBody) {
            try prepare(logger)
            var options = options
            if let waitingPlace {
                waitingPlace.announce()
                guard let moment = waitingPlace.wait() else { return 0 }
                options.diedAt = moment
            }
            started = try startService(options, logger)
        } catch {
            logger.error("\(error.message)")
            ready.report(.failed(error))
            return error.code == ErrorBody.Code.cleanlyStopped ? 0 : 1
        }
        if EarlySignal.hasCome { return endAtOnce(started) }
        let end = EndOfService()
        let server = ControlServer(service: started.service) { end.finish() }
        let path = RunDirectory.socketPath(cacheID: started.lock.cacheID)
        started.lock.removeSocket()
        let group = ServiceGroup(
            configuration: .init(
                services: [
                    .init(service: server.application(socketPath: path, logger: logger)),
                    .init(
                        service: StopSignal(end: end),
                        successTerminationBehavior: .gracefullyShutdownGroup),
                    .init(
                        service: StopOnSignal(
                            service: started.service, end: end, logger: logger),
                        successTerminationBehavior: .ignore),
                    .init(
                        service: ReadinessReport(
                            path: path, ready: ready, started: started, end: end),
                        successTerminationBehavior: .ignore),
                ], logger: logger))
        var code: Int32 = 0
        do {
            try await group.run()
        } catch {
            logger.error("The control interface failed: \(error)")
            code = 1
        }
        started.lock.removeSocket()
        return end.isFinished ? code : max(code, stopWithoutControl(started.service))
    }

    /// Somebody wanted the end before the beginning: the cache was not started.
    private func endAtOnce(_ started: StartedService) -> Int32 {
        let code = stopWithoutControl(started.service)
        ready.report(.failed(.endedEarly))
        return max(code, 1)
    }

    /// The control interface is gone, and nobody could stop the cache any more.
    private func stopWithoutControl(_ service: any CacheService) -> Int32 {
        do throws(ErrorBody) {
            try service.stop(flush: false, OperationWatch())
            return 0
        } catch {
            logger.error("\(error.message)")
            return 1
        }
    }
}

/// A cache that is being served, and the claim on its id.
package struct StartedService: Sendable {
    package let service: any CacheService
    package let lock: RunLock
    /// Sentences for the admin: what is not entirely as expected.
    package let warnings: [String]
    /// What recovery found, if the cache had not been stopped.
    package let recovery: RecoveryBody?
    /// How long nobody served the cache, if it goes on after another process.
    package let pauseMilliseconds: UInt64?

    package init(
        service: any CacheService, lock: RunLock, warnings: [String],
        recovery: RecoveryBody? = nil, pauseMilliseconds: UInt64? = nil
    ) {
        self.recovery = recovery
        self.pauseMilliseconds = pauseMilliseconds
        self.service = service
        self.lock = lock
        self.warnings = warnings
    }
}

/// Whether the cache was stopped by request, and who waits for it.
private final class EndOfService: Sendable {
    private let stream: AsyncStream<Void>
    private let continuation: AsyncStream<Void>.Continuation
    private let finished = Atomic(false)

    init() { (stream, continuation) = AsyncStream.makeStream(of: Void.self) }

    var isFinished: Bool { finished.load(ordering: .acquiring) }

    func finish() {
        finished.store(true, ordering: .releasing)
        continuation.finish()
    }

    func wait() async { for await _ in stream.cancelOnGracefulShutdown() {} }
}

/// Ends the group when the cache was stopped.
private struct StopSignal: Service {
    let end: EndOfService
    func run() async throws { await end.wait() }
}

/// The end by a signal: everything is stored, dirty data stays in the cache.
///
/// While an exported device is in use the signal is refused: whoever uses it would lose its disk,
/// and the cache its orderly end. The next signal tries again.
private struct StopOnSignal: Service {
    let service: any CacheService
    let end: EndOfService
    let logger: Logger

    func run() async throws {
        let signals = await UnixSignalsSequence(trapping: .sigterm, .sigint)
        if EarlySignal.hasCome, stop() { return }
        for await number in signals.cancelOnGracefulShutdown() {
            logger.info("asked to end by \(number)")
            if stop() { return }
        }
    }

    /// True if the cache is stopped.
    private func stop() -> Bool {
        do throws(ErrorBody) {
            try service.stop(flush: false, OperationWatch())
            logger.info("cache stopped")
            end.finish()
            return true
        } catch {
            logger.error("The cache goes on: \(error.message)")
            return false
        }
    }
}

/// Signals that come while the cache is being started are not lost, and do not end the process:
/// they are looked at as soon as the cache can be stopped in order.
private enum EarlySignal {
    private static let come = Atomic(false)

    static func `catch`() {
        come.store(false, ordering: .releasing)
        for number in [SIGTERM, SIGINT] {
            signal(number) { _ in EarlySignal.come.store(true, ordering: .releasing) }
        }
    }

    static var hasCome: Bool { come.load(ordering: .acquiring) }
}

/// Tells whoever started us, as soon as the control interface answers.
private struct ReadinessReport: Service {
    let path: String
    let ready: ReadyPipe
    let started: StartedService
    let end: EndOfService

    func run() async throws {
        for _ in 0..<1000 {
            if end.isFinished || access(path, F_OK) == 0 { break }
            try await Task.sleep(for: .milliseconds(5))
        }
        ready.report(
            end.isFinished
                ? .failed(.endedEarly)
                : .ready(
                    cacheID: started.lock.cacheID, warnings: started.warnings,
                    recovery: started.recovery, pauseMilliseconds: started.pauseMilliseconds))
    }
}

extension ErrorBody {
    fileprivate static var endedEarly: ErrorBody {
        ErrorBody(
            code: Code.failed, message: "The cache's server was asked to end before it was ready.")
    }
}
