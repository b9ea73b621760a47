import CSpawn
package import ControlProtocol
import Foundation
import Glibc
package import Logging
import Synchronization

/// The process that does nothing but watch one worker: it starts it, passes on whether it became
/// ready, forwards the wish to end, and starts another one when it dies.
///
/// It opens no device, so whatever happens to it cannot touch data, and the last I/O of a dead
/// worker is over when its successor gets the devices. That successor is there already: a spare
/// worker process waits, loaded and with its memory locked, so that a restart does not wait for the
/// start of a program.
package final class Supervisor {
    private let options: StartOptions
    private let ready: ReadyPipe
    private let logger: Logger
    private var policy: RestartPolicy
    private var worker: WorkerLink
    private var spare: WorkerLink?
    private var record: RecordFile?
    /// What a worker is started with that goes on after another one; known when one was ready.
    private var resumption: StartOptions?

    package init(options: StartOptions, ready: ReadyPipe, logger: Logger) {
        self.options = options
        self.ready = ready
        self.logger = logger
        let limit = ProcessInfo.processInfo.environment[RestartPolicy.override].flatMap { Int($0) }
        policy = RestartPolicy(deathMax: max(1, limit ?? RestartPolicy.standardDeathMax))
        worker = WorkerLink()
    }

    /// Runs until the cache is stopped or beyond help; returns the process's exit code.
    package func run() -> Int32 {
        signal(SIGPIPE, SIG_IGN)
        do throws(ErrorBody) {
            try SupervisorEvents.open()
            try worker.start(options, waits: false)
        } catch {
            logger.error("\(error.message)")
            ready.report(.failed(error))
            return 1
        }
        logger.info("worker started", metadata: ["pid": "\(worker.pid)"])
        while true {
            if let code = reapChildren() {
                spare?.end()
                return code
            }
            if worker.takeReadiness() { becameReady() }
            if SupervisorEvents.next() == .wishToEnd {
                logger.info("asked to end: the worker is told to; dirty data stays in the cache")
                kill(worker.pid, SIGTERM)
            }
        }
    }

    /// The exit code, if that is the end.
    private func reapChildren() -> Int32? {
        while true {
            var status: Int32 = 0
            let pid = waitpid(-1, &status, WNOHANG)
            guard pid > 0 else { return nil }
            if pid == spare?.pid {
                logger.warning("the spare worker \(WorkerLink.describe(status))")
                spare = nil
            } else if pid == worker.pid, let code = workerEnded(status) {
                return code
            }
        }
    }
}

// MARK: - A worker's life

extension Supervisor {
    /// Its line has come: the first one is passed on to whoever started this process.
    private func becameReady() {
        guard let id = worker.readiness?.cacheID, worker.readiness?.ok == true else { return }
        if resumption == nil {
            ready.relay(worker.line)
            resumption = StartOptions(
                cacheDevice: options.cacheDevice, cacheID: id, load: true, resume: true)
            let record = RecordFile(cacheID: id)
            if !record.write(CacheRecord(id: id, device: options.cacheDevice)) {
                logger.warning("the record of the cache could not be written")
            }
            self.record = record
        }
        startSpare()
    }

    private func startSpare() {
        guard spare == nil, let resumption else { return }
        let link = WorkerLink()
        do throws(ErrorBody) {
            try link.start(resumption, waits: true)
            spare = link
        } catch {
            logger.warning("no spare worker: \(error.message)")
        }
    }

    private func workerEnded(_ status: Int32) -> Int32? {
        let now = MonotonicTime.now
        worker.join()
        if worker.takeReadiness() { becameReady() }
        if status == 0 {
            if resumption == nil { ready.report(worker.readiness ?? silence(status)) }
            logger.info("worker ended in order")
            record?.remove()
            return 0
        }
        guard resumption != nil else {
            logger.error("the cache was not started: worker \(WorkerLink.describe(status))")
            ready.report(worker.readiness ?? silence(status))
            return 1
        }
        logger.error("worker \(worker.pid) \(WorkerLink.describe(status))")
        switch policy.noteDeath(at: now, wasReady: worker.readiness?.ok == true) {
        case .restart: return startAgain(diedAt: now)
        case .giveUp(let reason): return giveUp(reason)
        }
    }

    private func silence(_ status: Int32) -> Readiness {
        .failed(
            ErrorBody(
                code: ErrorBody.Code.failed,
                message: "The cache's server \(WorkerLink.describe(status)) before it was ready."
                    + " Its log may say why."))
    }

    private func startAgain(diedAt: UInt64) -> Int32? {
        guard let resumption else { return 1 }
        do throws(ErrorBody) {
            if let spare {
                worker = spare
                self.spare = nil
            } else {
                worker = WorkerLink()
                try worker.start(resumption, waits: true)
            }
        } catch {
            return giveUp("could not be started again: \(error.message)")
        }
        worker.go(diedAt: diedAt)
        logger.info("worker goes on", metadata: ["pid": "\(worker.pid)"])
        return nil
    }

    /// The exported devices stay, and keep what is asked of them, until somebody decides.
    private func giveUp(_ reason: String) -> Int32 {
        let last = worker.readiness?.message.map { " " + $0 } ?? ""
        let failure = "The cache is out of service: its server \(reason).\(last)"
        logger.error("\(failure) Its exported devices wait for a server.")
        if let id = resumption?.cacheID {
            record?.write(
                CacheRecord(
                    id: id, device: options.cacheDevice, failure: failure,
                    log: LogFile.lastLines(12)))
        }
        return 1
    }
}

/// What a supervisor waits for. Signals may come to any thread of the process, so each becomes a
/// byte in a pipe.
enum SupervisorEvents {
    enum Event: UInt8 { case somethingHappened, wishToEnd }

    private static let writeEnd = Atomic<Int32>(-1)
    private static let readEnd = Atomic<Int32>(-1)

    static func open() throws(ErrorBody) {
        var ends: [Int32] = [-1, -1]
        let code = cspawn_pipe(&ends)
        guard code == 0 else {
            throw ErrorBody(
                code: ErrorBody.Code.failed,
                message: "Making a pipe failed: \(String(cString: strerror(code))).")
        }
        readEnd.store(ends[0], ordering: .releasing)
        writeEnd.store(ends[1], ordering: .releasing)
        signal(SIGCHLD) { _ in SupervisorEvents.post(.somethingHappened) }
        for number in [SIGTERM, SIGINT] {
            signal(number) { _ in SupervisorEvents.post(.wishToEnd) }
        }
    }

    /// Also from a signal handler. A full pipe has enough to wake whoever waits.
    static func post(_ event: Event) {
        let code = errno
        var byte = event.rawValue
        _ = write(writeEnd.load(ordering: .relaxed), &byte, 1)
        errno = code
    }

    /// Waits for the next one.
    static func next() -> Event {
        var byte: UInt8 = 0
        let count = read(readEnd.load(ordering: .relaxed), &byte, 1)
        return count == 1 ? Event(rawValue: byte) ?? .somethingHappened : .somethingHappened
    }
}

/// The clock that deaths and pauses are measured by, the same for all processes.
enum MonotonicTime {
    static var now: UInt64 {
        var time = timespec()
        clock_gettime(CLOCK_MONOTONIC, &time)
        return UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
    }
}
