import CSpawn
package import ControlProtocol
import Foundation
import Glibc
import Hummingbird
package import Logging
import ServiceLifecycle
import Synchronization

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
        let signals = EndSignals()
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
        if signals.hasCome { return endAtOnce(started) }
        let end = EndOfService()
        let report = ReadinessReport(ready: ready)
        let server = ControlServer(service: started.service) { end.finish() }
        let path = RunDirectory.socketPath(cacheID: started.lock.cacheID)
        started.lock.removeSocket()
        let application = server.application(socketPath: path, logger: logger) {
            report.tell(end.isFinished ? .failed(.endedEarly) : started.readiness)
        }
        let group = ServiceGroup(
            configuration: .init(
                services: [
                    .init(service: application),
                    .init(
                        service: StopSignal(end: end),
                        successTerminationBehavior: .gracefullyShutdownGroup),
                    .init(
                        service: StopOnSignal(
                            service: started.service, signals: signals, end: end, logger: logger),
                        successTerminationBehavior: .ignore),
                ], logger: logger))
        var code: Int32 = 0
        do {
            try await group.run()
        } catch {
            let message = "The control interface failed: \(error)"
            logger.error("\(message)")
            report.tell(.failed(ErrorBody(code: ErrorBody.Code.failed, message: message)))
            code = 1
        }
        report.tell(.failed(.endedEarly))
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

    fileprivate var readiness: Readiness {
        .ready(
            cacheID: lock.cacheID, warnings: warnings, recovery: recovery,
            pauseMilliseconds: pauseMilliseconds)
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
    let signals: EndSignals
    let end: EndOfService
    let logger: Logger

    func run() async throws {
        for await number in signals.sequence.cancelOnGracefulShutdown() {
            logger.info("asked to end by signal \(number)")
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

/// SIGTERM and SIGINT, from the first moment of the process on: they do not end it, and none is
/// lost. Those that come while the cache is being started are seen when it can be stopped in order.
///
/// A handler runs in any thread, and maybe long after its signal was sent: a byte in a pipe waits
/// for whoever looks next, whenever that is.
private final class EndSignals: Sendable {
    private static let come = Atomic(false)
    private static let writeEnd = Atomic<Int32>(-1)

    /// Their numbers, as they come.
    let sequence: AsyncStream<UInt8>

    init() {
        var ends: [Int32] = [-1, -1]
        let code = cspawn_pipe(&ends)
        precondition(code == 0, "no pipe could be made")
        let (stream, continuation) = AsyncStream.makeStream(of: UInt8.self)
        sequence = stream
        Self.come.store(false, ordering: .releasing)
        Self.writeEnd.store(ends[1], ordering: .releasing)
        for number in [SIGTERM, SIGINT] {
            signal(number) { number in EndSignals.note(number) }
        }
        let readEnd = ends[0]
        let thread = Thread {
            var number: UInt8 = 0
            while true {
                let count = read(readEnd, &number, 1)
                if count < 0, errno == EINTR { continue }
                guard count == 1 else { return }
                continuation.yield(number)
            }
        }
        thread.start()
    }

    var hasCome: Bool { Self.come.load(ordering: .acquiring) }

    /// In a signal handler. A full pipe says enough.
    private static func note(_ number: Int32) {
        let code = errno
        come.store(true, ordering: .releasing)
        var byte = UInt8(truncatingIfNeeded: number)
        _ = write(writeEnd.load(ordering: .relaxed), &byte, 1)
        errno = code
    }
}

/// Tells whoever started us whether the control interface answers: once, and in any case. Whoever
/// waits for it must not wait for ever, whatever ends first.
private final class ReadinessReport: Sendable {
    private let ready: ReadyPipe
    private let isTold = Atomic(false)

    init(ready: ReadyPipe) { self.ready = ready }

    /// The first one counts.
    func tell(_ readiness: Readiness) {
        if !isTold.exchange(true, ordering: .acquiringAndReleasing) { ready.report(readiness) }
    }
}

extension ErrorBody {
    fileprivate static var endedEarly: ErrorBody {
        ErrorBody(
            code: Code.failed, message: "The cache's server was asked to end before it was ready.")
    }
}
