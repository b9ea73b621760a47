import CacheEngine
import Glibc
package import Synchronization

/// What a load generator asks of one worker. Positions and lengths are 512-byte sectors.
package struct LoadPattern: Sendable {
    package var core: UInt16 = 1
    package var firstSector: UInt64 = 0
    /// A whole number of requests. Workers of one test use ranges that do not overlap.
    package var sectorCount: UInt64 = 0
    package var requestSectors: UInt32 = 8
    package var readPercent: UInt32 = 100
    package var isSequential = false
    /// Sequential loads: blocks from one request to the next. If it and the number of blocks have
    /// no common divisor, every block has its turn before any comes back.
    package var stride = 1
    package var depth: UInt32 = 32
    /// Requests until the generator rests.
    package var requestCount: UInt64 = 0
    package var seed: UInt64 = 1
    /// Writes are marked and reads compared: every block holds what was written last.
    package var verifies = false
    /// One request in so many is a flush; 0 for none.
    package var flushInterval: UInt64 = 0
    /// One request in so many is a discard; 0 for none. What it leaves behind is not verified.
    package var discardInterval: UInt64 = 0
    /// Whether the time of every request is kept.
    package var measuresLatency = false

    package init() {}

    /// The first 8-byte word of a block after its `version`th write; the following ones count up.
    package func firstWord(block: Int, version: UInt32) -> UInt64 {
        (UInt64(block) << 32 | UInt64(version)) &* 0xD6E8_FEB8_6659_FD93 ^ seed
    }
}

/// How far a load is; written by its worker, read by anybody.
package final class LoadProgress: @unchecked Sendable {
    package let answered = Atomic<UInt64>(0)
    package let errors = Atomic<UInt64>(0)
    package let mismatches = Atomic<UInt64>(0)
    /// Nanoseconds of the monotonic clock at the first request and at the last answer.
    package let startTime = Atomic<UInt64>(0)
    package let endTime = Atomic<UInt64>(0)
    /// Nanoseconds each answered request took, to be read when all are answered; or empty.
    package var latencies: UnsafeBufferPointer<UInt32> { UnsafeBufferPointer(latencyLog) }
    fileprivate let latencyLog: UnsafeMutableBufferPointer<UInt32>

    package init(latencyCount: Int = 0) {
        latencyLog = .allocate(capacity: latencyCount)
        latencyLog.initialize(repeating: 0)
    }

    deinit { latencyLog.deallocate() }
}

/// Requests made up inside the process: the worker without ublk, for tests and benchmarks.
struct LoadFront: RequestFront, ~Copyable {
    private struct Block {
        /// 0: never written in this run.
        var version: UInt32 = 0
        var isBusy = false
    }

    /// One request on its way, by buffer number.
    private struct Issued {
        var block = 0
        var operation = Request.Operation.read
        var version: UInt32 = 0
        /// Nanoseconds of the monotonic clock, where latency is measured.
        var startTime: UInt64 = 0
    }

    private let pattern: LoadPattern
    private let progress: LoadProgress
    private var buffers: BufferArena
    private let issued: UnsafeMutablePointer<Issued>
    private let blocks: UnsafeMutablePointer<Block>
    private let blockCount: Int
    /// Buffer number by request slot.
    private let bufferOfSlot: UnsafeMutablePointer<UInt32>
    private let slotCount: Int
    private var random: UInt64
    private var issuedCount: UInt64 = 0
    private var inFlight: UInt32 = 0
    private var nextBlock = 0

    init(pattern: LoadPattern, progress: LoadProgress, slotCount: Int) {
        precondition(pattern.requestSectors > 0 && pattern.depth > 0 && pattern.sectorCount > 0)
        precondition(pattern.sectorCount % UInt64(pattern.requestSectors) == 0)
        precondition(pattern.discardInterval == 0 || !pattern.verifies)
        self.pattern = pattern
        self.progress = progress
        self.slotCount = slotCount
        let bytes = (Int(pattern.requestSectors) * 512 + 4095) / 4096 * 4096
        // Twice the depth: a buffer may be on its way into the cache after the answer.
        guard let buffers = BufferArena(bufferBytes: bytes, count: Int(pattern.depth) * 2) else {
            preconditionFailure("no memory for the load's buffers")
        }
        self.buffers = buffers
        issued = .allocate(capacity: Int(pattern.depth) * 2)
        issued.initialize(repeating: Issued(), count: Int(pattern.depth) * 2)
        blockCount = Int(pattern.sectorCount / UInt64(pattern.requestSectors))
        precondition(blockCount > Int(pattern.depth), "fewer blocks than requests on their way")
        blocks = .allocate(capacity: blockCount)
        blocks.initialize(repeating: Block(), count: blockCount)
        bufferOfSlot = .allocate(capacity: slotCount)
        bufferOfSlot.initialize(repeating: .max, count: slotCount)
        random = pattern.seed &* 0x9E37_79B9_7F4A_7C15 | 1
    }

    deinit {
        issued.deallocate()
        blocks.deallocate()
        bufferOfSlot.deallocate()
    }

    var hasRequests: Bool {
        issuedCount < pattern.requestCount && inFlight < pattern.depth && buffers.freeCount > 0
    }

    private mutating func nextRandom() -> UInt64 {
        random ^= random << 13
        random ^= random >> 7
        random ^= random << 17
        return random
    }
}

// MARK: - Requests

extension LoadFront {
    mutating func nextRequest(
        _: inout DeviceRing, _: SharedCache
    ) -> (request: Request, origin: UInt64)? {
        guard hasRequests, let buffer = buffers.acquire() else { return nil }
        if issuedCount == 0 { progress.startTime.store(monotonicNanoseconds(), ordering: .relaxed) }
        issuedCount += 1
        inFlight += 1
        let startTime = pattern.measuresLatency ? monotonicNanoseconds() : 0
        if isTime(for: pattern.flushInterval) {
            issued[Int(buffer)] = Issued(block: -1, operation: .flush, startTime: startTime)
            return (Request(.flush, core: pattern.core), UInt64(buffer))
        }
        let block = chooseBlock()
        let operation = chooseOperation()
        blocks[block].isBusy = true
        issued[Int(buffer)] = Issued(
            block: block, operation: operation,
            version: blocks[block].version &+ 1, startTime: startTime)
        if operation == .write && pattern.verifies { mark(buffer) }
        let start = pattern.firstSector + UInt64(block) * UInt64(pattern.requestSectors)
        return (
            Request(
                operation, core: pattern.core, startSector: start,
                sectorCount: pattern.requestSectors), UInt64(buffer)
        )
    }

    private func isTime(for interval: UInt64) -> Bool {
        interval > 0 && issuedCount.isMultiple(of: interval)
    }

    private mutating func chooseOperation() -> Request.Operation {
        if isTime(for: pattern.discardInterval) { return .discard }
        let number = UInt32(truncatingIfNeeded: nextRandom() >> 33) % 100
        return number < pattern.readPercent ? .read : .write
    }

    /// A block no other request is on: what overlapping requests leave behind is undefined.
    private mutating func chooseBlock() -> Int {
        var block = nextBlock
        if !pattern.isSequential {
            block = Int(nextRandom().multipliedFullWidth(by: UInt64(blockCount)).high)
        }
        while blocks[block].isBusy { block = (block + 1) % blockCount }
        nextBlock = (block + pattern.stride) % blockCount
        return block
    }

    mutating func accepted(origin: UInt64, slot: UInt32) -> UnsafeMutableRawPointer? {
        precondition(Int(slot) < slotCount)
        bufferOfSlot[Int(slot)] = UInt32(origin)
        return address(slot: slot)
    }

    private func address(slot: UInt32) -> UnsafeMutableRawPointer {
        buffers.address(bufferOfSlot[Int(slot)])
    }

    func locate(_ transfer: inout Transfer, offset: UInt32, isFilled: Bool) {
        transfer.address = address(slot: transfer.slot) + Int(offset)
    }

    func transferStarted(slot: UInt32) {}
    func transferEnded(slot: UInt32) {}

    mutating func answer(
        slot: UInt32, result: Int32, keepsBuffer: Bool, _: inout DeviceRing
    ) {
        let buffer = bufferOfSlot[Int(slot)]
        let request = issued[Int(buffer)]
        if result != 0 {
            progress.errors.add(1, ordering: .relaxed)
        } else if request.operation == .write {
            blocks[request.block].version = request.version
        } else if request.operation == .read, pattern.verifies, !matches(buffer) {
            progress.mismatches.add(1, ordering: .relaxed)
        }
        if request.block >= 0 { blocks[request.block].isBusy = false }
        inFlight -= 1
        if pattern.measuresLatency { noteLatency(since: request.startTime) }
        let answered = progress.answered.add(1, ordering: .relaxed).newValue
        if answered == pattern.requestCount {
            progress.endTime.store(monotonicNanoseconds(), ordering: .releasing)
        }
        if !keepsBuffer { free(slot) }
    }

    private func noteLatency(since startTime: UInt64) {
        let number = Int(progress.answered.load(ordering: .relaxed))
        let nanoseconds = monotonicNanoseconds() &- startTime
        progress.latencyLog[number] = UInt32(clamping: nanoseconds)
    }

    mutating func release(slot: UInt32, _: inout DeviceRing) { free(slot) }

    private mutating func free(_ slot: UInt32) {
        buffers.release(bufferOfSlot[Int(slot)])
        bufferOfSlot[Int(slot)] = .max
    }

    mutating func completed(userData: UInt64, result: Int32, _: inout DeviceRing) {
        preconditionFailure("a load generator has no completions of its own")
    }

    mutating func attach(_: QueueSetup, _ reply: Reply, _: inout DeviceRing) {
        reply.set(-EOPNOTSUPP)
    }

    mutating func detach(device _: UInt32, _ reply: Reply, _: inout DeviceRing) {
        reply.set(-EOPNOTSUPP)
    }
}

// MARK: - Content

extension LoadFront {
    private func mark(_ buffer: UInt32) {
        let request = issued[Int(buffer)]
        let base = pattern.firstWord(block: request.block, version: request.version)
        let words = buffers.address(buffer).assumingMemoryBound(to: UInt64.self)
        for index in 0..<Int(pattern.requestSectors) * 64 { words[index] = base &+ UInt64(index) }
    }

    /// Blocks not yet written hold zeroes.
    private func matches(_ buffer: UInt32) -> Bool {
        let block = issued[Int(buffer)].block
        let version = blocks[block].version
        let base = pattern.firstWord(block: block, version: version)
        let words = buffers.address(buffer).assumingMemoryBound(to: UInt64.self)
        for index in 0..<Int(pattern.requestSectors) * 64 {
            if words[index] != (version == 0 ? 0 : base &+ UInt64(index)) { return false }
        }
        return true
    }
}

/// Nanoseconds of a clock that only runs forward.
package func monotonicNanoseconds() -> UInt64 {
    var now = timespec()
    clock_gettime(CLOCK_MONOTONIC, &now)
    return UInt64(now.tv_sec) * 1_000_000_000 + UInt64(now.tv_nsec)
}
