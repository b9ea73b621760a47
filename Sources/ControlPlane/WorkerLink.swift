import CSpawn
import ControlProtocol
import Foundation
import Glibc
import Synchronization

/// A worker process as its supervisor sees it: its id, and the line it says when it is ready or
/// knows that it cannot be.
///
/// The line may be a while in coming: a thread waits for it, and wakes the supervisor.
final class WorkerLink: @unchecked Sendable {
    private(set) var pid: pid_t = -1
    private var channel: Int32 = -1
    private var thread: pthread_t?
    private let waits = Atomic(false)
    private let announced = Mutex<ServerVersions?>(nil)
    private let incoming = Mutex<[UInt8]?>(nil)
    private(set) var line: [UInt8] = []
    private(set) var readiness: Readiness?

    /// Whether it has done all that can be done before `go`.
    var isWaiting: Bool { waits.load(ordering: .acquiring) }
    /// What it says, when it waits, that it agrees with; nil if it does not say so.
    var versions: ServerVersions? { announced.withLock { $0 } }

    init() {}

    /// A process that was started by this one before it became another program.
    init(pid: pid_t, channel: Int32, readiness: Readiness) {
        self.pid = pid
        self.channel = channel
        self.readiness = readiness
    }

    /// The channel, for the program that this process is about to become.
    func keepChannel() -> Int32 {
        _ = fcntl(channel, F_SETFD, 0)
        return channel
    }

    /// Starts the process. One that `waits` does nothing to the cache before `go`.
    func start(
        _ options: StartOptions, waits: Bool, program: String = "/proc/self/exe"
    ) throws(ErrorBody) {
        var ends: [Int32] = [-1, -1]
        var code = cspawn_channel(&ends)
        guard code == 0 else { throw Self.failure("Making a channel to the worker failed", code) }
        defer { close(ends[1]) }
        var arguments =
            ["casd", "worker"]
            + options.arguments(readyDescriptor: Int32(CSPAWN_READY_DESCRIPTOR))
        if waits { arguments.append("--waits") }
        let argv = arguments.map { strdup($0) } + [nil]
        defer { argv.forEach { free($0) } }
        code = cspawn_server(&pid, program, argv, environ, 2, ends[1])
        guard code == 0 else {
            close(ends[0])
            throw Self.failure("Starting the worker process failed", code)
        }
        channel = ends[0]
        listen()
    }

    private static func failure(_ what: String, _ code: Int32) -> ErrorBody {
        ErrorBody(
            code: ErrorBody.Code.failed, message: "\(what): \(String(cString: strerror(code))).")
    }

    private func listen() {
        var started = pthread_t()
        let context = Unmanaged.passRetained(self).toOpaque()
        let code = pthread_create(
            &started, nil,
            { context in
                guard let context else { return nil }
                Unmanaged<WorkerLink>.fromOpaque(context).takeRetainedValue().awaitLine()
                return nil
            }, context)
        precondition(code == 0, "no thread could be made")
        thread = started
    }

    private func awaitLine() {
        guard var line = readLine(from: channel) else { return }
        if line.starts(with: WaitingPlace.announcement.utf8) {
            let text = Data(line.dropFirst(WaitingPlace.announcement.utf8.count))
            let versions = try? JSONDecoder().decode(ServerVersions.self, from: text)
            announced.withLock { $0 = versions }
            waits.store(true, ordering: .releasing)
            SupervisorEvents.post(.somethingHappened)
            guard let next = readLine(from: channel) else { return }
            line = next
        }
        incoming.withLock { $0 = line }
        SupervisorEvents.post(.somethingHappened)
    }

    /// True once, when the line has come.
    func takeReadiness() -> Bool {
        guard readiness == nil, let line = incoming.withLock({ $0 }) else { return false }
        self.line = line
        readiness = try? JSONDecoder().decode(Readiness.self, from: Data(line))
        return readiness != nil
    }

    /// Of a process that has ended: what it said why, after a space; else nothing.
    var lastWords: String {
        join()
        _ = takeReadiness()
        return readiness?.message.map { " " + $0 } ?? ""
    }

    /// Lets a process that waits go on.
    func go(diedAt: UInt64) { ReadyPipe(descriptor: channel).say("go \(diedAt)") }

    /// Ends a process that waits.
    func end() {
        kill(pid, SIGKILL)
        waitpid(pid, nil, 0)
        join()
    }

    /// The process has ended: its end of the channel is closed, so this does not wait.
    func join() {
        guard let thread else { return }
        pthread_join(thread, nil)
        self.thread = nil
        close(channel)
    }

    static func describe(_ status: Int32) -> String {
        let number = status & 0x7f
        return number == 0
            ? "ended with exit code \(status >> 8 & 0xff)" : "died of signal \(number)"
    }
}

/// What a spare worker waits for: the death of the one that serves.
package struct WaitingPlace {
    private let descriptor: Int32

    package init(descriptor: Int32) { self.descriptor = descriptor }

    /// Nothing is left to be done before.
    func announce() {
        let versions = (try? JSONEncoder().encode(RuntimeService.versions)) ?? Data()
        ReadyPipe(descriptor: descriptor)
            .say(Self.announcement + String(decoding: versions, as: UTF8.self))
    }

    /// Before the versions.
    static let announcement = "waiting "

    /// When the other worker died; nil if the supervisor is gone, and nobody needs this one.
    func wait() -> UInt64? {
        guard let line = readLine(from: descriptor) else { return nil }
        let words = String(decoding: line, as: UTF8.self).split(separator: " ")
        guard words.count == 2, words[0] == "go" else { return nil }
        return UInt64(words[1])
    }
}
