import CSpawn
package import ControlProtocol
import Foundation
import Glibc
package import Logging

/// The process that does nothing but watch one worker: it starts it, passes on whether it became
/// ready, forwards the wish to end, and says how it ended.
///
/// It opens no device, so whatever happens to it cannot touch data.
package struct Supervisor {
    private let options: StartOptions
    private let ready: ReadyPipe
    private let logger: Logger

    package init(options: StartOptions, ready: ReadyPipe, logger: Logger) {
        self.options = options
        self.ready = ready
        self.logger = logger
    }

    /// Runs until the worker has ended; returns the process's exit code.
    package func run() -> Int32 {
        var signals = sigset_t()
        sigemptyset(&signals)
        for number in [SIGTERM, SIGINT, SIGCHLD] { sigaddset(&signals, number) }
        sigprocmask(SIG_BLOCK, &signals, nil)
        signal(SIGPIPE, SIG_IGN)
        let worker: pid_t
        let pipe: Int32
        do throws(ErrorBody) {
            (worker, pipe) = try startWorker()
        } catch {
            logger.error("\(error.message)")
            ready.report(.failed(error))
            return 1
        }
        logger.info("worker started", metadata: ["pid": "\(worker)"])
        // The answer may be a while in coming: a thread waits for it, this one for signals.
        let relay = RelayThread(pipe: pipe, ready: ready)
        relay.start()
        let status = waitForEnd(of: worker, signals: &signals)
        relay.join(ifSilent: .failed(silence(status)))
        return report(status, wasReady: relay.wasReady)
    }

    private func startWorker() throws(ErrorBody) -> (pid_t, Int32) {
        var ends: [Int32] = [-1, -1]
        var code = cspawn_pipe(&ends)
        guard code == 0 else { throw failure("Making a pipe failed", code) }
        defer { close(ends[1]) }
        let arguments =
            ["casd", "worker"]
            + options.arguments(readyDescriptor: Int32(CSPAWN_READY_DESCRIPTOR))
        var worker: pid_t = 0
        let argv = arguments.map { strdup($0) } + [nil]
        defer { argv.forEach { free($0) } }
        code = cspawn_server(&worker, "/proc/self/exe", argv, environ, 2, ends[1])
        guard code == 0 else {
            close(ends[0])
            throw failure("Starting the worker process failed", code)
        }
        return (worker, ends[0])
    }

    private func failure(_ what: String, _ code: Int32) -> ErrorBody {
        ErrorBody(
            code: ErrorBody.Code.failed, message: "\(what): \(String(cString: strerror(code))).")
    }

    /// Waits for the worker; passes SIGTERM and SIGINT on to it as "stop in order".
    private func waitForEnd(of worker: pid_t, signals: inout sigset_t) -> Int32 {
        while true {
            var status: Int32 = 0
            if waitpid(worker, &status, WNOHANG) == worker { return status }
            let number = sigwaitinfo(&signals, nil)
            if number == SIGTERM || number == SIGINT {
                logger.info("asked to end: the worker is told to; dirty data stays in the cache")
                kill(worker, SIGTERM)
            }
        }
    }

    private func silence(_ status: Int32) -> ErrorBody {
        ErrorBody(
            code: ErrorBody.Code.failed,
            message: "The cache's server \(describe(status)) before it was ready."
                + " Its log may say why.")
    }

    private func describe(_ status: Int32) -> String {
        let number = status & 0x7f
        return number == 0
            ? "ended with exit code \(status >> 8 & 0xff)" : "died of signal \(number)"
    }

    private func report(_ status: Int32, wasReady: Bool) -> Int32 {
        if status == 0 {
            logger.info("worker ended in order")
            return 0
        }
        guard wasReady else {
            logger.error("the cache was not started: worker \(describe(status))")
            return 1
        }
        // Restarting the worker over the memory image belongs here.
        logger.error("worker \(describe(status)): the cache is out of service until it is loaded")
        return 1
    }
}

/// Passes the worker's line on as soon as it comes.
private final class RelayThread: @unchecked Sendable {
    private let pipe: Int32
    private let ready: ReadyPipe
    private var thread = pthread_t()
    /// These are written by the thread, and read after it was joined.
    private var hasSpoken = false
    private(set) var wasReady = false

    init(pipe: Int32, ready: ReadyPipe) {
        self.pipe = pipe
        self.ready = ready
    }

    func start() {
        let context = Unmanaged.passRetained(self).toOpaque()
        let code = pthread_create(
            &thread, nil,
            { context in
                guard let context else { return nil }
                Unmanaged<RelayThread>.fromOpaque(context).takeRetainedValue().relay()
                return nil
            }, context)
        precondition(code == 0, "no thread could be made")
    }

    private func relay() {
        if let line = readLine(from: pipe) {
            hasSpoken = true
            let readiness = try? JSONDecoder().decode(Readiness.self, from: Data(line))
            wasReady = readiness?.ok == true
            ready.relay(line)
        }
        close(pipe)
    }

    /// The worker has ended: its end of the pipe is closed, so this does not wait.
    func join(ifSilent readiness: Readiness) {
        pthread_join(thread, nil)
        if !hasSpoken { ready.report(readiness) }
    }
}
