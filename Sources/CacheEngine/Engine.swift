import CacheFormat
import Synchronization

/// The cache engine of one worker: takes requests and completions, gives back commands as data.
///
/// It knows no device, no thread, no clock. All workers' engines share one `SharedCache`; each
/// step takes at most one set lock at a time and never keeps it. The product and the simulator
/// run the same engine.
///
/// Who waits for whom: a read waits for a line being written through and for one that has as many
/// readers as can be counted, a write for whoever has the line exclusively, an exclusive use for
/// writers and the cleaner. A part takes all its lines or none, and keeps none while it waits. Only
/// reads keep lines (those they fill, exclusively) while another part of theirs waits, and nobody a
/// read waits for waits for a read's exclusive use: so nothing can lock up.
public struct Engine: ~Copyable {
    let shared: SharedCache
    let geometry: Geometry
    let worker: Int
    let counters: WorkerCounters
    let limits: EngineLimits

    var requests: SlotPool<RequestSlot>
    var parts: SlotPool<Part>
    @usableFromInline var commands: CommandQueue
    var parkedFirst = noSlot
    var parkedLast = noSlot
    /// Requests that wait for a commit of the journal.
    var awaitingFirst = noSlot
    var awaitingLast = noSlot
    var discards = DiscardList()
    /// Somebody waits for the end of the write-back writes under way.
    var isSettling = false
    /// By request slot: the use that is waited for when settling, 0 for none.
    var settlingUses: [UInt32]
    var cleaner: Cleaner

    // What the hot paths need of `shared`, one step nearer.
    let pages: UnsafeMutableRawPointer
    let sidecars: UnsafeMutableRawPointer
    let cores: UnsafeMutablePointer<CoreRow>
    let control: UnsafeMutablePointer<ControlWords>
    let journal: Journal
    let dataChecksum: DataChecksum?
    // And of the geometry; shifts turn sectors into lines, extents, granules.
    let placement: SetPlacement
    let lineShift: UInt64
    let lineBytes: UInt64
    let lineSectorMask: UInt64
    let extentShift: UInt64
    let granuleShift: UInt64
    /// A bit for each granule of a line.
    let allGranules: UInt16

    /// Without `dataChecksum` the journal's records have none, and a commit flushes twice.
    public init(
        shared: SharedCache, worker: Int, limits: EngineLimits, dataChecksum: DataChecksum? = nil
    ) {
        self.init(
            shared: shared, worker: worker, pools: EnginePools(limits), dataChecksum: dataChecksum)
    }

    public init(
        shared: SharedCache, worker: Int, pools: consuming EnginePools,
        dataChecksum: DataChecksum? = nil
    ) {
        precondition(worker < shared.workerCount)
        precondition(
            shared.geometry.granuleBytes == 512,
            "lines above 8 KiB need the completion of granules, which is not there yet")
        self.shared = shared
        geometry = shared.geometry
        pages = shared.pages
        sidecars = shared.sidecars
        cores = shared.cores
        control = shared.control
        journal = shared.journal
        self.dataChecksum = dataChecksum
        self.worker = worker
        let limits = pools.limits
        self.limits = limits
        counters = shared.counters(worker)
        settlingUses = pools.settlingUses
        requests = pools.requests
        parts = pools.parts
        commands = CommandQueue(capacity: 4096)
        cleaner = Cleaner(limits: limits, lineBytes: Int(geometry.lineBytes))
        placement = geometry.placement
        lineBytes = UInt64(geometry.lineBytes)
        lineShift = UInt64((Int(geometry.lineBytes) / 512).trailingZeroBitCount)
        lineSectorMask = UInt64(geometry.lineBytes) / 512 - 1
        extentShift = UInt64((Geometry.extentBytes / 512).trailingZeroBitCount)
        granuleShift = UInt64((Int(geometry.granuleBytes) / 512).trailingZeroBitCount)
        allGranules = UInt16.max >> (16 - UInt16(geometry.granulesPerLine))
    }

    deinit { commands.deallocate() }

    /// Whether nothing is under way: no request, no fill, no cleaning, no command to take.
    public var isQuiescent: Bool {
        commands.count == 0 && cleaner.isIdle && requests.isUnused && !ownsJournal
    }
}

// MARK: - In

extension Engine {
    /// Takes a request; nil means "not now", and it is to be offered again after a completion.
    ///
    /// Returns the slot that names the request and its buffer in commands. The caller knows which
    /// buffer that is before it takes the next command.
    @inlinable @inline(__always)
    public mutating func submit(_ request: Request) -> UInt32? {
        let slot = start(request)
        return slot == UInt32.max ? nil : slot
    }

    /// Not an optional number, which costs its caller and itself five instructions each.
    @usableFromInline mutating func start(_ request: Request) -> UInt32 {
        guard request.operation == .read else { return startOther(request) }
        let slot = submitReadHit(request)
        return slot != noSlot ? slot : submitInParts(request)
    }

    @inline(never) private mutating func startOther(_ request: Request) -> UInt32 {
        if request.operation == .write {
            let slot = submitWriteHit(request)
            if slot != noSlot { return slot }
        }
        return submitInParts(request)
    }

    @inline(never) private mutating func submitInParts(_ request: Request) -> UInt32 {
        let isValid = isInside(request)
        guard commands.count <= Self.backlogMax, parts.hasFree(isValid ? partCount(request) : 0),
            let slot = requests.acquire()
        else { return noSlot }
        requests[slot].pointee.begin(request)
        guard isValid else {
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

    /// Commands that may wait before no more requests are taken.
    private static var backlogMax: Int { 8192 }

    @inline(__always) func isInside(_ request: Request) -> Bool {
        let core = shared.cores + Int(request.core)
        guard core.pointee.isPresent else { return false }
        if request.operation == .flush { return true }
        let (end, overflow) = request.startSector.addingReportingOverflow(
            UInt64(request.sectorCount))
        return request.sectorCount > 0 && !overflow && end <= core.pointee.sectorCount
    }

    private func partCount(_ request: Request) -> Int {
        switch request.operation {
        case .flush: return 0
        case .discard: return 1
        case .read, .write:
            guard request.sectorCount > 0 else { return 0 }
            let last = request.startSector &+ UInt64(request.sectorCount) &- 1
            let first = request.startSector &>> extentShift
            return Int(truncatingIfNeeded: (last &>> extentShift) &- first) &+ 1
        }
    }

    /// Reports the end of a command that had a token: `result` is negative (-errno), or anything
    /// else for "all of it".
    public mutating func complete(_ token: Token, result: Int32) {
        switch token.kind {
        case .hit: hitTransferEnded(token, result)
        case .part: partTransferEnded(token, result)
        case .request: requestTransferEnded(token, result)
        case .cleaning: cleaningTransferEnded(token, result)
        case .journal: journalTransferEnded(token, result)
        }
    }

    /// Something was released in a set this worker waits for, or (`journalSet`) the journal went
    /// on.
    public mutating func setReleased(_ set: UInt32) {
        if set == Self.journalSet {
            journalAdvanced()
            return
        }
        retryParked { !$0.pointee.waitsForJournal && $0.pointee.set == set }
        cleaner.resumeWaitingFlushes()
    }

    /// The next thing to do, the same one until it is `commandTaken`; nil when there is nothing.
    ///
    /// What it points to is valid until the next call of the engine.
    @inlinable @inline(__always) public mutating func nextCommand() -> UnsafePointer<Command>? {
        if let command = commands.first { return command }
        pump()
        return commands.first
    }

    /// The command that `nextCommand` gave is on its way (or done, if it has no token).
    ///
    /// Only now may the slot of a request that it answers be given to another one.
    @inlinable @inline(__always) public mutating func commandTaken() {
        let command = commands.oldest
        commands.removeFirst()
        if command.pointee.endsSlot { releaseSlot(command.pointee.slot) }
    }

    @usableFromInline mutating func releaseSlot(_ slot: UInt32) { requests.release(slot) }

    /// A `writesSettled` command comes when all writes that are under way now have been answered:
    /// they may not know yet of a mode or a durability that has just been set. To be asked once at
    /// a time.
    public mutating func beginSettling() {
        precondition(!isSettling, "asked to settle twice at a time")
        isSettling = true
        for slot in 0..<UInt32(requests.capacity) {
            settlingUses[Int(slot)] = isWriteUnderWay(slot) ? requests.generation(slot) : 0
        }
    }

    private func isWriteUnderWay(_ slot: UInt32) -> Bool {
        requests.isInUse(slot) && !requests[slot].pointee.isAnswered
            && requests[slot].pointee.request.operation == .write
    }

    private func hasUnsettledWrites() -> Bool {
        (0..<UInt32(requests.capacity)).contains { slot in
            settlingUses[Int(slot)] != 0 && settlingUses[Int(slot)] == requests.generation(slot)
                && isWriteUnderWay(slot)
        }
    }

    /// Whether background work goes on without anything having to happen outside: a turn does a
    /// bounded piece of it, and the next turn must come without waiting.
    public var hasMoreToDo: Bool {
        !discards.isEmpty() || cleaner.hasMoreToDo || journalNeedsMe
    }

    private var journalNeedsMe: Bool {
        journal.state.pointee.attention.load(ordering: .relaxed) != 0
            && (ownsJournal || journal.state.pointee.owner == Journal.workerNone)
    }

    /// Background work that goes on when the foreground has nothing queued: a bounded piece.
    @usableFromInline mutating func pump() {
        commands.restart()
        continueDiscards()
        continueCleaning()
        continueJournal()
        if isSettling, !hasUnsettledWrites() {
            isSettling = false
            _ = commands.append(.writesSettled)
        }
    }
}

// MARK: - Tokens

extension Token {
    enum Kind: UInt64 { case hit, part, request, cleaning, journal }

    /// | bits | |
    /// | --- | --- |
    /// | 0-23 | slot |
    /// | 24-26 | kind |
    /// | 27 | the transfer is the core's |
    /// | 28 | parts of the same request chained behind this one are carried, too |
    /// | 29-52 | generation of the slot |
    @inline(__always)
    init(_ kind: Kind, slot: UInt32, generation: UInt32, isCore: Bool) {
        self.init(
            rawValue: UInt64(slot) | kind.rawValue << 24 | (isCore ? 1 << 27 : 0)
                | UInt64(generation) << 29)
    }

    @inlinable @inline(__always) var slot: UInt32 {
        UInt32(truncatingIfNeeded: rawValue & 0xff_ffff)
    }
    @inline(__always) var isCore: Bool { rawValue & 1 << 27 != 0 }
    @inline(__always) var carriesChain: Bool { rawValue & 1 << 28 != 0 }
    @inline(__always) var withChain: Token { Token(rawValue: rawValue | 1 << 28) }
    @inline(__always) var generation: UInt32 {
        UInt32(truncatingIfNeeded: rawValue >> 29 & 0xff_ffff)
    }
    /// 0 for a hit.
    @inline(__always) var kindBits: UInt64 { rawValue & 7 << 24 }
    @inline(__always) var kind: Kind {
        switch rawValue >> 24 & 7 {
        case 0: .hit
        case 1: .part
        case 2: .request
        case 3: .cleaning
        default: .journal
        }
    }
}

// MARK: - Requests

extension Engine {
    @inline(__always) private mutating func startTransfer(_ slot: UInt32) {
        let request = requests[slot]
        let isWrite = request.pointee.request.operation == .write
        request.pointee.mode = shared.effectiveMode
        counters.add(
            isWrite ? .exportedWriteBytes : .exportedReadBytes, request.pointee.request.core,
            UInt64(request.pointee.request.sectorCount) &* 512)
        makeParts(slot)
        var index = request.pointee.firstPart
        while index != noSlot {
            let next = parts[index].pointee.nextPart
            start(index)
            index = next
        }
    }

    /// Cuts the request at extent boundaries.
    @inline(__always) private mutating func makeParts(_ slot: UInt32) {
        let request = requests[slot]
        let start = request.pointee.request.startSector
        let end = start &+ UInt64(request.pointee.request.sectorCount)
        let coreOffset = (shared.cores + Int(request.pointee.request.core)).pointee.coreOffset
        var sector = start
        var previous = noSlot
        var count: UInt32 = 0
        while sector < end {
            let extentEnd = ((sector &>> extentShift) &+ 1) &<< extentShift
            let partEnd = min(end, extentEnd)
            guard let index = parts.acquire() else {
                preconditionFailure("submit counted the free parts")
            }
            let part = parts[index]
            part.pointee.begin(request: slot)
            part.pointee.bufferOffset = UInt32(truncatingIfNeeded: (sector &- start) &* 512)
            place(part, from: sector, to: partEnd, coreOffset: coreOffset)
            if previous == noSlot {
                request.pointee.firstPart = index
            } else {
                parts[previous].pointee.nextPart = index
            }
            previous = index
            count &+= 1
            sector = partEnd
        }
        request.pointee.partsBeforeAnswer = count
        request.pointee.partsInUse = count
        request.pointee.partsUncounted = count
    }

    /// Which lines, granules and set the part's sectors are.
    @inline(__always) private func place(
        _ part: UnsafeMutablePointer<Part>, from start: UInt64, to end: UInt64, coreOffset: UInt32
    ) {
        let firstLine = start &>> lineShift
        let lastLine = (end &- 1) &>> lineShift
        part.pointee.startSector = start
        part.pointee.sectorCount = UInt32(truncatingIfNeeded: end &- start)
        part.pointee.firstLine = firstLine
        part.pointee.lineCount = UInt8(truncatingIfNeeded: lastLine &- firstLine &+ 1)
        part.pointee.set = UInt32(
            truncatingIfNeeded: placement.set(ofCoreLine: firstLine, coreOffset: coreOffset))
        let first = (start &- firstLine &<< lineShift) &>> granuleShift
        let last = (end &- 1 &- lastLine &<< lineShift) &>> granuleShift
        let fromFirst = allGranules & UInt16.max &<< UInt16(truncatingIfNeeded: first)
        let toLast = UInt16.max &>> (15 &- UInt16(truncatingIfNeeded: last))
        let isOne = firstLine == lastLine
        part.pointee.firstGranules = isOne ? fromFirst & toLast : fromFirst
        part.pointee.lastGranules = isOne ? fromFirst & toLast : toLast
    }

    @inline(__always) func setNumber(core: UInt16, line: UInt64) -> UInt32 {
        UInt32(
            truncatingIfNeeded: placement.set(
                ofCoreLine: line, coreOffset: (shared.cores + Int(core)).pointee.coreOffset))
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
    @inline(__always) mutating func partReady(_ slot: UInt32, _ result: Int32) {
        let request = requests[slot]
        if result != 0, request.pointee.result == 0 { request.pointee.result = result }
        request.pointee.partsBeforeAnswer -= 1
        guard request.pointee.partsBeforeAnswer == 0 else { return }
        if request.pointee.needsCommit, request.pointee.result == 0 {
            awaitCommit(slot)
        } else {
            answer(slot)
        }
    }

    @inline(__always) mutating func answer(_ slot: UInt32) {
        let request = requests[slot]
        precondition(!request.pointee.isAnswered, "a request is answered twice")
        request.pointee.isAnswered = true
        let command = commands.append(.answer)
        command.pointee.slot = slot
        command.pointee.core = request.pointee.request.core
        command.pointee.result = request.pointee.result
        command.pointee.keepsBuffer = request.pointee.partsInUse > 0
        if request.pointee.partsInUse > 0 { startFills(slot) }
    }

    /// The data read from the core is in the buffer: now it may go on into the cache.
    @inline(never) private mutating func startFills(_ slot: UInt32) {
        var index = requests[slot].pointee.firstPart
        while index != noSlot {
            let next = parts[index].pointee.nextPart
            if parts[index].pointee.phase == .awaitingAnswer { startFill(index) }
            index = next
        }
    }

    /// The part uses neither buffer nor ways any more.
    @inline(__always) mutating func partDone(_ index: UInt32) {
        let slot = parts[index].pointee.request
        let request = requests[slot]
        if request.pointee.firstPart == index {
            request.pointee.firstPart = parts[index].pointee.nextPart
        } else {
            unlink(index, from: request)
        }
        parts.release(index)
        request.pointee.partsInUse -= 1
        guard request.pointee.partsInUse == 0, request.pointee.isAnswered else { return }
        let command = commands.append(.releaseSlot)
        command.pointee.slot = slot
    }

    @inline(never)
    private func unlink(_ index: UInt32, from request: UnsafeMutablePointer<RequestSlot>) {
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
            let command = commands.append(.wakeWorker)
            command.pointee.slot = UInt32(other)
            command.pointee.deviceOffset = UInt64(set)
        }
        if waiters & 1 << UInt64(worker) != 0 { setReleased(set) }
    }

    /// Starts those parked parts again, oldest first; some may park again.
    mutating func retryParked(_ isMeant: (UnsafeMutablePointer<Part>) -> Bool) {
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
            if isMeant(parts[index]) {
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
            parts[retryFirst].pointee.waitsForJournal = false
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
