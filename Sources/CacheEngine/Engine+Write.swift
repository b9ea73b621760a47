import CBytes
import CacheFormat

/// Whether a write's lines can be taken.
private enum LineSearch {
    case found
    /// Somebody uses one.
    case busy
    /// The journal must go on first.
    case awaitsJournal
    /// The journal must go on first, and cannot.
    case failing
}

/// What the write modes share: finding the lines of a part and taking them all, or none.
extension Engine {
    /// Looks every line up. If one cannot be taken now, nothing was taken.
    private func findLines(
        _ part: UnsafeMutablePointer<Part>, _ access: SetAccess,
        canTake: (WayUse) -> Bool
    ) -> LineSearch {
        let core = requests[part.pointee.request].pointee.request.core
        var guess = SetPageLayout.ways
        for line in 0..<Int(part.pointee.lineCount) {
            let identity = identity(part, line: line, core: core)
            let fingerprint = SetPageView.fingerprint(core: core, line: identity.line)
            if let way = access.find(identity, fingerprint: fingerprint, guess: guess) {
                guard canTake(access.sidecar.uses[way]) else { return .busy }
                switch access.mayOverwrite(way, granules(part, line: line), worker: worker) {
                case .allowed: break
                case .mustWait: return .awaitsJournal
                case .failing: return .failing
                }
                part.pointee.ways[line] = UInt8(truncatingIfNeeded: way)
                guess = way &+ 1
            } else {
                // A full count of direct writes would have to be forgotten: rather wait.
                let hash = lineHash(core: core, line: identity.line)
                guard access.sidecar.directWrites(hash).pointee < 240 else { return .busy }
                part.pointee.ways[line] = Ways.none
            }
        }
        return .found
    }

    /// Ends a step that could not take its lines, with the set locked. Nothing was taken.
    private mutating func giveUp(
        _ index: UInt32, _ access: SetAccess, _ reason: LineSearch
    ) -> Bool {
        switch reason {
        case .found: preconditionFailure("gave up although all was found")
        case .busy: park(index, access)
        case .awaitsJournal: parkForJournal(index, access)
        case .failing:
            access.sidecar.unlock()
            counters.add(
                .cacheWriteErrors, requests[parts[index].pointee.request].pointee.request.core)
            endWrite(index, -5)  // EIO
            return true
        }
        access.sidecar.unlock()
        return false
    }

    /// Gives a way to each absent line that can have one; the others are written directly.
    private mutating func allocateForWrite(
        _ part: UnsafeMutablePointer<Part>, _ access: SetAccess, take: (inout WayUse) -> Void
    ) {
        let request = requests[part.pointee.request]
        let core = request.pointee.request.core
        var guess = SetPageLayout.ways
        for line in 0..<Int(part.pointee.lineCount) {
            if part.pointee.owners & 1 << UInt16(line) != 0 {
                guess = Int(part.pointee.ways[line]) + 1
                continue
            }
            let identity = identity(part, line: line, core: core)
            let hash = lineHash(core: core, line: identity.line)
            let fingerprint = SetPageView.fingerprint(core: core, line: identity.line)
            if access.sidecar.directWrites(hash).pointee == 0 {
                if let way = access.allocate(
                    identity, fingerprint: fingerprint, lineHash: hash, guess: guess)
                {
                    take(&access.sidecar.uses[way])
                    part.pointee.ways[line] = UInt8(way)
                    part.pointee.owners |= 1 << UInt16(line)
                    guess = way + 1
                    continue
                }
                requestUrgentCleaning(access, part.pointee.set)
            }
            request.pointee.linesDirect += 1
            addDirect(part, access, line: line, hash: hash)
        }
    }

    private func addDirect(
        _ part: UnsafeMutablePointer<Part>, _ access: SetAccess, line: Int, hash: UInt16
    ) {
        part.pointee.direct |= 1 << UInt16(line)
        access.sidecar.directWrites(hash).pointee += 1
    }

    private func removeDirect(_ part: UnsafeMutablePointer<Part>, _ access: SetAccess) {
        guard part.pointee.direct != 0 else { return }
        let core = requests[part.pointee.request].pointee.request.core
        var left = part.pointee.direct
        while left != 0 {
            let line = part.pointee.firstLine + UInt64(left.trailingZeroBitCount)
            let count = access.sidecar.directWrites(lineHash(core: core, line: line))
            precondition(count.pointee > 0, "a direct write ended that was not counted")
            count.pointee -= 1
            left &= left &- 1
        }
        part.pointee.direct = 0
    }

    /// Takes the present lines and notes how many of them hold all that is going to be written.
    private func countHits(_ part: UnsafeMutablePointer<Part>, _ access: SetAccess) {
        let request = requests[part.pointee.request]
        request.pointee.linesTouched &+= UInt32(part.pointee.lineCount)
        for line in 0..<Int(part.pointee.lineCount) where part.pointee.ways[line] != Ways.none {
            let valid = access.page.state(Int(part.pointee.ways[line])).valid
            if granules(part, line: line) & ~valid == 0 { request.pointee.linesHit &+= 1 }
        }
    }

    /// The core I/O of the whole part.
    private mutating func emitCoreWrite(_ index: UInt32) {
        let part = parts[index]
        emitCore(
            index, .writeCore, from: part.pointee.startSector,
            to: part.pointee.startSector + UInt64(part.pointee.sectorCount))
    }

    private func directWriteDone(_ part: UnsafeMutablePointer<Part>) {
        counters.add(.directWritesDone, requests[part.pointee.request].pointee.request.core)
    }

    @inline(__always) private mutating func endWrite(_ index: UInt32, _ result: Int32) {
        let slot = parts[index].pointee.request
        partDone(index)
        partReady(slot, result)
    }
}

// MARK: - Write-back

/// Data goes to the cache alone; lines without a place go to the core alone.
///
/// When the data is there, the journal records what became dirty by it, with the data's checksum:
/// so the record may become durable before the data. What has a record is overwritten in place
/// without another one.
///
/// Crash rule of a process: a granule that is valid already becomes dirty before the write to it is
/// issued, and recorded when its data is there. If the process dies in between, the next one drops
/// it: whatever part of the write landed, the core has what was there before. A granule that is not
/// valid becomes valid and dirty only when its data is there (before, nothing was acknowledged).
extension Engine {
    mutating func startWriteBack(_ index: UInt32) -> Bool {
        let part = parts[index]
        let access = SetAccess(shared, part.pointee.set, counters)
        access.sidecar.lock()
        let search = findLines(part, access, canTake: { $0.canAddWriter })
        guard search == .found else { return giveUp(index, access, search) }
        switch reserveRecords(part, access) {
        case .reserved: break
        case .full: return giveUp(index, access, .awaitsJournal)
        case .failing: return giveUp(index, access, .failing)
        }
        part.pointee.phase = .writeBack
        countHits(part, access)
        var isComplete = true
        for line in 0..<Int(part.pointee.lineCount) {
            guard part.pointee.ways[line] != Ways.none else {
                isComplete = false
                continue
            }
            let way = Int(part.pointee.ways[line])
            access.sidecar.uses[way].addWriter()
            part.pointee.owners |= 1 << UInt16(line)
            beginOverwriting(way, granules(part, line: line), access)
            access.touch(way)
        }
        if !isComplete { allocateForWrite(part, access) { $0.addWriter() } }
        access.sidecar.unlock()
        if part.pointee.owners != 0 { emitLines(index, .writeCache, part.pointee.owners) }
        if part.pointee.direct != 0 {
            emitCoreGranules(index, .writeCore, directGranules(part))
        }
        return true
    }

    /// Makes sure of room for the records the part will make, and of how it becomes durable: what
    /// needs no new record can be so by itself, all else by a commit.
    private func reserveRecords(
        _ part: UnsafeMutablePointer<Part>, _ access: SetAccess
    ) -> JournalRoom {
        var count = 0
        var isInCommit = false
        for line in 0..<Int(part.pointee.lineCount) {
            guard part.pointee.ways[line] != Ways.none else {
                count += 1
                continue
            }
            let state = access.page.state(Int(part.pointee.ways[line]))
            if granules(part, line: line) & ~state.recorded != 0 { count += 1 }
            if journal.window.isUncommitted(state.commitStamp) { isInCommit = true }
        }
        if count > 0 {
            let room = journal.reserve(count, worker: worker)
            guard room == .reserved else { return room }
        }
        part.pointee.reserved = UInt8(count)
        let request = requests[part.pointee.request]
        part.pointee.isDurableInPlace =
            request.pointee.request.forceUnitAccess && count == 0 && !isInCommit
        if isDurable(request), !part.pointee.isDurableInPlace {
            request.pointee.needsCommit = true
        }
        return .reserved
    }

    /// Whether the request is answered only when it is durable.
    private func isDurable(_ request: UnsafeMutablePointer<RequestSlot>) -> Bool {
        request.pointee.request.forceUnitAccess || shared.durability == .write
    }

    private func directGranules(_ part: UnsafeMutablePointer<Part>) -> UInt128 {
        var bits: UInt128 = 0
        for line in 0..<Int(part.pointee.lineCount)
        where part.pointee.direct & 1 << UInt16(line) != 0 {
            bits |= UInt128(granules(part, line: line)) << UInt128(line * granulesPerLine)
        }
        return bits
    }

    mutating func writeBackEnded(_ index: UInt32) {
        let part = parts[index]
        let set = part.pointee.set
        let core = requests[part.pointee.request].pointee.request.core
        let access = SetAccess(shared, set, counters)
        access.sidecar.lock()
        var left = part.pointee.owners
        while left != 0 {
            let line = left.trailingZeroBitCount
            left &= left &- 1
            let way = Int(part.pointee.ways[line])
            access.sidecar.uses[way].removeWriter()
            if part.pointee.cacheFailure == 0 {
                endOverwriting(index, line: line, access)
            } else {
                overwritingFailed(index, line: line, access)
            }
        }
        if part.pointee.owners != 0 { counters.add(.cacheWritesDone, core) }
        journal.unreserve(Int(part.pointee.reserved))
        part.pointee.reserved = 0
        if part.pointee.direct != 0 { directWriteDone(part) }
        removeDirect(part, access)
        let waiters = takeWaiters(access)
        access.sidecar.unlock()
        let failure =
            part.pointee.cacheFailure != 0 ? part.pointee.cacheFailure : part.pointee.coreFailure
        endWrite(index, failure)
        wake(waiters, set: set)
    }
}

// MARK: - Records

extension Engine {
    /// The data of a line is there: what it made dirty is recorded.
    private func endOverwriting(_ index: UInt32, line: Int, _ access: SetAccess) {
        let part = parts[index]
        let way = Int(part.pointee.ways[line])
        let granules = granules(part, line: line)
        noteRewritten(way, access)
        var state = access.page.state(way)
        let new = granules & ~state.recorded
        if new == 0 { return }
        precondition(part.pointee.reserved > 0, "more records than were reserved")
        part.pointee.reserved -= 1
        state.valid |= granules
        state.dirty |= granules
        state.recorded |= granules
        access.record(way, state, granules: new, checksum: checksum(part, line, new, access))
    }

    /// What was valid stays, with old or new content, and dirty either way. Whoever has read that
    /// content may rely on it after the next FLUSH: it is recorded as what it is, data of which
    /// nobody knows the checksum.
    private func overwritingFailed(_ index: UInt32, line: Int, _ access: SetAccess) {
        let part = parts[index]
        let way = Int(part.pointee.ways[line])
        access.sidecar.hadFailedWrite = true
        var state = access.page.state(way)
        let new = granules(part, line: line) & state.dirty & ~state.recorded
        if new != 0 {
            precondition(part.pointee.reserved > 0, "more records than were reserved")
            part.pointee.reserved -= 1
            state.recorded |= new
            access.record(way, state, granules: new, checksum: nil)
        }
        access.releaseIfEmpty(way)
    }

    /// Of the new data of a line; nil if it may not stay what is on the device: somebody else
    /// writes the line, too, or tried to.
    private func checksum(
        _ part: UnsafeMutablePointer<Part>, _ line: Int, _ granules: UInt16, _ access: SetAccess
    ) -> UInt32? {
        guard let dataChecksum, access.sidecar.uses[Int(part.pointee.ways[line])].writers == 0,
            !access.sidecar.hadFailedWrite
        else { return nil }
        let lineStart = (part.pointee.firstLine + UInt64(line)) << lineShift
        // The line may begin before the part does; its touched granules do not.
        let start =
            UInt64(part.pointee.bufferOffset) &+ (lineStart &- part.pointee.startSector) &* 512
        var crc: UInt32 = 0
        var left = granules
        while left != 0 {
            let first = left.trailingZeroBitCount
            let count = (~(left >> UInt16(first))).trailingZeroBitCount
            left &= ~UInt16(truncatingIfNeeded: (UInt32(1) << UInt32(first + count)) - 1)
            let continued = dataChecksum.function(
                dataChecksum.context, part.pointee.request,
                UInt32(truncatingIfNeeded: start &+ UInt64(first) << (granuleShift + 9)),
                UInt32(count) << UInt32(granuleShift + 9), crc)
            if continued == DataChecksum.unknown { return nil }
            crc = UInt32(truncatingIfNeeded: continued)
        }
        return crc
    }
}

// MARK: - Write-through

/// Cache and core in parallel; lines are held exclusively, so the two never disagree.
///
/// Crash rule: clean granules are made invalid before and valid after (in between the core
/// decides); dirty ones stay dirty, before and after: the core's copy is not durable, so the
/// journal could not say that they are clean.
extension Engine {
    mutating func startWriteThrough(_ index: UInt32) -> Bool {
        let part = parts[index]
        let access = SetAccess(shared, part.pointee.set, counters)
        access.sidecar.lock()
        let search = findLines(part, access, canTake: { $0.canBecomeExclusive })
        guard search == .found else { return giveUp(index, access, search) }
        part.pointee.phase = .writeThrough
        countHits(part, access)
        takeExclusively(part, access)
        allocateForWrite(part, access) { $0.becomeExclusive() }
        awaitCommitOfLines(part, access)
        access.sidecar.unlock()
        if part.pointee.owners != 0 { emitLines(index, .writeCache, part.pointee.owners) }
        emitCoreWrite(index)
        return true
    }

    /// What the cache has of a durable write is made durable by a commit, and so is what the
    /// journal said last of its lines, even if they are absent by now: that they are clean.
    private func awaitCommitOfLines(_ part: UnsafeMutablePointer<Part>, _ access: SetAccess) {
        let request = requests[part.pointee.request]
        guard isDurable(request) else { return }
        let hasRecords = access.sidecar.lastCommit > journal.state.pointee.committed
        if part.pointee.owners != 0 || hasRecords { request.pointee.needsCommit = true }
    }

    /// Exclusive use of the present lines, and their clean granules out of the way.
    private func takeExclusively(_ part: UnsafeMutablePointer<Part>, _ access: SetAccess) {
        for line in 0..<Int(part.pointee.lineCount) where part.pointee.ways[line] != Ways.none {
            let way = Int(part.pointee.ways[line])
            access.sidecar.uses[way].becomeExclusive()
            access.page.replacement[way] |= Replacement.overwritten
            part.pointee.owners |= 1 << UInt16(line)
            let dirty = access.page.state(way).dirty
            access.invalidate(way, granules(part, line: line) & ~dirty)
            if granules(part, line: line) & dirty != 0 { part.pointee.overDirty = true }
            access.touch(way)
        }
    }

    mutating func writeThroughEnded(_ index: UInt32) {
        let part = parts[index]
        // Otherwise clean granules stay invalid.
        let isValid = part.pointee.coreFailure == 0 && part.pointee.cacheFailure == 0
        exclusiveWriteEnded(index) { access, way, granules in
            if isValid { access.makeValid(way, granules) }
        }
    }

    /// Ends exclusive use of the part's lines, after `settle` has put each right.
    private mutating func exclusiveWriteEnded(
        _ index: UInt32, settle: (SetAccess, Int, UInt16) -> Void
    ) {
        let part = parts[index]
        let set = part.pointee.set
        let access = SetAccess(shared, set, counters)
        access.sidecar.lock()
        if part.pointee.cacheFailure != 0 { access.sidecar.hadFailedWrite = true }
        var left = part.pointee.owners
        while left != 0 {
            let line = left.trailingZeroBitCount
            left &= left &- 1
            let way = Int(part.pointee.ways[line])
            settle(access, way, granules(part, line: line))
            access.sidecar.uses[way].endExclusive()
            access.page.replacement[way] &= ~Replacement.overwritten
            access.releaseIfEmpty(way)
        }
        // Dirty granules have their newest content in the cache: the next FLUSH is for it.
        if part.pointee.overDirty {
            counters.add(.cacheWritesDone, requests[part.pointee.request].pointee.request.core)
        }
        directWriteDone(part)
        removeDirect(part, access)
        let waiters = takeWaiters(access)
        access.sidecar.unlock()
        let isCacheNeeded = part.pointee.overDirty && part.pointee.coreFailure == 0
        endWrite(index, isCacheNeeded ? part.pointee.cacheFailure : part.pointee.coreFailure)
        wake(waiters, set: set)
    }
}

// MARK: - Pass-through

/// Data goes to the core; what the cache has of it clean is dropped when the core has the new data,
/// and what it has dirty is written, too.
extension Engine {
    mutating func startPassThrough(_ index: UInt32) -> Bool {
        let part = parts[index]
        let request = requests[part.pointee.request]
        let access = SetAccess(shared, part.pointee.set, counters)
        access.sidecar.lock()
        let search = findLines(part, access, canTake: { $0.canBecomeExclusive })
        guard search == .found else { return giveUp(index, access, search) }
        part.pointee.phase = .passThrough
        let dirty = dirtyGranules(part, access)
        takeExclusively(part, access)
        for line in 0..<Int(part.pointee.lineCount) where part.pointee.ways[line] == Ways.none {
            let number = part.pointee.firstLine + UInt64(line)
            let hash = lineHash(core: request.pointee.request.core, line: number)
            addDirect(part, access, line: line, hash: hash)
        }
        awaitCommitOfLines(part, access)
        access.sidecar.unlock()
        if dirty != 0 { emitCacheGranules(index, .writeCache, dirty) }
        emitCoreWrite(index)
        return true
    }

    private func dirtyGranules(
        _ part: UnsafeMutablePointer<Part>, _ access: SetAccess
    ) -> UInt128 {
        var bits: UInt128 = 0
        for line in 0..<Int(part.pointee.lineCount) where part.pointee.ways[line] != Ways.none {
            let dirty = access.page.state(Int(part.pointee.ways[line])).dirty
            bits |= UInt128(granules(part, line: line) & dirty) << UInt128(line * granulesPerLine)
        }
        return bits
    }

    /// What was clean is invalid since the lines were taken.
    mutating func passThroughEnded(_ index: UInt32) {
        exclusiveWriteEnded(index) { _, _, _ in }
    }
}
