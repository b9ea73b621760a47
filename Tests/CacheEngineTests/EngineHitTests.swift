import CacheFormat
import Testing

@testable import CacheEngine

/// Requests inside one line that is there: they take a way of their own through the engine.
@Suite struct EngineHitTests {
    /// A line of which every sector has a content of its own: its number.
    private static func bench(lineBytes: UInt32 = 4096) throws -> Bench {
        let bench = try Bench(.writeThrough, lineBytes: lineBytes)
        for sector in UInt64(0)..<UInt64(lineBytes / 512) {
            try bench.write(32 + sector, 1, Int(sector))
            bench.finishAll()
        }
        bench.shared.mode = .writeBack
        return bench
    }

    @Test(arguments: [4096, 8192] as [UInt32])
    func everyRangeOfALineIsReadFromItsOwnSectors(lineBytes: UInt32) throws {
        let bench = try Self.bench(lineBytes: lineBytes)
        let sectors = UInt64(lineBytes / 512)
        for start in 0..<sectors {
            for count in 1...sectors - start {
                let slot = try bench.read(32 + start, UInt32(count))
                #expect(bench.take() == ["readCache w0:\(start)+\(count) b0"])
                #expect(bench.finish("readCache") == ["answer 0"])
                #expect(bench.content(slot) == (start..<start + count).map(Int.init))
            }
        }
        bench.expectQuiet()
    }

    @Test(arguments: [4096, 8192] as [UInt32])
    func everyRangeOfALineIsWrittenWhereItBelongsAndBecomesDirtyAlone(lineBytes: UInt32) throws {
        let sectors = UInt64(lineBytes / 512)
        let all = UInt16.max >> UInt16(16 - sectors)
        for start in 0..<sectors {
            for count in 1...sectors - start {
                let bench = try Self.bench(lineBytes: lineBytes)
                try bench.write(32 + start, UInt32(count), 99)
                let written = (0..<sectors).filter { $0 >= start && $0 < start + count }
                let dirty = written.reduce(UInt16(0)) { $0 | 1 << UInt16($1) }
                let line = 32 / sectors
                #expect(bench.state(line) == LineState(valid: all, dirty: dirty))
                #expect(bench.take() == ["writeCache w0:\(start)+\(count) b0"])
                #expect(bench.finish("writeCache") == ["answer 0"])
                #expect(bench.state(line) == LineState(valid: all, dirty: dirty))
                let slot = try bench.read(32, UInt32(sectors))
                bench.finishAll()
                #expect(
                    bench.content(slot) == (0..<sectors).map { written.contains($0) ? 99 : Int($0) }
                )
                bench.expectQuiet()
            }
        }
    }

    @Test func aHitNeedsNoPart() throws {
        var limits = EngineLimits()
        limits.partSlots = 1
        let bench = try Bench(.writeBack, limits: limits)
        try bench.write(0, 8, 7)
        bench.finishAll()
        try bench.read(128, 8)
        bench.take()
        #expect(bench.submit(Request(.read, core: 1, startSector: 256, sectorCount: 8)) == nil)
        let slot = try bench.read(0, 8)
        bench.take()
        bench.finish("readCache")
        #expect(bench.content(slot) == [Int](repeating: 7, count: 8))
        bench.finishAll()
        bench.expectQuiet()
    }

    @Test func theEndOfTheCoreIsTheEnd() throws {
        let bench = try Bench(.writeBack)
        bench.addCore(2, sectorCount: 12)
        try bench.write(8, 4, 7, core: 2)
        bench.finishAll()
        try bench.read(8, 4, core: 2)
        #expect(bench.take() == ["readCache w0:0+4 b0"])
        bench.finishAll()
        try bench.read(8, 5, core: 2)
        #expect(bench.take() == ["answer -5"])
        bench.expectQuiet()
    }

    @Test func aWayThatIsReadIsNotGivenToAnotherLine() throws {
        let bench = try Bench(.writeBack)
        try bench.fillSet()
        let slot = try bench.read(1000 * 8, 8)
        bench.take()
        try bench.discard(1000 * 8, 8)
        bench.take()
        bench.finish("discardCore")
        #expect(bench.state(1000) == nil)
        try bench.write(0, 8, 5)
        bench.take()
        #expect(bench.way(0) != 0)
        bench.finish("writeCache")
        bench.finish("readCache")
        #expect(bench.content(slot) == [Int](repeating: 1000, count: 8))
        bench.finishAll()
        bench.expectQuiet()
    }

    @Test func frozenAHitIsWrittenThrough() throws {
        let bench = try Self.bench()
        bench.shared.freezeDirty()
        try bench.write(32, 8, 5)
        #expect(bench.take() == ["writeCache w0:0+8 b0", "writeCore 32+8 b0"])
        bench.finishAll()
        #expect(bench.state(4) == LineState(valid: 0xff, dirty: 0))
        bench.shared.thawDirty()
        try bench.write(32, 8, 6)
        #expect(bench.take() == ["writeCache w0:0+8 b0"])
        bench.finishAll()
        bench.expectQuiet()
    }

    /// Nothing but the data is to be made durable: no commit is needed.
    @Test func forceUnitAccessReachesTheCacheOfALineThatIsCommitted() throws {
        let bench = try Self.bench()
        try bench.write(32, 8, 4, durable: true)
        bench.finishAll()
        try bench.write(33, 2, 5, durable: true)
        #expect(bench.take() == ["journal 2 FUA"])
        #expect(bench.finish("journal") == ["writeCache w0:1+2 b0 FUA"])
        #expect(bench.finish("writeCache") == ["answer 0"])
        try bench.write(33, 2, 6, durable: true)
        #expect(bench.take() == ["writeCache w0:1+2 b0 FUA"])
        #expect(bench.finish("writeCache") == ["answer 0"])
        bench.expectQuiet()
    }

    @Test func aWriteThatFailsLeavesTheLineDirtyAndIsFlushedAllTheSame() throws {
        let bench = try Self.bench()
        try bench.flush()
        bench.finishAll()
        try bench.write(32, 8, 5)
        bench.take()
        #expect(bench.finish("writeCache", error: -28) == ["answer -28"])
        #expect(bench.state(4) == LineState(valid: 0xff, dirty: 0xff))
        #expect(bench.sum(.cacheWriteErrors) == 1)
        try bench.flush()
        #expect(bench.take() == ["flushCache"])
        bench.finishAll()
        bench.expectQuiet()
    }

    @Test func ifCacheAndCoreFailTheReadFailsWithTheErrorOfTheCore() throws {
        let bench = try Self.bench()
        try bench.read(33, 2)
        bench.take()
        #expect(bench.finish("readCache", error: -5) == ["readCore 33+2 b0"])
        #expect(bench.finish("readCore", error: -61) == ["answer -61"])
        #expect(bench.sum(.cacheReadErrors) == 1 && bench.sum(.coreReadErrors) == 1)
        #expect(bench.state(4) == LineState(valid: 0xff, dirty: 0))
        bench.expectQuiet()
    }

    @Test func ofALineWithDirtySectorsTheCleanOnesAreStillReadFromTheCore() throws {
        let bench = try Self.bench()
        try bench.write(32, 2, 50)
        bench.finishAll()
        let slot = try bench.read(34, 2)
        bench.take()
        #expect(bench.finish("readCache", error: -5) == ["readCore 34+2 b0"])
        bench.finish("readCore")
        #expect(bench.content(slot) == [2, 3])
        try bench.read(33, 2)
        bench.take()
        #expect(bench.finish("readCache", error: -5) == ["answer -5"])
        bench.expectQuiet()
    }

    @Test func hitsAreCountedAsWhatTheyAre() throws {
        let bench = try Self.bench()
        bench.shared.resetCounters(core: 1)
        try bench.read(32, 8)
        try bench.write(33, 1, 5)
        bench.finishAll()
        #expect(bench.sum(.readTotal) == 1 && bench.sum(.writeTotal) == 1)
        #expect(bench.sum(.readFullMisses) == 0 && bench.sum(.readPartialMisses) == 0)
        #expect(bench.sum(.writeFullMisses) == 0 && bench.sum(.writePartialMisses) == 0)
        #expect(bench.sum(.exportedReadBytes) == 4096 && bench.sum(.cacheReadBytes) == 4096)
        #expect(bench.sum(.exportedWriteBytes) == 512 && bench.sum(.cacheWriteBytes) == 512)
        #expect(bench.sum(.coreReadBytes) == 0 && bench.sum(.coreWriteBytes) == 0)
        #expect(bench.sum(.dirtyLines) == 1 && bench.sum(.occupiedLines) == 1)
        bench.expectQuiet()
    }

    @Test func aCompletionThatComesTwiceTraps() async {
        await #expect(processExitsWith: .failure) {
            let bench = try EngineHitTests.bench()
            try bench.read(32, 8)
            bench.take()
            let token = bench.worker(0).open[0].token
            bench.finish("readCache")
            bench.worker(0).engine.complete(token, result: 4096)
        }
    }
}

/// Waiting for the writes that are under way, which may not know yet of what has just been set.
@Suite struct EngineSettlingTests {
    private static func frozen() throws -> Bench {
        let bench = try Bench(.writeBack)
        try bench.write(0, 8, 1)
        bench.finishAll()
        return bench
    }

    private static func settle(_ bench: Bench) -> [String] {
        bench.shared.freezeDirty()
        bench.worker(0).engine.beginSettling()
        return bench.take()
    }

    @Test func withoutAWriteItIsToldAtOnceAndOnce() throws {
        let bench = try Self.frozen()
        #expect(Self.settle(bench) == ["writesSettled"])
        #expect(bench.take() == [])
        // It may be asked again.
        #expect(Self.settle(bench) == ["writesSettled"])
        bench.expectQuiet()
    }

    // Into a line that is there, and into one that is not.
    @Test(arguments: [0, 800] as [UInt64])
    func aWriteBackWriteIsWaitedFor(sector: UInt64) throws {
        let bench = try Self.frozen()
        try bench.write(sector, 8, 2)
        bench.take()
        #expect(Self.settle(bench) == [])
        #expect(bench.finish("writeCache") == ["answer 0", "writesSettled"])
        bench.expectQuiet()
    }

    @Test func aWriteThatFailsIsNotWaitedForAnyLonger() throws {
        let bench = try Self.frozen()
        try bench.write(800, 8, 2)
        bench.take()
        #expect(Self.settle(bench) == [])
        #expect(bench.finish("writeCache", error: -5) == ["answer -5", "writesSettled"])
        bench.expectQuiet()
    }

    @Test func aWriteThatWaitsForItsLineIsWaitedFor() throws {
        let bench = try Self.frozen()
        bench.shared.mode = .writeThrough
        try bench.write(0, 8, 2)
        bench.take()
        bench.shared.mode = .writeBack
        try bench.write(0, 8, 3)
        #expect(bench.take() == [])
        #expect(Self.settle(bench) == [])
        bench.finish("writeCache")
        // Begun in write-back it ends in write-back.
        #expect(bench.finish("writeCore") == ["answer 0", "writeCache w0:0+8 b0"])
        #expect(bench.finish("writeCache") == ["answer 0", "writesSettled"])
        #expect(bench.state(0)?.dirty == 0xff)
        bench.expectQuiet()
    }

    @Test func readsAndFlushesAreNotWaitedFor() throws {
        let bench = try Self.frozen()
        try bench.read(0, 8)
        try bench.read(800, 8)
        try bench.flush()
        bench.take()
        #expect(Self.settle(bench) == ["writesSettled"])
        bench.finishAll()
        bench.expectQuiet()
    }

    @Test func writesThroughAreWaitedFor() throws {
        let bench = try Self.frozen()
        bench.shared.mode = .passThrough
        try bench.write(1600, 8, 2)
        bench.take()
        #expect(Self.settle(bench) == [])
        #expect(bench.finish("writeCore") == ["answer 0", "writesSettled"])
        bench.expectQuiet()
    }

    /// Otherwise a load that never rests would be waited for forever.
    @Test func writesThatBeginLaterAreNotWaitedFor() throws {
        let bench = try Self.frozen()
        try bench.write(0, 8, 2)
        bench.take()
        bench.worker(0).engine.beginSettling()
        try bench.write(8, 8, 3)
        #expect(bench.take() == ["writeCache w1:0+8 b0"])
        #expect(bench.finish("writeCache w0") == ["answer 0", "writesSettled"])
        bench.finishAll()
        bench.expectQuiet()
    }

    @Test func askingTwiceAtATimeTraps() async {
        await #expect(processExitsWith: .failure) {
            let bench = try EngineSettlingTests.frozen()
            try bench.write(0, 8, 2)
            bench.take()
            bench.worker(0).engine.beginSettling()
            bench.worker(0).engine.beginSettling()
        }
    }
}
