package import CacheEngine
import CacheFormat
import Glibc
import Synchronization

/// A cache without metadata and without ublk: the product's workers over real devices, each fed by
/// a load generator. For tests and for measuring the runtime by itself.
package final class LoadRun {
    package struct Options {
        package var cachePath: String
        package var corePath: String
        package var mode = EngineMode.writeBack
        package var lineBytes: UInt32 = 4096
        /// Sets of the cache; nil: as many as fit the device.
        package var setCount: UInt64?
        package var pinsWorkers = true
        package var limits = EngineLimits()

        package init(cachePath: String, corePath: String) {
            self.cachePath = cachePath
            self.corePath = corePath
        }
    }

    package let shared: SharedCache
    package let cache: DeviceFile
    package let core: DeviceFile
    package static let coreID: UInt16 = 1
    private let options: Options
    private let pages: UnsafeMutableRawPointer
    private let workerCount: Int
    /// What each worker did in the last run.
    package private(set) var activity: [WorkerActivity] = []

    package init(_ options: Options, workerCount: Int) throws(CacheError) {
        self.options = options
        self.workerCount = workerCount
        cache = try DeviceFile(path: options.cachePath, role: .cache, allowsPlainFile: true)
        core = try DeviceFile(path: options.corePath, role: .core, allowsPlainFile: true)
        let geometry = try Self.geometry(options, cache)
        let byteCount = Int(geometry.setCount) * SetPageLayout.byteCount
        pages = .allocate(byteCount: byteCount, alignment: 4096)
        pages.initializeMemory(as: UInt8.self, repeating: 0, count: byteCount)
        shared = SharedCache(geometry: geometry, pages: pages, workerCount: workerCount)
        shared.mode = options.mode
        shared.addCore(
            Self.coreID, coreOffset: 0, sectorCount: core.limits.sectorCount, canDiscard: true)
    }

    deinit {
        shared.deallocate()
        pages.deallocate()
    }

    private static func geometry(
        _ options: Options, _ cache: DeviceFile
    ) throws(CacheError) -> Geometry {
        let fitting = Geometry.forDevice(
            byteCount: cache.limits.bytes, lineBytes: options.lineBytes)
        guard let fitting,
            let wanted = Geometry(
                lineBytes: options.lineBytes, setCount: options.setCount ?? fitting.setCount,
                journalBlockCount: fitting.journalBlockCount), wanted.setCount <= fitting.setCount
        else {
            throw CacheError(.tooSmall, "The cache device '\(cache.path)' is too small.")
        }
        return wanted
    }

    /// Runs one pattern a worker until each has answered all its requests, flushes the core's
    /// dirty data if asked, and ends the workers.
    package func run(_ patterns: [LoadPattern], flushes: Bool = false) throws(CacheError)
        -> [LoadProgress]
    {
        precondition(patterns.count == workerCount)
        let progress = patterns.map {
            LoadProgress(latencyCount: $0.measuresLatency ? Int($0.requestCount) : 0)
        }
        let reports = patterns.map { _ in WorkerReport() }
        let workers = try start(patterns, progress, reports)
        while zip(patterns, progress).contains(where: {
            $1.answered.load(ordering: .acquiring) < $0.requestCount
        }) { usleep(500) }
        if flushes {
            let result = try workers[0].ask { .beginFlush(core: Self.coreID, $0) }
            guard result == 0 else {
                throw CacheError(.inputOutput, "Flushing the core failed: \(errorText(-result)).")
            }
        }
        for worker in workers { try worker.stop() }
        activity = reports.map(\.value)
        return progress
    }

    private func start(
        _ patterns: [LoadPattern], _ progress: [LoadProgress], _ reports: [WorkerReport]
    ) throws(CacheError) -> [Worker] {
        var mailboxes: [Mailbox<WorkerMessage>] = []
        for _ in patterns { mailboxes.append(try Mailbox()) }
        let board = ReleaseBoard(workerCount: workerCount)
        let cpus = NativeThread.allowedCPUs()
        let slotCount = options.limits.requestSlots
        var workers: [Worker] = []
        for number in 0..<workerCount {
            var setup = WorkerSetup(
                identity: WorkerIdentity(number: number, mailboxes: mailboxes, board: board),
                shared: shared, cacheDescriptor: cache.descriptor)
            setup.report = reports[number]
            mailboxes[number].post(
                .attachCore(
                    core: Self.coreID, descriptor: core.descriptor,
                    isBlockDevice: core.isBlockDevice, try Reply()))
            let (pattern, own) = (patterns[number], progress[number])
            let cpu = options.pinsWorkers ? cpus[number % cpus.count] : nil
            let worker = try Worker(setup.identity, limits: options.limits, cpu: cpu) {
                LoadFront(pattern: pattern, progress: own, slotCount: slotCount)
            }
            worker.begin(setup)
            try worker.awaitReady()
            workers.append(worker)
        }
        return workers
    }
}
