import CacheFormat
import Testing

@testable import CacheEngine

/// A journal of a few places, which are used again and again.
@Suite struct JournalCheckpointTests {
    /// Numbers from a seed.
    private struct Dice {
        var state: UInt64
        mutating func roll(_ count: UInt64) -> UInt64 {
            state ^= state << 13
            state ^= state >> 7
            state ^= state << 17
            return (state >> 20) % count
        }
    }

    private static func bench(
        setCount: UInt64 = 3, places: UInt64 = 16, hasChecksums: Bool = true
    ) throws -> Bench {
        let bench = try Bench(
            .writeBack, setCount: setCount, journalBlockCount: places, hasChecksums: hasChecksums)
        bench.watch = JournalWatch()
        return bench
    }

    @Test func whileMostPlacesAreFreeNoPageIsWritten() throws {
        let bench = try Self.bench()
        for index in UInt64(0)..<9 {
            try bench.write(index * 128, 8, 1)
            bench.finishAll()
            try bench.flush()
            bench.finishAll()
        }
        #expect(bench.shared.journalActivity.pages == 0)
        #expect(bench.facts(9)?.tail == 1)
        bench.expectQuiet()
    }

    @Test func pagesThatAreDurableMoveTheTail() throws {
        let bench = try Self.bench()
        var commands: [String] = []
        for index in UInt64(0)..<40 {
            try bench.write(index * 128, 8, 1)
            commands += bench.finishAll()
            let slot = try bench.flush()
            commands += bench.finishAll()
            #expect(bench.result(slot) == 0)
        }
        #expect(bench.watch?.violations == [])
        #expect((0..<3).allSatisfy { commands.contains("page s\($0)") })
        // Each set's page a few times, and not once for each record.
        let pages = bench.shared.journalActivity.pages
        #expect(pages >= 6 && pages <= 24)
        #expect((bench.facts(40)?.tail ?? 0) > 24)
        bench.expectQuiet()
    }

    @Test func aPageIncludesNothingThatIsNotCommitted() throws {
        let bench = try Self.bench(setCount: 1)
        for index in UInt64(0)..<11 {
            try bench.write(index * 128, 8, 1)
            bench.finishAll()
            try bench.flush()
            bench.take()
            while bench.result(0) == nil, let next = bench.worker(0).open.first {
                if bench.text(next).hasPrefix("page") { break }
                bench.finish(bench.text(next))
            }
            if bench.worker(0).open.contains(where: { bench.text($0).hasPrefix("page") }) { break }
            bench.finishAll()
        }
        let isPageOpen = bench.worker(0).open.contains { bench.text($0).hasPrefix("page") }
        #expect(isPageOpen)
        // Records made now are not in the page that is being written.
        try bench.write(4096, 8, 2)
        bench.finishAll()
        try bench.flush()
        bench.finishAll()
        #expect(bench.watch?.violations == [])
        bench.expectQuiet()
    }

    @Test(arguments: 1...12) func inAnyOrderOfCompletionsRule5Holds(seed: UInt64) throws {
        var dice = Dice(state: seed &* 0x9E37_79B9_7F4A_7C15 | 1)
        let bench = try Self.bench(
            setCount: 5, places: [16, 17, 24][Int(seed % 3)], hasChecksums: seed % 4 != 0)
        for _ in 0..<700 {
            if bench.worker(0).open.count < 6 {
                let sector = dice.roll(64) * 128 + dice.roll(16) * 8
                switch dice.roll(10) {
                case 0...5: try bench.write(sector, 8, Int(dice.roll(1000)))
                case 6: try bench.write(sector, 8, 7, durable: true)
                case 7: try bench.discard(sector, 8)
                default: try bench.flush()
                }
            }
            bench.take()
            let open = bench.worker(0).open
            guard !open.isEmpty else { continue }
            bench.finish(bench.text(open[Int(dice.roll(UInt64(open.count)))]))
        }
        bench.finishAll()
        #expect(bench.watch?.violations == [])
        #expect((bench.watch?.blocksWritten ?? 0) > 40)
        #expect((bench.watch?.pagesWritten ?? 0) > 5)
        bench.expectQuiet()
    }

    @Test func aPageThatCannotBeWrittenIsWrittenLater() throws {
        let bench = try Self.bench(setCount: 1)
        var failures = 0
        for index in UInt64(0)..<40 {
            try bench.write(index * 128, 8, 1)
            bench.finishAll()
            try bench.flush()
            bench.take()
            while let next = bench.worker(0).open.first.map(bench.text) {
                let fails = next.hasPrefix("page") && failures < 2
                if fails { failures += 1 }
                bench.finish(next, error: fails ? -5 : nil)
            }
        }
        try bench.flush()
        bench.finishAll()
        #expect(failures == 2)
        #expect(bench.watch?.violations == [])
        #expect(bench.shared.journalActivity.pages > 0)
        #expect((bench.facts(bench.watch?.blocksWritten ?? 0)?.tail ?? 0) >= 1)
        bench.expectQuiet()
    }
}

/// A journal that has no room, or that cannot be written.
@Suite struct JournalRoomTests {
    /// Writes of 16 lines, answered, while nothing of the journal is carried out; stops at the
    /// first that has to wait, and returns its slot.
    private static func fill(_ bench: Bench) throws -> (slot: UInt32, count: Int) {
        for index in 0..<100 {
            let slot = try bench.write(UInt64(index) * 128, 128, index + 1)
            bench.take()
            while let next = bench.worker(0).open.map(bench.text).first(where: {
                $0.hasPrefix("writeCache")
            }) {
                bench.finish(next)
            }
            if bench.result(slot) == nil { return (slot, index) }
        }
        Issue.record("the journal never gets full")
        return (0, 0)
    }

    private static func bench() throws -> Bench {
        let bench = try Bench(.writeBack, setCount: 7, journalBlockCount: 16)
        bench.watch = JournalWatch()
        return bench
    }

    @Test func aWriteWithoutRoomForItsRecordsWaitsAndGoesOn() throws {
        let bench = try Self.bench()
        let (slot, count) = try Self.fill(bench)
        #expect(count > 60 && count < 100)
        // What has its record, and what needs none, goes on meanwhile.
        let read = try bench.read(0, 8)
        bench.take()
        bench.finish("readCache")
        #expect(bench.content(read) == [Int](repeating: 1, count: 8))
        bench.finishAll()
        #expect(bench.result(slot) == 0)
        let last = try bench.read(UInt64(count) * 128, 8)
        bench.finishAll()
        #expect(bench.content(last) == [Int](repeating: count + 1, count: 8))
        #expect(bench.watch?.violations == [])
        bench.expectQuiet()
    }

    @Test func waitersAreServedInTheirOrder() throws {
        let bench = try Self.bench()
        let (first, count) = try Self.fill(bench)
        // The same line again: it must not overtake.
        let second = try bench.write(UInt64(count) * 128, 128, 77)
        #expect(bench.result(first) == nil && bench.result(second) == nil)
        bench.finishAll()
        #expect(bench.result(first) == 0 && bench.result(second) == 0)
        #expect(bench.watch?.violations == [])
        bench.expectQuiet()
    }

    @Test func cleaningADiscardAndAFlushFindRoomToo() throws {
        let bench = try Self.bench()
        let (slot, _) = try Self.fill(bench)
        #expect(bench.beginFlush())
        let discard = try bench.discard(0, 256)
        let flush = try bench.flush()
        let commands = bench.finishAll()
        #expect(commands.contains("flushEnded 0"))
        #expect(bench.result(slot) == 0 && bench.result(discard) == 0)
        #expect(bench.result(flush) == 0)
        #expect(bench.watch?.violations == [])
        bench.expectQuiet()
    }

    /// Carries out everything there is, but no write to the journal ends well.
    private static func failJournal(_ bench: Bench) {
        bench.take()
        for _ in 0..<1000 {
            guard let next = bench.worker(0).open.first.map(bench.text) else { break }
            bench.finish(next, error: next.hasPrefix("journal") ? -5 : nil)
        }
    }

    @Test func withAJournalThatFailsAWriteWithoutRoomFails() throws {
        let bench = try Self.bench()
        let (slot, count) = try Self.fill(bench)
        Self.failJournal(bench)
        #expect(bench.result(slot) == -5)
        #expect(bench.sum(.cacheWriteErrors) > 0)
        #expect(bench.state(UInt64(count) * 16) == nil)
        // The lines before are there as they were.
        #expect(bench.sum(.dirtyLines) == UInt64(count) * 16)
        // Well again: whoever tries finds out.
        var result: Int32?
        for _ in 0..<5 where result != 0 {
            let again = try bench.write(UInt64(count) * 128, 128, 1)
            bench.finishAll()
            result = bench.result(again)
        }
        #expect(result == 0)
        #expect(bench.watch?.violations == [])
        try bench.flush()
        bench.finishAll()
        bench.expectQuiet()
    }

    @Test(arguments: ["journal", "flushCache"])
    func aFlushWhoseCommitFailsFailsAndTheNextOneLosesNothing(step: String) throws {
        let bench = try Self.bench()
        try bench.write(0, 8, 1)
        bench.finishAll()
        let first = try bench.flush()
        bench.take()
        if step == "flushCache" { bench.finish("journal") }
        #expect(bench.finish(step, error: -28) == ["answer -5"])
        #expect(bench.result(first) == -5)
        #expect(bench.sum(.cacheWriteErrors) == 1)
        // Nothing is tried again by itself.
        #expect(bench.take() == [])
        try bench.write(800, 8, 2)
        bench.finishAll()
        let second = try bench.flush()
        bench.finishAll()
        #expect(bench.result(second) == 0)
        let records = (1...4).flatMap { bench.records($0) }
        #expect(records.map(\.identity.line) == [0, 100])
        #expect(bench.watch?.violations == [])
        bench.expectQuiet()
    }

    @Test func aDurableWriteWhoseCommitFailsFails() throws {
        let bench = try Self.bench()
        let slot = try bench.write(0, 8, 1, durable: true)
        bench.take()
        bench.finish("writeCache")
        bench.finish("journal", error: -5)
        #expect(bench.result(slot) == -5)
        // It may have happened, and counts as what is there.
        #expect(bench.state(0) == LineState(valid: 0xff, dirty: 0xff))
        try bench.flush()
        bench.finishAll()
        bench.expectQuiet()
    }

    @Test func withAJournalThatFailsCleaningFailsWhenThereIsNoRoom() throws {
        let bench = try Self.bench()
        _ = try Self.fill(bench)
        Self.failJournal(bench)
        #expect(bench.beginFlush())
        let commands = bench.take()
        #expect(commands.contains("flushEnded -5"))
        bench.finishAll()
    }
}

/// Writes that are answered when they are durable.
@Suite struct JournalDurabilityTests {
    private static func durable() throws -> Bench {
        let bench = try Bench(.writeBack)
        bench.shared.durability = .write
        return bench
    }

    @Test func aWriteIsAnsweredAfterACommit() throws {
        let bench = try Self.durable()
        try bench.write(0, 8, 1)
        #expect(bench.take() == ["writeCache w0:0+8 b0"])
        #expect(bench.finish("writeCache") == ["journal 1"])
        #expect(bench.finish("journal") == ["flushCache"])
        #expect(bench.finish("flushCache") == ["answer 0"])
        bench.expectQuiet()
    }

    @Test func soIsARewrite() throws {
        let bench = try Self.durable()
        try bench.write(0, 8, 1)
        bench.finishAll()
        let slot = try bench.write(0, 8, 2)
        #expect(bench.take() == ["journal 2 FUA"])
        bench.finish("journal")
        #expect(bench.finish("writeCache") == ["flushCache"])
        #expect(bench.result(slot) == nil)
        #expect(bench.finish("flushCache") == ["answer 0"])
        bench.expectQuiet()
    }

    @Test func writesThatEndDuringACommitShareTheNext() throws {
        let bench = try Self.durable()
        let slots = try (UInt64(0)..<5).map { try bench.write($0 * 80, 8, 1) }
        bench.take()
        bench.finish("writeCache w0")
        for way in 1..<5 { #expect(bench.finish("writeCache w\(way)") == []) }
        bench.finish("journal 1")
        #expect(bench.finish("flushCache").contains("journal 2"))
        #expect(slots.map { bench.result($0) } == [0, nil, nil, nil, nil])
        bench.finish("journal 2")
        bench.finish("flushCache")
        #expect(slots.allSatisfy { bench.result($0) == 0 })
        #expect(bench.records(1).count == 1 && bench.records(2).count == 4)
        bench.expectQuiet()
    }

    @Test func throughACoreIsWrittenDurably() throws {
        let bench = try Self.durable()
        bench.shared.mode = .passThrough
        try bench.write(0, 8, 1)
        #expect(bench.take() == ["writeCore 0+8 b0 FUA"])
        #expect(bench.finish("writeCore") == ["answer 0"])
        bench.expectQuiet()
    }

    /// A durable write past the cache must not be undone by what the journal says of its line.
    @Test func aDurableWritePastTheCacheWaitsForTheRecordThatItsLineIsGone() throws {
        let bench = try Bench(.writeBack)
        try bench.write(0, 8, 1)
        bench.finishAll()
        try bench.flush()
        bench.finishAll()
        try bench.discard(0, 8)
        bench.finishAll()
        bench.shared.mode = .passThrough
        let slot = try bench.write(0, 8, 2, durable: true)
        #expect(bench.take() == ["writeCore 0+8 b0 FUA"])
        #expect(bench.finish("writeCore") == ["journal 2"])
        bench.finish("journal")
        #expect(bench.result(slot) == nil)
        #expect(bench.finish("flushCache") == ["answer 0"])
        bench.expectQuiet()
    }
}

/// A way is given to another line only when it is durable that it has nothing that counts.
@Suite struct JournalReuseTests {
    @Test func aWayThatADiscardEmptiedWaitsForItsRecord() throws {
        let bench = try Bench(.writeBack)
        try bench.write(0, 8, 1)
        bench.finishAll()
        try bench.flush()
        bench.finishAll()
        try bench.discard(0, 8)
        bench.finishAll()
        try bench.write(80, 8, 2)
        #expect(bench.take() == ["writeCache w1:0+8 b0"])
        bench.finishAll()
        try bench.flush()
        bench.finishAll()
        try bench.write(160, 8, 3)
        #expect(bench.take() == ["writeCache w0:0+8 b0"])
        bench.finishAll()
        bench.expectQuiet()
    }

    @Test func aCleanedLineIsNotEvictedBeforeItsRecordIsCommitted() throws {
        let bench = try Bench(.writeBack)
        try bench.fillSet(count: 223)
        try bench.write(0, 8, 1)
        bench.finishAll()
        let way = try #require(bench.way(0))
        // It is the only one that could go.
        let sidecar = bench.shared.sidecar(0)
        for other in 0..<224 where other != way { sidecar.uses[other].addReader() }
        #expect(bench.beginFlush())
        bench.finishAll()
        try bench.write(80, 8, 2)
        #expect(bench.take().first == "writeCore 80+8 b0")
        #expect(bench.way(0) == way)
        bench.finishAll()
        try bench.write(160, 8, 3)
        #expect(bench.take() == ["writeCache w\(way):0+8 b0"])
        #expect(bench.way(0) == nil)
        bench.finishAll()
        for other in 0..<224 where other != way { sidecar.uses[other].removeReader() }
        bench.expectQuiet()
    }

    @Test func theSameLineMayComeBackAtOnce() throws {
        let bench = try Bench(.writeBack)
        try bench.write(0, 8, 1)
        bench.finishAll()
        #expect(bench.beginFlush())
        bench.finishAll()
        try bench.write(0, 8, 2)
        #expect(bench.take() == ["writeCache w0:0+8 b0"])
        bench.finishAll()
        try bench.flush()
        bench.finishAll()
        #expect((1...3).flatMap { bench.records($0) }.map(\.dirty) == [0xff, 0, 0xff])
        bench.expectQuiet()
    }
}
