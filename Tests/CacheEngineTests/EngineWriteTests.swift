import CacheFormat
import Testing

@testable import CacheEngine

@Suite struct EngineWriteBackTests {
    @Test func aMissGoesToTheCacheAlone() throws {
        let bench = try Bench(.writeBack)
        try bench.write(8, 8, 5)
        #expect(bench.take() == ["writeCache w0:0+8 b0"])
        // What is not there yet is not valid, whenever the power goes.
        #expect(bench.state(1)?.isEmpty == true)
        #expect(bench.finish("writeCache") == ["answer 0"])
        #expect(bench.state(1) == LineState(valid: 0xff, dirty: 0xff))
        #expect(bench.core[8] == 0)
        bench.expectQuiet()
    }

    @Test func onlyWhatWasWrittenIsValid() throws {
        let bench = try Bench(.writeBack)
        try bench.write(13, 5, 5)
        #expect(bench.take() == ["writeCache w0:5+5 b0"])
        bench.finishAll()
        #expect(bench.state(1) == LineState(valid: 0xe0, dirty: 0xe0))
        #expect(bench.state(2) == LineState(valid: 0x03, dirty: 0x03))
        bench.expectQuiet()
    }

    @Test func whatIsValidAlreadyIsDirtyBeforeItIsOverwritten() throws {
        let bench = try Bench(.writeThrough)
        try bench.write(8, 8, 1)
        bench.finishAll()
        bench.shared.mode = .writeBack
        try bench.write(10, 2, 2)
        #expect(bench.state(1) == LineState(valid: 0xff, dirty: 0x0c))
        #expect(bench.take() == ["writeCache w0:2+2 b0"])
        bench.finishAll()
        #expect(bench.state(1) == LineState(valid: 0xff, dirty: 0x0c))
        bench.expectQuiet()
    }

    @Test func writesToOneLineDoNotWaitForEachOther() throws {
        let bench = try Bench(.writeBack)
        for content in 1...6 { try bench.write(8, 8, content) }
        #expect(bench.take().count == 6)
        try bench.write(8, 8, 7)
        #expect(bench.take() == [])
        #expect(bench.finish("writeCache") == ["answer 0", "writeCache w0:0+8 b0"])
        bench.finishAll()
        bench.expectQuiet()
    }

    /// The record of what became dirty must be durable, too.
    @Test func aDurableWriteIsAnsweredAfterACommit() throws {
        let bench = try Bench(.writeBack)
        try bench.write(8, 8, 5, durable: true)
        #expect(bench.take() == ["writeCache w0:0+8 b0"])
        #expect(bench.finish("writeCache") == ["journal 1"])
        #expect(bench.finish("journal") == ["flushCache"])
        #expect(bench.finish("flushCache") == ["answer 0"])
        bench.expectQuiet()
    }

    @Test func withoutACleanWayTheWriteGoesToTheCore() throws {
        let bench = try Bench(.writeBack)
        for line in UInt64(0)..<224 { try bench.write(line * 8, 8, 1) }
        bench.finishAll()
        try bench.write(224 * 8, 8, 2, durable: true)
        #expect(bench.take().first == "writeCore 1792+8 b0 FUA")
        #expect(bench.state(224) == nil)
        bench.finishAll()
        #expect(bench.core[1792] == 2)
        bench.expectQuiet()
    }

    @Test func aLineThatIsWrittenDirectlyBecomesNotPresentMeanwhile() throws {
        let bench = try Bench(.passThrough)
        try bench.write(0, 8, 1)
        bench.take()
        bench.shared.mode = .writeBack
        // There is room, but the write under way could land behind this one.
        try bench.write(0, 8, 2)
        #expect(bench.take() == ["writeCore 0+8 b0"])
        bench.finishAll()
        try bench.write(0, 8, 3)
        #expect(bench.take() == ["writeCache w0:0+8 b0"])
        bench.finishAll()
        bench.expectQuiet()
    }

    @Test func aCacheThatFailsLeavesNoLineThatWasNotThere() throws {
        let bench = try Bench(.writeBack)
        try bench.write(8, 8, 1)
        bench.take()
        #expect(bench.finish("writeCache", error: -5) == ["answer -5"])
        #expect(bench.state(1) == nil)
        #expect(bench.sum(.cacheWriteErrors) == 1)
        bench.expectQuiet()
    }

    @Test func aCacheThatFailsLeavesAPresentLineDirty() throws {
        let bench = try Bench(.writeThrough)
        try bench.write(8, 8, 1)
        bench.finishAll()
        bench.shared.mode = .writeBack
        try bench.write(8, 8, 2)
        bench.take()
        #expect(bench.finish("writeCache", error: -5) == ["answer -5"])
        #expect(bench.state(1) == LineState(valid: 0xff, dirty: 0xff))
        bench.expectQuiet()
    }

    @Test func aLongWriteIsAnsweredWhenItsLastPartIsThere() throws {
        let bench = try Bench(.writeBack)
        let slot = try bench.write(0, 384, 3)
        let commands = bench.take()
        #expect(commands.count == 3)
        for command in commands.dropLast() {
            #expect(bench.finish(command) == [])
            #expect(bench.result(slot) == nil)
        }
        #expect(bench.finish("writeCache") == ["answer 0"])
        bench.expectQuiet()
    }
}

@Suite struct EngineWriteThroughTests {
    @Test func theAnswerComesWhenCacheAndCoreHaveTheData() throws {
        let bench = try Bench(.writeThrough)
        try bench.write(8, 8, 5)
        #expect(bench.take() == ["writeCache w0:0+8 b0", "writeCore 8+8 b0"])
        #expect(bench.finish("writeCache") == [])
        #expect(bench.state(1)?.isEmpty == true)
        #expect(bench.finish("writeCore") == ["answer 0"])
        #expect(bench.state(1) == LineState(valid: 0xff, dirty: 0))
        #expect(bench.core[8] == 5)
        bench.expectQuiet()
    }

    @Test func aCleanLineIsInvalidWhileTheTwoMayDisagree() throws {
        let bench = try Bench(.writeThrough)
        try bench.write(8, 8, 1)
        bench.finishAll()
        try bench.write(10, 2, 2)
        #expect(bench.state(1) == LineState(valid: 0xf3, dirty: 0))
        bench.finishAll()
        #expect(bench.state(1) == LineState(valid: 0xff, dirty: 0))
        bench.expectQuiet()
    }

    /// The core's copy is not durable: only the cleaner makes clean.
    @Test func aDirtyLineStaysDirtyAlthoughBothHaveTheData() throws {
        let bench = try Bench(.writeBack)
        try bench.write(8, 8, 1)
        bench.finishAll()
        bench.shared.mode = .writeThrough
        try bench.write(8, 4, 2)
        bench.take()
        bench.finish("writeCore")
        #expect(bench.state(1) == LineState(valid: 0xff, dirty: 0xff))
        #expect(bench.finish("writeCache") == ["answer 0"])
        #expect(bench.state(1) == LineState(valid: 0xff, dirty: 0xff))
        #expect(bench.core[8] == 2)
        bench.expectQuiet()
    }

    @Test func ofAnOverwrittenLineTheCleanGranulesStayClean() throws {
        let bench = try Bench(.writeBack)
        try bench.write(8, 4, 1)
        bench.finishAll()
        bench.shared.mode = .writeThrough
        try bench.write(10, 4, 2)
        bench.finishAll()
        #expect(bench.state(1) == LineState(valid: 0x3f, dirty: 0x0f))
        bench.expectQuiet()
    }

    @Test func aSecondWriteToTheLineWaits() throws {
        let bench = try Bench(.writeThrough)
        try bench.write(8, 8, 1)
        bench.take()
        try bench.write(8, 8, 2)
        #expect(bench.take() == [])
        bench.finish("writeCache")
        #expect(
            bench.finish("writeCore")
                == ["answer 0", "writeCache w0:0+8 b0", "writeCore 8+8 b0"])
        bench.finishAll()
        #expect(bench.core[8] == 2)
        #expect(bench.sum(.writeDeferred) == 1)
        bench.expectQuiet()
    }

    /// What the cache has becomes durable by a flush of it.
    @Test func forceUnitAccessReachesBoth() throws {
        let bench = try Bench(.writeThrough)
        try bench.write(8, 8, 5, durable: true)
        #expect(bench.take() == ["writeCache w0:0+8 b0", "writeCore 8+8 b0 FUA"])
        bench.finish("writeCore")
        #expect(bench.finish("writeCache") == ["flushCache"])
        #expect(bench.finish("flushCache") == ["answer 0"])
        bench.expectQuiet()
    }

    @Test func aCoreThatFailsIsTheUsersFailureAndACleanLineIsGone() throws {
        let bench = try Bench(.writeThrough)
        try bench.write(8, 8, 1)
        bench.finishAll()
        try bench.write(8, 8, 2)
        bench.take()
        bench.finish("writeCache")
        #expect(bench.finish("writeCore", error: -5) == ["answer -5"])
        #expect(bench.state(1) == nil)
        #expect(bench.sum(.coreWriteErrors) == 1)
        bench.expectQuiet()
    }

    @Test func aCoreThatFailsLeavesDirtyDataDirty() throws {
        let bench = try Bench(.writeBack)
        try bench.write(8, 8, 1)
        bench.finishAll()
        bench.shared.mode = .writeThrough
        try bench.write(8, 8, 2)
        bench.take()
        bench.finish("writeCore", error: -5)
        #expect(bench.finish("writeCache") == ["answer -5"])
        #expect(bench.state(1) == LineState(valid: 0xff, dirty: 0xff))
        bench.expectQuiet()
    }

    /// The cache decides what the line holds, and nobody knows what that is.
    @Test(arguments: [EngineMode.writeThrough, .passThrough])
    func aCacheThatFailsOverDirtyDataIsTheUsersFailure(mode: EngineMode) throws {
        let bench = try Bench(.writeBack)
        try bench.write(8, 8, 1)
        bench.finishAll()
        bench.shared.mode = mode
        try bench.write(8, 8, 2)
        bench.take()
        bench.finish("writeCore")
        #expect(bench.finish("writeCache", error: -28) == ["answer -28"])
        #expect(bench.state(1) == LineState(valid: 0xff, dirty: 0xff))
        #expect(bench.sum(.cacheWriteErrors) == 1)
        bench.expectQuiet()
    }

    @Test func aCacheThatFailsIsNotTheUsersFailure() throws {
        let bench = try Bench(.writeThrough)
        try bench.write(8, 8, 1)
        bench.finishAll()
        try bench.write(8, 8, 2)
        bench.take()
        bench.finish("writeCache", error: -5)
        #expect(bench.finish("writeCore") == ["answer 0"])
        #expect(bench.state(1) == nil)
        #expect(bench.core[8] == 2)
        bench.expectQuiet()
    }
}

@Suite struct EnginePassThroughTests {
    @Test func aWriteGoesToTheCoreAloneAndLeavesNothingInTheCache() throws {
        let bench = try Bench(.passThrough)
        try bench.write(8, 8, 5, durable: true)
        #expect(bench.take() == ["writeCore 8+8 b0 FUA"])
        #expect(bench.finish("writeCore") == ["answer 0"])
        #expect(bench.state(1) == nil)
        bench.expectQuiet()
    }

    @Test func aWriteOverManyExtentsStaysOneTransferOfTheCore() throws {
        let bench = try Bench(.passThrough)
        let slot = try bench.write(64, 256, 5)
        #expect(bench.take() == ["writeCore 64+256 b0"])
        #expect(bench.finish("writeCore") == ["answer 0"])
        #expect(bench.result(slot) == 0)
        #expect(bench.core[64..<320].allSatisfy { $0 == 5 })
        bench.expectQuiet()
    }

    @Test func whatTheCacheHasCleanIsDroppedBeforeTheCoreHasTheNewData() throws {
        let bench = try Bench(.writeThrough)
        try bench.write(8, 8, 1)
        bench.finishAll()
        bench.shared.mode = .passThrough
        try bench.write(10, 2, 2)
        #expect(bench.take() == ["writeCore 10+2 b0"])
        #expect(bench.state(1) == LineState(valid: 0xf3, dirty: 0))
        #expect(bench.finish("writeCore") == ["answer 0"])
        #expect(bench.state(1) == LineState(valid: 0xf3, dirty: 0))
        bench.expectQuiet()
    }

    /// The core's copy is not durable: the cache has to have it, too.
    @Test func whatTheCacheHasDirtyIsWrittenThereToo() throws {
        let bench = try Bench(.writeBack)
        try bench.write(8, 4, 1)
        bench.finishAll()
        bench.shared.mode = .writeThrough
        try bench.write(12, 4, 1)
        bench.finishAll()
        bench.shared.mode = .passThrough
        try bench.write(10, 4, 2)
        #expect(bench.take() == ["writeCache w0:2+2 b0", "writeCore 10+4 b0"])
        bench.finish("writeCore")
        #expect(bench.finish("writeCache") == ["answer 0"])
        #expect(bench.state(1) == LineState(valid: 0xcf, dirty: 0x0f))
        let slot = try bench.read(8, 8)
        bench.finishAll()
        #expect(bench.content(slot) == [1, 1, 2, 2, 2, 2, 1, 1])
        bench.expectQuiet()
    }

    @Test func aCoreThatFailsLeavesDirtyDataDirty() throws {
        let bench = try Bench(.writeBack)
        try bench.write(8, 8, 1)
        bench.finishAll()
        bench.shared.mode = .passThrough
        try bench.write(8, 8, 2)
        bench.take()
        bench.finish("writeCache")
        #expect(bench.finish("writeCore", error: -5) == ["answer -5"])
        #expect(bench.state(1) == LineState(valid: 0xff, dirty: 0xff))
        bench.expectQuiet()
    }
}
