import CacheFormat

/// Requests inside one line that the cache has whole: the most frequent case by far, and the one
/// that decides how fast the engine is.
///
/// Such a request needs no part. Its slot remembers set and way, its one transfer carries a token
/// of kind `hit`, and the rules are those of `readHit` and `writeBack` parts: a reader's or a
/// writer's use of the way from the lookup to the end of the transfer.
extension Engine {
    /// Starts the read if it is such a one; `noSlot` if not, with nothing changed.
    @inline(__always) mutating func submitReadHit(_ request: Request) -> UInt32 {
        if control.pointee.isPassThrough { return noSlot }
        return startHit(request, isWrite: false)
    }

    /// Only what the journal has a record of: then nothing but the data is to be written.
    @inline(__always) mutating func submitWriteHit(_ request: Request) -> UInt32 {
        guard shared.effectiveMode == .writeBack, !request.forceUnitAccess,
            shared.durability == .flush
        else { return noSlot }
        return startHit(request, isWrite: true)
    }

    @inline(__always)
    private mutating func startHit(_ request: Request, isWrite: Bool) -> UInt32 {
        let row = cores + Int(request.core)
        let line = request.startSector &>> lineShift
        let sector = request.startSector & lineSectorMask
        // A request of no sectors wraps around, and ends far outside the line.
        let span = UInt64(request.sectorCount &- 1)
        // A core that is not there has no sectors.
        guard sector &+ span <= lineSectorMask,
            request.startSector &+ span < row.pointee.sectorCount
        else { return noSlot }
        let set = UInt32(
            truncatingIfNeeded: placement.set(
                ofCoreLine: line, coreOffset: row.pointee.coreOffset))
        // Core and line were checked: `Identity` would do it again.
        let identity = Identity(rawValue: line | UInt64(request.core) &<< 46)
        let fingerprint = SetPageView.fingerprint(core: request.core, line: line)
        let granules = granules(ofLineSector: sector, span: span)
        let access = hitAccess(set)
        access.sidecar.lock()
        guard let way = access.search(identity, fingerprint: fingerprint),
            isWrite
                ? mayOverwriteAtOnce(access.page.state(way), granules)
                : granules & ~access.page.state(way).valid == 0,
            isWrite ? access.sidecar.uses[way].canAddWriter : access.sidecar.uses[way].canAddReader,
            let acquired = requests.acquireEntry()
        else {
            access.sidecar.unlock()
            return noSlot
        }
        if isWrite {
            access.sidecar.uses[way].addWriter()
            noteRewritten(way, access)
        } else {
            access.sidecar.uses[way].addReader()
        }
        access.touch(way)
        access.sidecar.unlock()
        acquired.slot.pointee.beginHit(request, set: set, way: way)
        let token = Token(
            .hit, slot: acquired.index, generation: acquired.generation, isCore: false)
        let place = UInt64(set) &* UInt64(SetPageLayout.ways) &+ UInt64(way)
        emitHit(
            acquired.index, request, isWrite: isWrite, token: token,
            cacheOffset: geometry.dataOffset &+ place &* lineBytes &+ sector &* 512)
        return acquired.index
    }

    @inline(__always)
    private func mayOverwriteAtOnce(_ state: LineState, _ granules: UInt16) -> Bool {
        granules & ~state.recorded == 0 && !journal.window.isUnconfirmed(state.commitStamp)
    }

    /// The set of a hit: a remainder by the number of sets, or what a slot has kept of one.
    @inline(__always) private func hitAccess(_ set: UInt32) -> SetAccess {
        SetAccess(
            SetPageView(base: pages + Int(set) * SetPageLayout.byteCount),
            SetSidecar(sidecars + Int(set) * SetSidecar.byteCount, of: shared), shared, counters)
    }

    /// The granules of a line that its sectors from `first` to `first + span` touch.
    @inline(__always)
    private func granules(ofLineSector first: UInt64, span: UInt64) -> UInt16 {
        if span == lineSectorMask { return allGranules }
        return UInt16(
            truncatingIfNeeded: UInt64(2) &<< ((first &+ span) &>> granuleShift)
                &- UInt64(1) &<< (first &>> granuleShift))
    }

    private func granules(ofHit request: Request) -> UInt16 {
        granules(
            ofLineSector: request.startSector & lineSectorMask,
            span: UInt64(request.sectorCount) &- 1)
    }

    @inline(__always)
    private mutating func emitHit(
        _ slot: UInt32, _ request: Request, isWrite: Bool, token: Token, cacheOffset: UInt64
    ) {
        let byteCount = UInt64(request.sectorCount) &* 512
        counters.add(isWrite ? .exportedWriteBytes : .exportedReadBytes, request.core, byteCount)
        counters.add(isWrite ? .cacheWriteBytes : .cacheReadBytes, request.core, byteCount)
        counters.add(isWrite ? .writeTotal : .readTotal, request.core)
        commands.append(
            Command(
                isWrite ? .writeCache : .readCache, flag: false,
                core: request.core, buffer: .request(slot),
                length: UInt32(truncatingIfNeeded: byteCount),
                deviceOffset: cacheOffset, token: token))
    }

    /// A hit's transfer ended well. Returns the slot to be answered with 0 before anything else is
    /// asked of the engine, which is through with it; nil if the token is of another kind or the
    /// transfer failed: that is for `complete`.
    @inlinable @inline(__always)
    public mutating func completeHit(_ token: Token, result: Int32) -> UInt32? {
        endHit(token, result) ? token.slot : nil
    }

    /// Not an optional number, which costs its caller and itself five instructions each.
    @usableFromInline mutating func endHit(_ token: Token, _ result: Int32) -> Bool {
        // One test for two conditions: the bits of other kinds, and the sign.
        if token.kindBits | UInt64(UInt32(bitPattern: result) & 0x8000_0000) != 0 { return false }
        let request = currentHit(token)
        if request.pointee.request.operation == .read {
            readHitEnded(request)
        } else {
            writeHitEnded(request, isWritten: true)
        }
        requests.release(token.slot, current: request)
        return true
    }

    @inline(__always)
    private func currentHit(_ token: Token) -> UnsafeMutablePointer<RequestSlot> {
        guard let request = requests.current(token.slot, token.generation) else {
            preconditionFailure("a completion for a request that has ended")
        }
        return request
    }

    /// Gives the line back.
    @inline(__always)
    private mutating func readHitEnded(_ request: UnsafeMutablePointer<RequestSlot>) {
        let set = request.pointee.hitSet
        let access = hitAccess(set)
        access.sidecar.lock()
        access.sidecar.uses[Int(request.pointee.hitWay)].removeReader()
        let waiters = takeWaiters(access)
        access.sidecar.unlock()
        wake(waiters, set: set)
    }

    /// Not inlined, so that the reads' way is short.
    @inline(never)
    private mutating func writeHitEnded(
        _ request: UnsafeMutablePointer<RequestSlot>, isWritten: Bool
    ) {
        let way = Int(request.pointee.hitWay)
        let set = request.pointee.hitSet
        let access = hitAccess(set)
        access.sidecar.lock()
        access.sidecar.uses[way].removeWriter()
        counters.add(.cacheWritesDone, request.pointee.request.core)
        if isWritten {
            noteRewritten(way, access)
        } else {
            access.sidecar.hadFailedWrite = true
        }
        let waiters = takeWaiters(access)
        access.sidecar.unlock()
        wake(waiters, set: set)
    }

    /// The way of those hits whose transfer failed, and of runners that know no other.
    mutating func hitTransferEnded(_ token: Token, _ result: Int32) {
        let request = currentHit(token)
        if result < 0, hitFailed(token, result) { return }
        if request.pointee.request.operation == .read {
            readHitEnded(request)
        } else {
            writeHitEnded(request, isWritten: result >= 0)
        }
        request.pointee.isAnswered = true
        requests.renewGeneration(token.slot)
        var command = Command(.answer)
        command.slot = token.slot
        command.core = request.pointee.request.core
        command.result = min(result, 0)
        commands.append(command)
    }

    /// True if the core is asked instead: the cache failed to read what the core has, too.
    private mutating func hitFailed(_ token: Token, _ result: Int32) -> Bool {
        let request = requests[token.slot]
        let core = request.pointee.request.core
        guard request.pointee.request.operation == .read else {
            counters.add(.cacheWriteErrors, core)
            return false
        }
        counters.add(token.isCore ? .coreReadErrors : .cacheReadErrors, core)
        if token.isCore { return false }
        let access = SetAccess(shared, request.pointee.hitSet, counters)
        access.sidecar.lock()
        let dirty = access.page.state(Int(request.pointee.hitWay)).dirty
        access.sidecar.unlock()
        if dirty & granules(ofHit: request.pointee.request) != 0 { return false }
        let byteCount = UInt64(request.pointee.request.sectorCount) * 512
        counters.add(.coreReadBytes, core, byteCount)
        commands.append(
            Command(
                .readCore, flag: false, core: core, buffer: .request(token.slot),
                length: UInt32(byteCount),
                deviceOffset: request.pointee.request.startSector * 512,
                token: Token(
                    .hit, slot: token.slot, generation: token.generation, isCore: true)))
        return true
    }
}

// MARK: - Writing into a line that is there (write-back)

extension Engine {
    /// Before the write is issued: what is valid becomes dirty, whatever part of the write lands.
    @inline(__always)
    func beginOverwriting(_ way: Int, _ granules: UInt16, _ access: SetAccess) {
        noteRewritten(way, access)
        let state = access.page.state(way)
        let already = granules & state.valid
        if already & ~state.dirty != 0 { access.makeDirty(way, already) }
    }

    /// Whoever cleans the line at this moment copies old data: the line stays dirty.
    @inline(__always) func noteRewritten(_ way: Int, _ access: SetAccess) {
        if access.sidecar.uses[way].isCleaning {
            access.page.replacement[way] |= Replacement.rewritten
        }
    }
}
