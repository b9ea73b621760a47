import CBytes
import CacheFormat

/// One set while its lock is held: finding, giving out and taking back ways.
///
/// Invariants (checked by `SharedCache.checkInvariants`):
/// 1. A way is occupied (replacement byte) if and only if its fingerprint is not 0; then its
///    identity is that of the line, and no other occupied way of the cache has the same identity.
/// 2. Valid granules exist only in occupied ways; dirty granules are valid.
/// 3. An occupied way without valid granules is in use (being filled or written); when the use
///    ends it is released.
/// 4. Recorded granules are dirty. What is dirty and not recorded is being written, or a write of
///    it failed: nobody was promised it.
/// 5. A way is given to another line only when the journal's last record of it is durable.
/// 6. The page is consistent after every single store: a line appears by identity first and state
///    last, and disappears by state first.
struct SetAccess {
    let page: SetPageView
    let sidecar: SetSidecar
    let shared: SharedCache
    let counters: WorkerCounters

    /// Occupied ways of the small part that make it the one to evict from: a tenth.
    static let smallTarget = SetPageLayout.ways / 10

    @inline(__always) init(_ shared: SharedCache, _ set: UInt32, counters worker: Int) {
        self.init(shared, set, shared.counters(worker))
    }

    @inline(__always) init(_ shared: SharedCache, _ set: UInt32, _ counters: WorkerCounters) {
        precondition(set < shared.geometry.setCount)
        self.init(shared.page(set), shared.sidecar(set), shared, counters)
    }

    /// For a set whose number is known to be one.
    @inline(__always)
    init(
        _ page: SetPageView, _ sidecar: SetSidecar, _ shared: SharedCache,
        _ counters: WorkerCounters
    ) {
        self.page = page
        self.sidecar = sidecar
        self.shared = shared
        self.counters = counters
    }
}

// MARK: - Lookup

extension SetAccess {
    /// The way that holds the line, or nil. `guess` is looked at first: lines of one extent tend to
    /// lie in adjacent ways.
    @inline(__always) func find(_ identity: Identity, fingerprint: UInt8, guess: Int) -> Int? {
        if guess < SetPageLayout.ways, page.fingerprints[guess] == fingerprint,
            page.identity(guess) == identity
        {
            return guess
        }
        return search(identity, fingerprint: fingerprint)
    }

    @inline(__always) func search(_ identity: Identity, fingerprint: UInt8) -> Int? {
        let bytes = UnsafePointer(page.fingerprints)
        var first = 0
        while first < SetPageLayout.ways {
            var matches = ucas_match_mask32(bytes + first, fingerprint)
            while matches != 0 {
                let way = first + matches.trailingZeroBitCount
                if page.identity(way) == identity { return way }
                matches &= matches &- 1
            }
            first += 32
        }
        return nil
    }

    func holds(_ way: Int, core: UInt16) -> Bool {
        page.replacement[way] & Replacement.occupied != 0 && page.identity(way).core == core
    }

    /// A hit is one saturating add.
    @inline(__always) func touch(_ way: Int) {
        let next = page.replacement[way] &+ 1
        if next & Replacement.frequencyMask != 0 { page.replacement[way] = next }
    }
}

/// The bits of a replacement byte.
enum Replacement {
    static let frequencyMask: UInt8 = 0x03
    static let main: UInt8 = 0x04
    /// The line has dirty granules. Derived from its state.
    static let dirty: UInt8 = 0x08
    /// The line was written while being cleaned. Means nothing outside this process.
    static let rewritten: UInt8 = 0x10
    /// The line is being written past or through the cache: reads of what it lacks wait. Means
    /// nothing outside this process.
    static let overwritten: UInt8 = 0x20
    /// The last cleaning left older bytes on the core than the line has. If a discard began
    /// meanwhile they may have landed behind it, so a discard leaves the dirty granules alone.
    static let staleOnCore: UInt8 = 0x40
    static let occupied: UInt8 = 0x80
}

// MARK: - Giving out and taking back

extension SetAccess {
    /// A way for an absent line, with its identity and no valid granule; nil if every way is dirty
    /// or in use. The caller takes it into use before the lock is released.
    func allocate(_ identity: Identity, fingerprint: UInt8, lineHash: UInt16, guess: Int) -> Int? {
        guard let way = freeWay(guess: guess) ?? evict() else { return nil }
        precondition(page.state(way).isEmpty && sidecar.uses[way].isIdle)
        page.setState(way, LineState(rawValue: 0))
        page.setIdentity(way, identity)
        page.fingerprints[way] = fingerprint
        var byte = Replacement.occupied
        if sidecar.ghostContains(lineHash) {
            byte |= Replacement.main
        } else {
            sidecar.small += 1
        }
        page.replacement[way] = byte
        sidecar.occupied += 1
        sidecar.isChanged = true
        return way
    }

    private func freeWay(guess: Int) -> Int? {
        guard sidecar.occupied < SetPageLayout.ways else { return nil }
        if guess < SetPageLayout.ways, page.replacement[guess] & Replacement.occupied == 0,
            canBeReused(guess)
        {
            return guess
        }
        let bytes = UnsafePointer(page.replacement)
        for first in stride(from: 0, to: SetPageLayout.ways, by: 32) {
            var free = ucas_masked_match_mask32(bytes + first, Replacement.occupied, 0)
            while free != 0 {
                let way = first + free.trailingZeroBitCount
                if canBeReused(way) { return way }
                free &= free &- 1
            }
        }
        return nil
    }

    /// Nobody uses the way, and what the journal said of it last is durable.
    private func canBeReused(_ way: Int) -> Bool {
        sidecar.uses[way].isIdle
            && !shared.journal.window.isUncommitted(page.state(way).commitStamp)
    }

    /// Ends the occupation of a way that has no valid granule and is in nobody's writing use.
    func release(_ way: Int) {
        let byte = page.replacement[way]
        precondition(page.state(way).isEmpty, "a way with valid granules is released")
        precondition(byte & Replacement.occupied != 0)
        if byte & Replacement.main == 0 { sidecar.small -= 1 }
        page.fingerprints[way] = 0
        page.replacement[way] = 0
        sidecar.occupied -= 1
        sidecar.isChanged = true
    }

    /// Releases the way if nothing is valid in it and nobody is about to make something valid.
    ///
    /// Readers that began before an invalidation may still be there: the way is then unoccupied
    /// but in use, and not given out until they end.
    func releaseIfEmpty(_ way: Int) {
        if page.state(way).isEmpty, sidecar.uses[way].writers == 0, !sidecar.uses[way].isCleaning {
            release(way)
        }
    }
}

// MARK: - States

extension SetAccess {
    /// Stores a line's state and keeps what is derived from it in step.
    @inline(__always) func setState(_ way: Int, _ state: LineState) {
        let old = page.state(way)
        if old == state { return }
        precondition(
            state.dirty & ~state.valid == 0 && state.recorded & ~state.dirty == 0,
            "a dirty granule that is not valid, or a recorded one that is not dirty")
        let identity = page.identity(way)
        page.setState(way, state)
        sidecar.isChanged = true
        if (old.valid == 0) != (state.valid == 0) {
            if state.valid == 0 {
                counters.subtract(.occupiedLines, identity.core)
            } else {
                counters.add(.occupiedLines, identity.core)
            }
        }
        if (old.dirty == 0) != (state.dirty == 0) { dirtyChanged(way, identity, state.dirty != 0) }
    }

    private func dirtyChanged(_ way: Int, _ identity: Identity, _ isDirty: Bool) {
        if isDirty {
            page.replacement[way] |= Replacement.dirty
            sidecar.dirty += 1
            counters.add(.dirtyLines, identity.core)
            let extent = identity.line / UInt64(shared.geometry.linesPerExtent)
            shared.dirtyMapOfPresent(identity.core).insert(extent)
        } else {
            page.replacement[way] &= ~(Replacement.dirty | Replacement.staleOnCore)
            sidecar.dirty -= 1
            counters.subtract(.dirtyLines, identity.core)
        }
    }

    func makeValid(_ way: Int, _ granules: UInt16) {
        var state = page.state(way)
        state.valid |= granules
        setState(way, state)
    }

    func makeDirty(_ way: Int, _ granules: UInt16) {
        var state = page.state(way)
        precondition(granules & ~state.valid == 0)
        state.dirty |= granules
        setState(way, state)
    }

    /// Their content is on the core, durably. Takes a reservation if `needsRecord`.
    func makeClean(_ way: Int, _ granules: UInt16) {
        var state = page.state(way)
        state.dirty &= ~granules
        forget(way, granules, state)
    }

    /// Takes a reservation if `needsRecord`.
    func invalidate(_ way: Int, _ granules: UInt16) {
        var state = page.state(way)
        state.dirty &= ~granules
        state.valid &= ~granules
        forget(way, granules, state)
    }

    /// Whether the journal has to be told if these granules are dirty no more.
    func needsRecord(_ way: Int, _ granules: UInt16) -> Bool {
        page.state(way).recorded & granules != 0
    }

    private func forget(_ way: Int, _ granules: UInt16, _ changed: LineState) {
        var state = changed
        guard needsRecord(way, granules) else { return setState(way, state) }
        state.recorded &= ~granules
        record(way, state, granules: 0, checksum: nil)
    }
}

// MARK: - The journal

extension SetAccess {
    var set: UInt32 {
        UInt32(
            truncatingIfNeeded: (UnsafeRawPointer(page.base) - UnsafeRawPointer(shared.pages))
                / SetPageLayout.byteCount)
    }

    /// Stores the state and records it. Uses up a reservation.
    ///
    /// `granules` are those written for it, and their data's checksum if that can be relied on.
    /// Journal and page change together under the journal's lock; if the process dies in between,
    /// the next one completes the change from the record (`changingSet`).
    func record(_ way: Int, _ state: LineState, granules: UInt16, checksum: UInt32?) {
        let journal = shared.journal
        let set = set
        journal.lock()
        journal.state.pointee.changingSet = set + 1
        journal.inOrder()
        let number = page.recordNumber &+ 1
        var recorded = state
        recorded.commitStamp = journal.append(
            JournalRecord(
                set: set, way: UInt8(way), identity: page.identity(way), dirty: state.recorded,
                granules: granules, checksum: checksum, number: number))
        page.recordNumber = number
        sidecar.lastCommit = journal.state.pointee.openCommit
        if !sidecar.isListed {
            sidecar.isListed = true
            journal.list(set)
            if page.firstBlock == 0 { page.firstBlock = journal.state.pointee.openBlock }
        }
        setState(way, recorded)
        journal.inOrder()
        journal.state.pointee.changingSet = 0
        journal.unlock()
    }

    /// Whether these granules may be overwritten in place now.
    @inline(__always) func mayOverwrite(_ way: Int, _ granules: UInt16, worker: Int)
        -> OverwriteVerdict
    {
        let state = page.state(way)
        guard state.recorded & granules != 0,
            shared.journal.window.isUnconfirmed(state.commitStamp)
        else { return .allowed }
        return shared.journal.mayOverwrite(worker: worker)
    }
}

// MARK: - Replacement: S3-FIFO with two hands

extension SetAccess {
    /// Frees the way that S3-FIFO would evict, among those that are clean and not in use.
    ///
    /// The queues of S3-FIFO (Yang et al., SOSP 2023) are two hands that walk over the ways: a way
    /// just given out lies right behind its hand and is met last.
    private func evict() -> Int? {
        guard sidecar.occupied > sidecar.dirty else { return nil }
        let smallFirst = sidecar.small >= Self.smallTarget
        guard
            let way = (smallFirst ? smallVictim() : nil) ?? mainVictim()
                ?? (smallFirst ? nil : smallVictim())
        else { return nil }
        invalidate(way, .max)
        release(way)
        return way
    }

    private func isEvictable(_ way: Int) -> Bool {
        page.state(way).dirty == 0 && canBeReused(way)
    }

    /// One round of the small part's hand: what was hit twice moves to the main part.
    private func smallVictim() -> Int? {
        var hand = Int(page.smallHand)
        for _ in 0..<2 {
            while let way = next(from: hand, Replacement.main, 0) {
                hand = way + 1
                if page.replacement[way] & Replacement.frequencyMask > 1 {
                    page.replacement[way] &= ~Replacement.frequencyMask
                    page.replacement[way] |= Replacement.main
                    sidecar.small -= 1
                } else if isEvictable(way) {
                    page.smallHand = wrapped(hand)
                    let identity = page.identity(way)
                    sidecar.ghostInsert(lineHash(core: identity.core, line: identity.line))
                    return way
                }
            }
            hand = 0
        }
        page.smallHand = 0
        return nil
    }

    /// Rounds of the main part's hand: each pass takes one from the frequency.
    private func mainVictim() -> Int? {
        var hand = Int(page.mainHand)
        for _ in 0..<Int(Replacement.frequencyMask) + 2 {
            while let way = next(from: hand, Replacement.main, Replacement.main) {
                hand = way + 1
                if page.replacement[way] & Replacement.frequencyMask > 0 {
                    page.replacement[way] -= 1
                } else if isEvictable(way) {
                    page.mainHand = wrapped(hand)
                    return way
                }
            }
            hand = 0
        }
        page.mainHand = 0
        return nil
    }

    private func wrapped(_ hand: Int) -> UInt8 {
        hand >= SetPageLayout.ways ? 0 : UInt8(hand)
    }

    /// The first occupied way at or after `from` whose byte has `value` under `mask`.
    private func next(from: Int, _ mask: UInt8, _ value: UInt8) -> Int? {
        let bytes = UnsafePointer(page.replacement)
        var first = from & ~31
        var skip = UInt32.max << UInt32(from & 31)
        while first < SetPageLayout.ways {
            let found =
                ucas_masked_match_mask32(
                    bytes + first, mask | Replacement.occupied, value | Replacement.occupied) & skip
            if found != 0 { return first + found.trailingZeroBitCount }
            skip = .max
            first += 32
        }
        return nil
    }
}

/// 16 bits of a line's identity for the ghost and for counting direct writes.
@inline(__always) func lineHash(core: UInt16, line: UInt64) -> UInt16 {
    let mixed = (line ^ UInt64(core) << 46) &* 0x9E37_79B9_7F4A_7C15
    return UInt16(truncatingIfNeeded: mixed >> 48)
}
