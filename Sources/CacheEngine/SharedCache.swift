import CBytes
public import CacheFormat
import Synchronization

/// What all workers of one cache share: the set table, its sidecars, the cores, the counters.
///
/// A bundle of pointers, cheap to copy. The set pages are the caller's memory (the memory image);
/// everything else is allocated here, once, and freed by `deallocate`.
///
/// Who may change what: a set page and its sidecar only under the set's lock; a core's row only the
/// control thread, while no request of that core is in the engine; counters only their worker.
public struct SharedCache: @unchecked Sendable {
    public static let coreCountMax = 4096
    public static let workerCountMax = 63

    /// In the heap, so that the handle is one word: the hot paths pass it around.
    private struct Parts {
        let geometry: Geometry
        let workerCount: Int
        let pages: UnsafeMutableRawPointer
        let sidecars: UnsafeMutableRawPointer
        let sidecarMemory: ZeroedMemory
        let cores: UnsafeMutablePointer<CoreRow>
        let control: UnsafeMutablePointer<ControlWords>
        let counterWords: UnsafeMutablePointer<UInt64>
        /// Nil if the counters are the caller's memory.
        let counterMemory: ZeroedMemory?
        let flushMarks: UnsafeMutablePointer<FlushMarks>
        let journal: Journal
        /// The journal's memory if it is not the caller's.
        let ownJournal: ZeroedMemory?
    }

    private let parts: UnsafeMutablePointer<Parts>

    public var geometry: Geometry { parts.pointee.geometry }
    public var workerCount: Int { parts.pointee.workerCount }
    public var pages: UnsafeMutableRawPointer { parts.pointee.pages }
    var sidecars: UnsafeMutableRawPointer { parts.pointee.sidecars }
    @inline(__always) var cores: UnsafeMutablePointer<CoreRow> { parts.pointee.cores }
    var control: UnsafeMutablePointer<ControlWords> { parts.pointee.control }
    @inline(__always) public var journal: Journal { parts.pointee.journal }
    private var counterWords: UnsafeMutablePointer<UInt64> { parts.pointee.counterWords }
    private var flushMarks: UnsafeMutablePointer<FlushMarks> { parts.pointee.flushMarks }

    /// Takes the set pages as they are in `pages` (`geometry.setCount` × 4096 bytes, page aligned),
    /// and looks at none of them: each is adopted when it is first locked. Cores must be added
    /// before that.
    ///
    /// - Parameters:
    ///   - counters: `counterBytes(workerCount:)` bytes, zero or what an earlier process counted;
    ///     nil for memory of its own.
    ///   - journal: how the journal begins; nil for one in memory of its own.
    public init(
        geometry: Geometry, pages: UnsafeMutableRawPointer, workerCount: Int,
        counters: UnsafeMutableRawPointer? = nil, journal start: JournalStart? = nil
    ) {
        precondition(workerCount > 0 && workerCount <= Self.workerCountMax)
        let sidecars = ZeroedMemory(byteCount: Int(geometry.setCount) * SetSidecar.byteCount)
        let cores = UnsafeMutablePointer<CoreRow>.allocate(capacity: Self.coreCountMax)
        for id in 0..<Self.coreCountMax { (cores + id).initialize(to: CoreRow()) }
        let flushMarks = UnsafeMutablePointer<FlushMarks>.allocate(capacity: Self.coreCountMax)
        for id in 0..<Self.coreCountMax { (flushMarks + id).initialize(to: FlushMarks()) }
        let control = UnsafeMutablePointer<ControlWords>.allocate(capacity: 1)
        control.initialize(to: ControlWords())
        let byteCount = Self.counterBytes(workerCount: workerCount)
        let counterMemory = counters == nil ? ZeroedMemory(byteCount: byteCount) : nil
        guard let counterBase = counters ?? counterMemory?.base else {
            preconditionFailure("counters without memory")
        }
        let ownJournal =
            start == nil
            ? ZeroedMemory(
                byteCount: Journal.byteCount, alignment: Geometry.blockBytes) : nil
        guard let start = start ?? ownJournal.map({ .anew($0.base, session: 1) }) else {
            preconditionFailure("a cache without a journal")
        }
        let journal = Journal(
            start, blockCount: geometry.journalBlockCount, pages: pages, sidecars: sidecars.base)
        parts = .allocate(capacity: 1)
        parts.initialize(
            to: Parts(
                geometry: geometry, workerCount: workerCount, pages: pages,
                sidecars: sidecars.base, sidecarMemory: sidecars, cores: cores, control: control,
                counterWords: counterBase.bindMemory(to: UInt64.self, capacity: byteCount / 8),
                counterMemory: counterMemory, flushMarks: flushMarks, journal: journal,
                ownJournal: ownJournal))
    }

    /// Frees everything but what the caller gave. No worker may be running.
    public func deallocate() {
        for id in 0..<Self.coreCountMax { cores[id].dirtyMap?.deallocate() }
        parts.pointee.sidecarMemory.deallocate()
        cores.deinitialize(count: Self.coreCountMax).deallocate()
        control.deinitialize(count: 1).deallocate()
        flushMarks.deinitialize(count: Self.coreCountMax).deallocate()
        parts.pointee.counterMemory?.deallocate()
        parts.pointee.ownJournal?.deallocate()
        parts.deallocate()
    }

    @inline(__always) func flushed(_ core: UInt16) -> UnsafeMutablePointer<FlushMarks> {
        flushMarks + Int(core)
    }

    @inline(__always) func page(_ set: UInt32) -> SetPageView {
        SetPageView(base: pages + Int(set) * SetPageLayout.byteCount)
    }

    @inline(__always) func sidecar(_ set: UInt32) -> SetSidecar {
        SetSidecar(sidecars + Int(set) * SetSidecar.byteCount, of: self)
    }

    // Blocks of counters: one that many write with atomics and that keeps what an earlier process
    // counted, one of the control thread, one for each worker.
    private static let keptBlock = 0
    private static let controlBlock = 1
    private static let firstWorkerBlock = 2
    static let counterBlockBytes = coreCountMax * WorkerCounters.rowWords * 8

    /// Blocks of counters that so many workers need.
    public static func counterBlockCount(workerCount: Int) -> Int {
        firstWorkerBlock + workerCount
    }
    public static func counterBytes(workerCount: Int) -> Int {
        counterBlockCount(workerCount: workerCount) * counterBlockBytes
    }

    private func counterBlock(_ block: Int) -> WorkerCounters {
        WorkerCounters(words: counterWords + block * Self.counterBlockBytes / 8)
    }

    /// The counters worker `index` writes; `workerCount` is the control thread's.
    public func counters(_ index: Int) -> WorkerCounters {
        precondition(index <= workerCount)
        return counterBlock(
            index == workerCount ? Self.controlBlock : Self.firstWorkerBlock + index)
    }

    /// What was adopted, and what an earlier process counted: changed with atomics alone.
    var keptCounters: WorkerCounters { counterBlock(Self.keptBlock) }

    /// A counter summed over the workers.
    public func sum(_ counter: Counter, core: UInt16) -> UInt64 {
        var total: UInt64 = 0
        for block in 0..<Self.counterBlockCount(workerCount: workerCount) {
            total &+= counterBlock(block).value(counter, core)
        }
        return total
    }

    public func resetCounters(core: UInt16) {
        for block in 0..<Self.counterBlockCount(workerCount: workerCount) {
            counterBlock(block).reset(core: core)
        }
    }

    private func clearCounters(core: UInt16, blockCount: Int) {
        for block in 0..<blockCount {
            for counter in Counter.allCases { counterBlock(block).clear(counter, core) }
        }
    }

    /// Makes one of the `blockCount` blocks that an earlier process left in the counters' memory.
    ///
    /// What it wrote may not have been flushed to the devices: the first FLUSH goes to both. What
    /// the table holds is counted again when it is adopted.
    public func keepCounters(core: UInt16, blockCount: Int) {
        var totals: [UInt64] = []
        for counter in Counter.allCases {
            var total: UInt64 = 0
            for block in 0..<blockCount { total &+= counterBlock(block).value(counter, core) }
            totals.append(counter.isKept ? 0 : total)
        }
        clearCounters(core: core, blockCount: blockCount)
        for counter in Counter.allCases {
            keptCounters.addShared(counter, core, totals[counter.rawValue])
        }
        keptCounters.addShared(.cacheWritesDone, core, 1)
        keptCounters.addShared(.directWritesDone, core, 1)
    }

    /// Bytes of memory besides the set pages.
    public var sidecarByteCount: Int { Int(geometry.setCount) * SetSidecar.byteCount }
}

/// One core device as the engine knows it.
public struct CoreRow {
    public var isPresent = false
    /// Whether a discard is worth sending to the core device.
    public var canDiscard = false
    /// Whether the workers have its device: without, nothing of it can be cleaned.
    public var hasDevice = true
    public var coreOffset: UInt32 = 0
    public var sectorCount: UInt64 = 0
    public var dirtyMap: DirtyMap?
}

/// Single words that any thread reads and few write.
struct ControlWords: ~Copyable {
    let mode = Atomic<UInt8>(EngineMode.writeThrough.rawValue)
    /// While above 0, write-back writes are written through: somebody wants an end of dirty lines.
    let freezeCount = Atomic<UInt32>(0)
    /// 1: a write is answered when it is durable.
    let durability = Atomic<UInt8>(0)
    /// Every set has been adopted: counters and dirty maps are complete.
    let isAdopted = Atomic(false)

    @inline(__always) var isPassThrough: Bool {
        mode.load(ordering: .relaxed) == EngineMode.passThrough.rawValue
    }
}

/// When a write may be answered.
public enum EngineDurability: Sendable {
    /// When a crash of the process cannot lose it; a power cut may, until the next FLUSH.
    case flush
    /// When a power cut cannot lose it.
    case write
}

/// What happens to writes and read misses.
public enum EngineMode: UInt8, Sendable {
    case writeThrough, writeBack, passThrough
}

extension SharedCache {
    public var mode: EngineMode {
        get {
            guard let mode = EngineMode(rawValue: control.pointee.mode.load(ordering: .relaxed))
            else { preconditionFailure("the mode word holds no mode") }
            return mode
        }
        nonmutating set { control.pointee.mode.store(newValue.rawValue, ordering: .releasing) }
    }

    /// The mode a request that starts now is served in.
    @inline(__always) var effectiveMode: EngineMode {
        let mode = self.mode
        if mode == .writeBack, control.pointee.freezeCount.load(ordering: .relaxed) > 0 {
            return .writeThrough
        }
        return mode
    }

    /// When a write is answered.
    public var durability: EngineDurability {
        get {
            control.pointee.durability.load(ordering: .relaxed) == 0 ? .flush : .write
        }
        nonmutating set {
            control.pointee.durability.store(newValue == .write ? 1 : 0, ordering: .releasing)
        }
    }

    /// Whether a write that starts now goes to both devices, or has to be durable at its answer:
    /// then its data is needed in memory that does not change.
    @inline(__always) public var holdsWrites: Bool {
        effectiveMode == .writeThrough || durability == .write
    }

    public func freezeDirty() {
        control.pointee.freezeCount.wrappingAdd(1, ordering: .acquiringAndReleasing)
    }

    public func thawDirty() {
        let before = control.pointee.freezeCount.wrappingSubtract(
            1, ordering: .acquiringAndReleasing)
        precondition(before.oldValue > 0, "thawed more often than frozen")
    }
}

// MARK: - Cores

extension SharedCache {
    /// Makes a core known. None of its lines may be in the table unless they are adopted next.
    public func addCore(_ id: UInt16, coreOffset: UInt32, sectorCount: UInt64, canDiscard: Bool) {
        precondition(id < Self.coreCountMax && !cores[Int(id)].isPresent && sectorCount > 0)
        precondition(sectorCount < Configuration.Core.sectorsMax, "core lines have 46 bits")
        let extentSectors = UInt64(Geometry.extentBytes) / 512
        cores[Int(id)] = CoreRow(
            isPresent: true, canDiscard: canDiscard, coreOffset: coreOffset,
            sectorCount: sectorCount,
            dirtyMap: DirtyMap(extentCount: (sectorCount + extentSectors - 1) / extentSectors))
    }

    /// Whether the core's device can discard, known when it is there.
    public func setCanDiscard(_ id: UInt16, _ canDiscard: Bool) {
        precondition(cores[Int(id)].isPresent)
        cores[Int(id)].canDiscard = canDiscard
    }

    /// Set to false before the workers lose the core's device, and to true when all have it. Who
    /// is cleaning the core at that moment goes on; `dropLines` waits for that.
    public func setHasDevice(_ id: UInt16, _ hasDevice: Bool) {
        precondition(cores[Int(id)].isPresent)
        cores[Int(id)].hasDevice = hasDevice
    }

    /// Forgets a core; `dropLines` has emptied it.
    public func removeCore(_ id: UInt16) {
        precondition(cores[Int(id)].isPresent)
        precondition(
            sum(.occupiedLines, core: id) == 0, "a core is removed with lines in the cache")
        cores[Int(id)].dirtyMap?.deallocate()
        cores[Int(id)] = CoreRow()
        flushed(id).pointee.cacheWrites.store(0, ordering: .releasing)
        flushed(id).pointee.directWrites.store(0, ordering: .releasing)
        clearCounters(
            core: id, blockCount: Self.counterBlockCount(workerCount: workerCount))
    }

    public func hasCore(_ id: UInt16) -> Bool { cores[Int(id)].isPresent }

    public func dirtyMap(_ id: UInt16) -> DirtyMap? { cores[Int(id)].dirtyMap }

    @inline(__always) func dirtyMapOfPresent(_ id: UInt16) -> DirtyMap {
        guard let map = cores[Int(id)].dirtyMap else {
            preconditionFailure("core \(id) has lines but no dirty map")
        }
        return map
    }
}
