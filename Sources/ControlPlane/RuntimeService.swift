import CLinux
import CacheEngine
import CacheRuntime
package import ControlProtocol
import Glibc
package import Logging
import Synchronization
import Ublk

/// The product's `CacheService`: a `CacheInstance`, translated to and from the control interface.
package final class RuntimeService: CacheService {
    private let cache: CacheInstance

    private init(_ cache: CacheInstance) { self.cache = cache }

    /// What a process does before it has anything to do with a cache.
    package static func prepare(_ logger: Logger) throws(ErrorBody) {
        for refusal in ServerHygiene.apply() { logger.warning("\(refusal)") }
        let keeper = ucas_keep_memory()
        if keeper < 0 {
            let reason = String(cString: strerror(-keeper))
            logger.warning(
                """
                No keeper could be started (\(reason)): should this process die, users of the \
                cache wait until its memory is gone.
                """)
        }
        let features = try kernelFeatures()
        logger.info(
            "kernel interface",
            metadata: [
                "ublk features": "0x\(String(features.rawValue, radix: 16))",
                "protocol": "\(Endpoints.protocolVersion)", "program": "\(ProgramVersion.current)",
            ])
    }

    /// Starts the cache the options describe, step by step, each one logged.
    package static func start(
        _ options: StartOptions, _ logger: Logger
    ) throws(ErrorBody) -> StartedService {
        let times = StartTimes(since: options.diedAt)
        var claimed: RunLock?
        // A loaded cache brings its own id. If that cannot be read, loading will say why.
        let id =
            options.load && !options.resume
            ? CacheInstance.storedCacheID(devicePath: options.cacheDevice) : options.cacheID
        if id != nil || !options.load { claimed = try RunLock.claim(id) }
        times.note("claim")
        let cache = try translated { () throws(CacheError) in
            var wanted = try Self.options(
                options, id: options.load ? options.cacheID : claimed?.cacheID)
            wanted.milestone = { times.note($0, logger) }
            return try CacheInstance.start(wanted)
        }
        let pause = times.milliseconds
        let what = cache.isResumed ? "cache goes on after the death of its server" : "cache running"
        logger.info(
            "\(what)",
            metadata: ["id": "\(cache.cacheID)", "milliseconds": "\(times.text)"])
        let lock: RunLock
        if let claimed { lock = claimed } else { lock = try claim(cache) }
        var warnings: [String] = []
        if cache.hasInactiveCores {
            warnings = ["Cache is in incomplete state - at least one core is inactive"]
        }
        if let warning = cache.metadataWarning {
            // After a death nobody waits for an answer but the log.
            logger.warning("\(warning)")
            warnings.append(warning)
        }
        let recovery = cache.recovery.map(body)
        if let recovery { report(recovery, cache.cacheID, logger, &warnings) }
        return StartedService(
            service: RuntimeService(cache), lock: lock, warnings: warnings, recovery: recovery,
            pauseMilliseconds: options.diedAt.map { _ in pause })
    }

    /// What another program must agree with to go on where this one stops.
    package static var versions: ServerVersions {
        ServerVersions(memoryImage: MemoryImage.version)
    }

    private static func body(_ recovered: RecoveredCache) -> RecoveryBody {
        let report = recovered.report
        return RecoveryBody(
            dirtyLines: report.dirtyLines, dirtyBytes: report.dirtyBytes,
            journalBlocks: report.journalBlocks, journalRecords: report.journalRecords,
            recordsDropped: report.recordsDropped, damagedSets: UInt64(report.damagedSets.count),
            seconds: recovered.seconds, wasStopped: recovered.wasStopped ? true : nil)
    }

    private static func report(
        _ recovery: RecoveryBody, _ id: UInt16, _ logger: Logger, _ warnings: inout [String]
    ) {
        logger.notice(
            "cache recovered",
            metadata: [
                "id": "\(id)", "dirty lines": "\(recovery.dirtyLines)",
                "dirty bytes": "\(recovery.dirtyBytes)",
                "journal blocks": "\(recovery.journalBlocks)",
                "journal records": "\(recovery.journalRecords)",
                "records without data": "\(recovery.recordsDropped)",
                "seconds": "\(recovery.seconds)",
            ])
        guard recovery.damagedSets > 0 else { return }
        warnings.append(
            "\(recovery.damagedSets) sets of the cache could not be read; the dirty data they had "
                + "are lost")
    }

    /// Ends the exported devices of a cache whose server is gone; returns its id.
    package static func withdraw(
        cacheDevice: String, _ logger: Logger
    ) throws(ErrorBody) -> UInt16 {
        let stored = CacheInstance.storedCacheID(devicePath: cacheDevice)
        let lock = try stored.map { id throws(ErrorBody) in try RunLock.claim(id) }
        let id = try translated { () throws(CacheError) in
            try CacheInstance.withdrawExports(devicePath: cacheDevice)
        }
        lock?.removeSocket()
        unlink(RunDirectory.recordPath(cacheID: id))
        logger.info("exported devices ended", metadata: ["id": "\(id)"])
        return id
    }

    /// Claims the id of a loaded cache; another cache may run under it.
    private static func claim(_ cache: CacheInstance) throws(ErrorBody) -> RunLock {
        do throws(ErrorBody) {
            return try RunLock.claim(cache.cacheID)
        } catch {
            try? cache.stop(flush: false, cancelled: { false })
            throw error
        }
    }

    private static func kernelFeatures() throws(ErrorBody) -> Features {
        do throws(UblkError) {
            return try ControlDevice().features()
        } catch {
            let advice = error.errno == ENOENT ? ControlDevice.missingAdvice : "\(error)."
            throw ErrorBody(code: ErrorBody.Code.failed, message: advice)
        }
    }

    private static func options(
        _ options: StartOptions, id: UInt16?
    ) throws(CacheError) -> CacheInstance.Options {
        var result = CacheInstance.Options(devicePath: options.cacheDevice)
        result.cacheID = id
        result.mode = try options.mode.map { mode throws(CacheError) in try engineMode(mode) }
        result.force = options.force
        result.durability = options.durability.map(engineDurability)
        result.load = options.load
        result.forcePartial = options.forcePartial
        result.resumesOnly = options.resume
        result.lineBytes = options.lineKiB.map { $0 &* 1024 }
        result.movement = try EnvironmentOptions.movement()
        result.registeredRequestMax =
            try EnvironmentOptions.registeredRequestMax() ?? result.registeredRequestMax
        return result
    }

    private static func engineMode(_ mode: CacheMode) throws(CacheError) -> EngineMode {
        switch mode {
        case .writeBack: return .writeBack
        case .writeThrough: return .writeThrough
        case .passThrough: return .passThrough
        case .writeAround, .writeOnly:
            throw CacheError(
                .invalidArgument,
                "\(mode.longName) mode is not available in this version; wt, wb and pt are.")
        }
    }
}

// MARK: - Changes

extension RuntimeService {
    package func addCore(_ body: AddCoreBody) throws(ErrorBody) -> AddedCore {
        try Self.translated { () throws(CacheError) in
            let id = try cache.addCore(id: body.id, devicePath: body.device)
            return AddedCore(id: id, exportedDevice: "/dev/cas\(cache.cacheID)-\(id)")
        }
    }

    package func removeCore(_ id: UInt16, flush: Bool, _ watch: OperationWatch) throws(ErrorBody) {
        try Self.translated { () throws(CacheError) in
            try cache.removeCore(id: id, flush: flush, cancelled: { follow(watch, core: id) })
        }
    }

    package func flush(core: UInt16?, _ watch: OperationWatch) throws(ErrorBody) {
        try Self.translated { () throws(CacheError) in
            try cache.flush(core: core, cancelled: { follow(watch, core: core) })
        }
    }

    package func setMode(_ body: ModeBody, _ watch: OperationWatch) throws(ErrorBody) {
        try Self.translated { () throws(CacheError) in
            try cache.setMode(
                try Self.engineMode(body.mode), flush: body.flush ?? true,
                cancelled: { follow(watch, core: nil) })
        }
    }

    package func setParameters(_ body: ParametersBody) throws(ErrorBody) {
        try Self.translated { () throws(CacheError) in
            if let durability = body.durability {
                try cache.setDurability(Self.engineDurability(durability))
            }
        }
    }

    private static func engineDurability(_ durability: Durability) -> EngineDurability {
        switch durability {
        case .flush: .flush
        case .write: .write
        }
    }

    package func resetCounters(core: UInt16?) throws(ErrorBody) {
        try Self.translated { () throws(CacheError) in try cache.resetCounters(core: core) }
    }

    package func stop(flush: Bool, _ watch: OperationWatch) throws(ErrorBody) {
        try Self.translated { () throws(CacheError) in
            try cache.stop(flush: flush, cancelled: { follow(watch, core: nil) })
        }
    }

    /// Notes how far the flush is; true if it is to end early.
    private func follow(_ watch: OperationWatch, core: UInt16?) -> Bool {
        let flushing = cache.snapshot().cores.filter { core == nil || $0.id == core }
            .compactMap(\.flushProgress)
        if !flushing.isEmpty {
            watch.setProgress(flushing.reduce(0, +) / Double(flushing.count))
        }
        return watch.isCancelled
    }

    private static func translated<R>(_ work: () throws(CacheError) -> R) throws(ErrorBody) -> R {
        do throws(CacheError) {
            return try work()
        } catch {
            throw ErrorBody(code: code(error.code), message: error.message)
        }
    }

    private static func code(_ code: CacheError.Code) -> String {
        switch code {
        case .noSuchCore: ErrorBody.Code.noSuchCore
        case .flushRunning: ErrorBody.Code.flushInProgress
        case .interrupted: ErrorBody.Code.cancelled
        case .cacheExists: ErrorBody.Code.cacheIDTaken
        case .notFound: ErrorBody.Code.deviceNotFound
        case .busy: ErrorBody.Code.deviceBusy
        case .oldMetadata: ErrorBody.Code.metadataFound
        case .noMetadata: ErrorBody.Code.noMetadata
        case .notCleanlyStopped: ErrorBody.Code.notCleanlyStopped
        case .cleanlyStopped: ErrorBody.Code.cleanlyStopped
        case .invalidArgument: ErrorBody.Code.badRequest
        default: ErrorBody.Code.failed
        }
    }
}

// MARK: - Questions

extension RuntimeService {
    package func snapshot() -> CacheSnapshot {
        let status = cache.snapshot()
        let cores = status.cores.map { core(of: status, $0) }
        var total = Statistics()
        for core in cores { total.add(core.statistics) }
        let blocks = UInt64(status.lineBytes) / 4096
        total.usage.free = (status.lineCount - status.occupiedLines) * blocks
        return CacheSnapshot(
            id: status.cacheID, state: state(status.state), mode: mode(status.mode),
            previousMode: status.previousMode.map(mode), device: status.devicePath,
            sizeBytes: status.lineCount * UInt64(status.lineBytes), lineBytes: status.lineBytes,
            cleaningPolicy: "nop", promotionPolicy: "always", prefetchPolicy: "none",
            durability: status.durability == .write ? .write : .flush,
            dirtySeconds: cores.compactMap(\.dirtySeconds).max(),
            metadataBytes: status.metadataBytes, flushProgress: progress(cores),
            statistics: total, cores: cores)
    }

    /// Of the whole cache, if all its dirty cores are being flushed.
    private func progress(_ cores: [CoreSnapshot]) -> Double? {
        let known = cores.compactMap(\.flushProgress)
        return known.isEmpty || known.count < cores.count
            ? nil : known.reduce(0, +) / Double(known.count)
    }

    private func state(_ state: InstanceStatus.State) -> CacheSnapshot.State {
        switch state {
        case .running: .running
        case .stopping: .stopping
        case .incomplete: .incomplete
        }
    }

    private func mode(_ mode: EngineMode) -> CacheMode {
        switch mode {
        case .writeBack: .writeBack
        case .writeThrough: .writeThrough
        case .passThrough: .passThrough
        }
    }

    private func core(of cache: InstanceStatus, _ core: CoreStatus) -> CoreSnapshot {
        CoreSnapshot(
            id: core.id, state: core.isActive ? .active : .inactive, device: core.devicePath,
            exportedDevice: core.exportedLink, ublkDevice: core.exportedNode,
            sizeBytes: core.sectorCount * 512, sequentialCutoffKiB: 1024,
            sequentialCutoffPolicy: "never", dirtySeconds: core.dirtySeconds,
            flushProgress: core.flushProgress, statistics: statistics(cache, core))
    }

    private func statistics(_ cache: InstanceStatus, _ core: CoreStatus) -> Statistics {
        func value(_ counter: Counter) -> UInt64 { core.counters[counter] ?? 0 }
        let blocks = UInt64(cache.lineBytes) / 4096
        var result = Statistics()
        result.usage = Usage(
            occupancy: core.occupiedLines * blocks,
            free: (cache.lineCount - cache.occupiedLines) * blocks,
            clean: (core.occupiedLines - core.dirtyLines) * blocks,
            dirty: core.dirtyLines * blocks)
        result.requests.reads = direction(
            value(.readTotal), value(.readDeferred), value(.readPartialMisses),
            value(.readFullMisses), value(.passThroughReads))
        result.requests.writes = direction(
            value(.writeTotal), value(.writeDeferred), value(.writePartialMisses),
            value(.writeFullMisses), value(.passThroughWrites))
        result.requests.cleaner = value(.cleanerRequests)
        result.blocks = BlockCounters(
            coreReads: value(.coreReadBytes), coreWrites: value(.coreWriteBytes),
            cacheReads: value(.cacheReadBytes), cacheWrites: value(.cacheWriteBytes),
            exportedReads: value(.exportedReadBytes), exportedWrites: value(.exportedWriteBytes),
            cleanerCacheReads: value(.cleanerCacheReadBytes),
            cleanerCoreWrites: value(.cleanerCoreWriteBytes))
        result.errors = ErrorCounters(
            cacheReads: value(.cacheReadErrors), cacheWrites: value(.cacheWriteErrors),
            coreReads: value(.coreReadErrors), coreWrites: value(.coreWriteErrors))
        return result
    }

    /// Counters are read one after the other while requests go on: hits never go below zero.
    private func direction(
        _ total: UInt64, _ deferred: UInt64, _ partial: UInt64, _ full: UInt64,
        _ passThrough: UInt64
    ) -> RequestCounters.Direction {
        let misses = deferred + partial + full
        return RequestCounters.Direction(
            hits: total > misses ? total - misses : 0, deferred: deferred, partialMisses: partial,
            fullMisses: full, passThrough: passThrough)
    }
}

extension Statistics {
    fileprivate mutating func add(_ other: Statistics) {
        usage.occupancy += other.usage.occupancy
        usage.clean += other.usage.clean
        usage.dirty += other.usage.dirty
        requests.reads.add(other.requests.reads)
        requests.writes.add(other.requests.writes)
        requests.cleaner += other.requests.cleaner
        blocks.coreReads += other.blocks.coreReads
        blocks.coreWrites += other.blocks.coreWrites
        blocks.cacheReads += other.blocks.cacheReads
        blocks.cacheWrites += other.blocks.cacheWrites
        blocks.exportedReads += other.blocks.exportedReads
        blocks.exportedWrites += other.blocks.exportedWrites
        blocks.cleanerCacheReads += other.blocks.cleanerCacheReads
        blocks.cleanerCoreWrites += other.blocks.cleanerCoreWrites
        errors.cacheReads += other.errors.cacheReads
        errors.cacheWrites += other.errors.cacheWrites
        errors.coreReads += other.errors.coreReads
        errors.coreWrites += other.errors.coreWrites
    }
}

extension RequestCounters.Direction {
    fileprivate mutating func add(_ other: RequestCounters.Direction) {
        hits += other.hits
        deferred += other.deferred
        partialMisses += other.partialMisses
        fullMisses += other.fullMisses
        passThrough += other.passThrough
    }
}

/// How long each step of a start took: since the death of the worker before, or since it began.
private final class StartTimes: Sendable {
    private let start: UInt64
    private let steps = Mutex<[String]>([])
    private let isClosed = Atomic(false)

    init(since start: UInt64?) { self.start = start ?? MonotonicTime.now }

    var milliseconds: UInt64 { (MonotonicTime.now - start) / 1_000_000 }

    private var elapsed: String {
        let tenths = (MonotonicTime.now - start) / 100_000
        return "\(tenths / 10).\(tenths % 10)"
    }

    func note(_ step: String) {
        let time = elapsed
        steps.withLock { $0.append("\(step) \(time)") }
    }

    /// What comes after the others were told is told by itself.
    func note(_ step: String, _ logger: Logger) {
        if isClosed.load(ordering: .acquiring) {
            logger.info("\(step)", metadata: ["milliseconds": "\(elapsed)"])
        } else {
            note(step)
        }
    }

    /// All steps so far.
    var text: String {
        isClosed.store(true, ordering: .releasing)
        return steps.withLock { $0.joined(separator: ", ") } + ", serving \(elapsed)"
    }
}
