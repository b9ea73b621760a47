import CacheFormat

/// How much one worker's engine may have under way.
package struct EngineLimits: Sendable {
    /// Requests, those included whose data is still being put into the cache after the answer.
    package var requestSlots = 512
    /// Pieces of requests, one an extent.
    package var partSlots = 2048
    /// Batches of dirty lines being copied to cores.
    package var cleaningBatches = 4
    /// Bytes of a cleaning buffer, a multiple of the largest line.
    package var cleaningBatchBytes = 512 * 1024

    package init() {}
}

/// The cache engine of one worker: takes requests and completions, gives back commands as data.
///
/// It knows no device, no thread, no clock. All workers' engines share one `SharedCache`; each
/// step takes at most one set lock at a time and never keeps it. The product and the simulator
/// run the same engine.
///
/// Who waits for whom: a read waits for whoever brings the granules it lacks, a write for whoever
/// has the line exclusively, an exclusive use for writers and the cleaner.
/// A part takes all its lines or none, and keeps none while it waits, so nothing can lock up.
package struct Engine: ~Copyable {
    let shared: SharedCache
    let geometry: Geometry
    let worker: Int
    let counters: WorkerCounters
    let limits: EngineLimits

    var requests: SlotPool<RequestSlot>
    var parts: SlotPool<Part>
    var commands: CommandQueue
    var parkedFirst = noSlot
    var parkedLast = noSlot
    var discards = DiscardList()
    var cleaner: Cleaner

    // Shifts that turn sectors into lines, extents and granules.
    let lineShift: UInt64
    let extentShift: UInt64
    let granuleShift: UInt64

    package init(shared: SharedCache, worker: Int, limits: EngineLimits) {
        precondition(worker < shared.workerCount)
        precondition(
            shared.geometry.granuleBytes == 512,
            "lines above 8 KiB need the completion of granules, which is not there yet")
        self.shared = shared
        geometry = shared.geometry
        self.worker = worker
        self.limits = limits
        counters = shared.counters(worker)
        requests = SlotPool(capacity: limits.requestSlots, initial: RequestSlot())
        parts = SlotPool(capacity: limits.partSlots, initial: Part())
        commands = CommandQueue(capacity: 16384)
        cleaner = Cleaner(limits: limits, lineBytes: Int(geometry.lineBytes))
        lineShift = UInt64((Int(geometry.lineBytes) / 512).trailingZeroBitCount)
        extentShift = UInt64((Geometry.extentBytes / 512).trailingZeroBitCount)
        granuleShift = UInt64((Int(geometry.granuleBytes) / 512).trailingZeroBitCount)
    }

    /// Whether nothing is under way: no request, no fill, no cleaning, no command to take.
    package var isQuiescent: Bool {
        requests.usedCount == 0 && commands.count == 0 && cleaner.isIdle
    }
}

// MARK: - In

extension Engine {
    /// Takes a request; nil means "not now", and it is to be offered again after a completion.
    ///
    /// Returns the slot that names the request and its buffer in commands. The caller knows which
    /// buffer that is before it takes the next command.
    package mutating func submit(_ request: Request) -> UInt32? {
        guard commands.room >= Self.commandReserve else { return nil }
        guard parts.freeCount >= partCount(request) else { return nil }
        guard let slot = requests.acquire() else { return nil }
        requests[slot].pointee = RequestSlot()
        requests[slot].pointee.request = request
        guard isInside(request) else {
            requests[slot].pointee.result = -5  // EIO: the block layer never sends this.
            answer(slot)
            return slot
        }
        switch request.operation {
        case .read, .write: startTransfer(slot)
        case .flush: startFlush(slot)
        case .discard: startDiscard(slot)
        }
        return slot
    }

    /// Room in the command queue that one step can need at the most: every line of the longest
    /// request cut into single granules, twice.
    private static var commandReserve: Int { 8192 }

    private func isInside(_ request: Request) -> Bool {
        guard request.core < SharedCache.coreCountMax else { return false }
        let core = shared.cores[Int(request.core)]
        guard core.isPresent else { return false }
        if request.operation == .flush { return true }
        let (end, overflow) = request.startSector.addingReportingOverflow(
            UInt64(request.sectorCount))
        return request.sectorCount > 0 && !overflow && end <= core.sectorCount
    }

    private func partCount(_ request: Request) -> Int {
        switch request.operation {
        case .flush: return 0
        case .discard: return 1
        case .read, .write:
            guard request.sectorCount > 0 else { return 0 }
            let last = request.startSector &+ UInt64(request.sectorCount) &- 1
            let first = request.startSector >> extentShift
            return Int(truncatingIfNeeded: (last >> extentShift) &- first) &+ 1
        }
    }

    /// Reports the end of a command that had a token: `result` is negative (-errno), or anything
    /// else for "all of it".
    package mutating func complete(_ token: Token, result: Int32) {
        switch token.kind {
        case .part: partTransferEnded(token, result)
        case .request: requestTransferEnded(token, result)
        case .cleaning: cleaningTransferEnded(token, result)
        }
    }

    /// Something was released in a set this worker waits for.
    package mutating func setReleased(_ set: UInt32) {
        retryParked(set)
        cleaner.resumeWaitingFlushes()
    }

    /// The next thing to do, the same one until it is `commandTaken`; nil when there is nothing.
    package mutating func nextCommand() -> Command? {
        if commands.count == 0 { pump() }
        return commands.first
    }

    /// The command that `nextCommand` gave is on its way (or done, if it has no token).
    ///
    /// Only now may the slot of an answered request be given to another one.
    package mutating func commandTaken() {
        let command = commands.removeFirst()
        switch command.kind {
        case .answer where !command.keepsBuffer, .releaseSlot: requests.release(command.slot)
        default: break
        }
    }

    /// Whether background work goes on without anything having to happen outside: a turn does a
    /// bounded piece of it, and the next turn must come without waiting.
    package var hasMoreToDo: Bool {
        !discards.isEmpty() || cleaner.hasMoreToDo
    }

    /// Background work that goes on when the foreground has nothing queued: a bounded piece.
    private mutating func pump() {
        continueDiscards()
        continueCleaning()
    }
}

// MARK: - Tokens

extension Token {
    enum Kind: UInt64 { case part, request, cleaning }

    /// | bits | |
    /// | --- | --- |
    /// | 0-23 | slot |
    /// | 24-25 | kind |
    /// | 26 | the transfer is the core's |
    /// | 27 | parts of the same request chained behind this one are carried, too |
    /// | 28-51 | generation of the slot |
    @inline(__always)
    init(_ kind: Kind, slot: UInt32, generation: UInt32, isCore: Bool) {
        self.init(
            rawValue: UInt64(slot) | kind.rawValue << 24 | (isCore ? 1 << 26 : 0)
                | UInt64(generation) << 28)
    }

    @inline(__always) var slot: UInt32 { UInt32(truncatingIfNeeded: rawValue & 0xff_ffff) }
    @inline(__always) var isCore: Bool { rawValue & 1 << 26 != 0 }
    @inline(__always) var carriesChain: Bool { rawValue & 1 << 27 != 0 }
    @inline(__always) var withChain: Token { Token(rawValue: rawValue | 1 << 27) }
    @inline(__always) var generation: UInt32 {
        UInt32(truncatingIfNeeded: rawValue >> 28 & 0xff_ffff)
    }
    @inline(__always) var kind: Kind {
        switch rawValue >> 24 & 3 {
        case 0: .part
        case 1: .request
        case 2: .cleaning
        default: preconditionFailure("a completion with a token nobody gave out")
        }
    }
}

// MARK: - Requests

extension Engine {
    private mutating func startTransfer(_ slot: UInt32) {
        let request = requests[slot].pointee.request
        let isWrite = request.operation == .write
        requests[slot].pointee.mode = shared.effectiveMode
        counters.add(
            isWrite ? .exportedWriteBytes : .exportedReadBytes, request.core,
            UInt64(request.sectorCount) * 512)
        makeParts(slot)
        var index = requests[slot].pointee.firstPart
        while index != noSlot {
            let next = parts[index].pointee.nextPart
            start(index)
            index = next
        }
    }

    /// Cuts the request at extent boundaries.
    private mutating func makeParts(_ slot: UInt32) {
        let request = requests[slot].pointee.request
        let end = request.startSector + UInt64(request.sectorCount)
        var sector = request.startSector
        var previous = noSlot
        var count = 0
        while sector < end {
            let extentEnd = ((sector >> extentShift) + 1) << extentShift
            let partEnd = min(end, extentEnd)
            guard let index = parts.acquire() else {
                preconditionFailure("submit counted the free parts")
            }
            let firstLine = sector >> lineShift
            let part = parts[index]
            part.pointee = Part()
            part.pointee.request = slot
            part.pointee.set = setNumber(core: request.core, line: firstLine)
            part.pointee.firstLine = firstLine
            part.pointee.lineCount = UInt8(((partEnd - 1) >> lineShift) - firstLine + 1)
            part.pointee.startSector = sector
            part.pointee.sectorCount = UInt32(partEnd - sector)
            part.pointee.bufferOffset = UInt32((sector - request.startSector) * 512)
            if previous == noSlot {
                requests[slot].pointee.firstPart = index
            } else {
                parts[previous].pointee.nextPart = index
            }
            previous = index
            count += 1
            sector = partEnd
        }
        requests[slot].pointee.partsBeforeAnswer = count
        requests[slot].pointee.partsInUse = count
        requests[slot].pointee.partsUncounted = count
    }

    @inline(__always) func setNumber(core: UInt16, line: UInt64) -> UInt32 {
        UInt32(
            truncatingIfNeeded: geometry.set(
                ofCoreLine: line, coreOffset: shared.cores[Int(core)].coreOffset))
    }

    /// Starts a part, or starts it again after it was parked.
    mutating func start(_ index: UInt32) {
        let slot = parts[index].pointee.request
        let isStarted: Bool
        switch (requests[slot].pointee.request.operation, requests[slot].pointee.mode) {
        case (.read, _): isStarted = startRead(index)
        case (.write, .writeBack): isStarted = startWriteBack(index)
        case (.write, .writeThrough): isStarted = startWriteThrough(index)
        case (.write, .passThrough): isStarted = startPassThrough(index)
        case (.discard, _):
            discards.append(index, parts)
            return
        case (.flush, _): preconditionFailure("a flush has no parts")
        }
        if isStarted { count(slot) }
    }

    /// A part has what it needed before the answer; the last one brings the answer about.
    mutating func partReady(_ slot: UInt32, _ result: Int32) {
        let request = requests[slot]
        if result != 0, request.pointee.result == 0 { request.pointee.result = result }
        request.pointee.partsBeforeAnswer -= 1
        if request.pointee.partsBeforeAnswer == 0 { answer(slot) }
    }

    mutating func answer(_ slot: UInt32) {
        let request = requests[slot]
        precondition(!request.pointee.isAnswered, "a request is answered twice")
        request.pointee.isAnswered = true
        var command = Command(.answer)
        command.slot = slot
        command.core = request.pointee.request.core
        command.result = request.pointee.result
        command.keepsBuffer = request.pointee.partsInUse > 0
        commands.append(command)
        if !command.keepsBuffer { return }
        // The data read from the core is in the buffer: now it may go on into the cache.
        var index = request.pointee.firstPart
        while index != noSlot {
            let next = parts[index].pointee.nextPart
            if parts[index].pointee.phase == .awaitingAnswer { startFill(index) }
            index = next
        }
    }

    /// The part uses neither buffer nor ways any more.
    mutating func partDone(_ index: UInt32) {
        let slot = parts[index].pointee.request
        let request = requests[slot]
        unlink(index, from: request)
        parts.release(index)
        request.pointee.partsInUse -= 1
        guard request.pointee.partsInUse == 0, request.pointee.isAnswered else { return }
        var command = Command(.releaseSlot)
        command.slot = slot
        commands.append(command)
    }

    private func unlink(_ index: UInt32, from request: UnsafeMutablePointer<RequestSlot>) {
        if request.pointee.firstPart == index {
            request.pointee.firstPart = parts[index].pointee.nextPart
            return
        }
        var previous = request.pointee.firstPart
        while parts[previous].pointee.nextPart != index {
            previous = parts[previous].pointee.nextPart
            precondition(previous != noSlot, "a part that its request does not have")
        }
        parts[previous].pointee.nextPart = parts[index].pointee.nextPart
    }

    /// Counts the request once all its parts are started, as Open CAS does.
    private func count(_ slot: UInt32) {
        let request = requests[slot]
        request.pointee.partsUncounted -= 1
        guard request.pointee.partsUncounted == 0 else { return }
        let core = request.pointee.request.core
        let isWrite = request.pointee.request.operation == .write
        if request.pointee.mode == .passThrough || request.pointee.linesDirect > 0 {
            counters.add(isWrite ? .passThroughWrites : .passThroughReads, core)
            return
        }
        counters.add(isWrite ? .writeTotal : .readTotal, core)
        if request.pointee.linesHit == 0 {
            counters.add(isWrite ? .writeFullMisses : .readFullMisses, core)
        } else if request.pointee.linesHit < request.pointee.linesTouched {
            counters.add(isWrite ? .writePartialMisses : .readPartialMisses, core)
        } else if request.pointee.wasParked {
            counters.add(isWrite ? .writeDeferred : .readDeferred, core)
        }
    }
}

// MARK: - Waiting

extension Engine {
    /// Puts the part aside until something in its set is released. The set's lock is held.
    mutating func park(_ index: UInt32, _ access: SetAccess) {
        let part = parts[index]
        part.pointee.phase = .parked
        part.pointee.nextParked = noSlot
        requests[part.pointee.request].pointee.wasParked = true
        access.sidecar.waiters |= 1 << UInt64(worker)
        if parkedLast == noSlot {
            parkedFirst = index
        } else {
            parts[parkedLast].pointee.nextParked = index
        }
        parkedLast = index
    }

    /// Takes the set's waiters (its lock is held) for `wake` after the unlock.
    @inline(__always) func takeWaiters(_ access: SetAccess) -> UInt64 {
        let waiters = access.sidecar.waiters
        if waiters != 0 { access.sidecar.waiters = 0 }
        return waiters
    }

    @inline(__always) mutating func wake(_ waiters: UInt64, set: UInt32) {
        if waiters != 0 { wakeSlowly(waiters, set: set) }
    }

    @inline(never) private mutating func wakeSlowly(_ waiters: UInt64, set: UInt32) {
        var left = waiters
        while left != 0 {
            let other = left.trailingZeroBitCount
            left &= left &- 1
            if other == worker { continue }
            var command = Command(.wakeWorker)
            command.slot = UInt32(other)
            command.deviceOffset = UInt64(set)
            commands.append(command)
        }
        if waiters & 1 << UInt64(worker) != 0 { setReleased(set) }
    }

    /// Starts the parked parts of a set again, oldest first; some may park again.
    private mutating func retryParked(_ set: UInt32) {
        var index = parkedFirst
        parkedFirst = noSlot
        parkedLast = noSlot
        var keptFirst = noSlot
        var keptLast = noSlot
        var retryFirst = noSlot
        var retryLast = noSlot
        while index != noSlot {
            let next = parts[index].pointee.nextParked
            parts[index].pointee.nextParked = noSlot
            if parts[index].pointee.set == set {
                link(index, &retryFirst, &retryLast)
            } else {
                link(index, &keptFirst, &keptLast)
            }
            index = next
        }
        parkedFirst = keptFirst
        parkedLast = keptLast
        while retryFirst != noSlot {
            let next = parts[retryFirst].pointee.nextParked
            parts[retryFirst].pointee.nextParked = noSlot
            start(retryFirst)
            retryFirst = next
        }
    }

    private func link(_ index: UInt32, _ first: inout UInt32, _ last: inout UInt32) {
        if last == noSlot {
            first = index
        } else {
            parts[last].pointee.nextParked = index
        }
        last = index
    }
}
