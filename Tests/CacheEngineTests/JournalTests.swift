import CacheFormat
import Testing

@testable import CacheEngine

/// What the journal says of writes, and when.
@Suite struct JournalRecordTests {
    private static func record(
        _ line: UInt64, way: UInt8, dirty: UInt16, granules: UInt16, content: [Int]?,
        number: UInt32
    ) -> JournalRecord {
        JournalRecord(
            set: 0, way: way, identity: Identity(core: 1, line: line, ioClass: 0), dirty: dirty,
            granules: granules, checksum: content.map { BenchBuffers.checksum($0[...]) },
            number: number)
    }

    @Test func aWriteMakesARecordOfEachLineWithItsChecksum() throws {
        let bench = try Bench(.writeBack)
        try bench.write(13, 5, 7)
        bench.finishAll()
        #expect(bench.wholeState(1)?.recorded == 0xe0 && bench.wholeState(2)?.recorded == 0x03)
        try bench.flush()
        bench.finishAll()
        #expect(
            bench.records(1) == [
                Self.record(
                    1, way: 0, dirty: 0xe0, granules: 0xe0, content: [7, 7, 7], number: 1),
                Self.record(2, way: 1, dirty: 0x03, granules: 0x03, content: [7, 7], number: 2),
            ])
        #expect(bench.facts(1) == JournalFacts(tail: 1, trustedThrough: 0, durableThrough: 0))
        bench.expectQuiet()
    }

    @Test func ofAPartlyDirtyLineOnlyWhatIsNewIsComparedLater() throws {
        let bench = try Bench(.writeBack)
        try bench.write(8, 4, 1)
        bench.finishAll()
        try bench.write(10, 5, 2)
        bench.finishAll()
        try bench.flush()
        bench.finishAll()
        #expect(
            bench.records(1) == [
                Self.record(
                    1, way: 0, dirty: 0x0f, granules: 0x0f, content: [1, 1, 1, 1], number: 1),
                Self.record(
                    1, way: 0, dirty: 0x7f, granules: 0x70, content: [2, 2, 2], number: 2),
            ])
        bench.expectQuiet()
    }

    /// Two runs of granules that are new, and what lies between is dirty already.
    @Test func theChecksumSkipsWhatWasDirty() throws {
        let bench = try Bench(.writeBack)
        try bench.write(11, 2, 1)
        try bench.flush()
        bench.finishAll()
        let request = Request(.write, core: 1, startSector: 9, sectorCount: 6)
        let slot = try #require(bench.submit(request))
        bench.worker(0).buffers[slot] = [20, 21, 22, 23, 24, 25]
        try bench.flush()
        bench.finishAll()
        try bench.flush()
        bench.finishAll()
        let records = (1...4).flatMap { bench.records($0) }
        #expect(
            records.last
                == Self.record(
                    1, way: 0, dirty: 0x7e, granules: 0x66, content: [20, 21, 24, 25], number: 2))
        bench.expectQuiet()
    }

    @Test func whatIsCleanAndBecomesDirtyIsRecorded() throws {
        let bench = try Bench(.writeThrough)
        try bench.write(8, 8, 1)
        bench.finishAll()
        bench.shared.mode = .writeBack
        try bench.write(10, 2, 2)
        // Dirty before it is written, recorded only when it is there.
        #expect(bench.wholeState(1)?.dirty == 0x0c && bench.wholeState(1)?.recorded == 0)
        try bench.flush()
        bench.finishAll()
        try bench.flush()
        bench.finishAll()
        #expect(
            bench.records(1) == [
                Self.record(1, way: 0, dirty: 0x0c, granules: 0x0c, content: [2, 2], number: 1)
            ])
        bench.expectQuiet()
    }

    @Test(arguments: [false, true]) func aRewriteMakesNoRecord(isFlushed: Bool) throws {
        let bench = try Bench(.writeBack)
        try bench.write(8, 8, 1)
        bench.finishAll()
        if isFlushed {
            try bench.flush()
            bench.finishAll()
        }
        for content in 2...5 {
            try bench.write(8, 8, content)
            bench.finishAll()
        }
        try bench.flush()
        bench.finishAll()
        #expect(bench.shared.journalActivity.records == 1)
        bench.expectQuiet()
    }

    @Test func readsAndWritesThroughMakeNoRecord() throws {
        let bench = try Bench(.writeThrough)
        try bench.write(8, 8, 1)
        try bench.read(80, 8)
        bench.finishAll()
        bench.shared.mode = .passThrough
        try bench.write(160, 8, 1)
        try bench.discard(8, 8)
        bench.finishAll()
        #expect(bench.shared.journalActivity.records == 0)
        bench.expectQuiet()
    }

    @Test func cleaningIsRecorded() throws {
        let bench = try Bench(.writeBack)
        try bench.write(8, 4, 1)
        bench.finishAll()
        #expect(bench.beginFlush())
        bench.finishAll()
        try bench.flush()
        bench.finishAll()
        #expect(
            bench.records(1) == [
                Self.record(
                    1, way: 0, dirty: 0x0f, granules: 0x0f, content: [1, 1, 1, 1], number: 1),
                Self.record(1, way: 0, dirty: 0, granules: 0, content: nil, number: 2),
            ])
        bench.expectQuiet()
    }

    @Test func whatADiscardDropsIsRecorded() throws {
        let bench = try Bench(.writeBack)
        try bench.write(8, 8, 1)
        bench.finishAll()
        try bench.discard(8, 6)
        bench.finishAll()
        try bench.flush()
        bench.finishAll()
        #expect(
            bench.records(1).last
                == Self.record(1, way: 0, dirty: 0xc0, granules: 0, content: nil, number: 2))
        // What is left of the first record is not compared with its checksum alone.
        #expect(bench.state(1) == LineState(valid: 0xc0, dirty: 0xc0))
        bench.expectQuiet()
    }

    @Test func aDroppedCoresLinesAreRecordedAsGone() throws {
        let bench = try Bench(.writeBack)
        try bench.write(8, 16, 1)
        bench.finishAll()
        #expect(bench.shared.dropLines(core: 1) == .done)
        let commit = bench.shared.requestCommit()
        #expect(bench.finishAll() == ["journal 1", "flushCache"])
        #expect(bench.shared.commitOutcome(commit) == true)
        #expect(bench.records(1).map(\.dirty) == [0xff, 0xff, 0, 0])
        bench.expectQuiet()
    }

    @Test func aFailedWriteOfCleanDataIsRecordedWithoutAChecksum() throws {
        let bench = try Bench(.writeThrough)
        try bench.write(8, 8, 1)
        bench.finishAll()
        bench.shared.mode = .writeBack
        try bench.write(8, 8, 2)
        bench.take()
        bench.finish("writeCache", error: -5)
        // Nor does anything else of the set have one from now on.
        try bench.write(80, 8, 3)
        bench.finishAll()
        try bench.flush()
        bench.finishAll()
        #expect(bench.records(1).map(\.checksum) == [nil, nil])
        #expect(bench.records(1).map(\.granules) == [0xff, 0xff])
        bench.expectQuiet()
    }

    @Test func aFailedWriteOfAnAbsentLineIsNotRecorded() throws {
        let bench = try Bench(.writeBack)
        try bench.write(8, 8, 2)
        bench.take()
        bench.finish("writeCache", error: -5)
        #expect(bench.shared.journalActivity.records == 0)
        bench.expectQuiet()
    }

    @Test func a121stRecordBeginsTheNextBlock() throws {
        let bench = try Bench(.writeBack)
        try bench.write(0, 121 * 8, 1)
        bench.finishAll()
        try bench.flush()
        let commands = bench.finishAll()
        #expect(commands.filter { $0 == "flushCache" }.count == 1)
        #expect(bench.records(1).count == 120 && bench.records(2).count == 1)
        #expect((bench.records(1) + bench.records(2)).map(\.number) == Array(1...121))
        bench.expectQuiet()
    }

    @Test func eachSetCountsItsRecords() throws {
        let bench = try Bench(.writeBack, setCount: 2)
        for extent in UInt64(0)..<4 { try bench.write(extent * 128, 8, 1) }
        bench.finishAll()
        try bench.flush()
        bench.finishAll()
        let records = bench.records(1)
        #expect(records.map(\.set) == [0, 1, 0, 1])
        #expect(records.map(\.number) == [1, 1, 2, 2])
        #expect(bench.shared.pageView(0).recordNumber == 2)
        bench.expectQuiet()
    }
}

@Suite struct JournalCommitTests {
    /// A line that is written, recorded and committed.
    private static func committed() throws -> Bench {
        let bench = try Bench(.writeBack)
        try bench.write(0, 8, 1)
        bench.finishAll()
        try bench.flush()
        bench.finishAll()
        return bench
    }

    @Test func flushesOfDifferentCoresShareACommit() throws {
        let bench = try Bench(.writeBack)
        bench.addCore(2)
        try bench.write(0, 8, 1)
        try bench.write(0, 8, 2, core: 2)
        bench.finishAll()
        try bench.flush()
        try bench.flush(core: 2)
        #expect(bench.take() == ["journal 1"])
        bench.finish("journal")
        #expect(bench.finish("flushCache") == ["answer 0", "answer 0"])
        #expect(bench.shared.journalActivity.flushes == 1)
        bench.expectQuiet()
    }

    @Test(arguments: ["journal", "flushCache"])
    func aFlushDuringACommitWaitsForTheNext(step: String) throws {
        let bench = try Bench(.writeBack)
        try bench.write(0, 8, 1)
        bench.finishAll()
        let first = try bench.flush()
        bench.take()
        if step == "flushCache" { bench.finish("journal") }
        try bench.write(80, 8, 2)
        bench.take()
        bench.finish("writeCache")
        let second = try bench.flush()
        #expect(bench.take() == [])
        if step == "journal" { bench.finish("journal 1") }
        #expect(bench.finish("flushCache").sorted() == ["answer 0", "journal 2"])
        #expect(bench.result(first) == 0 && bench.result(second) == nil)
        bench.finish("journal 2")
        #expect(bench.finish("flushCache") == ["answer 0"])
        #expect(bench.facts(2) == JournalFacts(tail: 1, trustedThrough: 1, durableThrough: 1))
        bench.expectQuiet()
    }

    @Test func withoutNewRecordsACommitIsAFlushAlone() throws {
        let bench = try Self.committed()
        try bench.write(0, 8, 2)
        bench.finishAll()
        try bench.flush()
        #expect(bench.take() == ["flushCache"])
        #expect(bench.finish("flushCache") == ["answer 0"])
        bench.expectQuiet()
    }

    /// One worker does the I/O, the other is told when it is done.
    @Test func aWorkerThatWaitsForACommitOfAnotherIsWoken() throws {
        let bench = try Bench(.writeBack, workerCount: 2)
        try bench.write(0, 8, 1)
        bench.finishAll()
        let first = try bench.flush()
        #expect(bench.take() == ["journal 1"])
        try bench.write(80, 8, 2, worker: 1)
        bench.finishAll(worker: 1)
        let second = try bench.flush(worker: 1)
        #expect(bench.take(worker: 1) == [])
        var heard: [String] = []
        while let next = bench.worker(0).open.first.map(bench.text) {
            for text in bench.finish(next) where text == "wakeWorker 1 journal" {
                bench.worker(1).engine.setReleased(Engine.journalSet)
                heard += bench.take(worker: 1)
            }
            if next == "flushCache" { break }
        }
        // The first commit was not its own.
        #expect(bench.result(first) == 0 && heard == [])
        for text in bench.finishAll() where text == "wakeWorker 1 journal" {
            bench.worker(1).engine.setReleased(Engine.journalSet)
            heard += bench.take(worker: 1)
        }
        #expect(heard == ["answer 0"])
        #expect(bench.result(second, worker: 1) == 0)
        bench.expectQuiet()
    }

    // MARK: - Data first

    /// With nobody who could tell checksums, as in zero copy.
    @Test func withoutChecksumsTheDataIsFlushedBeforeItsRecord() throws {
        let bench = try Bench(.writeBack, hasChecksums: false)
        try bench.write(0, 8, 1)
        bench.finishAll()
        try bench.flush()
        #expect(bench.take() == ["flushCache"])
        #expect(bench.finish("flushCache") == ["journal 1"])
        #expect(bench.finish("journal") == ["flushCache"])
        #expect(bench.finish("flushCache") == ["answer 0"])
        #expect(bench.records(1).map(\.checksum) == [nil])
        #expect(bench.facts(1)?.trustedThrough == 1)
        bench.expectQuiet()
    }

    @Test func ifThatFlushFailsTheRecordIsNotWritten() throws {
        let bench = try Bench(.writeBack, hasChecksums: false)
        try bench.write(0, 8, 1)
        bench.finishAll()
        try bench.flush()
        bench.take()
        #expect(bench.finish("flushCache", error: -5) == ["answer -5"])
        #expect(bench.records(1) == [])
        try bench.flush()
        #expect(bench.take() == ["flushCache"])
        #expect(bench.finish("flushCache") == ["journal 1"])
        bench.finishAll()
        bench.expectQuiet()
    }

    /// Nobody knows whose data ends up in the granule.
    @Test func twoWritersOfOneLineLeaveNoChecksum() throws {
        let bench = try Bench(.writeBack)
        try bench.write(0, 8, 1)
        try bench.write(0, 8, 2)
        bench.finishAll()
        try bench.flush()
        #expect(
            bench.finishAll() == ["flushCache", "journal 1", "flushCache", "answer 0"])
        #expect(bench.records(1).map(\.checksum) == [nil])
        #expect(bench.facts(1)?.trustedThrough == 1)
        bench.expectQuiet()
    }

    @Test func whatIsRewrittenBeforeItsCommitIsFlushedBeforeItsRecord() throws {
        let bench = try Bench(.writeBack)
        try bench.write(0, 8, 1)
        bench.finishAll()
        try bench.write(4, 4, 2)
        #expect(bench.finishAll() == ["writeCache w0:4+4 b0", "answer 0"])
        try bench.flush()
        #expect(
            bench.finishAll() == ["flushCache", "journal 1", "flushCache", "answer 0"])
        #expect(bench.facts(1)?.trustedThrough == 1)
        bench.expectQuiet()
    }

    @Test func onlyTheCommitThatNeedsItFlushesTwice() throws {
        let bench = try Bench(.writeBack)
        for content in 1...2 {
            try bench.write(0, 8, content)
            bench.finishAll()
        }
        try bench.flush()
        bench.finishAll()
        try bench.write(80, 8, 3)
        bench.finishAll()
        try bench.flush()
        #expect(bench.finishAll() == ["journal 2", "flushCache", "answer 0"])
        #expect(bench.facts(2)?.trustedThrough == 1)
        bench.expectQuiet()
    }

    // MARK: - Confirmation

    @Test(arguments: [EngineMode.writeBack, .writeThrough, .passThrough])
    func whatRecoveryWouldCompareIsNotOverwrittenBeforeABlockSaysOtherwise(
        mode: EngineMode
    ) throws {
        let bench = try Self.committed()
        bench.shared.mode = mode
        let slot = try bench.write(4, 4, 2)
        #expect(bench.take() == ["journal 2 FUA"])
        #expect(bench.result(slot) == nil)
        let commands = bench.finish("journal")
        #expect(bench.facts(2) == JournalFacts(tail: 1, trustedThrough: 1, durableThrough: 1))
        #expect(bench.records(2) == [])
        #expect(commands.first == "writeCache w0:4+4 b0")
        bench.finishAll()
        #expect(bench.result(slot) == 0)
        // Once is enough.
        bench.shared.mode = .writeBack
        try bench.write(0, 8, 3)
        #expect(bench.take() == ["writeCache w0:0+8 b0"])
        bench.finishAll()
        bench.expectQuiet()
    }

    /// What a discard drops may be overwritten as if it had no record: but recovery compares all
    /// that the record wrote, and would drop the rest of it, too.
    @Test func beforePartOfARecordIsDroppedABlockSaysThatAllOfItIsThere() throws {
        let bench = try Self.committed()
        let slot = try bench.discard(0, 6)
        bench.take()
        bench.finish("discardCore")
        #expect(bench.finish("flushCore") == ["journal 2 FUA"])
        #expect(bench.wholeState(0)?.dirty == 0xff && bench.result(slot) == nil)
        bench.finish("journal 2")
        #expect(bench.facts(2)?.trustedThrough == 1)
        #expect(bench.wholeState(0)?.dirty == 0xc0 && bench.result(slot) == 0)
        bench.finishAll()
        bench.expectQuiet()
    }

    /// Not yet committed, the record's data is flushed before its block.
    @Test func partOfARecordThatIsDroppedBeforeItsCommitMakesTheDataFlushedFirst() throws {
        let bench = try Bench(.writeBack)
        try bench.write(0, 8, 1)
        bench.finishAll()
        try bench.discard(0, 6)
        bench.finishAll()
        try bench.flush()
        #expect(bench.take().contains("flushCache"))
        #expect(bench.finish("flushCache") == ["journal 1"])
        bench.finishAll()
        #expect(bench.facts(1)?.trustedThrough == 1)
        bench.expectQuiet()
    }

    /// Others commit all the time, and have no records: the confirmation goes with them.
    @Test func aConfirmationIsNotKeptWaitingByCommitsWithoutRecords() throws {
        let bench = try Bench(.writeBack)
        func writeAndFlush(_ sector: UInt64, _ content: Int) throws {
            try bench.write(sector, 8, content)
            bench.take()
            bench.finish("writeCache")
            try bench.flush()
        }
        for sector in [80, 0] as [UInt64] {
            try writeAndFlush(sector, 1)
            bench.finishAll()
        }
        try writeAndFlush(80, 2)
        #expect(bench.take() == ["flushCache"])
        let slot = try bench.write(0, 8, 2)
        // The next commit is wanted before this one ends.
        try writeAndFlush(80, 3)
        #expect(bench.take() == [])
        #expect(bench.finish("flushCache").contains { $0.hasPrefix("journal") })
        bench.finishAll()
        #expect(bench.result(slot) == 0)
        bench.expectQuiet()
    }

    /// Not again and again: the worker could never end.
    @Test func aConfirmationThatFailsIsTriedOnceForEachWhoAsks() throws {
        let bench = try Self.committed()
        let slot = try bench.write(0, 8, 2)
        #expect(bench.take() == ["journal 2 FUA"])
        bench.finish("journal 2", error: -5)
        #expect(bench.result(slot) == -5)
        var tries = 0
        while bench.open("journal") {
            bench.finish("journal", error: -5)
            tries += 1
            if tries > 5 { break }
        }
        #expect(tries <= 1)
        try bench.flush()
        bench.finishAll()
        bench.expectQuiet()
    }

    /// What it has written may come to light by a discard, and be read: the next FLUSH is for it
    /// (seed 110000834).
    @Test func aCleaningThatFailedIsFlushedByTheNextFlush() throws {
        let bench = try Self.committed()
        #expect(bench.beginFlush())
        bench.take()
        bench.finish("readCache")
        bench.finish("writeCore")
        bench.finish("flushCore", error: -5)
        bench.finishAll()
        #expect(bench.wholeState(0)?.dirty == 0xff)
        try bench.flush()
        #expect(bench.take().contains("flushCore"))
        bench.finishAll()
        bench.expectQuiet()
    }

    /// The core has discarded it: only what is dirty may stay (seed 20751).
    @Test func aDiscardWithoutItsRecordDropsWhatIsClean() throws {
        let bench = try Bench(.writeBack)
        try bench.write(0, 4, 1)
        bench.finishAll()
        try bench.flush()
        bench.finishAll()
        try bench.read(0, 8)
        bench.finishAll()
        #expect(bench.wholeState(0)?.valid == 0xff && bench.wholeState(0)?.dirty == 0x0f)
        let slot = try bench.discard(2, 6)
        bench.take()
        bench.finish("discardCore")
        bench.finish("flushCore")
        bench.finish("journal 2", error: -5)
        #expect(bench.result(slot) == -5)
        #expect(bench.wholeState(0)?.valid == 0x0f && bench.wholeState(0)?.dirty == 0x0f)
        try bench.flush()
        bench.finishAll()
        bench.expectQuiet()
    }

    @Test func granulesWithoutARecordNeedNoConfirmation() throws {
        let bench = try Bench(.writeBack)
        try bench.write(0, 4, 1)
        bench.finishAll()
        try bench.flush()
        bench.finishAll()
        try bench.write(4, 4, 2)
        #expect(bench.take() == ["writeCache w0:4+4 b0"])
        bench.finishAll()
        bench.expectQuiet()
    }

    @Test func anotherCommitConfirmsTheOneBefore() throws {
        let bench = try Self.committed()
        try bench.write(80, 8, 2)
        bench.finishAll()
        try bench.flush()
        bench.finishAll()
        try bench.write(0, 8, 3)
        #expect(bench.take() == ["writeCache w0:0+8 b0"])
        bench.finishAll()
        // And its own block is not confirmed yet.
        try bench.write(80, 8, 4)
        #expect(bench.take() == ["journal 3 FUA"])
        bench.finishAll()
        bench.expectQuiet()
    }

    /// The write does not wait for the commit under way: but the commit's promise is made only
    /// when recovery will not compare what was overwritten.
    @Test(arguments: ["journal", "flushCache"])
    func whatIsOverwrittenDuringItsCommitIsConfirmedBeforeThePromise(step: String) throws {
        let bench = try Bench(.writeBack)
        try bench.write(0, 8, 1)
        bench.finishAll()
        let slot = try bench.flush()
        bench.take()
        if step == "flushCache" { bench.finish("journal") }
        try bench.write(0, 8, 2)
        #expect(bench.take() == ["writeCache w0:0+8 b0"])
        if step == "journal" { bench.finish("journal") }
        #expect(bench.finish("flushCache") == ["journal 2 FUA"])
        #expect(bench.result(slot) == nil)
        #expect(bench.finish("journal 2") == ["answer 0"])
        #expect(bench.facts(2)?.trustedThrough == 1)
        bench.finishAll()
        bench.expectQuiet()
    }

    @Test func aConfirmationThatFailsFailsTheWriteThatNeedsItAndIsTriedAgain() throws {
        let bench = try Self.committed()
        let slot = try bench.write(0, 8, 2)
        bench.take()
        bench.finish("journal 2", error: -5)
        #expect(bench.result(slot) == -5)
        #expect(bench.cacheDevice[Int(bench.geometry.dataOffset / 512)] == 1)
        let again = try bench.write(0, 8, 3)
        bench.finishAll()
        // Either it was written, or the journal still fails; a FLUSH finds out.
        if bench.result(again) == -5 {
            try bench.flush()
            bench.finishAll()
            try bench.write(0, 8, 4)
            bench.finishAll()
        }
        #expect(bench.cacheDevice[Int(bench.geometry.dataOffset / 512)] > 1)
        bench.expectQuiet()
    }
}
