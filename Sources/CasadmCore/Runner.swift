import ControlClient
import ControlProtocol
import Glibc
import SystemFiles

/// Carries out requests.
struct Runner {
    let session: Session
    let format: OutputFormat
    var serverProgram = "casd"

    func run(_ request: Request) async throws(Failure) -> Answer {
        switch request {
        case .start(let options): try await start(options)
        case .stop(let cache, let flush): try await stop(cache, flush)
        case .setMode(let cache, let mode, let flush): try await setMode(cache, mode, flush)
        case .addCore(let cache, let core, let device): try await addCore(cache, core, device)
        case .removeCore(let cache, let core, let flush): try await removeCore(cache, core, flush)
        case .list(let byIDPath): try await list(byIDPath)
        case .stats(let request): try await stats(request)
        case .resetCounters(let cache, let core): try await resetCounters(cache, core)
        case .setDurability(let cache, let durability):
            try await setDurability(cache, durability)
        case .parameters(let cache): try await parameters(cache)
        case .flush(let cache, let core): try await flush(cache, core)
        case .version: version()
        case .upgrade(let cache): try await upgrade(cache)
        case .zeroMetadata(let device, let force):
            try ZeroMetadata(device: device, force: force).run()
        }
    }

    var runningCaches: RunningCaches { RunningCaches(in: session.runDirectory) }

    /// What Open CAS says to an id without a cache, after a line of what was tried.
    private static let noSuchCache = "Cache ID does not exist"

    /// The words for a request that was not carried out; `attempt` says what it was.
    func failure(_ error: any Error, after attempt: String...) -> Failure {
        if let failure = error as? Failure { return failure }
        var failure = Failure()
        failure.lines = attempt
        if case ControlError.notRunning = error {
            failure.lines.append(Self.noSuchCache)
        } else {
            failure.lines.append(String(describing: error))
        }
        return failure
    }

    /// Says something before the work begins, where it does not disturb a program that reads.
    func announce(_ lines: String...) {
        if format != .json { session.say(lines) }
    }

    /// All running caches. One that cannot be asked is named on standard error and left out.
    func snapshots() async -> [CacheSnapshot] {
        var snapshots: [CacheSnapshot] = []
        for id in runningCaches.ids() {
            do {
                snapshots.append(
                    try await CacheConnection(cacheID: id, in: session.runDirectory).snapshot())
            } catch ControlError.notRunning {
                continue
            } catch {
                session.complain([String(describing: error)])
            }
        }
        return snapshots
    }

    private func devicePath(byIDPath: Bool) -> (String) -> String {
        { path in byIDPath ? path : Devices.resolved(path) ?? path }
    }
}

extension Runner {
    private func list(_ byIDPath: Bool) async throws(Failure) -> Answer {
        let caches = await snapshots()
        let known = Set(caches.map(\.id))
        let unserved = runningCaches.unserved().filter { !known.contains($0.record.id) }
        let list = CacheList(
            caches, unserved: unserved, devicePath: devicePath(byIDPath: byIDPath))
        guard !caches.isEmpty || !unserved.isEmpty else {
            return Answer(lines: ["No caches running"], json: list.json)
        }
        let lines =
            format == .csv
            ? list.csvLines() : list.treeLines(.forSession(session.environment)) + list.notes
        return Answer(lines: lines, json: list.json)
    }

    private func stats(_ request: StatsRequest) async throws(Failure) -> Answer {
        let cache: CacheSnapshot
        do {
            cache = try await CacheConnection(cacheID: request.cache, in: session.runDirectory)
                .snapshot()
        } catch {
            throw Failure(error.description)
        }
        var core: CoreSnapshot?
        if let id = request.core {
            core = cache.cores.first { $0.id == id }
            guard core != nil else { throw Failure("No such core device in cache.") }
        }
        let builder = StatsReport(
            cache: cache, filter: request.filter,
            devicePath: devicePath(byIDPath: request.byIDPath))
        let report: Report
        switch request.ioClass {
        case .none: report = core.map(builder.ofCore) ?? builder.ofCache()
        case .all, .one(0): report = builder.ofUnclassified(core)
        case .one(let id): throw Failure("IO class \(id) is not configured.")
        }
        let lines =
            format == .csv
            ? CSVView.lines([report])
            : TextView(drawing: .forSession(session.environment)).lines(report)
        return Answer(lines: lines, json: JSONView.value(report))
    }

    private func version() -> Answer {
        let rows = [
            ["ublk Kernel Driver", Self.kernelDriver()],
            ["CAS CLI Utility", ProgramVersion.current],
        ]
        let header = ["Name", "Version"]
        let lines =
            format == .csv
            ? ([header] + rows).map(CSVView.line)
            : TextView(drawing: .forSession(session.environment)).table(header: header, rows: rows)
        let json = JSONText.object(rows.map { ($0[0], .string($0[1])) })
        return Answer(lines: lines, json: json)
    }

    /// The driver comes with the kernel and has no other version.
    private static func kernelDriver() -> String {
        guard access("/dev/ublk-control", F_OK) == 0 else { return "Not Loaded" }
        return readText("/proc/sys/kernel/osrelease")?.split(separator: "\n").first
            .map(String.init) ?? "Unknown"
    }
}
