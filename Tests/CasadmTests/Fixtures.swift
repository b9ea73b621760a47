import ControlProtocol
import Synchronization

@testable import CasadmCore

/// A session that remembers what was said.
final class Recorder: Sendable {
    private let out = Mutex("")
    private let errors = Mutex("")

    var output: String { out.withLock { $0 } }
    var complaints: String { errors.withLock { $0 } }

    func session(environment: [String: String] = [:], isRoot: Bool = true) -> Session {
        Session(
            environment: environment, isRoot: isRoot, isTerminal: false,
            print: { text in self.out.withLock { $0 += text } },
            printError: { text in self.errors.withLock { $0 += text } })
    }
}

/// What one command line leads to.
struct Run {
    var exitCode: Int32
    var output: String
    var complaints: String

    static func casadm(
        _ line: String, environment: [String: String] = [:], isRoot: Bool = true
    ) async -> Run {
        let recorder = Recorder()
        let session = recorder.session(environment: environment, isRoot: isRoot)
        let exitCode = await Casadm.run(line.split(separator: " ").map(String.init), session)
        return Run(
            exitCode: exitCode, output: recorder.output, complaints: recorder.complaints)
    }
}

extension CacheSnapshot {
    /// A cache of 40 MiB after 1003 requests, with one active core.
    static func sample(id: UInt16 = 1) -> CacheSnapshot {
        let usage = Usage(occupancy: 1000, free: 9240, clean: 667, dirty: 333)
        let requests = RequestCounters(
            reads: .init(hits: 300, deferred: 2, partialMisses: 1, fullMisses: 97, passThrough: 3),
            writes: .init(hits: 100, deferred: 0, partialMisses: 0, fullMisses: 500),
            cleaner: 7)
        let blocks = BlockCounters(
            coreReads: 97 * 4096 + 1, coreWrites: 512, cacheReads: 300 * 4096,
            cacheWrites: 600 * 4096, exportedReads: 400 * 4096, exportedWrites: 600 * 4096,
            cleanerCacheReads: 10 * 4096, cleanerCoreWrites: 10 * 4096)
        let errors = ErrorCounters(cacheReads: 1, cacheWrites: 2, coreReads: 0, coreWrites: 0)
        let statistics = Statistics(
            usage: usage, requests: requests, blocks: blocks, errors: errors)
        let core = CoreSnapshot(
            id: 1, state: .active, device: "/dev/core", exportedDevice: "/dev/cas\(id)-1",
            ublkDevice: "/dev/ublkb0", sizeBytes: 3 << 30, sequentialCutoffKiB: 1024,
            sequentialCutoffPolicy: "full", dirtySeconds: 90061, statistics: statistics)
        return CacheSnapshot(
            id: id, state: .running, mode: .writeBack, device: "/dev/cache",
            sizeBytes: 40 << 20, lineBytes: 4096, cleaningPolicy: "alru",
            promotionPolicy: "always", prefetchPolicy: "none", metadataBytes: 1_887_437,
            statistics: statistics, cores: [core])
    }
}

extension StatsReport {
    init(_ cache: CacheSnapshot, filter: StatsFilter = .all) {
        self.init(cache: cache, filter: filter, devicePath: { $0 })
    }
}
