import CacheFormat
import Testing

@testable import CacheEngine

extension Bench {
    func beginFlush(core: UInt16 = 1) -> Bool { worker(0).engine.beginFlush(core: core) }
    func cancelFlush() { worker(0).engine.cancelFlush(core: 1) }
}

@Suite struct EngineCleaningTests {
    @Test func dirtyLinesGoToTheCoreInItsOrderAndBecomeCleanAfterItsFlush() throws {
        let bench = try Bench(.writeBack)
        for line in [2, 0, 1] as [UInt64] { try bench.write(line * 8, 8, Int(line) + 10) }
        bench.finishAll()
        #expect(bench.beginFlush())
        #expect(bench.take() == ["readCache w1:0+16 c0", "readCache w0:0+8 c16"])
        bench.finish("readCache w0")
        #expect(bench.finish("readCache w1") == ["writeCore 0+24 c0"])
        #expect(bench.finish("writeCore") == ["flushCore"])
        #expect(bench.sum(.dirtyLines) == 3)
        #expect(bench.finish("flushCore") == ["flushEnded 0"])
        #expect(bench.sum(.dirtyLines) == 0)
        #expect((0..<3).allSatisfy { bench.core[$0 * 8] == $0 + 10 })
        #expect(bench.state(0) == LineState(valid: 0xff, dirty: 0))
        #expect(bench.shared.dirtyMap(1)?.next(from: 0) == nil)
        bench.expectQuiet()
    }

    @Test func withoutDirtyLinesAFlushEndsAtOnce() throws {
        let bench = try Bench(.writeThrough)
        try bench.write(0, 8, 1)
        bench.finishAll()
        #expect(bench.beginFlush())
        #expect(bench.take() == ["flushEnded 0"])
        bench.expectQuiet()
    }

    @Test func holesAreReadButNotWritten() throws {
        let bench = try Bench(.writeBack)
        try bench.write(1, 1, 1)
        try bench.write(4, 2, 1)
        bench.finishAll()
        #expect(bench.beginFlush())
        #expect(bench.take() == ["readCache w0:1+5 c1"])
        #expect(bench.finish("readCache") == ["writeCore 1+1 c1", "writeCore 4+2 c4"])
        bench.finishAll()
        #expect(Array(bench.core[0..<8]) == [0, 1, 0, 0, 1, 1, 0, 0])
        bench.expectQuiet()
    }

    @Test func aFlushLeavesOtherCoresAlone() throws {
        let bench = try Bench(.writeBack)
        bench.addCore(2)
        try bench.write(0, 8, 1)
        try bench.write(0, 8, 2, core: 2)
        bench.finishAll()
        #expect(bench.beginFlush(core: 2))
        bench.finishAll()
        #expect(bench.sum(.dirtyLines) == 1)
        #expect(bench.shared.sum(.dirtyLines, core: 2) == 0)
        bench.expectQuiet()
    }

    @Test func aLineWrittenWhileItIsCleanedStaysDirtyAndIsCleanedAgain() throws {
        let bench = try Bench(.writeBack)
        try bench.write(0, 8, 1)
        bench.finishAll()
        #expect(bench.beginFlush())
        bench.take()
        bench.finish("readCache")
        try bench.write(0, 8, 2)
        bench.take()
        bench.finish("writeCache")
        bench.finish("writeCore")
        bench.finish("flushCore")
        #expect(bench.core[0] == 1)
        #expect(bench.sum(.dirtyLines) == 1)
        #expect(bench.take() == ["readCache w0:0+8 c0"])
        #expect(bench.finishAll().last == "flushEnded 0")
        #expect(bench.core[0] == 2 && bench.sum(.dirtyLines) == 0)
        bench.expectQuiet()
    }

    /// From the third pass on new writes are written through: the flush comes to an end.
    @Test func aLineThatIsWrittenAgainAndAgainIsWrittenThroughInTheEnd() throws {
        let bench = try Bench(.writeBack)
        try bench.write(0, 8, 1)
        bench.finishAll()
        #expect(bench.beginFlush())
        bench.take()
        for pass in 1...2 {
            bench.finish("readCache w0:0+8 c0")
            try bench.write(0, 8, 1 + pass)
            #expect(bench.take() == ["writeCache w0:0+8 b0"])
            bench.finish("writeCache")
            bench.finish("writeCore 0+8 c0")
            bench.finish("flushCore")
            bench.take()
        }
        try bench.write(80, 8, 50)
        #expect(bench.take() == ["writeCache w1:0+8 b0", "writeCore 80+8 b0"])
        #expect(bench.finishAll().contains("flushEnded 0"))
        #expect(bench.sum(.dirtyLines) == 0)
        // And not for ever.
        try bench.write(80, 8, 51)
        #expect(bench.take() == ["writeCache w1:0+8 b0"])
        bench.finishAll()
        bench.expectQuiet()
    }

    @Test func aLineBeingWrittenThroughIsWaitedForInAnotherPass() throws {
        let bench = try Bench(.writeBack)
        try bench.write(0, 8, 1)
        bench.finishAll()
        bench.shared.mode = .writeThrough
        try bench.write(0, 4, 2)
        bench.take()
        #expect(bench.beginFlush())
        #expect(bench.finishAll().last == "flushEnded 0")
        #expect(bench.sum(.dirtyLines) == 0)
        #expect(Array(bench.core[0..<8]) == [2, 2, 2, 2, 1, 1, 1, 1])
        bench.expectQuiet()
    }

    @Test(arguments: ["readCache", "writeCore", "flushCore"])
    func aDeviceThatFailsEndsTheFlushAndLeavesTheDirtyDirty(step: String) throws {
        let bench = try Bench(.writeBack)
        try bench.write(0, 8, 1)
        bench.finishAll()
        #expect(bench.beginFlush())
        bench.take()
        for before in ["readCache", "writeCore", "flushCore"].prefix(while: { $0 != step }) {
            bench.finish(before)
        }
        #expect(bench.finish(step, error: -5) == ["flushEnded -5"])
        #expect(bench.state(0) == LineState(valid: 0xff, dirty: 0xff))
        #expect(bench.shared.dirtyMap(1)?.next(from: 0) == 0)
        bench.expectQuiet()
        #expect(bench.beginFlush())
        #expect(bench.finishAll().last == "flushEnded 0")
        #expect(bench.sum(.dirtyLines) == 0)
    }

    @Test func aCancelledFlushEndsWithItsLastBatch() throws {
        var limits = EngineLimits()
        limits.cleaningBatches = 1
        limits.cleaningBatchBytes = 16 * 4096
        let bench = try Bench(.writeBack, limits: limits)
        for line in UInt64(0)..<64 { try bench.write(line * 8, 8, 1) }
        bench.finishAll()
        #expect(bench.beginFlush())
        bench.take()
        bench.cancelFlush()
        #expect(bench.finishAll().last == "flushEnded -125")
        #expect(bench.sum(.dirtyLines) == 48)
        bench.expectQuiet()
    }

    @Test func thereIsAnEndToFlushesUnderWayAndNoneOfAnUnknownCore() throws {
        let bench = try Bench(.writeBack)
        #expect(!bench.beginFlush(core: 9))
        for _ in 0..<64 { #expect(bench.beginFlush()) }
        #expect(!bench.beginFlush())
        #expect(bench.finishAll() == [String](repeating: "flushEnded 0", count: 64))
        #expect(bench.beginFlush())
        bench.finishAll()
        bench.expectQuiet()
    }

    // MARK: - Urgent

    @Test func aSetWithoutACleanWayIsCleanedUntilItHasSome() throws {
        let bench = try Bench(.writeBack)
        for line in UInt64(0)..<224 { try bench.write(line * 8, 8, Int(line)) }
        bench.finishAll()
        try bench.write(300 * 8, 8, 300)
        let commands = bench.finishAll()
        #expect(commands.contains("flushCore"))
        #expect(bench.sum(.dirtyLines) == 168)
        #expect((0..<224).filter { bench.core[$0 * 8] == $0 && $0 > 0 }.count >= 55)
        // The ways are given away when it is durable that they are clean.
        try bench.flush()
        bench.finishAll()
        try bench.write(301 * 8, 8, 301)
        #expect(bench.take() == ["writeCache w0:0+8 b0"])
        bench.finishAll()
        bench.expectQuiet()
    }

    /// Ways that are clean, but not durably so: a write that finds no other asks for that.
    @Test func cleanWaysThatOnlyWaitForTheJournalAreNotWaitedForInVain() throws {
        let bench = try Bench(.writeBack)
        for line in UInt64(0)..<224 { try bench.write(line * 8, 8, Int(line)) }
        bench.finishAll()
        #expect(bench.beginFlush())
        bench.finishAll()
        #expect(bench.sum(.dirtyLines) == 0)
        try bench.write(300 * 8, 8, 300)
        let commands = bench.finishAll()
        #expect(commands.first == "writeCore 2400+8 b0")
        #expect(commands.contains("flushCache"))
        try bench.write(301 * 8, 8, 301)
        #expect(bench.take() == ["writeCache w0:0+8 b0"])
        bench.finishAll()
        bench.expectQuiet()
    }

    @Test func whileASetIsCleanedUrgentlyItIsNotAskedForAgain() throws {
        let bench = try Bench(.writeBack)
        for line in UInt64(0)..<224 { try bench.write(line * 8, 8, 1) }
        bench.finishAll()
        try bench.write(300 * 8, 8, 2)
        #expect(bench.take().contains { $0.hasPrefix("readCache") })
        try bench.write(301 * 8, 8, 2)
        #expect(bench.take() == ["writeCore 2408+8 b0"])
        bench.finishAll()
        bench.expectQuiet()
    }

    @Test func aReadThatFindsNoWayHasTheSetCleaned() throws {
        let bench = try Bench(.writeBack)
        for line in UInt64(0)..<224 { try bench.write(line * 8, 8, 1) }
        bench.finishAll()
        try bench.read(300 * 8, 8)
        let commands = bench.take()
        #expect(commands.first == "readCore 2400+8 b0")
        // And what the journal says of the set made durable.
        #expect(
            commands.dropFirst().allSatisfy {
                $0.hasPrefix("readCache") || $0.hasPrefix("journal")
            })
        bench.finishAll()
        #expect(bench.sum(.dirtyLines) == 168)
        bench.expectQuiet()
    }

    // MARK: - Cores that are not there

    /// A loaded cache may have dirty lines of a core whose device is missing.
    @Test func urgentCleaningLeavesCoresWithoutADeviceAlone() throws {
        let bench = try Bench(.writeBack)
        bench.addCore(2)
        for line in UInt64(0)..<224 { try bench.write(line * 8, 8, 2, core: line % 4 == 3 ? 1 : 2) }
        bench.finishAll()
        bench.shared.setHasDevice(2, false)
        try bench.write(4096, 8, 3)
        let commands = bench.finishAll()
        #expect(commands.contains { $0.hasPrefix("writeCore") })
        #expect(!commands.contains { $0.contains("[2]") }, "\(commands)")
        #expect(bench.shared.sum(.dirtyLines, core: 2) == 168)
        bench.expectQuiet()
    }

    @Test func aSetWithNothingToCleanIsNotUrgentForEver() throws {
        let bench = try Bench(.writeBack)
        bench.addCore(2)
        for line in UInt64(0)..<224 { try bench.write(line * 8, 8, 2, core: 2) }
        bench.finishAll()
        bench.shared.setHasDevice(2, false)
        try bench.write(4096, 8, 3)
        let first = bench.finishAll()
        #expect(first.filter { $0.hasPrefix("write") } == ["writeCore 4096+8 b0"])
        #expect(!first.contains { $0.hasPrefix("readCache") })
        bench.expectQuiet()
        bench.shared.setHasDevice(2, true)
        try bench.write(4096, 8, 4)
        #expect(bench.finishAll().contains { $0.hasPrefix("writeCore[2]") })
        bench.expectQuiet()
    }
}
