import CBytes
import CacheFormat

/// What the write modes share: finding the lines of a part and taking them all, or none.
extension Engine {
    /// Looks every line up. False if one cannot be taken now; then nothing was taken.
    private func findLines(
        _ part: UnsafeMutablePointer<Part>, _ access: SetAccess,
        canTake: (WayUse) -> Bool
    ) -> Bool {
        let core = requests[part.pointee.request].pointee.request.core
        var guess = SetPageLayout.ways
        for line in 0..<Int(part.pointee.lineCount) {
            let identity = identity(part, line: line, core: core)
            let fingerprint = SetPageView.fingerprint(core: core, line: identity.line)
            if let way = access.find(identity, fingerprint: fingerprint, guess: guess) {
                guard canTake(access.sidecar.uses[way]) else { return false }
                part.pointee.ways[line] = UInt8(truncatingIfNeeded: way)
                guess = way &+ 1
            } else {
                // A full count of direct writes would have to be forgotten: rather wait.
                let hash = lineHash(core: core, line: identity.line)
                guard access.sidecar.directWrites(hash).pointee < 240 else { return false }
                part.pointee.ways[line] = Ways.none
            }
        }
        return true
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
/// Crash rule: a granule that is valid already becomes dirty before the write to it is issued
/// (whatever part of the write lands, the cache is what counts); a granule that is not valid
/// becomes valid and dirty only when its data is there (before, nothing was acknowledged).
extension Engine {
    mutating func startWriteBack(_ index: UInt32) -> Bool {
        let part = parts[index]
        let access = SetAccess(shared, part.pointee.set, counters)
        access.sidecar.lock()
        guard findLines(part, access, canTake: { $0.canAddWriter }) else {
            park(index, access)
            access.sidecar.unlock()
            return false
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
        if left != 0 { counters.add(.cacheWritesDone, core) }
        while left != 0 {
            let line = left.trailingZeroBitCount
            left &= left &- 1
            let way = Int(part.pointee.ways[line])
            access.sidecar.uses[way].removeWriter()
            if part.pointee.cacheFailure == 0 {
                endOverwriting(way, granules(part, line: line), access)
            } else {
                // What was valid stays: old or new content, dirty either way.
                access.releaseIfEmpty(way)
            }
        }
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

// MARK: - Write-through

/// Cache and core in parallel; lines are held exclusively, so the two never disagree.
///
/// Crash rule: clean granules are made invalid before and valid after (in between the core
/// decides); dirty ones stay dirty until both are written (in between the cache decides).
extension Engine {
    mutating func startWriteThrough(_ index: UInt32) -> Bool {
        let part = parts[index]
        let access = SetAccess(shared, part.pointee.set, counters)
        access.sidecar.lock()
        guard findLines(part, access, canTake: { $0.canBecomeExclusive }) else {
            park(index, access)
            access.sidecar.unlock()
            return false
        }
        part.pointee.phase = .writeThrough
        countHits(part, access)
        takeExclusively(part, access)
        allocateForWrite(part, access) { $0.becomeExclusive() }
        access.sidecar.unlock()
        if part.pointee.owners != 0 { emitLines(index, .writeCache, part.pointee.owners) }
        emitCoreWrite(index)
        return true
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
            access.touch(way)
        }
    }

    mutating func writeThroughEnded(_ index: UInt32) {
        let part = parts[index]
        let isCoreWritten = part.pointee.coreFailure == 0
        let isCacheWritten = part.pointee.cacheFailure == 0
        // What stays dirty has its new content in the cache alone: the next FLUSH is for it.
        if !isCoreWritten, part.pointee.owners != 0 {
            counters.add(.cacheWritesDone, requests[part.pointee.request].pointee.request.core)
        }
        exclusiveWriteEnded(index) { access, way, granules in
            guard isCoreWritten else { return }  // Dirty: the cache decides. Clean: invalid.
            if isCacheWritten {
                access.makeValid(way, granules, dirty: false)
                access.makeClean(way, granules)
            } else {
                access.invalidate(way, granules)
            }
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
        directWriteDone(part)
        removeDirect(part, access)
        let waiters = takeWaiters(access)
        access.sidecar.unlock()
        endWrite(index, part.pointee.coreFailure)
        wake(waiters, set: set)
    }
}

// MARK: - Pass-through

/// Data goes to the core alone; what the cache has of it is dropped when the core has the new data.
extension Engine {
    mutating func startPassThrough(_ index: UInt32) -> Bool {
        let part = parts[index]
        let request = requests[part.pointee.request]
        let access = SetAccess(shared, part.pointee.set, counters)
        access.sidecar.lock()
        guard findLines(part, access, canTake: { $0.canBecomeExclusive }) else {
            park(index, access)
            access.sidecar.unlock()
            return false
        }
        part.pointee.phase = .passThrough
        takeExclusively(part, access)
        for line in 0..<Int(part.pointee.lineCount) where part.pointee.ways[line] == Ways.none {
            let number = part.pointee.firstLine + UInt64(line)
            let hash = lineHash(core: request.pointee.request.core, line: number)
            addDirect(part, access, line: line, hash: hash)
        }
        access.sidecar.unlock()
        emitCoreWrite(index)
        return true
    }

    mutating func passThroughEnded(_ index: UInt32) {
        let isCoreWritten = parts[index].pointee.coreFailure == 0
        exclusiveWriteEnded(index) { access, way, granules in
            if isCoreWritten { access.invalidate(way, granules) }
        }
    }
}
