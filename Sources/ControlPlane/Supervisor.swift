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
    private var upgrade: Upgrade?
    /// How the upgrade went that made this program the supervisor, or did not.
    private var upgraded: UpgradeResult?

    /// - Parameter taken: what the process was doing before it became this program.
    package init(
        options: StartOptions, ready: ReadyPipe, logger: Logger, taking taken: TakenOver? = nil
    ) {
        self.options = options
        self.ready = ready
        self.logger = logger
        let limit = ProcessInfo.processInfo.environment[RestartPolicy.override].flatMap { Int($0) }
        policy = RestartPolicy(deathMax: max(1, limit ?? RestartPolicy.standardDeathMax))
        worker = WorkerLink()
        guard let taken else { return }
        worker = WorkerLink(
            pid: taken.worker, channel: taken.channel,
            readiness: .ready(cacheID: taken.cacheID))
        upgraded = taken.result
        resumption = Self.resumption(of: taken.cacheID, options)
    }

    private static func resumption(of id: UInt16, _ options: StartOptions) -> StartOptions {
        StartOptions(cacheDevice: options.cacheDevice, cacheID: id, load: true, resume: true)
    }

    /// Runs until the cache is stopped or beyond help; returns the process's exit code.
    package func run() -> Int32 {
        signal(SIGPIPE, SIG_IGN)
        do throws(ErrorBody) {
            try SupervisorEvents.open()
            if resumption == nil { try worker.start(options, waits: false) }
        } catch {
            logger.error("\(error.message)")
            ready.report(.failed(error))
            return 1
        }
        logger.info("worker started", metadata: ["pid": "\(worker.pid)"])
        if resumption != nil { takeUp() }
        while true {
            if let code = reapChildren() {
                spare?.end()
                return code
            }
            if worker.takeReadiness() { becameReady() }
            handOver()
            endLateUpgrade()
            switch SupervisorEvents.next() {
            case .wishToEnd:
                logger.info("asked to end: the worker is told to; dirty data stays in the cache")
                kill(worker.pid, SIGTERM)
            case .wishToUpgrade: beginUpgrade()
            case .somethingHappened: break
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
                let reason = spare?.lastWords ?? ""
                spare = nil
                endUpgrade(failure: "The new program \(WorkerLink.describe(status)).\(reason)")
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
            resumption = Self.resumption(of: id, options)
            keepRecord(of: id)
        }
        if upgrade?.hasBegun == true { becomeNewProgram(id) }
        startSpare()
    }

    /// This process was another program until now.
    private func takeUp() {
        guard let id = resumption?.cacheID else { return }
        keepRecord(of: id)
        startSpare()
        logger.info("the supervisor is of version \(ProgramVersion.current) now")
    }

    private func keepRecord(of id: UInt16) {
        let record = self.record ?? RecordFile(cacheID: id)
        let content = CacheRecord(
            id: id, device: options.cacheDevice, supervisor: getpid(),
            versions: RuntimeService.versions, upgrade: upgraded)
        if !record.write(content) {
            logger.warning("the record of the cache could not be written")
        }
        self.record = record
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
        if let upgrade, upgrade.hasBegun {
            if worker.pid == upgrade.oldWorker { return startAgain(diedAt: now) }
            // The new program cannot do it: the old one goes on.
            let reason =
                upgrade.isLate
                ? "It was not ready after \(Upgrade.startSeconds) seconds."
                : worker.readiness?.message ?? "It \(WorkerLink.describe(status))."
            endUpgrade(failure: "The new program could not go on with the cache. \(reason)")
        } else if upgrade != nil {
            // Nobody knows yet whether the new program can.
            abandonUpgrade("The cache's server died before the new program was ready.")
        }
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
                    id: id, device: options.cacheDevice, versions: RuntimeService.versions,
                    failure: failure, log: LogFile.lastLines(12)))
        }
        return 1
    }
}

// MARK: - Upgrade

/// An upgrade under way: a worker of the new program waits, then the old one is ended and the new
/// one goes on as after a death, then this process becomes the new program.
struct Upgrade {
    /// Until the new worker waits, and from then on until it serves: together less than the two
    /// minutes that `casadm` waits.
    static let waitSeconds: UInt64 = 30
    static let startSeconds: UInt64 = 85

    let wish: UpgradeWish
    /// Of the monotonic clock.
    private(set) var deadline: UInt64 = 0
    /// Set when the old worker is ended.
    private(set) var oldWorker: pid_t?
    /// The new worker was ended because it needed too long.
    var isLate = false
    var hasBegun: Bool { oldWorker != nil }

    init(_ wish: UpgradeWish) {
        self.wish = wish
        setDeadline(Self.waitSeconds)
    }

    mutating func begin(ending worker: pid_t) {
        oldWorker = worker
        setDeadline(Self.startSeconds)
    }

    private mutating func setDeadline(_ seconds: UInt64) {
        deadline = MonotonicTime.now + seconds * 1_000_000_000
        SupervisorEvents.post(.somethingHappened, afterSeconds: seconds)
    }
}

/// What a process was doing before it became another program: see `becomeNewProgram`.
package struct TakenOver: Codable, Sendable, Equatable {
    package var worker: Int32
    package var channel: Int32
    package var cacheID: UInt16
    package var result: UpgradeResult
}

extension Supervisor {
    private func beginUpgrade() {
        guard upgrade == nil, let resumption, let id = resumption.cacheID,
            let text = FileManager.default.contents(atPath: RunDirectory.upgradePath(cacheID: id)),
            let wish = try? JSONDecoder().decode(UpgradeWish.self, from: text)
        else { return }
        logger.info("upgrade", metadata: ["program": "\(wish.program)"])
        upgrade = Upgrade(wish)
        spare?.end()
        let link = WorkerLink()
        do throws(ErrorBody) {
            try link.start(resumption, waits: true, program: wish.program)
            spare = link
        } catch {
            spare = nil
            endUpgrade(failure: error.message)
        }
    }

    /// The old worker is ended only when the new one has nothing left to do but to go on.
    private func handOver() {
        guard let upgrade, !upgrade.hasBegun, let spare, spare.isWaiting else { return }
        guard let versions = spare.versions else {
            return abandonUpgrade("The new program does not tell its versions.")
        }
        if let conflict = versions.conflict(with: RuntimeService.versions) {
            return abandonUpgrade("The new program \(conflict).")
        }
        self.upgrade?.begin(ending: worker.pid)
        kill(worker.pid, SIGKILL)
    }

    /// Nobody waits for ever for a program that does nothing.
    private func endLateUpgrade() {
        guard let upgrade, MonotonicTime.now >= upgrade.deadline else { return }
        guard upgrade.hasBegun else {
            return abandonUpgrade(
                "The new program did nothing for \(Upgrade.waitSeconds) seconds.")
        }
        guard worker.pid != upgrade.oldWorker else { return }
        self.upgrade?.isLate = true
        kill(worker.pid, SIGKILL)
    }

    /// The old worker still serves, or is followed by one of its own program.
    private func abandonUpgrade(_ reason: String) {
        spare?.end()
        spare = nil
        endUpgrade(failure: reason)
    }

    private func endUpgrade(failure: String) {
        guard let upgrade else { return }
        self.upgrade = nil
        logger.error("the upgrade failed: \(failure)")
        upgraded = UpgradeResult(wish: upgrade.wish.wish, failure: failure)
        if let id = resumption?.cacheID { keepRecord(of: id) }
        if spare == nil, worker.readiness?.ok == true { startSpare() }
    }

    /// The new worker serves. It stays this process's child when this becomes the new program.
    private func becomeNewProgram(_ id: UInt16) {
        guard let upgrade else { return }
        let taken = TakenOver(
            worker: worker.pid, channel: worker.keepChannel(), cacheID: id,
            result: UpgradeResult(
                wish: upgrade.wish.wish, pauseMilliseconds: worker.readiness?.pauseMilliseconds))
        guard let text = try? JSONEncoder().encode(taken) else { return }
        let arguments =
            ["casd", "supervise"] + options.arguments(readyDescriptor: nil)
            + ["--taken-over", String(decoding: text, as: UTF8.self)]
        let argv = arguments.map { strdup($0) } + [nil]
        // A signal that comes before the new program is ready for it would end it.
        SupervisorEvents.hold(true)
        execv(upgrade.wish.program, argv)
        let code = errno
        SupervisorEvents.hold(false)
        argv.forEach { free($0) }
        // The old program goes on watching the new worker.
        endUpgrade(
            failure: "The new program serves, but its supervisor could not be started: "
                + "\(String(cString: strerror(code))).")
    }
}

/// What a supervisor waits for. Signals may come to any thread of the process, so each becomes a
/// byte in a pipe.
enum SupervisorEvents {
    enum Event: UInt8 { case somethingHappened, wishToEnd, wishToUpgrade }

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
        signal(SIGHUP) { _ in SupervisorEvents.post(.wishToUpgrade) }
        for number in [SIGTERM, SIGINT] {
            signal(number) { _ in SupervisorEvents.post(.wishToEnd) }
        }
        // This may be the program that another one has become.
        hold(false)
    }

    /// Whether this thread, and the program that takes its place, keep signals for later.
    static func hold(_ isHeld: Bool) {
        var signals = sigset_t()
        sigemptyset(&signals)
        for number in [SIGCHLD, SIGHUP, SIGTERM, SIGINT] { sigaddset(&signals, number) }
        pthread_sigmask(isHeld ? SIG_BLOCK : SIG_UNBLOCK, &signals, nil)
    }

    /// Also from a signal handler. A full pipe has enough to wake whoever waits.
    static func post(_ event: Event) {
        let code = errno
        var byte = event.rawValue
        _ = write(writeEnd.load(ordering: .relaxed), &byte, 1)
        errno = code
    }

    static func post(_ event: Event, afterSeconds seconds: UInt64) {
        let thread = Thread {
            Thread.sleep(forTimeInterval: Double(seconds) + 0.01)
            post(event)
        }
        thread.start()
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
