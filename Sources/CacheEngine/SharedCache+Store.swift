package import CacheFormat

/// Taking the set table over from a cache device, and what giving it back needs to know.
extension SharedCache {
    /// Why a page cannot be taken over, although its checksum is right.
    package struct Misfit: Error, Equatable, Sendable {
        package let set: UInt32
        package let way: Int
    }

    /// Derives everything that is not in the pages from them: sidecars, counters, dirty maps.
    ///
    /// Every core that has lines must have been added, and no worker may be running. Nothing in a
    /// page is believed: what could not have been stored by this engine is a misfit.
    package func adopt() throws(Misfit) {
        for set in 0..<UInt32(geometry.setCount) {
            let access = SetAccess(self, set, counters: workerCount)
            for way in 0..<SetPageLayout.ways { try adopt(access, set, way) }
        }
    }

    private func adopt(_ access: SetAccess, _ set: UInt32, _ way: Int) throws(Misfit) {
        let page = access.page
        let state = page.state(way)
        guard page.replacement[way] & Replacement.occupied != 0 else {
            guard state.isEmpty, page.fingerprints[way] == 0 else {
                throw Misfit(set: set, way: way)
            }
            page.replacement[way] = 0
            return
        }
        let identity = page.identity(way)
        guard isPlausible(identity, state, set: set),
            page.fingerprints[way]
                == SetPageView.fingerprint(core: identity.core, line: identity.line)
        else { throw Misfit(set: set, way: way) }
        page.replacement[way] &= Replacement.occupied | Replacement.main | Replacement.frequencyMask
        access.sidecar.occupied += 1
        if page.replacement[way] & Replacement.main == 0 { access.sidecar.small += 1 }
        access.counters.add(.occupiedLines, identity.core)
        guard state.dirty != 0 else { return }
        page.replacement[way] |= Replacement.dirty
        access.sidecar.dirty += 1
        access.counters.add(.dirtyLines, identity.core)
        dirtyMapOfPresent(identity.core).insert(
            identity.line / UInt64(geometry.linesPerExtent))
    }

    private func isPlausible(_ identity: Identity, _ state: LineState, set: UInt32) -> Bool {
        let core = cores[Int(identity.core)]
        let lineSectors = UInt64(geometry.lineBytes) / 512
        guard core.isPresent, identity.line <= (core.sectorCount - 1) / lineSectors,
            geometry.set(ofCoreLine: identity.line, coreOffset: core.coreOffset) == UInt64(set)
        else { return false }
        let granules = UInt32(1) << geometry.granulesPerLine - 1
        return state.valid != 0 && UInt32(state.valid) & ~granules == 0
            && state.dirty & ~state.valid == 0 && state.rawValue >> 32 == 0
    }

    // What the sidecar knows of the page's copies on the cache device. Nobody may be changing the
    // set meanwhile.

    package func isChanged(set: UInt32) -> Bool { sidecar(set).isChanged }

    /// Which slot on the cache device has the newest page.
    package func newestSlot(set: UInt32) -> Int { sidecar(set).newestSlot }

    /// The page in memory is the one in that slot.
    package func setStored(set: UInt32, slot: Int) {
        sidecar(set).newestSlot = slot
        sidecar(set).isChanged = false
    }

    package func pageView(set: UInt32) -> SetPageView { page(set) }
}
