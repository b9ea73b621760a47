import ControlClient
import ControlProtocol

extension Runner {
    func start(_ options: StartOptions) async throws(Failure) -> Answer {
        var options = options
        options.cacheDevice = try Devices.checked(options.cacheDevice)
        let attempt = "Error inserting cache \(options.cacheID ?? runningCaches.firstFreeID())"
        let readiness = try ServerStart(session: session, program: serverProgram)
            .run(options)
        guard readiness.ok, let id = readiness.cacheID else {
            if await isCache(options.cacheDevice) {
                throw Failure(
                    attempt, "Cache device '\(options.cacheDevice)' is already used as cache.")
            }
            throw Failure(attempt, readiness.message ?? "casd does not say why.")
        }
        var json: [(String, JSONText)] = [("cacheId", .number(id))]
        var lines = ["Successfully added cache instance \(id)"]
        if let recovery = readiness.recovery {
            lines.append(recovery.text)
            json.append(("recovery", recovery.json))
        }
        return Answer(
            lines: lines, warnings: (readiness.warnings ?? []).map { "WARNING: \($0)" },
            json: .object(json))
    }

    func setDurability(
        _ cache: UInt16, _ durability: Durability
    ) async throws(Failure) -> Answer {
        do {
            try await CacheConnection(cacheID: cache, in: session.runDirectory)
                .setParameters(ParametersBody(durability: durability))
            return Answer()
        } catch {
            throw failure(error, after: "Error while setting the durability of cache \(cache)")
        }
    }

    /// As Open CAS prints the parameters of a namespace.
    func parameters(_ cache: UInt16) async throws(Failure) -> Answer {
        let snapshot: CacheSnapshot
        do {
            snapshot = try await CacheConnection(cacheID: cache, in: session.runDirectory)
                .snapshot()
        } catch {
            throw failure(error, after: "Error while getting parameters of cache \(cache)")
        }
        let header = ["Parameter name", "Value"]
        let rows = [["Durability", snapshot.durability.rawValue]]
        let lines =
            format == .csv
            ? ([header] + rows).map(CSVView.line)
            : TextView(drawing: .forSession(session.environment)).table(header: header, rows: rows)
        return Answer(
            lines: lines,
            json: .object([("durability", .string(snapshot.durability.rawValue))]))
    }

    func addCore(
        _ cache: UInt16, _ core: UInt16?, _ device: String
    ) async throws(Failure) -> Answer {
        let path = try Devices.checked(device)
        let attempt = "Error while adding core device to cache instance \(cache)"
        do {
            let connection = try CacheConnection(cacheID: cache, in: session.runDirectory)
            if Caching(await snapshots()).isBelow(path, cache: cache) {
                throw Failure(
                    "Core device '\(device)' is already cached on cache device \(cache). - "
                        + "illegal multilevel caching configuration.")
            }
            let added = try await connection.addCore(device: path, id: core)
            return Answer(
                lines: ["Successfully added core \(added.id) to cache instance \(cache)"],
                json: .object([
                    ("cacheId", .number(cache)), ("coreId", .number(added.id)),
                    ("device", .string(added.exportedDevice)),
                ]))
        } catch ControlError.refused(let body) where body.code == ErrorBody.Code.deviceBusy {
            guard Caching(await snapshots()).isCore(path) else {
                throw Failure(attempt, body.message)
            }
            throw Failure(attempt, "Core device '\(device)' is already cached.")
        } catch {
            throw failure(error, after: attempt)
        }
    }

    func resetCounters(_ cache: UInt16, _ core: UInt16?) async throws(Failure) -> Answer {
        do {
            try await CacheConnection(cacheID: cache, in: session.runDirectory).resetCounters(
                core: core)
            return Answer()
        } catch {
            throw failure(error, after: "Error encountered while resetting counters")
        }
    }

    private func isCache(_ device: String) async -> Bool {
        let node = Devices.resolved(device)
        return await snapshots().contains { Devices.resolved($0.device) == node }
    }
}

extension RecoveryBody {
    var text: String {
        let rounded = (seconds * 100).rounded() / 100
        let reason = wasStopped == true ? "is damaged" : "was not stopped"
        return "The cache \(reason); recovered \(dirtyLines) dirty lines "
            + "(\(dirtyBytes >> 10) KiB) with \(journalRecords) journal records in "
            + "\(rounded) s."
    }

    var json: JSONText {
        .object([
            ("dirtyLines", .number(dirtyLines)), ("dirtyBytes", .number(dirtyBytes)),
            ("journalBlocks", .number(journalBlocks)),
            ("journalRecords", .number(journalRecords)),
            ("recordsDropped", .number(recordsDropped)),
            ("damagedSets", .number(damagedSets)), ("wasStopped", .bool(wasStopped == true)),
            ("milliseconds", .number(UInt64(max(seconds, 0) * 1000))),
        ])
    }
}

/// How running caches and their cores stand on one another.
struct Caching {
    private let caches: [CacheSnapshot]
    /// Finds a device's own node; nil where there is none.
    private let resolved: (String) -> String?

    init(
        _ caches: [CacheSnapshot], resolved: @escaping (String) -> String? = Devices.resolved
    ) {
        self.caches = caches
        self.resolved = resolved
    }

    func isCore(_ device: String) -> Bool {
        guard let node = resolved(device) else { return false }
        return caches.contains { cache in
            cache.cores.contains { $0.state == .active && resolved($0.device) == node }
        }
    }

    /// Whether a device is exported by a cache, or stands on one that is: caching it there again
    /// would keep the same data twice in one cache.
    func isBelow(_ device: String, cache: UInt16) -> Bool {
        var node = resolved(device)
        // Each step goes one level down; more levels than caches would be a circle.
        for _ in 0...caches.count {
            guard let current = node else { return false }
            let owner = caches.lazy.compactMap { owner in
                owner.cores.first { resolved($0.exportedDevice) == current }
                    .map { (id: owner.id, device: $0.device) }
            }.first
            guard let owner else { return false }
            if owner.id == cache { return true }
            node = resolved(owner.device)
        }
        return false
    }
}
