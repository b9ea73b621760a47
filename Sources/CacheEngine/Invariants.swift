public import CacheFormat

/// Where a line is in the cache.
public struct LinePlace {
    public let set: UInt32
    public let way: Int
    public let state: LineState
}

extension SharedCache {
    /// Looks a line up from outside of any engine; for tests and the simulator.
    public func place(ofLine line: UInt64, core: UInt16) -> LinePlace? {
        let offset = cores[Int(core)].coreOffset
        let set = UInt32(geometry.set(ofCoreLine: line, coreOffset: offset))
        let access = SetAccess(self, set, counters: workerCount)
        access.sidecar.lock()
        defer { access.sidecar.unlock() }
        let found = access.search(
            Identity(core: core, line: line, ioClass: 0),
            fingerprint: SetPageView.fingerprint(core: core, line: line))
        return found.map { LinePlace(set: set, way: $0, state: access.page.state($0)) }
    }
}

/// What must hold in the set table at any moment between two engine steps.
extension SharedCache {
    /// Traps at the first invariant that does not hold.
    ///
    /// With `quiescent` also those that hold only when no request, fill or cleaning is under way.
    /// For tests and the simulator: it looks at every way of every set.
    public func checkInvariants(quiescent: Bool) {
        var occupied = [UInt64](repeating: 0, count: Self.coreCountMax)
        var dirty = [UInt64](repeating: 0, count: Self.coreCountMax)
        // What nobody has adopted yet is counted nowhere.
        var isComplete = true
        for set in 0..<UInt32(geometry.setCount) {
            if sidecar(set).isNotAdopted {
                isComplete = false
            } else {
                checkSet(set, quiescent: quiescent, &occupied, &dirty)
            }
        }
        precondition(isComplete || !isAdopted, "a set that is said to be adopted is not")
        guard isComplete else { return }
        for id in 0..<UInt16(Self.coreCountMax) where cores[Int(id)].isPresent {
            precondition(
                sum(.occupiedLines, core: id) == occupied[Int(id)], "occupancy is miscounted")
            precondition(sum(.dirtyLines, core: id) == dirty[Int(id)], "dirty lines are miscounted")
        }
    }

    private func checkSet(
        _ set: UInt32, quiescent: Bool, _ occupied: inout [UInt64], _ dirty: inout [UInt64]
    ) {
        let page = page(set)
        let sidecar = sidecar(set)
        var counts = (occupied: 0, small: 0, dirty: 0)
        var identities = Set<UInt64>()
        for way in 0..<SetPageLayout.ways {
            let byte = page.replacement[way]
            let state = page.state(way)
            let use = sidecar.uses[way]
            if quiescent { precondition(use.isIdle, "a way is in use by nobody") }
            precondition(
                (byte & Replacement.occupied != 0) == (page.fingerprints[way] != 0),
                "occupied without a fingerprint, or the other way round")
            guard byte & Replacement.occupied != 0 else {
                precondition(state.isEmpty, "valid granules in a free way")
                precondition(use.writers == 0 && !use.isCleaning, "a free way is being written")
                continue
            }
            let identity = page.identity(way)
            precondition(identities.insert(identity.rawValue).inserted, "a line is there twice")
            checkWay(set, page.fingerprints[way], identity, state, byte)
            if state.isEmpty {
                precondition(!quiescent && use.writers > 0, "an occupied way without content")
            }
            counts.occupied += 1
            if byte & Replacement.main == 0 { counts.small += 1 }
            if state.dirty != 0 { counts.dirty += 1 }
            if state.valid != 0 { occupied[Int(identity.core)] += 1 }
            if state.dirty != 0 { dirty[Int(identity.core)] += 1 }
        }
        precondition(counts.occupied == sidecar.occupied, "the set's occupied ways are miscounted")
        precondition(counts.small == sidecar.small, "the set's small part is miscounted")
        precondition(counts.dirty == sidecar.dirty, "the set's dirty ways are miscounted")
        guard quiescent else { return }
        for hash in 0..<UInt16(SetSidecar.directSlotCount) {
            precondition(sidecar.directWrites(hash).pointee == 0, "a direct write never ended")
        }
        precondition(!sidecar.isUrgent, "urgent cleaning never ended")
    }

    private func checkWay(
        _ set: UInt32, _ fingerprint: UInt8, _ identity: Identity, _ state: LineState, _ byte: UInt8
    ) {
        let core = cores[Int(identity.core)]
        precondition(core.isPresent, "a line of a core that is not there")
        precondition(
            fingerprint == SetPageView.fingerprint(core: identity.core, line: identity.line),
            "a fingerprint of another line")
        precondition(
            geometry.set(ofCoreLine: identity.line, coreOffset: core.coreOffset) == UInt64(set),
            "a line in a set that is not its own")
        precondition(state.dirty & ~state.valid == 0, "dirty granules that are not valid")
        precondition((byte & Replacement.dirty != 0) == (state.dirty != 0), "the dirty bit lies")
        if state.dirty != 0 {
            let extent = identity.line / UInt64(geometry.linesPerExtent)
            precondition(core.dirtyMap?.contains(extent) == true, "the dirty map misses an extent")
        }
    }
}
