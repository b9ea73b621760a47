import CBytes
import CacheFormat

/// Reading: what is valid comes from the cache, the rest from the core; what came from the core
/// then fills the cache, after the answer. A read waits only for a line that is being written
/// through at that moment.
///
/// Rule 8 (nothing enters the cache that a write may have overtaken): a line to be filled is held
/// exclusively from before the core read until it is valid, so every write to it waits; and it is
/// not filled at all while a write to the absent line is on its way to the core.
extension Engine {
    mutating func startRead(_ index: UInt32) -> Bool {
        let part = parts[index]
        let request = requests[part.pointee.request]
        let core = request.pointee.request.core
        let inserts = request.pointee.mode != .passThrough
        let access = SetAccess(shared, part.pointee.set, counters)
        access.sidecar.lock()
        var missing: UInt16 = 0
        var guess = SetPageLayout.ways
        for line in 0..<Int(part.pointee.lineCount) {
            let identity = identity(part, line: line, core: core)
            let fingerprint = SetPageView.fingerprint(core: core, line: identity.line)
            guard let way = access.find(identity, fingerprint: fingerprint, guess: guess) else {
                part.pointee.ways[line] = Ways.none
                missing |= 1 << UInt16(line)
                continue
            }
            guard access.sidecar.uses[way].canAddReader else {
                park(index, access)
                access.sidecar.unlock()
                return false
            }
            part.pointee.ways[line] = UInt8(truncatingIfNeeded: way)
            guess = way &+ 1
            let state = access.page.state(way)
            let usable = inserts ? state.valid : state.dirty
            guard granules(part, line: line) & ~usable != 0 else { continue }
            // In write-through a reader who began earlier may see the new data in the cache before
            // the core has it: nobody may read the core then. A fill is not waited for: a read
            // holds the lines it fills until all its parts have their data, so two reads could
            // wait for each other.
            if access.page.replacement[way] & Replacement.overwritten != 0 {
                park(index, access)
                access.sidecar.unlock()
                return false
            }
            missing |= 1 << UInt16(line)
        }
        request.pointee.linesTouched &+= UInt32(part.pointee.lineCount)
        request.pointee.linesHit &+=
            UInt32(part.pointee.lineCount) &- UInt32(missing.nonzeroBitCount)
        if missing == 0 {
            startReadHit(index, access)
        } else {
            startReadMiss(index, access, missing, inserts: inserts)
        }
        return true
    }

    @inline(__always) private mutating func startReadHit(_ index: UInt32, _ access: SetAccess) {
        let part = parts[index]
        part.pointee.phase = .readHit
        for line in 0..<Int(part.pointee.lineCount) {
            let way = Int(part.pointee.ways[line])
            access.sidecar.uses[way].addReader()
            access.touch(way)
        }
        access.sidecar.unlock()
        let lines = UInt16(truncatingIfNeeded: (UInt32(1) << UInt32(part.pointee.lineCount)) &- 1)
        part.pointee.readers = lines
        emitLines(index, .readCache, lines)
    }

    private mutating func startReadMiss(
        _ index: UInt32, _ access: SetAccess, _ missing: UInt16, inserts: Bool
    ) {
        let part = parts[index]
        part.pointee.phase = .readMiss
        let sources = readSources(part, access, inserts: inserts)
        holdPresentLines(part, access, missing, inserts: inserts)
        if inserts { allocateMissing(part, access, missing) }
        access.sidecar.unlock()
        emitCoreGranules(index, .readCore, sources.core)
        emitCacheGranules(index, .readCache, sources.cache)
    }

    /// Which granules come from where. Between the first and the last missing granule, clean ones
    /// are read from the core, too: one long core read instead of many short ones. Dirty granules
    /// always come from the cache.
    private func readSources(
        _ part: UnsafeMutablePointer<Part>, _ access: SetAccess, inserts: Bool
    ) -> (cache: UInt128, core: UInt128) {
        var wanted: UInt128 = 0
        var usable: UInt128 = 0
        var dirty: UInt128 = 0
        for line in 0..<Int(part.pointee.lineCount) {
            let shift = UInt128(line * granulesPerLine)
            wanted |= UInt128(granules(part, line: line)) << shift
            guard part.pointee.ways[line] != Ways.none else { continue }
            let state = access.page.state(Int(part.pointee.ways[line]))
            usable |= UInt128(inserts ? state.valid : state.dirty) << shift
            dirty |= UInt128(state.dirty) << shift
        }
        let absent = wanted & ~usable
        precondition(absent != 0)
        let hull =
            UInt128.max << UInt128(absent.trailingZeroBitCount)
            & UInt128.max >> UInt128(absent.leadingZeroBitCount)
        let core = absent | wanted & hull & ~dirty
        return (wanted & ~core, core)
    }

    /// Reader's use of every present line; exclusive use of those to be filled further.
    private func holdPresentLines(
        _ part: UnsafeMutablePointer<Part>, _ access: SetAccess, _ missing: UInt16, inserts: Bool
    ) {
        for line in 0..<Int(part.pointee.lineCount) where part.pointee.ways[line] != Ways.none {
            let way = Int(part.pointee.ways[line])
            access.sidecar.uses[way].addReader()
            part.pointee.readers |= 1 << UInt16(line)
            access.touch(way)
            // Writers or the cleaner may be at it: then it is read past the cache and not filled.
            if inserts, missing & 1 << UInt16(line) != 0,
                access.sidecar.uses[way].canBecomeExclusive
            {
                access.sidecar.uses[way].becomeExclusive()
                part.pointee.owners |= 1 << UInt16(line)
            }
        }
    }

    private mutating func allocateMissing(
        _ part: UnsafeMutablePointer<Part>, _ access: SetAccess, _ missing: UInt16
    ) {
        let request = requests[part.pointee.request]
        let core = request.pointee.request.core
        var guess = SetPageLayout.ways
        for line in 0..<Int(part.pointee.lineCount) {
            if part.pointee.ways[line] != Ways.none {
                guess = Int(part.pointee.ways[line]) + 1
                continue
            }
            precondition(missing & 1 << UInt16(line) != 0)
            let identity = identity(part, line: line, core: core)
            let hash = lineHash(core: core, line: identity.line)
            guard access.sidecar.directWrites(hash).pointee == 0 else { continue }
            let fingerprint = SetPageView.fingerprint(core: core, line: identity.line)
            guard
                let way = access.allocate(
                    identity, fingerprint: fingerprint, lineHash: hash, guess: guess)
            else {
                request.pointee.linesDirect += 1
                requestUrgentCleaning(access, part.pointee.set)
                continue
            }
            access.sidecar.uses[way].becomeExclusive()
            part.pointee.ways[line] = UInt8(way)
            part.pointee.owners |= 1 << UInt16(line)
            guess = way + 1
        }
    }
}

// MARK: - Ends

extension Engine {
    @inline(__always) mutating func readHitEnded(_ index: UInt32) {
        let part = parts[index]
        if part.pointee.cacheFailure != 0 {
            retryFromCore(index)
            return
        }
        let set = part.pointee.set
        let access = SetAccess(shared, set, counters)
        access.sidecar.lock()
        releaseReaders(part, access)
        let waiters = takeWaiters(access)
        access.sidecar.unlock()
        endRead(index, 0)
        wake(waiters, set: set)
    }

    @inline(__always)
    private func releaseReaders(_ part: UnsafeMutablePointer<Part>, _ access: SetAccess) {
        var left = part.pointee.readers
        while left != 0 {
            access.sidecar.uses[Int(part.pointee.ways[left.trailingZeroBitCount])].removeReader()
            left &= left &- 1
        }
        part.pointee.readers = 0
    }

    /// Gives back lines that were to be filled and are not.
    private func abandonFill(_ part: UnsafeMutablePointer<Part>, _ access: SetAccess) {
        var left = part.pointee.owners
        while left != 0 {
            let way = Int(part.pointee.ways[left.trailingZeroBitCount])
            access.sidecar.uses[way].endExclusive()
            access.releaseIfEmpty(way)
            left &= left &- 1
        }
        part.pointee.owners = 0
    }

    @inline(__always) private mutating func endRead(_ index: UInt32, _ result: Int32) {
        let slot = parts[index].pointee.request
        partDone(index)
        partReady(slot, result)
    }

    mutating func readMissEnded(_ index: UInt32) {
        let part = parts[index]
        if part.pointee.coreFailure == 0, part.pointee.cacheFailure == 0,
            part.pointee.owners != 0
        {
            letGoOfReaders(index)
            return
        }
        if part.pointee.coreFailure == 0, part.pointee.cacheFailure != 0 {
            retryFromCore(index)
            return
        }
        releaseAndEndRead(index, part.pointee.coreFailure)
    }

    /// The data is in the buffer: while the part waits for the request's other parts it keeps the
    /// lines it fills, which nobody's read waits for, and no reader's use, which some may.
    private mutating func letGoOfReaders(_ index: UInt32) {
        let part = parts[index]
        let set = part.pointee.set
        let access = SetAccess(shared, set, counters)
        access.sidecar.lock()
        releaseReaders(part, access)
        let waiters = takeWaiters(access)
        access.sidecar.unlock()
        part.pointee.phase = .awaitingAnswer
        partReady(part.pointee.request, 0)
        wake(waiters, set: set)
    }

    mutating func readRetryEnded(_ index: UInt32) {
        releaseAndEndRead(index, parts[index].pointee.coreFailure)
    }

    private mutating func releaseAndEndRead(_ index: UInt32, _ result: Int32) {
        let part = parts[index]
        let set = part.pointee.set
        let access = SetAccess(shared, set, counters)
        access.sidecar.lock()
        abandonFill(part, access)
        releaseReaders(part, access)
        let waiters = takeWaiters(access)
        access.sidecar.unlock()
        endRead(index, result)
        wake(waiters, set: set)
    }

    /// The cache device failed to read. What is clean the core has, too; what is dirty nobody has.
    private mutating func retryFromCore(_ index: UInt32) {
        let part = parts[index]
        let set = part.pointee.set
        let access = SetAccess(shared, set, counters)
        access.sidecar.lock()
        var isDirty = false
        for line in 0..<Int(part.pointee.lineCount)
        where part.pointee.readers & 1 << UInt16(line) != 0 {
            let state = access.page.state(Int(part.pointee.ways[line]))
            if state.dirty & granules(part, line: line) != 0 { isDirty = true }
        }
        abandonFill(part, access)
        let waiters = takeWaiters(access)
        access.sidecar.unlock()
        if isDirty {
            releaseAndEndRead(index, part.pointee.cacheFailure)
        } else {
            part.pointee.phase = .readRetry
            part.pointee.cacheFailure = 0
            emitCore(
                index, .readCore, from: part.pointee.startSector,
                to: part.pointee.startSector + UInt64(part.pointee.sectorCount))
        }
        wake(waiters, set: set)
    }
}

// MARK: - Filling

extension Engine {
    /// The request is answered; its buffer holds what the core gave. Writes it to the cache.
    mutating func startFill(_ index: UInt32) {
        let part = parts[index]
        part.pointee.phase = .filling
        emitCacheGranules(index, .writeCache, granulesToFill(part))
    }

    /// The touched granules of held lines that are not valid yet. Nobody else makes granules of a
    /// line held exclusively valid or invalid, so this is the same before and after the write.
    private func granulesToFill(_ part: UnsafeMutablePointer<Part>) -> UInt128 {
        let page = shared.page(part.pointee.set)
        var bits: UInt128 = 0
        for line in 0..<Int(part.pointee.lineCount)
        where part.pointee.owners & 1 << UInt16(line) != 0 {
            let valid = page.state(Int(part.pointee.ways[line])).valid
            bits |= UInt128(granules(part, line: line) & ~valid) << UInt128(line * granulesPerLine)
        }
        return bits
    }

    mutating func fillEnded(_ index: UInt32) {
        let part = parts[index]
        let set = part.pointee.set
        let access = SetAccess(shared, set, counters)
        access.sidecar.lock()
        if part.pointee.cacheFailure == 0 {
            for line in 0..<Int(part.pointee.lineCount)
            where part.pointee.owners & 1 << UInt16(line) != 0 {
                access.makeValid(Int(part.pointee.ways[line]), granules(part, line: line))
            }
        }
        abandonFill(part, access)
        let waiters = takeWaiters(access)
        access.sidecar.unlock()
        partDone(index)
        wake(waiters, set: set)
    }
}
