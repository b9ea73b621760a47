import CacheFormat
import Testing

@testable import CacheEngine

/// Lines are 8 sectors, extents 128.
@Suite struct EngineReadTests {
    @Test func aMissReadsTheCoreAnswersAndThenFillsTheCache() throws {
        let bench = try Bench(.writeBack)
        bench.coreDevices[1]?[8..<16] = [1, 2, 3, 4, 5, 6, 7, 8]
        let slot = try bench.read(8, 8)
        #expect(bench.take() == ["readCore 8+8 b0"])
        #expect(bench.finish("readCore") == ["answer 0 keeps", "writeCache w0:0+8 b0"])
        #expect(bench.content(slot) == [1, 2, 3, 4, 5, 6, 7, 8])
        // Nothing is valid before it is there.
        #expect(bench.state(1)?.isEmpty == true)
        #expect(bench.finish("writeCache") == ["releaseSlot"])
        #expect(bench.state(1) == LineState(valid: 0xff, dirty: 0))
        bench.expectQuiet()
    }

    @Test func aHitReadsTheCacheAlone() throws {
        let bench = try Bench(.writeBack)
        try bench.write(8, 8, 77)
        bench.finishAll()
        let slot = try bench.read(10, 3)
        #expect(bench.take() == ["readCache w0:2+3 b0"])
        #expect(bench.finish("readCache") == ["answer 0"])
        #expect(bench.content(slot) == [77, 77, 77])
        bench.expectQuiet()
    }

    @Test func neighboursInNeighbouringWaysAreOneTransfer() throws {
        let bench = try Bench(.writeBack)
        try bench.read(0, 128)
        bench.finishAll()
        try bench.read(4, 120)
        #expect(bench.take() == ["readCache w0:4+120 b0"])
        bench.finishAll()
        bench.expectQuiet()
    }

    @Test func ofAPartialHitOnlyTheMissingLineIsReadFromTheCore() throws {
        let bench = try Bench(.writeBack)
        try bench.write(0, 8, 1)
        try bench.write(16, 8, 3)
        bench.finishAll()
        bench.coreDevices[1]?[8..<16] = ArraySlice(repeating: 2, count: 8)
        let slot = try bench.read(0, 24)
        #expect(
            bench.take() == ["readCore 8+8 b8", "readCache w0:0+8 b0", "readCache w1:0+8 b16"])
        bench.finish("readCache w0")
        bench.finish("readCore")
        #expect(
            bench.finish("readCache w1") == ["answer 0 keeps", "writeCache w2:0+8 b8"])
        #expect(
            bench.content(slot)
                == [1, 2, 3].flatMap { [Int](repeating: $0, count: 8) })
        bench.finishAll()
        bench.expectQuiet()
    }

    @Test func aCleanLineBetweenTwoMissingOnesIsReadFromTheCoreInOneGo() throws {
        let bench = try Bench(.writeThrough)
        try bench.write(8, 8, 2)
        bench.finishAll()
        try bench.read(0, 24)
        #expect(bench.take() == ["readCore 0+24 b0"])
        #expect(
            bench.finish("readCore")
                == ["answer 0 keeps", "writeCache w1:0+8 b0", "writeCache w2:0+8 b16"])
        bench.finishAll()
        bench.expectQuiet()
    }

    @Test func aDirtyLineBetweenTwoMissingOnesIsReadFromTheCache() throws {
        let bench = try Bench(.writeBack)
        try bench.write(8, 8, 2)
        bench.finishAll()
        let slot = try bench.read(0, 24)
        #expect(
            bench.take() == ["readCore 0+8 b0", "readCore 16+8 b16", "readCache w0:0+8 b8"])
        bench.finishAll()
        #expect(bench.content(slot)?[8..<16] == [2, 2, 2, 2, 2, 2, 2, 2])
        bench.expectQuiet()
    }

    @Test func theMissingSectorsOfALineAreFilledAroundTheDirtyOne() throws {
        let bench = try Bench(.writeBack)
        try bench.write(3, 1, 9)
        bench.finishAll()
        let slot = try bench.read(0, 8)
        #expect(
            bench.take() == ["readCore 0+3 b0", "readCore 4+4 b4", "readCache w0:3+1 b3"])
        let after = bench.finishAll()
        #expect(
            after == [
                "answer 0 keeps", "writeCache w0:0+3 b0", "writeCache w0:4+4 b4", "releaseSlot",
            ])
        #expect(bench.content(slot) == [0, 0, 0, 9, 0, 0, 0, 0])
        #expect(bench.state(0) == LineState(valid: 0xff, dirty: 0x08))
        bench.expectQuiet()
    }

    @Test func aReadOverTwoExtentsStaysOneTransferOfTheCore() throws {
        let bench = try Bench(.writeBack)
        try bench.read(120, 16)
        #expect(bench.take() == ["readCore 120+16 b0"])
        #expect(
            bench.finish("readCore")
                == ["answer 0 keeps", "writeCache w0:0+8 b0", "writeCache w1:0+8 b8"])
        bench.finish("writeCache w1")
        #expect(bench.finish("writeCache w0") == ["releaseSlot"])
        bench.expectQuiet()
    }

    @Test func ofLongLinesOnlyTheTouchedSectorsAreRead() throws {
        let bench = try Bench(.writeBack, lineBytes: 8192)
        try bench.read(20, 4)
        #expect(bench.take() == ["readCore 20+4 b0"])
        bench.finishAll()
        #expect(bench.state(1) == LineState(valid: 0x00f0, dirty: 0))
        try bench.read(22, 10)
        #expect(bench.take() == ["readCore 24+8 b2", "readCache w0:6+2 b0"])
        bench.finishAll()
        #expect(bench.state(1) == LineState(valid: 0xfff0, dirty: 0))
        bench.expectQuiet()
    }

    // MARK: - Pass-through

    @Test func passThroughFillsNothing() throws {
        let bench = try Bench(.passThrough)
        try bench.read(8, 8)
        #expect(bench.take() == ["readCore 8+8 b0"])
        #expect(bench.finish("readCore") == ["answer 0"])
        #expect(bench.state(1) == nil)
        bench.expectQuiet()
    }

    @Test func passThroughReadsFromTheCacheOnlyWhatIsDirty() throws {
        let bench = try Bench(.writeThrough)
        try bench.write(0, 8, 1)
        bench.finishAll()
        bench.shared.mode = .writeBack
        try bench.write(10, 2, 2)
        bench.finishAll()
        bench.shared.mode = .passThrough
        try bench.read(0, 8)
        #expect(bench.take() == ["readCore 0+8 b0"])
        let slot = try bench.read(8, 8)
        bench.finishAll()
        #expect(bench.content(slot) == [0, 0, 2, 2, 0, 0, 0, 0])
        bench.expectQuiet()
    }

    // MARK: - Who waits

    @Test func aReadWaitsForALineThatIsWrittenThrough() throws {
        let bench = try Bench(.writeThrough)
        try bench.write(0, 8, 1)
        bench.finishAll()
        try bench.write(0, 8, 2)
        bench.take()
        let slot = try bench.read(0, 8)
        #expect(bench.take() == [])
        bench.finish("writeCache")
        #expect(bench.finish("writeCore") == ["answer 0", "readCache w0:0+8 b0"])
        bench.finishAll()
        #expect(bench.content(slot) == [Int](repeating: 2, count: 8))
        bench.expectQuiet()
    }

    @Test func aReadDoesNotWaitForAFillAndFillsNothingItself() throws {
        let bench = try Bench(.writeBack)
        try bench.read(0, 8)
        bench.take()
        try bench.read(0, 8)
        #expect(bench.take() == ["readCore 0+8 b0"])
        let commands = bench.finishAll()
        #expect(commands.filter { $0.hasPrefix("writeCache") }.count == 1)
        #expect(commands.filter { $0.hasPrefix("answer 0") }.count == 2)
        bench.expectQuiet()
    }

    @Test func theSixteenthReaderOfALineWaits() throws {
        let bench = try Bench(.writeBack)
        try bench.write(0, 8, 1)
        bench.finishAll()
        for _ in 0..<15 { try bench.read(0, 8) }
        #expect(bench.take().count == 15)
        try bench.read(0, 8)
        #expect(bench.take() == [])
        #expect(bench.finish("readCache") == ["answer 0", "readCache w0:0+8 b0"])
        bench.finishAll()
        #expect(bench.sum(.readDeferred) == 1)
        bench.expectQuiet()
    }

    @Test func whatAWriteMayHaveOvertakenIsNotFilled() throws {
        let bench = try Bench(.writeBack)
        bench.shared.mode = .passThrough
        try bench.write(0, 8, 1)
        bench.take()
        bench.shared.mode = .writeBack
        try bench.read(0, 8)
        #expect(bench.take() == ["readCore 0+8 b0"])
        #expect(bench.finish("readCore") == ["answer 0"])
        #expect(bench.state(0) == nil)
        bench.finishAll()
        bench.expectQuiet()
    }

    // MARK: - Failures

    @Test func aCoreThatFailsIsTheUsersFailure() throws {
        let bench = try Bench(.writeBack)
        try bench.read(0, 8)
        bench.take()
        #expect(bench.finish("readCore", error: -5) == ["answer -5"])
        #expect(bench.state(0) == nil)
        #expect(bench.sum(.coreReadErrors) == 1)
        bench.expectQuiet()
    }

    @Test func aCacheThatFailsToReadCleanDataIsReplacedByTheCore() throws {
        let bench = try Bench(.writeThrough)
        try bench.write(0, 8, 4)
        bench.finishAll()
        let slot = try bench.read(0, 8)
        bench.take()
        #expect(bench.finish("readCache", error: -5) == ["readCore 0+8 b0"])
        #expect(bench.finish("readCore") == ["answer 0"])
        #expect(bench.content(slot) == [Int](repeating: 4, count: 8))
        #expect(bench.sum(.cacheReadErrors) == 1)
        bench.expectQuiet()
    }

    @Test func aCacheThatFailsToReadDirtyDataIsTheUsersFailure() throws {
        let bench = try Bench(.writeBack)
        try bench.write(0, 8, 4)
        bench.finishAll()
        try bench.read(0, 8)
        bench.take()
        #expect(bench.finish("readCache", error: -5) == ["answer -5"])
        #expect(bench.state(0) == LineState(valid: 0xff, dirty: 0xff))
        bench.expectQuiet()
    }

    @Test func aFillThatFailsLeavesNothingInTheCache() throws {
        let bench = try Bench(.writeBack)
        try bench.read(0, 8)
        bench.take()
        bench.finish("readCore")
        #expect(bench.finish("writeCache", error: -28) == ["releaseSlot"])
        #expect(bench.state(0) == nil)
        #expect(bench.sum(.cacheWriteErrors) == 1)
        bench.expectQuiet()
    }
}
