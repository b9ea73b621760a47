import CacheEngine
import CacheFormat
import CacheRuntime
import Testing

/// Set pages as the product's engine leaves them, stored and loaded again.
@Suite(.serialized) struct SetPageStoreTests {
    private final class Fixture {
        let cacheFile = TemporaryFile(byteCount: 44 << 20)
        let coreFile = TemporaryFile(byteCount: 32 << 20)
        let run: LoadRun
        let store: CacheStore

        init() throws {
            var options = LoadRun.Options(cachePath: cacheFile.path, corePath: coreFile.path)
            options.mode = .writeBack
            run = try LoadRun(options, workerCount: 1)
            store = try CacheStore.format(
                run.cache, cacheID: 1, lineBytes: 4096, session: 1,
                configuration: Configuration(mode: .writeBack))
            store.makeEmptyPages(in: run.shared.pageView(0).base)
        }

        /// Random reads and writes, then a clean stop.
        func workAndStop(seed: UInt64) throws {
            goOn()
            var pattern = LoadPattern()
            pattern.sectorCount = (32 << 20) / 512
            pattern.readPercent = 40
            pattern.requestCount = 2000
            pattern.seed = seed
            _ = try run.run([pattern])
            try store.markClean(store.storeSetPages(run.shared), dirtyLineCount: 0)
        }

        /// A stored page is as on the device; here the cache goes on without a load.
        func goOn() {
            for set in 0..<UInt32(store.geometry.setCount) {
                let page = run.shared.pageView(set)
                for way in 0..<SetPageLayout.ways {
                    let state = page.state(way)
                    page.setState(
                        way, LineState(valid: state.valid, dirty: state.dirty, recorded: true))
                }
            }
        }

        var pageBytes: [UInt8] {
            let count = Int(store.geometry.setCount) * 4096
            return SetPageStoreTests.comparable(
                Array(UnsafeRawBufferPointer(start: run.shared.pageView(0).base, count: count)))
        }
    }

    /// Without what is for memory only (the upper halves of states, transient bits, the oldest
    /// record), and without checksums, which a page in memory does not have.
    private static func comparable(_ pages: [UInt8]) -> [UInt8] {
        var bytes = pages
        func clear(_ from: Int, _ count: Int) {
            bytes.replaceSubrange(from..<from + count, with: repeatElement(0, count: count))
        }
        for page in stride(from: 0, to: bytes.count, by: 4096) {
            clear(page + SetPageLayout.checksum.offset, 4)
            clear(page + SetPageLayout.firstBlocks.offset, 16)
            for way in 0..<SetPageLayout.ways {
                bytes[page + SetPageLayout.replacement.offset + way] &= 0x8f
                clear(page + SetPageLayout.entries.offset + way * 16 + 12, 4)
            }
        }
        return bytes
    }

    private func load(_ fixture: Fixture) throws -> [UInt8] {
        let store = try CacheStore.open(fixture.run.cache)
        var pages = [UInt8](repeating: 0, count: Int(store.geometry.setCount) * 4096)
        try pages.withUnsafeMutableBytes { try store.loadSetPages(into: $0.baseAddress!) }
        return Self.comparable(pages)
    }

    @Test func loadedPagesAreTheStoredOnes() throws {
        let fixture = try Fixture()
        for seed in UInt64(1)...3 {
            try fixture.workAndStop(seed: seed)
            #expect(try load(fixture) == fixture.pageBytes)
        }
    }

    @Test func aFormattedCacheHasEmptyPages() throws {
        let fixture = try Fixture()
        try fixture.store.markClean(
            fixture.store.storeSetPages(fixture.run.shared), dirtyLineCount: 0)
        let loaded = try load(fixture)
        #expect(loaded == fixture.pageBytes)
        #expect(loaded[SetPageLayout.entries.offset..<4096].allSatisfy { $0 == 0 })
    }

    @Test func onlyChangedPagesAreWrittenAgain() throws {
        let fixture = try Fixture()
        try fixture.workAndStop(seed: 1)
        let before = (0..<UInt32(fixture.store.geometry.setCount)).map {
            fixture.run.shared.pageView($0).sequence
        }
        // The first pages are those of the formatting.
        #expect(before.allSatisfy { $0 == 2 })
        fixture.goOn()
        var pattern = LoadPattern()
        pattern.sectorCount = 8 * 16
        pattern.readPercent = 0
        pattern.requestCount = 100
        pattern.depth = 4
        _ = try fixture.run.run([pattern])
        try fixture.store.markClean(
            fixture.store.storeSetPages(fixture.run.shared), dirtyLineCount: 0)
        let after = (0..<UInt32(fixture.store.geometry.setCount)).map {
            fixture.run.shared.pageView($0).sequence
        }
        // 16 blocks are one extent, hence one set.
        #expect(after.filter { $0 == 3 }.count == 1)
        #expect(after.filter { $0 == 2 }.count == after.count - 1)
        let loaded = try load(fixture)
        #expect(loaded == fixture.pageBytes)
    }

    @Test func anotherEngineTakesThemOver() throws {
        let fixture = try Fixture()
        try fixture.workAndStop(seed: 7)
        var pages = try load(fixture)
        let first = fixture.run.shared
        pages.withUnsafeMutableBytes { bytes in
            let second = SharedCache(
                geometry: fixture.store.geometry, pages: bytes.baseAddress!, workerCount: 1)
            defer { second.deallocate() }
            let sectors = fixture.run.core.limits.sectorCount
            second.addCore(1, coreOffset: 0, sectorCount: sectors, canDiscard: true)
            #expect(second.adoptPages() == nil)
            second.checkInvariants(quiescent: true)
            #expect(first.sum(.dirtyLines, core: 1) > 0)
            #expect(first.sum(.occupiedLines, core: 1) > first.sum(.dirtyLines, core: 1))
            #expect(second.sum(.occupiedLines, core: 1) == first.sum(.occupiedLines, core: 1))
            #expect(second.sum(.dirtyLines, core: 1) == first.sum(.dirtyLines, core: 1))
        }
    }

    @Test func linesThatCannotBeAreAMisfit() throws {
        let fixture = try Fixture()
        try fixture.workAndStop(seed: 7)
        var pages = try load(fixture)
        pages.withUnsafeMutableBytes { bytes in
            let second = SharedCache(
                geometry: fixture.store.geometry, pages: bytes.baseAddress!, workerCount: 1)
            defer { second.deallocate() }
            // A core that ends before its lines do.
            second.addCore(1, coreOffset: 0, sectorCount: 8, canDiscard: true)
            #expect(second.adoptPages() != nil)
        }
    }

    @Test func aDamagedPageIsRefusedAndNamed() throws {
        let fixture = try Fixture()
        try fixture.workAndStop(seed: 1)
        let offset = Int(fixture.store.geometry.setPageOffset(set: 5, slot: 0))
        fixture.cacheFile.poke([0xa5], at: offset + 1000)
        do {
            _ = try load(fixture)
            Issue.record("a damaged page was loaded")
        } catch let error as CacheError {
            #expect(error.code == .damaged)
            #expect(error.message.contains("of set 5 "))
        }
    }

    @Test func anOlderPageIsNotTakenForTheNewest() throws {
        let fixture = try Fixture()
        try fixture.workAndStop(seed: 1)
        try fixture.workAndStop(seed: 2)
        let set = UInt64(3)
        #expect(fixture.run.shared.pageView(UInt32(set)).sequence == 3)
        let offset = Int(fixture.store.geometry.setPageOffset(set: set, slot: 1))
        fixture.cacheFile.poke([UInt8](repeating: 0, count: 4096), at: offset)
        do {
            _ = try load(fixture)
            Issue.record("an old page was loaded")
        } catch let error as CacheError {
            #expect(error.code == .damaged)
        }
    }
}
