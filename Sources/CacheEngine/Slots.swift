/// A fixed pool of slots in raw memory, handed out by index.
///
/// Exhaustion is `nil`, a normal answer; releasing twice traps. Each release bumps the slot's
/// generation, so a completion that names an older use is recognised.
struct SlotPool<Slot>: ~Copyable {
    private struct Entry {
        /// Bits 0-23 tell one use of the slot from the next; bit 31: in use.
        var generation: UInt32
        /// The next free one; means nothing while in use.
        var nextFree: UInt32
        var slot: Slot
    }

    private let entries: UnsafeMutablePointer<Entry>
    private var firstFree: UInt32 = 0
    private(set) var freeCount: Int
    let capacity: Int

    private static var inUse: UInt32 { 0x8000_0000 }

    init(capacity: Int, initial: Slot) {
        precondition(capacity > 0 && capacity < 1 << 24)
        self.capacity = capacity
        entries = .allocate(capacity: capacity)
        for index in 0..<capacity {
            let next = index + 1 == capacity ? noSlot : UInt32(index + 1)
            (entries + index).initialize(to: Entry(generation: 0, nextFree: next, slot: initial))
        }
        freeCount = capacity
    }

    deinit { entries.deinitialize(count: capacity).deallocate() }

    var usedCount: Int { capacity - freeCount }

    @inline(__always) mutating func acquire() -> UInt32? {
        let index = firstFree
        guard index != noSlot else { return nil }
        let entry = entries + Int(index)
        firstFree = entry.pointee.nextFree
        entry.pointee.generation |= Self.inUse
        freeCount &-= 1
        return index
    }

    @inline(__always) mutating func release(_ index: UInt32) {
        precondition(isInUse(index), "slot released twice")
        let entry = entries + Int(index)
        entry.pointee.generation = (entry.pointee.generation &+ 1) & ~Self.inUse
        entry.pointee.nextFree = firstFree
        firstFree = index
        freeCount &+= 1
    }

    @inline(__always) func isInUse(_ index: UInt32) -> Bool {
        precondition(index < capacity, "index names a slot outside the pool")
        return (entries + Int(index)).pointee.generation & Self.inUse != 0
    }

    /// Whether the slot is in use, and this is the use that `generation` named.
    @inline(__always) func isCurrent(_ index: UInt32, _ generation: UInt32) -> Bool {
        precondition(index < capacity, "index names a slot outside the pool")
        let found = (entries + Int(index)).pointee.generation
        return found & (Self.inUse | 0x00ff_ffff) == generation | Self.inUse
    }

    /// 24 bits that tell one use of the slot from the next.
    @inline(__always) func generation(_ index: UInt32) -> UInt32 {
        (entries + Int(index)).pointee.generation & 0x00ff_ffff
    }

    @inline(__always) subscript(_ index: UInt32) -> UnsafeMutablePointer<Slot> {
        precondition(index < capacity)
        return UnsafeMutableRawPointer(entries + Int(index))
            .advanced(by: Self.slotOffset).assumingMemoryBound(to: Slot.self)
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
    // A hit without parts: where its line is, and which granules it touches.
    var hitSet: UInt32 = 0
    var hitGranules: UInt16 = 0
    var hitWay: UInt8 = 0
    // FLUSH: what will have been flushed when it ends.
    var cacheWritesSeen: UInt64 = 0
    var directWritesSeen: UInt64 = 0

    @inline(__always) mutating func beginHit(
        _ request: Request, set: UInt32, way: Int, granules: UInt16
    ) {
        self.request = request
        hitSet = set
        hitWay = UInt8(truncatingIfNeeded: way)
        hitGranules = granules
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
        case writeBack, writeThrough, passThrough, discarding
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
