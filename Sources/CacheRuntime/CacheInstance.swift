package import CacheEngine
import CacheFormat
import Glibc
import Synchronization
import Ublk

/// A running cache: its device, its workers, its cores and their exported devices.
///
/// All calls are for control threads and wait; none may come from a worker. Adding and removing
/// cores, changing the mode and stopping are done one at a time, in the order they come; flushes
/// and questions go on beside them.
package final class CacheInstance: @unchecked Sendable {
    package struct Options: Sendable {
        /// 1 to 16384; nil only with `load`: the loaded cache's own.
        package var cacheID: UInt16?
        package var devicePath: String
        /// nil: write-through, or what was loaded.
        package var mode: EngineMode?
        /// nil: 4096, or what was loaded.
        package var lineBytes: UInt32?
        /// Use the device whatever is on it.
        package var force = false
        package var load = false
        /// With `load`: go without the parts of the metadata that cannot be read.
        package var forcePartial = false
        /// nil: `flush`, or what was loaded.
        package var durability: EngineDurability?
        /// With `load`: a cache that was stopped in order is not started.
        package var resumesOnly = false
        /// nil: one for each CPU this process may use.
        package var workerCount: Int?
        package var queueDepth: UInt16 = 128
        /// nil: the best that the kernel has.
        package var movement: DataMovement?
        /// Automatic: how many requests of a worker may have their pages registered at a time; the
        /// others go by user copy. At most what a ring can have.
        package var registeredRequestMax: UInt32 = 16384
        package var limits = EngineLimits()
        /// Tests: plain files as devices, and no exported devices.
        package var allowsPlainFiles = false
        package var exportsDevices = true
        /// Where links to exported devices, and memory images, are made.
        package var linkDirectory = "/dev"
        package var imageDirectory = "/dev/shm"
        /// Told what a start has done, as soon as it is done.
        package var milestone: @Sendable (String) -> Void = { _ in }

        package init(devicePath: String) { self.devicePath = devicePath }
    }

    /// One core; it is inactive if its device was not there when the cache was loaded.
    struct CoreEntry {
        let id: UInt16
        let configuration: Configuration.Core
        var device: DeviceFile?
        var exported: ExportedDevice?
        var isFlushing = false
        /// Dirty lines when the flush began.
        var dirtyAtFlushStart: UInt64 = 0
        /// Seconds of the monotonic clock.
        var dirtySince: UInt64?
    }

    struct State {
        var cores: [UInt16: CoreEntry] = [:]
        var isStopping = false
        var isStopped = false
        var previousMode: EngineMode?
    }

    package let cacheID: UInt16
    /// What recovery found, if the cache had not been stopped.
    package let recovery: RecoveredCache?
    /// What to say if a copy of superblock or configuration could not be written: the other one
    /// counts.
    package var metadataWarning: String? {
        store.isWhole
            ? nil
            : "A second copy of the metadata could not be written to the cache device "
                + "'\(device.path)': it may be failing. Flush cache \(cacheID) and replace the "
                + "device"
    }
    let options: Options
    let device: DeviceFile
    let store: CacheStore
    let image: MemoryImage
    let shared: SharedCache
    let workers: [Worker]
    let publisher: Publisher?
    let state = Mutex(State())
    /// Held by whoever changes cores or mode, or stops.
    let change = Mutex(())
    /// Ends the background flush of a mode switch.
    let backgroundFlush = Mutex<BackgroundFlush?>(nil)
    private let clock: DirtyClock
    /// Whether it goes on with the memory image of a process that died.
    package let isResumed: Bool
    /// What that process has exported.
    let leftDevices: LeftDevices?
    /// Adopts what nobody has asked for, beside the workers.
    let adoption = Mutex<NativeThread?>(nil)

    /// What exported devices are made with.
    struct Publisher: Sendable {
        let control: ControlDevice
        let features: Features
    }

    init(
        options: Options, device: DeviceFile, store: CacheStore, image: MemoryImage,
        shared: SharedCache, workers: [Worker], publisher: Publisher?, isResumed: Bool,
        leftDevices: LeftDevices?, recovery: RecoveredCache?
    ) throws(CacheError) {
        self.isResumed = isResumed
        self.leftDevices = leftDevices
        self.recovery = recovery
        cacheID = store.superblock.cacheID
        self.options = options
        self.device = device
        self.store = store
        self.image = image
        self.shared = shared
        self.workers = workers
        self.publisher = publisher
        clock = try DirtyClock()
    }

    deinit {
        // Workers that could not be ended still use it.
        if state.withLock({ $0.isStopped }) { shared.deallocate() }
    }

    func startClock() throws(CacheError) {
        try clock.start { [weak self] in self?.noteDirtyTimes() }
    }

    func stopClock() { clock.stop() }

    private func noteDirtyTimes() {
        let now = monotonicNanoseconds() / 1_000_000_000
        state.withLock { state in
            for id in state.cores.keys {
                if shared.sum(.dirtyLines, core: id) == 0 {
                    state.cores[id]?.dirtySince = nil
                } else if state.cores[id]?.dirtySince == nil {
                    state.cores[id]?.dirtySince = now
                }
            }
        }
    }

    /// The worker that flushes a core: cores of one cache are flushed side by side.
    func flusher(of core: UInt16) -> Worker { workers[Int(core) % workers.count] }
}

// MARK: - Questions

extension CacheInstance {
    package func snapshot() -> InstanceStatus {
        finishAdoption()
        noteDirtyTimes()
        var status = InstanceStatus()
        status.cacheID = cacheID
        status.mode = shared.mode
        status.durability = shared.durability
        status.devicePath = device.path
        status.lineBytes = shared.geometry.lineBytes
        status.lineCount = shared.geometry.lineCount
        status.metadataBytes =
            UInt64(shared.sidecarByteCount)
            + shared.geometry.setCount * UInt64(SetPageLayout.byteCount)
        status.workerCount = workers.count
        let state = state.withLock { $0 }
        status.previousMode = state.previousMode
        status.cores = state.cores.values.sorted { $0.id < $1.id }.map(coreStatus)
        if state.isStopping {
            status.state = .stopping
        } else if status.cores.contains(where: { !$0.isActive }) {
            status.state = .incomplete
        }
        return status
    }

    /// Whether a core's device was not there at the start.
    package var hasInactiveCores: Bool {
        state.withLock { $0.cores.values.contains { $0.device == nil } }
    }

    private func coreStatus(_ core: CoreEntry) -> CoreStatus {
        var status = CoreStatus()
        status.id = core.id
        status.isActive = core.device != nil
        status.devicePath = core.configuration.devicePath
        status.exportedLink = link(core.id)
        status.exportedNode = core.exported.map { "/dev/\($0.name)" }
        status.sectorCount = core.configuration.sectorCount
        let now = monotonicNanoseconds() / 1_000_000_000
        status.dirtySeconds = core.dirtySince.map { now - $0 }
        status.occupiedLines = shared.sum(.occupiedLines, core: core.id)
        status.dirtyLines = shared.sum(.dirtyLines, core: core.id)
        if core.isFlushing {
            let begun = max(core.dirtyAtFlushStart, 1)
            status.flushProgress = 1 - Double(min(status.dirtyLines, begun)) / Double(begun)
        }
        for counter in Counter.allCases {
            status.counters[counter] = shared.sum(counter, core: core.id)
        }
        return status
    }

    /// The name users know a core's exported device by.
    func link(_ core: UInt16) -> String { "\(options.linkDirectory)/cas\(cacheID)-\(core)" }

    package func resetCounters(core: UInt16?) throws(CacheError) {
        let ids = state.withLock { Array($0.cores.keys) }
        if let core {
            guard ids.contains(core) else { throw noSuchCore(core) }
            shared.resetCounters(core: core)
        } else {
            for id in ids { shared.resetCounters(core: id) }
        }
    }

    func noSuchCore(_ core: UInt16) -> CacheError {
        CacheError(.noSuchCore, "No such core device in cache: core \(core) in cache \(cacheID).")
    }

    func checkRunning() throws(CacheError) {
        guard state.withLock({ !$0.isStopping && !$0.isStopped }) else {
            throw CacheError(.busy, "Cache \(cacheID) is being stopped.")
        }
    }
}

/// What a load found of a cache that had not been stopped, or is damaged, and how long that took.
package struct RecoveredCache: Sendable {
    package var report: RecoveryReport
    package var wasStopped: Bool
    package var seconds: Double
}

/// Looks once a second which cores are dirty.
final class DirtyClock: Sendable {
    private let end: Reply
    private let thread = Mutex<NativeThread?>(nil)

    init() throws(CacheError) { end = try Reply() }

    func start(_ tick: @escaping @Sendable () -> Void) throws(CacheError) {
        let end = end
        let started = try NativeThread(name: "cas clock") {
            while end.wait(milliseconds: 1000) == nil { tick() }
        }
        thread.withLock { $0 = started }
    }

    func stop() {
        guard let thread = thread.withLock({ $0.take() }) else { return }
        end.set(0)
        thread.join()
    }
}
