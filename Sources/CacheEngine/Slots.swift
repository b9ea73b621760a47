/// A fixed pool of slots in raw memory, handed out by index.
///
/// Exhaustion is `nil`, a normal answer; releasing twice traps. Each release bumps the slot's
/// generation, so a completion that names an older use is recognised.
struct SlotPool<Slot>: ~Copyable {
    let slots: UnsafeMutablePointer<Slot>
    private let generations: UnsafeMutablePointer<UInt32>
    /// A stack of free indices; a slot in use has `inUse` set in its generation's top bit.
    private let free: UnsafeMutablePointer<UInt32>
    private(set) var freeCount: Int
    let capacity: Int

    private static var inUse: UInt32 { 0x8000_0000 }

    init(capacity: Int, initial: Slot) {
        precondition(capacity > 0 && capacity < 1 << 24)
        self.capacity = capacity
        slots = .allocate(capacity: capacity)
        slots.initialize(repeating: initial, count: capacity)
        generations = .allocate(capacity: capacity)
        generations.initialize(repeating: 0, count: capacity)
        free = .allocate(capacity: capacity)
        for index in 0..<capacity { free[index] = UInt32(capacity - 1 - index) }
        freeCount = capacity
    }

    deinit {
        slots.deinitialize(count: capacity).deallocate()
        generations.deallocate()
        free.deallocate()
    }

    var usedCount: Int { capacity - freeCount }

    @inline(__always) mutating func acquire() -> UInt32? {
        guard freeCount > 0 else { return nil }
        freeCount -= 1
        let index = free[freeCount]
        generations[Int(index)] |= Self.inUse
        return index
    }

    @inline(__always) mutating func release(_ index: UInt32) {
        precondition(isInUse(index), "slot released twice")
        generations[Int(index)] = (generations[Int(index)] &+ 1) & ~Self.inUse
        free[freeCount] = index
        freeCount += 1
    }

    @inline(__always) func isInUse(_ index: UInt32) -> Bool {
        precondition(index < capacity, "index names a slot outside the pool")
        return generations[Int(index)] & Self.inUse != 0
    }

    /// 24 bits that tell one use of the slot from the next.
    @inline(__always) func generation(_ index: UInt32) -> UInt32 {
        generations[Int(index)] & 0x00ff_ffff
    }

    @inline(__always) subscript(_ index: UInt32) -> UnsafeMutablePointer<Slot> {
        precondition(index < capacity)
        return slots + Int(index)
    }
}

/// No slot.
let noSlot: UInt32 = .max

/// One request on its way through the engine.
struct RequestSlot {
    var request = Request(.flush, core: 0)
    var mode = EngineMode.writeThrough
    /// Parts that must report before the request can be answered.
    var partsBeforeAnswer = 0
    /// Parts (and I/O of the request itself) that still use the slot.
    var partsInUse = 0
    /// 0, or the first error as -errno.
    var result: Int32 = 0
    var firstPart = noSlot
    var isAnswered = false
    // For the counters: counted once, when every part has been started.
    var partsUncounted = 0
    var linesHit = 0
    var linesTouched = 0
    var linesDirect = 0
    var linesToMap = 0
    var wasParked = false
    // FLUSH: what will have been flushed when it ends.
    var cacheWritesSeen: UInt64 = 0
    var directWritesSeen: UInt64 = 0
}

/// The piece of a request that lies in one extent, hence in one set.
struct Part {
    enum Phase: UInt8 {
        case idle, parked, readHit, readMiss, awaitingAnswer, filling, readRetry
        case writeBack, writeThrough, passThrough, discarding
    }

    var phase = Phase.idle
    var lineCount: UInt8 = 0
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
    var ways = Ways()
}

/// The ways of up to 16 lines.
struct Ways {
    static let none: UInt8 = 255
    private var low = UInt64.max
    private var high = UInt64.max

    @inline(__always) subscript(_ line: Int) -> UInt8 {
        get {
            precondition(line < 16)
            let word = line < 8 ? low : high
            return UInt8(truncatingIfNeeded: word >> (UInt64(line & 7) &* 8))
        }
        set {
            precondition(line < 16)
            let shift = UInt64(line & 7) &* 8
            let keep = ~(UInt64(0xff) << shift)
            if line < 8 {
                low = low & keep | UInt64(newValue) << shift
            } else {
                high = high & keep | UInt64(newValue) << shift
            }
        }
    }
}
