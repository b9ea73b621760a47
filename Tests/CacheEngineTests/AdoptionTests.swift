import CacheFormat
import Testing

@testable import CacheEngine

/// What a process finds that goes on with the pages of one that died.
@Suite struct AdoptionTests {
    /// A second process over the bench's pages; the first one is not asked any more.
    private final class Successor {
        let shared: SharedCache
        private let bench: Bench

        init(_ bench: Bench, workerCount: Int = 1) {
            self.bench = bench
            shared = SharedCache(
                geometry: bench.geometry, pages: bench.pages, workerCount: workerCount,
                journal: .goingOn(bench.shared.journal.base))
            shared.mode = .writeBack
            shared.addCore(1, coreOffset: 0, sectorCount: 1 << 16, canDiscard: true)
            shared.keepCounters(core: 1, blockCount: 0)
        }
        deinit { shared.deallocate() }

        func sum(_ counter: Counter) -> UInt64 { shared.sum(counter, core: 1) }
    }

    private static func filled(setCount: UInt64 = 4) throws -> Bench {
        let bench = try Bench(.writeBack, setCount: setCount)
        for extent in 0..<8 {
            try bench.write(UInt64(extent) * 128, 8, extent + 1)
            bench.finishAll()
        }
        return bench
    }

    @Test func nothingIsLookedAtBeforeItIsAskedFor() throws {
        let bench = try Self.filled()
        let next = Successor(bench)
        #expect(!next.shared.isAdopted)
        #expect((0..<4).allSatisfy { next.shared.sidecar($0).isNotAdopted })
        #expect(next.sum(.dirtyLines) == 0)
        #expect(next.shared.place(ofLine: 16, core: 1)?.state.dirty == 0xff)
        #expect((0..<4).filter { next.shared.sidecar($0).isNotAdopted } == [0, 2, 3])
        #expect(next.sum(.dirtyLines) == 2 && next.sum(.occupiedLines) == 2)
        next.shared.checkInvariants(quiescent: true)
    }

    @Test func theEndOfAdoptionCompletesCountersAndDirtyMap() throws {
        let bench = try Self.filled()
        let next = Successor(bench)
        _ = next.shared.place(ofLine: 16, core: 1)
        _ = next.shared.finishAdoption()
        #expect(next.shared.isAdopted)
        #expect(next.sum(.dirtyLines) == 8 && next.sum(.occupiedLines) == 8)
        let map = try #require(next.shared.dirtyMap(1))
        #expect((0..<8).allSatisfy { map.contains($0) } && map.next(from: 8) == nil)
        _ = next.shared.finishAdoption()
        #expect(next.sum(.dirtyLines) == 8)
        next.shared.checkInvariants(quiescent: true)
    }

    @Test func aFlushOfTheWholeCoreFindsWhatNobodyAskedFor() throws {
        let bench = try Self.filled()
        let next = Successor(bench)
        var engine = Engine(shared: next.shared, worker: 0, limits: EngineLimits())
        let hasBegun = engine.beginFlush(core: 1)
        #expect(hasBegun && next.shared.isAdopted && next.sum(.dirtyLines) == 8)
    }

    /// The transient bits of a replacement byte would keep readers waiting for ever, and dirty data
    /// from ever being discarded.
    @Test func whatMeantOnlyTheDeadProcessIsCleared() throws {
        let bench = try Self.filled()
        let place = try #require(bench.shared.place(ofLine: 16, core: 1))
        let page = bench.shared.page(place.set)
        page.replacement[place.way] |=
            Replacement.rewritten | Replacement.overwritten | Replacement.staleOnCore
        let next = Successor(bench)
        _ = next.shared.finishAdoption()
        let transient =
            Replacement.rewritten | Replacement.overwritten | Replacement.staleOnCore
        #expect(page.replacement[place.way] & transient == 0)
        #expect(page.replacement[place.way] & Replacement.dirty != 0)
        #expect(next.shared.sidecar(place.set).uses[place.way].isIdle)
    }

    /// A death between any two stores of a line's coming leaves no line, or the whole of it.
    @Test func aLineThatWasComingIsThereByItsStateAlone() throws {
        let bench = try Bench(.writeBack)
        let page = bench.shared.page(0)
        let identity = Identity(core: 1, line: 5, ioClass: 0)
        let fingerprint = SetPageView.fingerprint(core: 1, line: 5)
        let occupied = Replacement.occupied
        for (hasFingerprint, hasByte) in [
            (false, false), (true, false), (false, true), (true, true),
        ] {
            page.setIdentity(7, identity)
            page.fingerprints[7] = hasFingerprint ? fingerprint : 0
            page.replacement[7] = hasByte ? occupied : 0
            let absent = Successor(bench)
            _ = absent.shared.finishAdoption()
            #expect(absent.shared.place(ofLine: 5, core: 1) == nil)
            #expect(page.fingerprints[7] == 0 && page.replacement[7] == 0)
            page.setState(7, LineState(valid: 0x0f, dirty: 0x03, recorded: true))
            page.fingerprints[7] = hasFingerprint ? fingerprint : 0
            page.replacement[7] = hasByte ? occupied : 0
            let present = Successor(bench)
            _ = present.shared.finishAdoption()
            #expect(present.shared.place(ofLine: 5, core: 1)?.way == 7)
            #expect(present.sum(.dirtyLines) == 1)
            present.shared.checkInvariants(quiescent: true)
            page.setState(7, LineState(rawValue: 0))
        }
    }

    /// What the dead process wrote may not have been flushed.
    @Test func theFirstFlushGoesToBothDevices() throws {
        let bench = try Self.filled()
        let next = Successor(bench)
        var engine = Engine(shared: next.shared, worker: 0, limits: EngineLimits())
        #expect(engine.submit(Request(.flush, core: 1)) != nil)
        var kinds: [Command.Kind] = []
        while let command = engine.nextCommand()?.pointee {
            kinds.append(command.kind)
            engine.commandTaken()
            if command.kind != .answer { engine.complete(command.token, result: 0) }
        }
        // The records that the dead process had not written are, too.
        #expect(kinds == [.flushCore, .writeCache, .flushCache, .answer])
        #expect(engine.submit(Request(.flush, core: 1)) != nil)
        #expect(engine.nextCommand()?.pointee.kind == .answer)
    }

    /// It is sent again, refused or never comes: what landed of it must not be read, and go back
    /// (seeds 40000533, 130000198).
    @Test func aWriteThatWasUnderWayIsUndone() throws {
        let bench = try Bench(.writeThrough)
        try bench.write(0, 16, 1)
        bench.finishAll()
        bench.shared.mode = .writeBack
        try bench.write(4, 2, 2)
        bench.finishAll()
        try bench.write(4, 8, 3)
        #expect(bench.wholeState(0)?.dirty == 0xf0 && bench.wholeState(0)?.recorded == 0x30)
        let next = Successor(bench)
        #expect(next.shared.place(ofLine: 0, core: 1)?.state.dirty == 0x30)
        #expect(next.shared.place(ofLine: 0, core: 1)?.state.valid == 0x3f)
        #expect(next.shared.place(ofLine: 1, core: 1)?.state == LineState(valid: 0xf0, dirty: 0))
        _ = next.shared.finishAdoption()
        #expect(next.sum(.dirtyLines) == 1)
        next.shared.checkInvariants(quiescent: false)
    }

    /// Nobody knows yet what is dirty: a discard flushes the core before it drops that
    /// (seed 50000463).
    @Test func aDiscardBeforeTheEndOfAdoptionFlushesTheCore() throws {
        let bench = try Self.filled()
        let next = Successor(bench)
        #expect(next.sum(.dirtyLines) == 0)
        var engine = Engine(shared: next.shared, worker: 0, limits: EngineLimits())
        #expect(engine.submit(Request(.discard, core: 1, startSector: 0, sectorCount: 8)) != nil)
        var kinds: [Command.Kind] = []
        for _ in 0..<20 {
            while let command = engine.nextCommand()?.pointee {
                kinds.append(command.kind)
                engine.commandTaken()
                if command.kind != .answer { engine.complete(command.token, result: 0) }
            }
        }
        #expect(kinds.prefix(2) == [.discardCore, .flushCore])
    }

    @Test func countersOfTheDeadProcessAreKeptAndWhatTheTableHoldsIsCountedAgain() throws {
        let geometry = try Bench(.writeBack).geometry
        let bytes = SharedCache.counterBytes(workerCount: 3)
        let memory = ZeroedMemory(byteCount: bytes)
        let pages = ZeroedMemory(byteCount: SetPageLayout.byteCount)
        let first = SharedCache(
            geometry: geometry, pages: pages.base, workerCount: 3, counters: memory.base)
        first.addCore(1, coreOffset: 0, sectorCount: 1 << 16, canDiscard: true)
        for worker in 0...3 {
            first.counters(worker).add(.readTotal, 1, 10)
            first.counters(worker).add(.dirtyLines, 1, 5)
        }
        first.deallocate()
        // Fewer processors than before.
        let second = SharedCache(
            geometry: geometry, pages: pages.base, workerCount: 1, counters: memory.base)
        second.addCore(1, coreOffset: 0, sectorCount: 1 << 16, canDiscard: true)
        second.keepCounters(
            core: 1, blockCount: SharedCache.counterBlockCount(workerCount: 3))
        #expect(second.sum(.readTotal, core: 1) == 40)
        #expect(second.sum(.dirtyLines, core: 1) == 0)
        second.deallocate()
        pages.deallocate()
        memory.deallocate()
    }

    @Test func manyThreadsAdoptEachSetOnce() async throws {
        let bench = try Self.filled(setCount: 64)
        let next = Successor(bench, workerCount: 4)
        let shared = next.shared
        let ends = await withTaskGroup(of: Bool.self) { group in
            for _ in 0..<4 { group.addTask { shared.finishAdoption() } }
            return await group.reduce(0) { $0 + ($1 ? 1 : 0) }
        }
        // One of them is to wake a worker.
        #expect(ends == 1)
        #expect(next.sum(.dirtyLines) == 8)
        next.shared.checkInvariants(quiescent: true)
    }

    private static func spoil(_ page: SetPageView, _ way: Int, kind: Int) {
        switch kind {
        case 0: page.setState(way, LineState(valid: 0x01, dirty: 0x03, recorded: true))
        case 1: page.setIdentity(way, Identity(core: 9, line: 16, ioClass: 0))
        case 2:
            page.setIdentity(way + 5, page.identity(way))
            page.setState(way + 5, page.state(way))
        case 3: page.setIdentity(way, Identity(core: 1, line: 17 + 16, ioClass: 0))
        default: page.smallHand = 224
        }
    }

    @Test(arguments: 0...4)
    func aPageThatContradictsItselfIsNoticed(kind: Int) throws {
        let bench = try Self.filled()
        let place = try #require(bench.shared.place(ofLine: 16, core: 1))
        Self.spoil(bench.shared.page(place.set), place.way, kind: kind)
        let next = Successor(bench)
        #expect(next.shared.adoptPages() == place.set)
        #expect(!next.shared.isAdopted)
    }

    /// Nothing is served from memory that is no page of this cache.
    @Test func aPageThatContradictsItselfEndsTheProcessThatMeetsIt() async throws {
        await #expect(processExitsWith: .failure) {
            let bench = try AdoptionTests.filled()
            let place = try #require(bench.shared.place(ofLine: 16, core: 1))
            AdoptionTests.spoil(bench.shared.page(place.set), place.way, kind: 0)
            let next = Successor(bench)
            _ = next.shared.finishAdoption()
            _ = next.sum(.dirtyLines)
        }
    }
}
