import CacheFormat

/// Cleaning: rule 3 of the design. The core's copy is durable before a line is marked clean.
extension Engine {
    /// Starts cleaning everything of a core that is dirty now; `flushEnded` tells the result.
    ///
    /// False if this worker has too many flushes under way already.
    public mutating func beginFlush(core: UInt16) -> Bool {
        guard shared.hasCore(core) else { return false }
        // A dirty map that is not complete would end the sweep early. Whoever cares for this
        // worker's time has seen to it before.
        _ = shared.finishAdoption()
        for index in 0..<Cleaner.flushJobMax where !cleaner.jobs[index].isActive {
            cleaner.jobs[index] = FlushJob()
            cleaner.jobs[index].isActive = true
            cleaner.jobs[index].core = core
            cleaner.activeJobs += 1
            return true
        }
        return false
    }

    /// Ends a flush early; `flushEnded` comes with -ECANCELED when its last batch is through.
    public mutating func cancelFlush(core: UInt16) {
        for index in 0..<Cleaner.flushJobMax
        where cleaner.jobs[index].isActive && cleaner.jobs[index].core == core {
            cleaner.jobs[index].isCancelled = true
        }
    }

    /// The set has no way to give: its dirty lines are cleaned before all others. Lock held.
    mutating func requestUrgentCleaning(_ access: SetAccess, _ set: UInt32) {
        // Clean ways may only wait for the record that says so to be durable.
        journal.locked {
            if access.sidecar.lastCommit > journal.state.pointee.committed {
                journal.want(access.sidecar.lastCommit)
            }
        }
        guard !access.sidecar.isUrgent, access.sidecar.dirty > 0 else { return }
        if cleaner.addUrgent(set) { access.sidecar.isUrgent = true }
    }

    /// Puts batches together while there are buffers: urgent sets first, then flushes in turn.
    @inline(__always) mutating func continueCleaning() {
        if cleaner.urgentCount > 0 || cleaner.hasJobs { continueCleaningSlowly() }
    }

    @inline(never) private mutating func continueCleaningSlowly() {
        while cleaner.urgentCount > 0, let batch = cleaner.idleBatch() {
            guard let set = cleaner.popUrgent() else { break }
            gatherSet(set, batch)
        }
        for index in 0..<Cleaner.flushJobMax where cleaner.jobs[index].isActive {
            continueFlush(index)
        }
    }

    private mutating func continueFlush(_ index: Int) {
        let job = cleaner.jobs + index
        var pieces = 0
        while !job.pointee.sweepEnded, !job.pointee.isCancelled, job.pointee.failure == 0,
            !job.pointee.waitsForRelease, pieces < 4, let batch = cleaner.idleBatch()
        {
            sweep(job, index, batch)
            pieces += 1
        }
        guard job.pointee.batchesUnderWay == 0 else { return }
        if job.pointee.isCancelled || job.pointee.failure != 0 {
            endFlush(index, job.pointee.failure != 0 ? job.pointee.failure : -125)  // ECANCELED
        } else if job.pointee.sweepEnded {
            if job.pointee.foundBusy { beginNextPass(job) } else { endFlush(index, 0) }
        }
    }

    private func beginNextPass(_ job: UnsafeMutablePointer<FlushJob>) {
        job.pointee.pass += 1
        job.pointee.foundBusy = false
        job.pointee.sweepEnded = false
        job.pointee.nextExtent = 0
        if job.pointee.pass == 2 {
            job.pointee.hasFrozen = true
            shared.freezeDirty()
        }
    }

    private mutating func endFlush(_ index: Int, _ result: Int32) {
        let job = cleaner.jobs + index
        if job.pointee.hasFrozen { shared.thawDirty() }
        job.pointee.isActive = false
        cleaner.activeJobs -= 1
        let command = commands.append(.flushEnded)
        command.pointee.core = job.pointee.core
        command.pointee.result = result
    }
}

// MARK: - Putting a batch together

extension Engine {
    private static var extentsPerSweep: Int { 256 }

    private mutating func sweep(
        _ job: UnsafeMutablePointer<FlushJob>, _ index: Int, _ batchIndex: Int
    ) {
        let batch = cleaner.batches + batchIndex
        beginBatch(batch, core: job.pointee.core, job: index)
        let map = shared.dirtyMapOfPresent(job.pointee.core)
        for _ in 0..<Self.extentsPerSweep {
            guard let extent = map.next(from: job.pointee.nextExtent) else {
                job.pointee.sweepEnded = true
                break
            }
            if batch.pointee.entryCount + Int(geometry.linesPerExtent) > cleaner.batchCapacity {
                break
            }
            job.pointee.nextExtent = extent + 1
            if !gatherExtent(extent, batch) {
                job.pointee.foundBusy = true
                if job.pointee.pass > 2 { job.pointee.waitsForRelease = true }
            }
        }
        if batch.pointee.entryCount > 0 {
            job.pointee.batchesUnderWay += 1
            emitCleaningReads(batchIndex)
        } else {
            batch.pointee.phase = .idle
        }
    }

    private func beginBatch(_ batch: UnsafeMutablePointer<CleaningBatch>, core: UInt16, job: Int) {
        batch.pointee.phase = .reading
        batch.pointee.core = core
        batch.pointee.job = job
        batch.pointee.entryCount = 0
        batch.pointee.pending = 0
        batch.pointee.failure = 0
        batch.pointee.generation = (batch.pointee.generation &+ 1) & 0xff_ffff
    }

    /// Takes the extent's dirty lines; false if one of them is in use and has to wait.
    private func gatherExtent(_ extent: UInt64, _ batch: UnsafeMutablePointer<CleaningBatch>)
        -> Bool
    {
        let core = batch.pointee.core
        let first = extent * UInt64(geometry.linesPerExtent)
        let set = setNumber(core: core, line: first)
        let access = SetAccess(shared, set, counters)
        access.sidecar.lock()
        defer { access.sidecar.unlock() }
        var anyDirty = false
        var allTaken = true
        var guess = SetPageLayout.ways
        for line in first..<first + UInt64(geometry.linesPerExtent) {
            guard let way = find(line, core: core, access, guess: guess) else { continue }
            guess = way + 1
            guard access.page.state(way).dirty != 0 else { continue }
            anyDirty = true
            if !take(way, access, batch, set: set, line: line) { allTaken = false }
        }
        if !anyDirty { shared.dirtyMapOfPresent(core).remove(extent) }
        if !allTaken { access.sidecar.waiters |= 1 << UInt64(worker) }
        return allTaken
    }

    private func find(_ line: UInt64, core: UInt16, _ access: SetAccess, guess: Int) -> Int? {
        access.find(
            Identity(core: core, line: line, ioClass: 0),
            fingerprint: SetPageView.fingerprint(core: core, line: line), guess: guess)
    }

    private func take(
        _ way: Int, _ access: SetAccess, _ batch: UnsafeMutablePointer<CleaningBatch>, set: UInt32,
        line: UInt64
    ) -> Bool {
        guard access.sidecar.uses[way].canBecomeExclusive, access.sidecar.uses[way].canAddReader
        else { return false }
        switch journal.reserve(1, worker: worker) {
        case .reserved: break
        case .full: return false
        case .failing:
            if batch.pointee.job >= 0 { cleaner.jobs[batch.pointee.job].failure = -5 }  // EIO
            return false
        }
        access.sidecar.uses[way].isCleaning = true
        access.sidecar.uses[way].addReader()
        access.page.replacement[way] &= ~Replacement.rewritten
        batch.pointee.entries[batch.pointee.entryCount] = CleaningEntry(
            line: line, set: set, way: UInt8(way), granules: access.page.state(way).dirty)
        batch.pointee.entryCount += 1
        return true
    }

    /// A batch of the set's dirty lines, of the core that has the first one behind the hand.
    private mutating func gatherSet(_ set: UInt32, _ batchIndex: Int) {
        let batch = cleaner.batches + batchIndex
        let access = SetAccess(shared, set, counters)
        access.sidecar.lock()
        beginBatch(batch, core: 0, job: -1)
        batch.pointee.urgentSet = set
        let hand = Int(access.page.smallHand)
        let most = min(cleaner.batchCapacity, SetPageLayout.ways / 4)
        for step in 0..<SetPageLayout.ways where batch.pointee.entryCount < most {
            let way = (hand + step) % SetPageLayout.ways
            guard access.page.replacement[way] & Replacement.dirty != 0 else { continue }
            let identity = access.page.identity(way)
            guard (cores + Int(identity.core)).pointee.hasDevice else { continue }
            if batch.pointee.entryCount == 0 {
                batch.pointee.core = identity.core
            } else if identity.core != batch.pointee.core {
                continue
            }
            _ = take(way, access, batch, set: set, line: identity.line)
        }
        let isEmpty = batch.pointee.entryCount == 0
        if isEmpty { access.sidecar.isUrgent = false }
        access.sidecar.unlock()
        guard !isEmpty else {
            batch.pointee.phase = .idle
            return
        }
        sortByLine(batch)
        emitCleaningReads(batchIndex)
    }

    /// Insertion sort: at most 56 entries, mostly in order already.
    private func sortByLine(_ batch: UnsafeMutablePointer<CleaningBatch>) {
        let entries = batch.pointee.entries
        for index in 1..<max(1, batch.pointee.entryCount) {
            let entry = entries[index]
            var place = index
            while place > 0, entries[place - 1].line > entry.line {
                entries[place] = entries[place - 1]
                place -= 1
            }
            entries[place] = entry
        }
    }
}

// MARK: - The steps of a batch

extension Engine {
    private func cleaningToken(_ batchIndex: Int, isCore: Bool) -> Token {
        Token(
            .cleaning, slot: UInt32(batchIndex),
            generation: cleaner.batches[batchIndex].generation, isCore: isCore)
    }

    private mutating func emitCleaningReads(_ batchIndex: Int) {
        let batch = cleaner.batches + batchIndex
        let lineBytes = Int(geometry.lineBytes)
        for index in 0..<batch.pointee.entryCount {
            let entry = batch.pointee.entries[index]
            let first = entry.granules.trailingZeroBitCount
            let end = 16 - entry.granules.leadingZeroBitCount
            let offset = first * Int(geometry.granuleBytes)
            emitCleaning(
                batchIndex, .readCache, buffer: index * lineBytes + offset,
                device: geometry.cacheOffset(set: entry.set, way: Int(entry.way)) + UInt64(offset),
                byteCount: (end - first) * Int(geometry.granuleBytes))
        }
    }

    private mutating func emitCleaningWrites(_ batchIndex: Int) {
        let batch = cleaner.batches + batchIndex
        batch.pointee.phase = .writing
        let lineBytes = Int(geometry.lineBytes)
        let granuleBytes = Int(geometry.granuleBytes)
        for index in 0..<batch.pointee.entryCount {
            let entry = batch.pointee.entries[index]
            var left = UInt32(entry.granules)
            while left != 0 {
                let first = left.trailingZeroBitCount
                let length = (~(left >> UInt32(first))).trailingZeroBitCount
                left &= ~(((UInt32(1) << UInt32(length)) - 1) << UInt32(first))
                let offset = first * granuleBytes
                emitCleaning(
                    batchIndex, .writeCore, buffer: index * lineBytes + offset,
                    device: entry.line * UInt64(lineBytes) + UInt64(offset),
                    byteCount: length * granuleBytes)
            }
        }
    }

    /// Appends a transfer, or lets the batch's previous one carry what directly follows it.
    private mutating func emitCleaning(
        _ batchIndex: Int, _ kind: Command.Kind, buffer: Int, device: UInt64, byteCount: Int
    ) {
        let batch = cleaner.batches + batchIndex
        let core = batch.pointee.core
        counters.add(
            kind == .readCache ? .cleanerCacheReadBytes : .cleanerCoreWriteBytes, core,
            UInt64(byteCount))
        if batch.pointee.pending > 0, let last = commands.last, last.pointee.kind == kind,
            last.pointee.buffer == .cleaning(UInt32(batchIndex)),
            Int(last.pointee.bufferOffset) + Int(last.pointee.byteCount) == buffer,
            last.pointee.deviceOffset + UInt64(last.pointee.byteCount) == device
        {
            last.pointee.byteCount += UInt32(byteCount)
            return
        }
        if kind == .writeCore { counters.add(.cleanerRequests, core) }
        let command = commands.append(kind)
        command.pointee.core = core
        command.pointee.buffer = .cleaning(UInt32(batchIndex))
        command.pointee.bufferOffset = UInt32(buffer)
        command.pointee.byteCount = UInt32(byteCount)
        command.pointee.deviceOffset = device
        command.pointee.token = cleaningToken(batchIndex, isCore: kind == .writeCore)
        batch.pointee.pending += 1
    }

    mutating func cleaningTransferEnded(_ token: Token, _ result: Int32) {
        let batchIndex = Int(token.slot)
        precondition(batchIndex < cleaner.batchCount)
        let batch = cleaner.batches + batchIndex
        precondition(
            batch.pointee.generation == token.generation && batch.pointee.pending > 0,
            "a completion for a cleaning batch that has ended")
        batch.pointee.pending -= 1
        if result < 0 {
            batch.pointee.failure = result
            counters.add(token.isCore ? .coreWriteErrors : .cacheReadErrors, batch.pointee.core)
        }
        guard batch.pointee.pending == 0 else { return }
        if batch.pointee.failure != 0 {
            endBatch(batchIndex)
            return
        }
        switch batch.pointee.phase {
        case .reading: emitCleaningWrites(batchIndex)
        case .writing: emitCleaningFlush(batchIndex)
        case .flushing: endBatch(batchIndex)
        case .idle: preconditionFailure("a transfer ended for an idle cleaning batch")
        }
    }

    private mutating func emitCleaningFlush(_ batchIndex: Int) {
        let batch = cleaner.batches + batchIndex
        batch.pointee.phase = .flushing
        batch.pointee.pending = 1
        let command = commands.append(.flushCore)
        command.pointee.core = batch.pointee.core
        command.pointee.token = cleaningToken(batchIndex, isCore: true)
    }

    private mutating func endBatch(_ batchIndex: Int) {
        let batch = cleaner.batches + batchIndex
        // What it has written is not flushed. When a discard drops the dirty line, it is read.
        if batch.pointee.failure != 0 { counters.add(.directWritesDone, batch.pointee.core) }
        for index in 0..<batch.pointee.entryCount { settle(batch, index) }
        if batch.pointee.job < 0 {
            let access = SetAccess(shared, batch.pointee.urgentSet, counters)
            access.sidecar.lock()
            access.sidecar.isUrgent = false
            access.sidecar.unlock()
            // Only then can its ways be given out, and perhaps nobody flushes.
            if batch.pointee.failure == 0 {
                journal.locked { journal.want(journal.state.pointee.openCommit) }
            }
        } else {
            let job = cleaner.jobs + batch.pointee.job
            job.pointee.batchesUnderWay -= 1
            if batch.pointee.failure != 0 { job.pointee.failure = batch.pointee.failure }
        }
        batch.pointee.phase = .idle
    }

    /// Marks one line clean if the core has what the cache has, and lets go of it.
    private mutating func settle(_ batch: UnsafeMutablePointer<CleaningBatch>, _ index: Int) {
        let entry = batch.pointee.entries[index]
        let access = SetAccess(shared, entry.set, counters)
        let way = Int(entry.way)
        access.sidecar.lock()
        let isRewritten = access.page.replacement[way] & Replacement.rewritten != 0
        let isClean = batch.pointee.failure == 0 && !isRewritten
        let usesReservation = isClean && access.needsRecord(way, entry.granules)
        if isClean {
            access.makeClean(way, entry.granules)
            // The next FLUSH makes that durable: writes may go past the cache from now on.
            counters.add(.cacheWritesDone, batch.pointee.core)
        } else if batch.pointee.job >= 0 {
            cleaner.jobs[batch.pointee.job].foundBusy = true
        }
        if !usesReservation { journal.unreserve(1) }
        access.page.replacement[way] &= ~Replacement.rewritten
        if isRewritten { access.page.replacement[way] |= Replacement.staleOnCore }
        access.sidecar.uses[way].isCleaning = false
        access.sidecar.uses[way].removeReader()
        if isLastOfExtent(batch, index) { clearDirtyMap(access, batch.pointee.core, entry.line) }
        let waiters = takeWaiters(access)
        access.sidecar.unlock()
        wake(waiters, set: entry.set)
    }

    private func isLastOfExtent(_ batch: UnsafeMutablePointer<CleaningBatch>, _ index: Int) -> Bool
    {
        guard index + 1 < batch.pointee.entryCount else { return true }
        let perExtent = UInt64(geometry.linesPerExtent)
        return batch.pointee.entries[index].line / perExtent
            != batch.pointee.entries[index + 1].line / perExtent
    }

    private func clearDirtyMap(_ access: SetAccess, _ core: UInt16, _ line: UInt64) {
        let perExtent = UInt64(geometry.linesPerExtent)
        let first = line / perExtent * perExtent
        for other in first..<first + perExtent {
            if let way = find(other, core: core, access, guess: SetPageLayout.ways),
                access.page.state(way).dirty != 0
            {
                return
            }
        }
        shared.dirtyMapOfPresent(core).remove(line / perExtent)
    }
}
