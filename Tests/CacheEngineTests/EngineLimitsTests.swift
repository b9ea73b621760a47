import CacheFormat
import Testing

@testable import CacheEngine

/// What the engine refuses, who wakes whom, and what is counted.
@Suite struct EngineLimitsTests {
    @Test func whatLiesOutsideTheCoreIsAnsweredWithAnError() throws {
        let bench = try Bench(.writeBack)
        let end = UInt64(1 << 16)
        for request in [
            Request(.read, core: 1, startSector: end - 4, sectorCount: 8),
            Request(.write, core: 1, startSector: end, sectorCount: 1),
            Request(.discard, core: 1, startSector: 0, sectorCount: 1 << 16 + 1),
            Request(.read, core: 1, startSector: 0, sectorCount: 0),
            Request(.read, core: 1, startSector: .max, sectorCount: 8),
            Request(.read, core: 7, startSector: 0, sectorCount: 8),
            Request(.flush, core: 7), Request(.flush, core: 4095),
        ] {
            bench.submit(request)
            #expect(bench.take() == ["answer -5"], "\(request)")
        }
        try bench.read(end - 8, 8)
        #expect(bench.take() == ["readCore 65528+8 b0"])
        bench.finishAll()
        bench.expectQuiet()
    }

    @Test func aCoreIdOfMoreThan12BitsTraps() async {
        await #expect(processExitsWith: .failure) { _ = Request(.flush, core: 4096) }
    }

    @Test func withoutASlotTheAnswerIsNotNow() throws {
        var limits = EngineLimits()
        limits.requestSlots = 2
        let bench = try Bench(.writeBack, limits: limits)
        try bench.write(0, 8, 1)
        try bench.write(80, 8, 1)
        let third = Request(.write, core: 1, startSector: 160, sectorCount: 8)
        #expect(bench.submit(third) == nil)
        bench.take()
        #expect(bench.submit(third) == nil)
        bench.finish("writeCache")
        #expect(bench.submit(third) != nil)
        bench.finishAll()
        bench.expectQuiet()
    }

    @Test func withoutAPartForEachExtentTheAnswerIsNotNow() throws {
        var limits = EngineLimits()
        limits.partSlots = 3
        let bench = try Bench(.writeBack, limits: limits)
        let four = Request(.read, core: 1, startSector: 100, sectorCount: 128 * 3)
        #expect(bench.submit(four) == nil)
        try bench.read(100, 128 * 2)
        #expect(bench.submit(Request(.read, core: 1, startSector: 0, sectorCount: 1)) == nil)
        bench.finishAll()
        bench.expectQuiet()
    }

    @Test func aSlotIsGivenAwayOnlyWhenItsAnswerWasTaken() throws {
        var limits = EngineLimits()
        limits.requestSlots = 1
        let bench = try Bench(.writeBack, limits: limits)
        try bench.flush()
        #expect(bench.submit(Request(.flush, core: 1)) == nil)
        bench.take()
        #expect(bench.submit(Request(.flush, core: 1)) != nil)
        bench.take()
        bench.expectQuiet()
    }

    @Test func aCompletionThatComesTwiceTraps() async {
        await #expect(processExitsWith: .failure) {
            let bench = try Bench(.writeBack)
            try bench.write(0, 8, 1)
            bench.take()
            let token = bench.worker(0).open[0].token
            bench.finish("writeCache")
            bench.worker(0).engine.complete(token, result: 4096)
        }
    }

    @Test func tokensLeaveTheTopByteToTheRunner() throws {
        let token = Token(.cleaning, slot: 0xff_ffff, generation: 0xff_ffff, isCore: true)
        #expect(token.withChain.rawValue >> 56 == 0)
        #expect(token.slot == 0xff_ffff && token.generation == 0xff_ffff)
        #expect(token.isCore && token.kind == .cleaning)
        #expect(!token.carriesChain && token.withChain.carriesChain)
        let other = Token(.part, slot: 3, generation: 7, isCore: false).withChain
        #expect(other.slot == 3 && other.generation == 7 && !other.isCore && other.kind == .part)
    }

    /// 40 requests of 512 KiB over lines that have every other sector: each core read that ends
    /// brings 512 commands about, and all of them end in one turn.
    @Test func completionsMayLeadToAnyNumberOfCommands() throws {
        let bench = try Bench(.writeThrough, setCount: 40)
        let requests = UInt64(0)..<40
        for sector in stride(from: UInt64(0), to: 40 * 1024, by: 2) {
            try bench.read(sector, 1)
            bench.finishAll()
        }
        let slots = try requests.map { try bench.read($0 * 1024, 1024) }
        bench.take()
        bench.completeOpen()
        #expect(bench.worker(0).engine.commands.count > 16384)
        bench.finishAll()
        #expect(slots.allSatisfy { bench.result($0) == 0 })
        bench.expectQuiet()
    }

    // MARK: - Workers

    @Test func aWorkerThatWaitsIsWokenByTheOneThatReleases() throws {
        let bench = try Bench(.writeThrough, workerCount: 2)
        try bench.write(0, 8, 1, worker: 1)
        bench.take(worker: 1)
        try bench.write(0, 8, 2)
        #expect(bench.take() == [])
        bench.finish("writeCache", worker: 1)
        #expect(bench.finish("writeCore", worker: 1) == ["answer 0", "wakeWorker 0 set 0"])
        bench.worker(0).engine.setReleased(0)
        #expect(bench.take() == ["writeCache w0:0+8 b0", "writeCore 0+8 b0"])
        bench.finishAll()
        #expect(bench.core[0] == 2)
        bench.expectQuiet()
    }

    @Test func whoWaitsForOneSetIsNotStartedByAnother() throws {
        let bench = try Bench(.writeThrough, setCount: 2)
        try bench.write(0, 8, 1)
        bench.take()
        try bench.write(0, 8, 2)
        try bench.write(128, 8, 3)
        bench.take()
        bench.finish("writeCache s1w0")
        #expect(bench.finish("writeCore 128+8") == ["answer 0"])
        bench.finish("writeCache s0w0")
        #expect(bench.finish("writeCore 0+8").count == 3)
        bench.finishAll()
        bench.expectQuiet()
    }

    @Test func whoWaitsIsServedInTheOrderItCame() throws {
        let bench = try Bench(.writeThrough)
        let slots = try (1...5).map { try bench.write(0, 8, $0) }
        bench.take()
        for (index, slot) in slots.enumerated() {
            #expect(bench.result(slot) == nil)
            bench.finish("writeCache")
            bench.finish("writeCore")
            #expect(bench.result(slot) == 0)
            #expect(bench.core[0] == index + 1)
        }
        bench.expectQuiet()
    }

    @Test func twoWorkersSeeOneCache() throws {
        let bench = try Bench(.writeBack, workerCount: 2)
        try bench.write(0, 8, 5, worker: 1)
        bench.finishAll(worker: 1)
        let slot = try bench.read(0, 8)
        #expect(bench.take() == ["readCache w0:0+8 b0"])
        bench.finishAll()
        #expect(bench.content(slot) == [Int](repeating: 5, count: 8))
        bench.expectQuiet()
    }
}

/// The rows of the statistics: requests are counted once, as Open CAS counts them.
@Suite struct EngineStatisticsTests {
    private static func row(_ bench: Bench, _ counters: [Counter]) -> [UInt64] {
        counters.map { bench.sum($0) }
    }

    private static let reads: [Counter] = [
        .readTotal, .readFullMisses, .readPartialMisses, .readDeferred, .passThroughReads,
    ]
    private static let writes: [Counter] = [
        .writeTotal, .writeFullMisses, .writePartialMisses, .writeDeferred, .passThroughWrites,
    ]

    @Test func aReadIsAFullMissAPartialMissOrAHit() throws {
        let bench = try Bench(.writeBack)
        try bench.read(0, 16)
        bench.finishAll()
        #expect(Self.row(bench, Self.reads) == [1, 1, 0, 0, 0])
        try bench.read(8, 16)
        bench.finishAll()
        #expect(Self.row(bench, Self.reads) == [2, 1, 1, 0, 0])
        try bench.read(0, 24)
        bench.finishAll()
        #expect(Self.row(bench, Self.reads) == [3, 1, 1, 0, 0])
    }

    @Test func aRequestOverManyExtentsIsOneRequest() throws {
        let bench = try Bench(.writeBack)
        try bench.write(0, 512, 1)
        bench.finishAll()
        #expect(Self.row(bench, Self.writes) == [1, 1, 0, 0, 0])
        // A hit in three extents and a miss in the fourth: partial.
        try bench.read(128, 512)
        bench.finishAll()
        #expect(Self.row(bench, Self.reads) == [1, 0, 1, 0, 0])
    }

    @Test(arguments: [EngineMode.writeBack, .writeThrough])
    func aWriteIsAFullMissAPartialMissOrAHit(mode: EngineMode) throws {
        let bench = try Bench(mode)
        try bench.write(0, 16, 1)
        bench.finishAll()
        #expect(Self.row(bench, Self.writes) == [1, 1, 0, 0, 0])
        try bench.write(8, 16, 1)
        bench.finishAll()
        #expect(Self.row(bench, Self.writes) == [2, 1, 1, 0, 0])
        try bench.write(0, 24, 1)
        bench.finishAll()
        #expect(Self.row(bench, Self.writes) == [3, 1, 1, 0, 0])
    }

    @Test func passThroughIsCountedForItself() throws {
        let bench = try Bench(.passThrough)
        try bench.write(0, 8, 1)
        try bench.read(80, 8)
        bench.finishAll()
        #expect(Self.row(bench, Self.writes) == [0, 0, 0, 0, 1])
        #expect(Self.row(bench, Self.reads) == [0, 0, 0, 0, 1])
    }

    @Test func whatFindsNoWayIsCountedAsPassThrough() throws {
        let bench = try Bench(.writeBack)
        for line in UInt64(0)..<224 { try bench.write(line * 8, 8, 1) }
        bench.finishAll()
        bench.shared.resetCounters(core: 1)
        try bench.write(300 * 8, 8, 1)
        try bench.read(301 * 8, 8)
        bench.finishAll()
        #expect(Self.row(bench, Self.writes) == [0, 0, 0, 0, 1])
        #expect(Self.row(bench, Self.reads) == [0, 0, 0, 0, 1])
    }

    @Test func flushAndDiscardAreNoReadsOrWrites() throws {
        let bench = try Bench(.writeBack)
        try bench.flush()
        try bench.discard(0, 8)
        bench.finishAll()
        #expect(Self.row(bench, Self.reads) == [0, 0, 0, 0, 0])
        #expect(Self.row(bench, Self.writes) == [0, 0, 0, 0, 0])
    }

    private static let bytes: [Counter] = [
        .exportedReadBytes, .exportedWriteBytes, .coreReadBytes, .coreWriteBytes,
        .cacheReadBytes, .cacheWriteBytes, .cleanerCacheReadBytes, .cleanerCoreWriteBytes,
    ]

    @Test func bytesAreCountedWhereTheyMove() throws {
        let bench = try Bench(.writeBack)
        try bench.write(0, 8, 1)
        bench.finishAll()
        #expect(Self.row(bench, Self.bytes) == [0, 4096, 0, 0, 0, 4096, 0, 0])
        try bench.read(0, 16)
        bench.finishAll()
        // 8 sectors from the cache, 8 from the core and on into the cache.
        #expect(Self.row(bench, Self.bytes) == [8192, 4096, 4096, 0, 4096, 8192, 0, 0])
        #expect(bench.beginFlush())
        bench.finishAll()
        #expect(
            Self.row(bench, Self.bytes) == [8192, 4096, 4096, 0, 4096, 8192, 4096, 4096])
        #expect(bench.sum(.cleanerRequests) == 1)
        bench.shared.mode = .writeThrough
        try bench.write(0, 1, 1)
        bench.finishAll()
        #expect(
            Self.row(bench, Self.bytes) == [8192, 4608, 4096, 512, 4096, 8704, 4096, 4096])
    }

    @Test func occupiedAndDirtyLinesAreWhatIsThere() throws {
        let bench = try Bench(.writeBack)
        try bench.write(0, 24, 1)
        try bench.read(80, 16)
        bench.finishAll()
        #expect(Self.row(bench, [.occupiedLines, .dirtyLines]) == [5, 3])
        try bench.discard(0, 8)
        bench.finishAll()
        #expect(Self.row(bench, [.occupiedLines, .dirtyLines]) == [4, 2])
        #expect(bench.beginFlush())
        bench.finishAll()
        #expect(Self.row(bench, [.occupiedLines, .dirtyLines]) == [4, 0])
    }
}
