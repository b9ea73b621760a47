import CacheFormat
import Testing

@testable import CacheEngine

/// FLUSH: what was acknowledged before is durable when it is answered, and nothing is flushed that
/// took no write since its last flush.
@Suite struct EngineFlushTests {
    @Test func withoutAWriteNothingIsFlushed() throws {
        let bench = try Bench(.writeBack)
        try bench.read(0, 8)
        bench.finishAll()
        try bench.flush()
        #expect(bench.take() == ["answer 0"])
        bench.expectQuiet()
    }

    @Test func afterWriteBackTheCacheAloneIsFlushedAndOnce() throws {
        let bench = try Bench(.writeBack)
        try bench.write(0, 8, 1)
        bench.finishAll()
        try bench.flush()
        // A commit: what the journal says of the data, then one flush for both.
        #expect(bench.take() == ["journal 1"])
        #expect(bench.finish("journal") == ["flushCache"])
        #expect(bench.finish("flushCache") == ["answer 0"])
        try bench.flush()
        #expect(bench.take() == ["answer 0"])
        bench.expectQuiet()
    }

    @Test(arguments: [EngineMode.writeThrough, .passThrough])
    func afterDirectWritesTheCoreAloneIsFlushedAndOnce(mode: EngineMode) throws {
        let bench = try Bench(mode)
        try bench.write(0, 8, 1)
        bench.finishAll()
        try bench.flush()
        #expect(bench.take() == ["flushCore"])
        #expect(bench.finish("flushCore") == ["answer 0"])
        try bench.flush()
        #expect(bench.take() == ["answer 0"])
        bench.expectQuiet()
    }

    @Test func aDiscardOfTheCoreIsFlushed() throws {
        let bench = try Bench(.writeBack)
        try bench.discard(0, 8)
        bench.finishAll()
        try bench.flush()
        #expect(bench.take() == ["flushCore"])
        bench.finishAll()
        bench.expectQuiet()
    }

    @Test func bothAreFlushedIfBothTookWritesAndTheAnswerWaitsForBoth() throws {
        let bench = try Bench(.writeBack)
        try bench.write(0, 8, 1)
        bench.finishAll()
        bench.shared.mode = .writeThrough
        try bench.write(80, 8, 2)
        bench.finishAll()
        try bench.flush()
        #expect(bench.take() == ["flushCore", "journal 1"])
        #expect(bench.finish("flushCore") == [])
        #expect(bench.finish("journal") == ["flushCache"])
        #expect(bench.finish("flushCache") == ["answer 0"])
        bench.expectQuiet()
    }

    @Test func aWriteThatIsNotAnsweredIsNotWaitedForButFlushedNextTime() throws {
        let bench = try Bench(.writeBack)
        try bench.write(0, 8, 1)
        bench.take()
        try bench.flush()
        #expect(bench.take() == ["answer 0"])
        bench.finish("writeCache")
        try bench.flush()
        #expect(bench.finishAll() == ["journal 1", "flushCache", "answer 0"])
        bench.expectQuiet()
    }

    @Test func aWriteAnsweredDuringAFlushIsFlushedNextTime() throws {
        let bench = try Bench(.writeBack)
        try bench.write(0, 8, 1)
        bench.finishAll()
        try bench.flush()
        bench.take()
        try bench.write(80, 8, 2)
        bench.take()
        bench.finish("writeCache")
        bench.finish("journal 1")
        bench.finish("flushCache")
        try bench.flush()
        #expect(bench.finishAll() == ["journal 2", "flushCache", "answer 0"])
        bench.expectQuiet()
    }

    @Test func twoFlushesAtTheSameTimeAreOne() throws {
        let bench = try Bench(.writeBack)
        try bench.write(0, 8, 1)
        bench.finishAll()
        let first = try bench.flush()
        let second = try bench.flush()
        #expect(bench.take() == ["journal 1"])
        #expect(bench.finish("journal") == ["flushCache"])
        #expect(bench.finish("flushCache") == ["answer 0", "answer 0"])
        #expect(bench.result(first) == 0 && bench.result(second) == 0)
        bench.expectQuiet()
    }

    @Test func twoFlushesAtTheSameTimeFailTogether() throws {
        let bench = try Bench(.writeBack)
        try bench.write(0, 8, 1)
        bench.finishAll()
        let first = try bench.flush()
        let second = try bench.flush()
        bench.take()
        bench.finish("journal")
        bench.finish("flushCache", error: -28)
        #expect(bench.result(first) == -5 && bench.result(second) == -5)
        bench.expectQuiet()
    }

    @Test func aFlushThatFailedIsNotForgotten() throws {
        let bench = try Bench(.writeBack)
        try bench.write(0, 8, 1)
        bench.finishAll()
        try bench.flush()
        bench.take()
        bench.finish("journal")
        #expect(bench.finish("flushCache", error: -5) == ["answer -5"])
        let slot = try bench.flush()
        #expect(bench.take() == ["flushCache"])
        bench.finishAll()
        #expect(bench.result(slot) == 0)
        #expect(bench.sum(.cacheWriteErrors) == 1)
        bench.expectQuiet()
    }

    /// What stays dirty has its new content in the cache alone.
    @Test func afterAWriteThroughWhoseCoreFailedTheCacheIsFlushed() throws {
        let bench = try Bench(.writeBack)
        try bench.write(0, 8, 1)
        try bench.flush()
        bench.finishAll()
        try bench.flush()
        bench.finishAll()
        bench.shared.freezeDirty()
        try bench.write(0, 8, 2)
        // Recovery would compare the line with its checksum if no later block said otherwise.
        #expect(bench.take() == ["journal 2 FUA"])
        bench.finish("journal")
        bench.finish("writeCache")
        #expect(bench.finish("writeCore", error: -5) == ["answer -5"])
        try bench.flush()
        #expect(bench.take() == ["flushCore", "flushCache"])
        bench.finishAll()
        bench.expectQuiet()
    }

    @Test func writesOfAnotherCoreDoNotMatter() throws {
        let bench = try Bench(.writeBack)
        bench.addCore(2)
        try bench.write(0, 8, 1, core: 2)
        bench.finishAll()
        try bench.flush()
        #expect(bench.take() == ["answer 0"])
        try bench.flush(core: 2)
        // One journal and one cache device for all cores.
        #expect(bench.finishAll() == ["journal 1", "flushCache", "answer 0"])
        bench.expectQuiet()
    }

    @Test func writesOfAnotherWorkerMatter() throws {
        let bench = try Bench(.writeBack, workerCount: 2)
        try bench.write(0, 8, 1, worker: 1)
        bench.finishAll(worker: 1)
        try bench.flush(worker: 0)
        #expect(bench.finishAll() == ["journal 1", "flushCache", "answer 0"])
        try bench.flush(worker: 1)
        #expect(bench.take(worker: 1) == ["answer 0"])
        bench.expectQuiet()
    }

    @Test func aResetOfTheCountersForgetsNoWrite() throws {
        let bench = try Bench(.writeBack)
        try bench.write(0, 8, 1)
        bench.finishAll()
        bench.shared.resetCounters(core: 1)
        try bench.flush()
        #expect(bench.finishAll() == ["journal 1", "flushCache", "answer 0"])
        bench.expectQuiet()
    }
}

@Suite struct EngineDiscardTests {
    @Test func theCoreDiscardsFirstThenTheLinesAreDropped() throws {
        let bench = try Bench(.writeBack)
        try bench.write(0, 24, 1)
        bench.finishAll()
        try bench.discard(8, 8)
        #expect(bench.take() == ["discardCore 8+8"])
        #expect(bench.finish("discardCore") == ["flushCore"])
        // What the core had before must not come up again once the dirty data is gone.
        #expect(bench.state(1) == LineState(valid: 0xff, dirty: 0xff))
        #expect(bench.finish("flushCore") == ["answer 0"])
        #expect(bench.state(1) == nil)
        #expect(bench.state(0) == LineState(valid: 0xff, dirty: 0xff))
        #expect(bench.state(2) == LineState(valid: 0xff, dirty: 0xff))
        bench.expectQuiet()
    }

    @Test func withoutDirtyLinesADiscardNeedsNoFlush() throws {
        let bench = try Bench(.writeThrough)
        try bench.write(0, 8, 1)
        bench.finishAll()
        try bench.discard(0, 8)
        bench.take()
        #expect(bench.finish("discardCore") == ["answer 0"])
        #expect(bench.state(0) == nil)
        bench.expectQuiet()
    }

    /// As one that could not discard.
    @Test func ifTheFlushAfterItFailsTheDirtyStays() throws {
        let bench = try Bench(.writeBack)
        try bench.write(0, 8, 1)
        bench.finishAll()
        try bench.discard(0, 8)
        bench.take()
        bench.finish("discardCore")
        #expect(bench.finish("flushCore", error: -5) == ["answer -5"])
        #expect(bench.state(0) == LineState(valid: 0xff, dirty: 0xff))
        #expect(bench.sum(.coreWriteErrors) == 1)
        bench.expectQuiet()
    }

    @Test func onlyTheSectorsOfTheRangeAreDropped() throws {
        let bench = try Bench(.writeBack)
        try bench.write(0, 16, 1)
        bench.finishAll()
        try bench.discard(6, 5)
        bench.finishAll()
        #expect(bench.state(0) == LineState(valid: 0x3f, dirty: 0x3f))
        #expect(bench.state(1) == LineState(valid: 0xf8, dirty: 0xf8))
        bench.expectQuiet()
    }

    @Test func onACoreThatCannotDiscardTheDirtyStays() throws {
        let bench = try Bench(.writeThrough, canDiscard: false)
        try bench.write(0, 16, 1)
        bench.finishAll()
        bench.shared.mode = .writeBack
        try bench.write(0, 4, 2)
        bench.finishAll()
        try bench.discard(0, 16)
        #expect(bench.take() == ["answer 0"])
        #expect(bench.state(0) == LineState(valid: 0x0f, dirty: 0x0f))
        #expect(bench.state(1) == nil)
        bench.expectQuiet()
    }

    /// The core may have discarded some of it: what is clean would be the old content now, and the
    /// core's once the line is gone (simulator seed 100133). A device that does not understand
    /// discards is no failure of anybody.
    @Test(arguments: [(-5, -5, 1), (-121, -121, 1), (-95, 0, 0)] as [(Int32, Int32, UInt64)])
    func ifTheCoreDoesNotDiscardTheCleanIsDroppedAndTheDirtyStays(
        error: Int32, answer: Int32, errorCount: UInt64
    ) throws {
        let bench = try Bench(.writeThrough)
        try bench.write(0, 16, 1)
        bench.finishAll()
        bench.shared.mode = .writeBack
        try bench.write(0, 4, 2)
        bench.finishAll()
        try bench.discard(0, 16)
        bench.take()
        #expect(bench.finish("discardCore", error: error) == ["answer \(answer)"])
        #expect(bench.state(0) == LineState(valid: 0x0f, dirty: 0x0f))
        #expect(bench.state(1) == nil)
        #expect(bench.sum(.coreWriteErrors) == errorCount)
        bench.expectQuiet()
    }

    @Test func aLineBeingWrittenIsWaitedFor() throws {
        let bench = try Bench(.writeBack)
        try bench.write(0, 8, 1)
        bench.finishAll()
        try bench.write(0, 8, 2)
        bench.take()
        let slot = try bench.discard(0, 64)
        bench.take()
        bench.finish("discardCore")
        #expect(bench.result(slot) == nil)
        // What was read is flushed on the core only then: it is dirty, and about to be dropped.
        #expect(bench.finish("writeCache").contains("flushCore"))
        bench.finishAll()
        #expect(bench.result(slot) == 0)
        #expect(bench.state(0) == nil)
        bench.expectQuiet()
    }

    @Test func aLineBeingCleanedIsWaitedFor() throws {
        let bench = try Bench(.writeBack)
        try bench.write(0, 8, 1)
        bench.finishAll()
        #expect(bench.beginFlush())
        bench.take()
        let slot = try bench.discard(0, 8)
        bench.take()
        bench.finish("discardCore")
        bench.finish("readCache")
        #expect(bench.result(slot) == nil)
        bench.finishAll()
        #expect(bench.result(slot) == 0)
        #expect(bench.state(0) == nil)
        bench.expectQuiet()
    }

    /// The line was written while it was being cleaned: what the cleaning wrote to the core may
    /// have landed behind the discard, and no read may go back to that.
    @Test func whereACleaningMayHaveWrittenBehindTheDiscardTheDirtyStays() throws {
        let bench = try Bench(.writeBack)
        try bench.write(0, 8, 1)
        bench.finishAll()
        #expect(bench.beginFlush())
        bench.take()
        bench.finish("readCache")
        try bench.write(0, 8, 2)
        bench.take()
        bench.finish("writeCache")
        bench.cancelFlush()
        try bench.discard(0, 8)
        bench.take()
        bench.finish("discardCore")
        bench.finish("writeCore")
        bench.finishAll()
        #expect(bench.core[0] == 1)
        #expect(bench.state(0) == LineState(valid: 0xff, dirty: 0xff))
        bench.expectQuiet()
    }

    @Test func aLongDiscardGoesOnTurnByTurn() throws {
        let bench = try Bench(.writeBack, setCount: 640)
        for extent in UInt64(0)..<320 { try bench.write(extent * 128, 8, 1) }
        bench.finishAll()
        let slot = try bench.discard(0, 320 * 128)
        bench.take()
        bench.finish("discardCore")
        bench.finish("flushCore")
        var turns = 0
        while bench.result(slot) == nil, turns < 20 {
            let goesOn = bench.worker(0).engine.hasMoreToDo
            #expect(goesOn)
            bench.take()
            turns += 1
        }
        #expect(turns > 4 && turns < 20)
        #expect(bench.sum(.occupiedLines) == 0)
        bench.finishAll()
        bench.expectQuiet()
    }

    @Test func aDiscardOfMoreExtentsThanSetsDropsTheSameLines() throws {
        let bench = try Bench(.writeBack, setCount: 2)
        for extent in UInt64(0)..<60 { try bench.write(extent * 128, 8, 1) }
        bench.finishAll()
        try bench.discard(128, 58 * 128)
        bench.finishAll()
        #expect((0..<60).filter { bench.state(UInt64($0) * 16) != nil } == [0, 59])
        bench.expectQuiet()
    }
}
