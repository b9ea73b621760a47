/// What one worker's cleaner has under way.
///
/// A batch is a bufferful of dirty lines of one core, in core order. Its steps: read the lines
/// from the cache device, write them to the core with neighbours merged, flush the core, mark
/// clean what nobody wrote meanwhile. Foreground requests are never kept waiting by it, but for
/// write-through and pass-through writes to those very lines, and discards of them.
struct Cleaner: ~Copyable {
    static let flushJobMax = 64
    private static let urgentMax = 256

    let batchCapacity: Int
    let batches: UnsafeMutablePointer<CleaningBatch>
    let batchCount: Int
    let jobs: UnsafeMutablePointer<FlushJob>
    /// Sets that ran out of clean ways, a ring.
    private let urgent: UnsafeMutablePointer<UInt32>
    private var urgentHead = 0
    private(set) var urgentCount = 0
    /// Flushes under way.
    var activeJobs = 0

    init(limits: EngineLimits, lineBytes: Int) {
        batchCount = limits.cleaningBatches
        batchCapacity = limits.cleaningBatchBytes / lineBytes
        precondition(batchCapacity >= 16 && batchCount > 0)
        batches = .allocate(capacity: batchCount)
        for index in 0..<batchCount {
            (batches + index).initialize(to: CleaningBatch(capacity: batchCapacity))
        }
        jobs = .allocate(capacity: Self.flushJobMax)
        jobs.initialize(repeating: FlushJob(), count: Self.flushJobMax)
        urgent = .allocate(capacity: Self.urgentMax)
        urgent.initialize(repeating: 0, count: Self.urgentMax)
    }

    deinit {
        for index in 0..<batchCount { batches[index].entries.deallocate() }
        batches.deinitialize(count: batchCount).deallocate()
        jobs.deinitialize(count: Self.flushJobMax).deallocate()
        urgent.deallocate()
    }

    var isIdle: Bool {
        if urgentCount > 0 { return false }
        for index in 0..<batchCount where batches[index].phase != .idle { return false }
        return activeJobs == 0
    }

    var hasJobs: Bool { activeJobs > 0 }

    /// Whether a batch could be put together, or a pass ended, right now.
    var hasMoreToDo: Bool {
        guard urgentCount > 0 || activeJobs > 0 else { return false }
        let hasBatch = idleBatch() != nil
        if urgentCount > 0, hasBatch { return true }
        for index in 0..<Self.flushJobMax where jobs[index].isActive {
            let job = jobs[index]
            let isOver = job.sweepEnded || job.isCancelled || job.failure != 0
            if isOver ? job.batchesUnderWay == 0 : !job.waitsForRelease && hasBatch { return true }
        }
        return false
    }

    func idleBatch() -> Int? {
        for index in 0..<batchCount where batches[index].phase == .idle { return index }
        return nil
    }

    /// False if the ring is full: the set asks again when it next lacks a way.
    mutating func addUrgent(_ set: UInt32) -> Bool {
        guard urgentCount < Self.urgentMax else { return false }
        urgent[(urgentHead + urgentCount) % Self.urgentMax] = set
        urgentCount += 1
        return true
    }

    mutating func popUrgent() -> UInt32? {
        guard urgentCount > 0 else { return nil }
        let set = urgent[urgentHead]
        urgentHead = (urgentHead + 1) % Self.urgentMax
        urgentCount -= 1
        return set
    }

    /// Flushes that found lines in use look again: something was released.
    func resumeWaitingFlushes() {
        guard activeJobs > 0 else { return }
        for index in 0..<Self.flushJobMax where jobs[index].isActive {
            jobs[index].waitsForRelease = false
        }
    }
}

struct CleaningBatch {
    enum Phase: UInt8 { case idle, reading, writing, flushing }

    var phase = Phase.idle
    var core: UInt16 = 0
    /// The flush job it works for, or -1: urgent cleaning of set `urgentSet`.
    var job = -1
    var urgentSet: UInt32 = 0
    var entryCount = 0
    var pending = 0
    var failure: Int32 = 0
    /// Tells one use of the batch from the next in tokens.
    var generation: UInt32 = 0
    let entries: UnsafeMutablePointer<CleaningEntry>

    init(capacity: Int) {
        entries = .allocate(capacity: capacity)
        entries.initialize(
            repeating: CleaningEntry(line: 0, set: 0, way: 0, granules: 0), count: capacity)
    }
}

/// One line being cleaned; entry *i* uses bytes *i* × line length of the buffer.
struct CleaningEntry {
    var line: UInt64
    var set: UInt32
    var way: UInt8
    /// What was dirty when the batch was put together.
    var granules: UInt16
}

/// The cleaning of all of a core that was dirty when it was asked for.
///
/// Sweeps the dirty map in core order. Lines that are being written are left out and make another
/// pass necessary; from the third pass on new dirty lines are frozen (write-back writes are
/// written through), so that the passes come to an end under any load.
struct FlushJob {
    var isActive = false
    var isCancelled = false
    var hasFrozen = false
    var waitsForRelease = false
    var foundBusy = false
    var sweepEnded = false
    var core: UInt16 = 0
    var pass = 0
    var nextExtent: UInt64 = 0
    var batchesUnderWay = 0
    var failure: Int32 = 0
}
