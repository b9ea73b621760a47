import CacheFormat

/// Requests inside one line that the cache has whole: the most frequent case by far, and the one
/// that decides how fast the engine is.
///
/// Such a request needs no part. Its slot remembers set and way, its one transfer carries a token
/// of kind `hit`, and the rules are those of `readHit` and `writeBack` parts: a reader's or a
/// writer's use of the way from the lookup to the end of the transfer.
extension Engine {
    /// Starts the request if it is such a one; nil if not, with nothing changed.
    @inline(__always) mutating func submitHit(_ request: Request) -> UInt32? {
        switch request.operation {
        case .read: submitReadHit(request)
        case .write: submitWriteHit(request)
        case .flush, .discard: nil
        }
    }

    @inline(__always) private mutating func submitReadHit(_ request: Request) -> UInt32? {
        guard shared.mode != .passThrough else { return nil }
        return startHit(request, isWrite: false)
    }

    @inline(never) private mutating func submitWriteHit(_ request: Request) -> UInt32? {
        guard shared.effectiveMode == .writeBack else { return nil }
        return startHit(request, isWrite: true)
    }

    @inline(__always)
    private mutating func startHit(_ request: Request, isWrite: Bool) -> UInt32? {
        let line = request.startSector &>> lineShift
        let end = request.startSector &+ UInt64(request.sectorCount)
        let row = shared.cores + Int(request.core & (UInt16(SharedCache.coreCountMax) - 1))
        // `end` cannot have wrapped around to a value behind the start.
        guard (end &- 1) &>> lineShift == line, end > request.startSector,
            row.pointee.isPresent, end <= row.pointee.sectorCount,
            request.core < SharedCache.coreCountMax
        else { return nil }
        let set = UInt32(
            truncatingIfNeeded: placement.set(
                ofCoreLine: line, coreOffset: row.pointee.coreOffset))
        let identity = Identity(core: request.core, line: line, ioClass: 0)
        let fingerprint = SetPageView.fingerprint(core: request.core, line: line)
        let sector = request.startSector & lineSectorMask
        let granules = granules(sector, request.sectorCount)
        let access = SetAccess(shared, set, counters)
        access.sidecar.lock()
        guard let way = access.search(identity, fingerprint: fingerprint),
            granules & ~access.page.state(way).valid == 0,
            isWrite ? access.sidecar.uses[way].canAddWriter : access.sidecar.uses[way].canAddReader,
            let slot = requests.acquire()
        else {
            access.sidecar.unlock()
            return nil
        }
        if isWrite {
            access.sidecar.uses[way].addWriter()
            beginOverwriting(way, granules, access)
        } else {
            access.sidecar.uses[way].addReader()
        }
        access.touch(way)
        access.sidecar.unlock()
        requests[slot].pointee.beginHit(request, set: set, way: way, granules: granules)
        emitHit(slot, request, isWrite: isWrite, way: way, set: set, sectorInLine: sector)
        return slot
    }

    /// The granules of a line from its sector `sector` on.
    @inline(__always) private func granules(_ sector: UInt64, _ sectorCount: UInt32) -> UInt16 {
        let first = sector &>> granuleShift
        let last = (sector &+ UInt64(sectorCount) &- 1) &>> granuleShift
        return UInt16(truncatingIfNeeded: UInt64(2) &<< last &- UInt64(1) &<< first)
    }

    @inline(__always)
    private mutating func emitHit(
        _ slot: UInt32, _ request: Request, isWrite: Bool, way: Int, set: UInt32,
        sectorInLine: UInt64
    ) {
        let byteCount = UInt64(request.sectorCount) &* 512
        counters.add(isWrite ? .exportedWriteBytes : .exportedReadBytes, request.core, byteCount)
        counters.add(isWrite ? .cacheWriteBytes : .cacheReadBytes, request.core, byteCount)
        counters.add(isWrite ? .writeTotal : .readTotal, request.core)
        let command = commands.append(isWrite ? .writeCache : .readCache)
        command.pointee.core = request.core
        command.pointee.buffer = .request(slot)
        command.pointee.byteCount = UInt32(truncatingIfNeeded: byteCount)
        command.pointee.deviceOffset =
            geometry.cacheOffset(set: set, way: way) &+ sectorInLine &* 512
        if isWrite { command.pointee.forceUnitAccess = request.forceUnitAccess }
        command.pointee.token = Token(
            .hit, slot: slot, generation: requests.generation(slot), isCore: false)
    }

    @inline(__always) mutating func hitTransferEnded(_ token: Token, _ result: Int32) {
        let slot = token.slot
        precondition(
            requests.isCurrent(slot, token.generation),
            "a completion for a request that has ended")
        let request = requests[slot]
        precondition(!request.pointee.isAnswered, "a request is answered twice")
        if result < 0, hitFailed(token, result) { return }
        let way = Int(request.pointee.hitWay)
        let access = SetAccess(shared, request.pointee.hitSet, counters)
        access.sidecar.lock()
        if request.pointee.request.operation == .write {
            access.sidecar.uses[way].removeWriter()
            counters.add(.cacheWritesDone, request.pointee.request.core)
            if result >= 0 { endOverwriting(way, request.pointee.hitGranules, access) }
        } else {
            access.sidecar.uses[way].removeReader()
        }
        let waiters = takeWaiters(access)
        access.sidecar.unlock()
        request.pointee.isAnswered = true
        let command = commands.append(.answer)
        command.pointee.slot = slot
        command.pointee.core = request.pointee.request.core
        command.pointee.result = min(result, 0)
        wake(waiters, set: request.pointee.hitSet)
    }

    /// True if the core is asked instead: the cache failed to read what the core has, too.
    @inline(never) private mutating func hitFailed(_ token: Token, _ result: Int32) -> Bool {
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
        if dirty & request.pointee.hitGranules != 0 { return false }
        let byteCount = UInt64(request.pointee.request.sectorCount) * 512
        counters.add(.coreReadBytes, core, byteCount)
        let command = commands.append(.readCore)
        command.pointee.core = core
        command.pointee.buffer = .request(token.slot)
        command.pointee.byteCount = UInt32(byteCount)
        command.pointee.deviceOffset = request.pointee.request.startSector * 512
        command.pointee.token = Token(
            .hit, slot: token.slot, generation: requests.generation(token.slot), isCore: true)
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

    /// When its data is there.
    @inline(__always)
    func endOverwriting(_ way: Int, _ granules: UInt16, _ access: SetAccess) {
        noteRewritten(way, access)
        let state = access.page.state(way)
        if granules & ~(state.valid & state.dirty) != 0 {
            access.makeValid(way, granules, dirty: true)
        }
    }

    /// Whoever cleans the line at this moment copies old data: the line stays dirty.
    @inline(__always) private func noteRewritten(_ way: Int, _ access: SetAccess) {
        if access.sidecar.uses[way].isCleaning {
            access.page.replacement[way] |= Replacement.rewritten
        }
    }
}
