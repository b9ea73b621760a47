public import CacheFormat

/// Set pages between memory and the cache device; for the control thread while no worker runs.
extension SharedCache {
    /// Takes over the lines of the pages in memory after a load: counts them and rebuilds all that
    /// is derived from them. All cores must have been added.
    ///
    /// Returns the first set whose page contradicts itself or names a core or a line that is not
    /// there; then the cache must not be used.
    public func adoptPages() -> UInt32? {
        for set in 0..<UInt32(geometry.setCount) where !adoptPage(set) { return set }
        return nil
    }

    private func adoptPage(_ set: UInt32) -> Bool {
        let access = SetAccess(self, set, counters: workerCount)
        let page = access.page
        let sidecar = access.sidecar
        guard page.smallHand < SetPageLayout.ways, page.mainHand < SetPageLayout.ways else {
            return false
        }
        var identities = Set<UInt64>()
        for way in 0..<SetPageLayout.ways {
            let state = page.state(way)
            let byte = page.replacement[way]
            guard state.valid != 0 else {
                // Free, or somebody was about to fill it: nothing valid was ever in it.
                guard state.isEmpty else { return false }
                page.fingerprints[way] = 0
                page.replacement[way] = 0
                continue
            }
            let identity = page.identity(way)
            guard identities.insert(identity.rawValue).inserted,
                isPlausible(identity, state, set)
            else { return false }
            page.fingerprints[way] = SetPageView.fingerprint(
                core: identity.core, line: identity.line)
            page.replacement[way] =
                byte & (Replacement.frequencyMask | Replacement.main) | Replacement.occupied
            page.setState(way, LineState(valid: state.valid, dirty: state.dirty, recorded: true))
            sidecar.occupied += 1
            if byte & Replacement.main == 0 { sidecar.small += 1 }
            access.adoptState(way)
        }
        return true
    }

    private func isPlausible(_ identity: Identity, _ state: LineState, _ set: UInt32) -> Bool {
        let core = cores[Int(identity.core)]
        let granules = geometry.granulesPerLine
        let granuleMask = UInt16(truncatingIfNeeded: (UInt32(1) << granules) - 1)
        let firstSector = identity.line * (UInt64(geometry.lineBytes) / 512)
        return core.isPresent && firstSector < core.sectorCount && state.commitStamp == 0
            && (state.recorded == 0 || state.recorded == state.dirty)
            && state.dirty & ~state.valid == 0 && state.valid & ~granuleMask == 0
            && geometry.set(ofCoreLine: identity.line, coreOffset: core.coreOffset) == UInt64(set)
    }

    /// Whether the page in memory has changes that the device's newest copy lacks.
    public func isChanged(_ set: UInt32) -> Bool { sidecar(set).isChanged }

    /// After a recovery: what is clean was dropped, so every page differs from the device's.
    public func markAllChanged() {
        for set in 0..<UInt32(geometry.setCount) { sidecar(set).isChanged = true }
    }

    /// Notes that the device now holds what is in memory.
    public func noteStored(_ set: UInt32) { sidecar(set).isChanged = false }

    /// The page of a set, in place.
    public func pageView(_ set: UInt32) -> SetPageView { page(set) }
}
