import CBytes
public import CacheFormat
import Synchronization

/// Set pages that this process has not made: those of a device, or of a process before it.
extension SharedCache {
    /// Adopts all pages after a load, before any worker runs. All cores must have been added.
    ///
    /// Returns the first set whose page contradicts itself or names a core or a line that is not
    /// there; then the cache must not be used.
    public func adoptPages() -> UInt32? {
        for set in 0..<UInt32(geometry.setCount) where sidecar(set).isNotAdopted {
            noteRecorded(page(set))
            guard adoptPage(set, sidecar(set)) else { return set }
            sidecar(set).unlock()
        }
        control.pointee.isAdopted.store(true, ordering: .releasing)
        return nil
    }

    /// What the device says is dirty the journal, or a page, has said.
    private func noteRecorded(_ page: SetPageView) {
        for way in 0..<SetPageLayout.ways {
            var state = page.state(way)
            guard state.dirty != state.recorded else { continue }
            state.recorded = state.dirty
            page.setState(way, state)
        }
    }

    /// Adopts what nobody has asked for yet, one set at a time, beside the workers: on return
    /// counters and dirty maps are complete. Any thread may call it, and costs nothing later.
    ///
    /// True if the journal may go on now that could not before: then a worker has to take a turn.
    public func finishAdoption() -> Bool {
        if isAdopted { return false }
        adopt(sets: 0..<UInt32(geometry.setCount))
        control.pointee.isAdopted.store(true, ordering: .releasing)
        return journal.allAdopted()
    }

    /// A piece of that, for somebody who has time.
    public func adopt(sets: Range<UInt32>) {
        for set in sets where !sidecar(set).isFree {
            sidecar(set).lock()
            sidecar(set).unlock()
        }
    }

    public var isAdopted: Bool { control.pointee.isAdopted.load(ordering: .acquiring) }

    /// The set is locked for the first time in this process.
    ///
    /// The page was loaded and checked, or it was left by a process that died between two stores:
    /// then it is whole, and only what is derived from it, or meant that process alone, may be
    /// missing or left over. Anything else is no page of this cache, and nothing may be served.
    func adopt(_ sidecar: SetSidecar) {
        let set = UInt32((sidecar.base - sidecars) / SetSidecar.byteCount)
        guard adoptPage(set, sidecar) else {
            preconditionFailure("the page of set \(set) in memory contradicts itself")
        }
    }

    /// Counts a page's lines and makes all that is derived from them.
    private func adoptPage(_ set: UInt32, _ sidecar: SetSidecar) -> Bool {
        let page = page(set)
        guard page.smallHand < SetPageLayout.ways, page.mainHand < SetPageLayout.ways else {
            return false
        }
        for way in 0..<SetPageLayout.ways {
            let state = undoWriteUnderWay(page, way)
            guard state.valid != 0 else {
                // Free, or somebody was about to fill it: nothing valid was ever in it.
                guard state.isEmpty else { return false }
                page.fingerprints[way] = 0
                page.replacement[way] = 0
                continue
            }
            let identity = page.identity(way)
            let fingerprint = SetPageView.fingerprint(core: identity.core, line: identity.line)
            guard isPlausible(identity, state, set),
                !isThere(identity, fingerprint, page, before: way)
            else { return false }
            page.fingerprints[way] = fingerprint
            adoptLine(page, way, identity, state, sidecar)
        }
        sidecar.isChanged = true
        if page.firstBlock != 0 {
            sidecar.isListed = true
            journal.locked { journal.listAgain(set, firstBlock: page.firstBlock) }
            // Its page waits for the next commit: nobody knows whether its last one is done.
            sidecar.lastCommit = journal.state.pointee.openCommit
        }
        return true
    }

    /// What is dirty without a record was valid and clean until a write to it began, and nobody was
    /// told that this had ended: the core has what was there before.
    ///
    /// The write may be sent again, refused, or never come. If what is there of it stayed, that
    /// could be read, flushed, and go back after a power cut.
    private func undoWriteUnderWay(_ page: SetPageView, _ way: Int) -> LineState {
        var state = page.state(way)
        let unrecorded = state.dirty & ~state.recorded
        guard unrecorded != 0 else { return state }
        state.dirty &= ~unrecorded
        state.valid &= ~unrecorded
        page.setState(way, state)
        return state
    }

    /// Whether one of the ways before `way`, which are adopted, holds the line, too.
    private func isThere(
        _ identity: Identity, _ fingerprint: UInt8, _ page: SetPageView, before way: Int
    ) -> Bool {
        let bytes = UnsafePointer(page.fingerprints)
        for first in stride(from: 0, to: way, by: 32) {
            var matches = ucas_match_mask32(bytes + first, fingerprint)
            while matches != 0 {
                let other = first + matches.trailingZeroBitCount
                if other < way, page.identity(other) == identity { return true }
                matches &= matches &- 1
            }
        }
        return false
    }

    private func adoptLine(
        _ page: SetPageView, _ way: Int, _ identity: Identity, _ state: LineState,
        _ sidecar: SetSidecar
    ) {
        let core = identity.core
        var byte =
            page.replacement[way] & (Replacement.frequencyMask | Replacement.main)
            | Replacement.occupied
        sidecar.occupied += 1
        if byte & Replacement.main == 0 { sidecar.small += 1 }
        keptCounters.addShared(.occupiedLines, core)
        if state.dirty != 0 {
            byte |= Replacement.dirty
            sidecar.dirty += 1
            keptCounters.addShared(.dirtyLines, core)
            let extent = identity.line / UInt64(geometry.linesPerExtent)
            dirtyMapOfPresent(core).insert(extent)
        }
        page.replacement[way] = byte
    }

    private func isPlausible(_ identity: Identity, _ state: LineState, _ set: UInt32) -> Bool {
        let core = cores[Int(identity.core)]
        let granules = geometry.granulesPerLine
        let granuleMask = UInt16(truncatingIfNeeded: (UInt32(1) << granules) - 1)
        let firstSector = identity.line * (UInt64(geometry.lineBytes) / 512)
        return core.isPresent && firstSector < core.sectorCount
            && state.recorded & ~state.dirty == 0 && state.dirty & ~state.valid == 0
            && state.valid & ~granuleMask == 0
            && geometry.set(ofCoreLine: identity.line, coreOffset: core.coreOffset) == UInt64(set)
    }

    // For the control thread while no worker runs, and after `finishAdoption`.

    /// Whether the page in memory has changes that the device's newest copy lacks.
    public func isChanged(_ set: UInt32) -> Bool { sidecar(set).isChanged }

    /// Notes that the device now holds what is in memory, durably.
    public func noteStored(_ set: UInt32, checksum: UInt32) {
        guard sidecar(set).isChanged else { return }
        page(set).settle(
            sequence: page(set).sequence + 1, checksum: checksum, firstBlock: 0)
        sidecar(set).isChanged = false
    }

    /// Notes that memory now holds what is on the device.
    public func noteLoaded(_ set: UInt32) { sidecar(set).isChanged = false }

    /// The page of a set, in place.
    public func pageView(_ set: UInt32) -> SetPageView { page(set) }
}
