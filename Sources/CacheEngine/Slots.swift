/// A fixed pool of slots in raw memory, handed out by index.
///
/// Exhaustion is `nil`, a normal answer; releasing twice traps. Each use has a generation of its
/// own, so a completion that names an older use is recognised.
struct SlotPool<Slot>: ~Copyable {
    private struct Entry {
        /// 24 bits, one more with each use and with each release: odd while in use.
        var generation: UInt32
        /// The next free one; means nothing while in use.
        var nextFree: UInt32
        var slot: Slot
    }

    private let entries: UnsafeMutablePointer<Entry>
    private var firstFree: UInt32 = 0
    let capacity: Int

    private static var generationMask: UInt32 { 0x00ff_ffff }

    init(capacity: Int, initial: Slot) {
        precondition(capacity > 0 && capacity < 1 << 24)
        self.capacity = capacity
        entries = .allocate(capacity: capacity)
        for index in 0..<capacity {
            let next = index + 1 == capacity ? noSlot : UInt32(index + 1)
            // Not 0: a token of all zeroes names no use.
            (entries + index).initialize(to: Entry(generation: 2, nextFree: next, slot: initial))
        }
    }

    deinit { entries.deinitialize(count: capacity).deallocate() }

    /// Whether none is in use; looks at all.
    var isUnused: Bool { (0..<UInt32(capacity)).allSatisfy { !isInUse($0) } }

    /// Whether so many are free; looks at as many.
    @inline(__always) func hasFree(_ count: Int) -> Bool {
        var index = firstFree
        var left = count
        while left > 0 {
            if index == noSlot { return false }
            index = (entries + Int(index)).pointee.nextFree
            left &-= 1
        }
        return true
    }

    @inline(__always) mutating func acquire() -> UInt32? {
        let index = firstFree
        guard index != noSlot else { return nil }
        let entry = entries + Int(index)
        firstFree = entry.pointee.nextFree
        entry.pointee.generation = (entry.pointee.generation &+ 1) & Self.generationMask
        return index
    }

    /// The same, with what else the most frequent case wants to know of its slot.
    @inline(__always) mutating func acquireEntry() -> Acquired? {
        let index = firstFree
        guard Int32(bitPattern: index) >= 0 else { return nil }  // Only `noSlot` is negative.
        let entry = entries + Int(index)
        firstFree = entry.pointee.nextFree
        let generation = (entry.pointee.generation &+ 1) & Self.generationMask
        entry.pointee.generation = generation
        return Acquired(index: index, generation: generation, slot: slot(of: entry))
    }

    struct Acquired {
        let index: UInt32
        let generation: UInt32
        let slot: UnsafeMutablePointer<Slot>
    }

    @inline(__always)
    private func slot(of entry: UnsafeMutablePointer<Entry>) -> UnsafeMutablePointer<Slot> {
        UnsafeMutableRawPointer(entry).advanced(by: Self.slotOffset)
            .assumingMemoryBound(to: Slot.self)
    }

    /// The slot if this is the use that `generation`, an odd number, named.
    @inline(__always)
    func current(_ index: UInt32, _ generation: UInt32) -> UnsafeMutablePointer<Slot>? {
        precondition(index < capacity, "index names a slot outside the pool")
        let entry = entries + Int(index)
        guard entry.pointee.generation == generation else { return nil }
        return slot(of: entry)
    }

    /// Releases what `current` gave.
    @inline(__always)
    mutating func release(_ index: UInt32, current slot: UnsafeMutablePointer<Slot>) {
        let entry = UnsafeMutableRawPointer(slot).advanced(by: -Self.slotOffset)
            .assumingMemoryBound(to: Entry.self)
        release(index, entry)
    }

    /// Whoever names the use by its present generation no longer does; the slot stays in use.
    mutating func renewGeneration(_ index: UInt32) {
        precondition(isInUse(index))
        let entry = entries + Int(index)
        entry.pointee.generation = (entry.pointee.generation &+ 2) & Self.generationMask
    }

    @inline(__always) mutating func release(_ index: UInt32) {
        precondition(isInUse(index), "slot released twice")
        release(index, entries + Int(index))
    }

    @inline(__always)
    private mutating func release(_ index: UInt32, _ entry: UnsafeMutablePointer<Entry>) {
        entry.pointee.generation = (entry.pointee.generation &+ 1) & Self.generationMask
        entry.pointee.nextFree = firstFree
        firstFree = index
    }

    @inline(__always) func isInUse(_ index: UInt32) -> Bool {
        precondition(index < capacity, "index names a slot outside the pool")
        return (entries + Int(index)).pointee.generation & 1 == 1
    }

    /// Whether the slot is in use, and this is the use that `generation` named.
    @inline(__always) func isCurrent(_ index: UInt32, _ generation: UInt32) -> Bool {
        current(index, generation) != nil
    }

    /// 24 bits that tell one use of the slot from the next.
    @inline(__always) func generation(_ index: UInt32) -> UInt32 {
        (entries + Int(index)).pointee.generation
    }

    @inline(__always) subscript(_ index: UInt32) -> UnsafeMutablePointer<Slot> {
        precondition(index < capacity)
        return slot(of: entries + Int(index))
    }

    @inline(__always) private static var slotOffset: Int {
        max(8, MemoryLayout<Slot>.alignment)
    }
}

/// No slot.
let noSlot: UInt32 = .max

/// One request on its way through the engine.
struct RequestSlot {
    var request = Request(.flush, core: 0)
    /// 0, or the first error as -errno.
    var result: Int32 = 0
    var firstPart = noSlot
    /// Parts that must report before the request can be answered.
    var partsBeforeAnswer: UInt32 = 0
    /// Parts (and I/O of the request itself) that still use the slot.
    var partsInUse: UInt32 = 0
    var mode = EngineMode.writeThrough
    var isAnswered = false
    var wasParked = false
    // For the counters: counted once, when every part has been started.
    var partsUncounted: UInt32 = 0
    var linesHit: UInt32 = 0
    var linesTouched: UInt32 = 0
    var linesDirect: UInt32 = 0
    // A hit without parts: where its line is.
    var hitSet: UInt32 = 0
    var hitWay: UInt8 = 0
    // FLUSH: what will have been flushed when it ends.
    var cacheWritesSeen: UInt64 = 0
    var directWritesSeen: UInt64 = 0
    /// It is answered only when all it wrote is durable: it must wait for a commit.
    var needsCommit = false
    /// The commit it waits for, and the next request that waits for one.
    var awaitedCommit: UInt64 = 0
    var nextAwaiting = noSlot

    @inline(__always) mutating func beginHit(_ request: Request, set: UInt32, way: Int) {
        self.request = request
        hitSet = set
        hitWay = UInt8(truncatingIfNeeded: way)
        mode = .writeBack
        isAnswered = false
    }

    /// Everything as new but the fields of a hit and of FLUSH, which set them themselves.
    @inline(__always) mutating func begin(_ request: Request) {
        self.request = request
        result = 0
        firstPart = noSlot
        partsBeforeAnswer = 0
        partsInUse = 0
        isAnswered = false
        wasParked = false
        needsCommit = false
        partsUncounted = 0
        linesHit = 0
        linesTouched = 0
        linesDirect = 0
    }
}

/// The piece of a request that lies in one extent, hence in one set.
struct Part {
    enum Phase: UInt8 {
        case idle, parked, readHit, readMiss, awaitingAnswer, filling, readRetry
        case writeBack, writeThrough, passThrough, flushingCore, discarding
    }

    var phase = Phase.idle
    var lineCount: UInt8 = 0
    /// The granules touched of the first line and of the last one (the same if there is one).
    var firstGranules: UInt16 = 0
    var lastGranules: UInt16 = 0
    var request = noSlot
    var set: UInt32 = 0
    /// The next part of the same request.
    var nextPart = noSlot
    /// The next in the list of parked parts.
    var nextParked = noSlot
    /// The next part of the request whose core bytes the same core I/O carries.
    var chained = noSlot
    /// I/Os on their way.
    var pending: UInt32 = 0
    /// Journal records it may make when its write has ended.
    var reserved: UInt8 = 0
    /// Parked for the journal, not for its set.
    var waitsForJournal = false
    /// A durable write that overwrites nothing but what the journal has: no commit is needed.
    var isDurableInPlace = false
    /// Writes past or through the cache dirty granules, too.
    var overDirty = false
    /// The core was flushed since the discard's I/O on it ended.
    var isCoreFlushed = false
    var coreFailure: Int32 = 0
    var cacheFailure: Int32 = 0
    var firstLine: UInt64 = 0
    var startSector: UInt64 = 0
    var sectorCount: UInt32 = 0
    /// Where the part's bytes begin in the request's buffer.
    var bufferOffset: UInt32 = 0
    /// Lines (a bit each) whose way is held as reader.
    var readers: UInt16 = 0
    /// Lines whose way is held as writer or exclusively: to be written.
    var owners: UInt16 = 0
    /// Lines absent from the cache whose write goes to the core alone.
    var direct: UInt16 = 0
    /// The way of each line, or `Ways.none`; means something once the lines have been looked up.
    var ways = InlineArray<16, UInt8>(repeating: Ways.none)

    /// Everything as new but `ways` and what `makeParts` sets.
    @inline(__always) mutating func begin(request: UInt32) {
        self.request = request
        phase = .idle
        nextPart = noSlot
        nextParked = noSlot
        chained = noSlot
        pending = 0
        reserved = 0
        waitsForJournal = false
        isDurableInPlace = false
        overDirty = false
        coreFailure = 0
        cacheFailure = 0
        readers = 0
        owners = 0
        direct = 0
    }
}

enum Ways {
    static let none: UInt8 = 255
}
