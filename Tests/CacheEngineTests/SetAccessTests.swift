import CacheFormat
import Testing

@testable import CacheEngine

/// Finding, giving out and taking back the ways of a set.
@Suite struct SetAccessTests {
    /// A cache of one set and what is put into it.
    private struct Table {
        let bench: Bench
        var access: SetAccess { SetAccess(bench.shared, 0, counters: 0) }
        var page: SetPageView { access.page }

        init() throws { bench = try Bench(.writeBack) }

        func identity(_ line: UInt64) -> Identity { Identity(core: 1, line: line, ioClass: 0) }

        func find(_ line: UInt64, guess: Int = 0) -> Int? {
            access.find(
                identity(line), fingerprint: SetPageView.fingerprint(core: 1, line: line),
                guess: guess)
        }

        /// Gives the line a way and makes it valid, as a fill does; nil if there is no way.
        func insert(_ line: UInt64, dirty: Bool = false, guess: Int = 224) -> Int? {
            let fingerprint = SetPageView.fingerprint(core: 1, line: line)
            let way = access.allocate(
                identity(line), fingerprint: fingerprint, lineHash: lineHash(core: 1, line: line),
                guess: guess)
            if let way {
                access.makeValid(way, 0xff)
                if dirty { access.makeDirty(way, 0xff) }
            }
            return way
        }

        func isMain(_ line: UInt64) -> Bool {
            guard let way = find(line) else { return false }
            return page.replacement[way] & Replacement.main != 0
        }

        func touch(_ line: UInt64) { if let way = find(line) { access.touch(way) } }

        func present(_ lines: Range<UInt64>) -> [UInt64] { lines.filter { find($0) != nil } }

        func check() { bench.shared.checkInvariants(quiescent: true) }
    }

    // MARK: - Lookup

    @Test func aLineIsFoundWhereverItIsAndWhateverIsGuessed() throws {
        let table = try Table()
        let ways = (UInt64(0)..<224).compactMap { table.insert($0) }
        #expect(Set(ways).count == 224)
        for line in UInt64(0)..<224 {
            for guess in [0, ways[Int(line)], 100, 223, 224] {
                #expect(table.find(line, guess: guess) == ways[Int(line)])
            }
        }
        #expect(table.find(224) == nil)
        table.check()
    }

    @Test func linesThatShareAFingerprintAreToldApart() throws {
        let table = try Table()
        let wanted = SetPageView.fingerprint(core: 1, line: 0)
        let twins = (UInt64(0)..<20_000).filter {
            SetPageView.fingerprint(core: 1, line: $0) == wanted
        }.prefix(8)
        try #require(twins.count == 8)
        for line in twins.dropLast() { _ = table.insert(line) }
        let ways = twins.map { table.find($0) }
        #expect(Set(ways.dropLast().compactMap { $0 }).count == 7)
        #expect(ways.last == .some(nil))
    }

    @Test func anotherCoresLineOfTheSameNumberIsAnotherLine() throws {
        let table = try Table()
        _ = table.insert(5)
        let other = Identity(core: 2, line: 5, ioClass: 0)
        #expect(
            table.access.search(other, fingerprint: SetPageView.fingerprint(core: 1, line: 5))
                == nil)
    }

    // MARK: - Free ways

    @Test func aGuessedWayIsTakenIfItIsFree() throws {
        let table = try Table()
        #expect(table.insert(1, guess: 77) == 77)
        #expect(table.insert(2, guess: 77) == 0)
        #expect(table.insert(3, guess: 224) == 1)
        table.check()
    }

    @Test func aFreeWaySomebodyStillReadsIsNotGivenOut() throws {
        let table = try Table()
        let way = try #require(table.insert(1))
        table.access.sidecar.uses[way].addReader()
        table.access.invalidate(way, .max)
        table.access.releaseIfEmpty(way)
        #expect(table.find(1) == nil)
        #expect(table.insert(2, guess: way) != way)
        table.access.sidecar.uses[way].removeReader()
        #expect(table.insert(3, guess: way) == way)
        table.check()
    }

    @Test func anEmptyWayThatIsBeingFilledIsKept() throws {
        let table = try Table()
        let way = try #require(table.insert(1))
        table.access.sidecar.uses[way].becomeExclusive()
        table.access.invalidate(way, .max)
        table.access.releaseIfEmpty(way)
        #expect(table.find(1) == way)
        table.access.sidecar.uses[way].endExclusive()
        table.access.releaseIfEmpty(way)
        #expect(table.find(1) == nil)
        table.check()
    }

    // MARK: - Counts

    @Test func countsAndDirtyMapFollowTheStates() throws {
        let table = try Table()
        let shared = table.bench.shared
        let way = try #require(table.insert(40))
        #expect(shared.sum(.occupiedLines, core: 1) == 1)
        #expect(shared.sum(.dirtyLines, core: 1) == 0)
        #expect(shared.dirtyMap(1)?.next(from: 0) == nil)
        table.access.makeDirty(way, 0x10)
        table.access.makeDirty(way, 0x20)
        #expect(shared.sum(.dirtyLines, core: 1) == 1 && table.access.sidecar.dirty == 1)
        // Line 40 lies in extent 2.
        #expect(shared.dirtyMap(1)?.next(from: 0) == 2)
        table.access.makeClean(way, 0x10)
        #expect(shared.sum(.dirtyLines, core: 1) == 1)
        table.access.makeClean(way, 0x20)
        #expect(shared.sum(.dirtyLines, core: 1) == 0 && table.access.sidecar.dirty == 0)
        table.access.invalidate(way, 0x7f)
        #expect(shared.sum(.occupiedLines, core: 1) == 1)
        table.access.invalidate(way, 0x80)
        #expect(shared.sum(.occupiedLines, core: 1) == 0)
        table.access.releaseIfEmpty(way)
        #expect(table.access.sidecar.occupied == 0 && table.access.sidecar.small == 0)
        table.check()
    }

    @Test func aHitIsCountedUpToThree() throws {
        let table = try Table()
        let way = try #require(table.insert(1))
        for expected in [1, 2, 3, 3, 3] as [UInt8] {
            table.access.touch(way)
            #expect(table.page.replacement[way] & Replacement.frequencyMask == expected)
        }
        #expect(table.page.replacement[way] & ~Replacement.frequencyMask == Replacement.occupied)
    }

    // MARK: - Replacement

    @Test func oneHitWondersLeaveFirstOldestFirst() throws {
        let table = try Table()
        for line in UInt64(0)..<224 { _ = table.insert(line) }
        // Hit twice: worth keeping. Hit once: not.
        for line in UInt64(0)..<10 {
            table.touch(line)
            table.touch(line)
        }
        for line in UInt64(10)..<20 { table.touch(line) }
        for line in UInt64(1000)..<1015 { #expect(table.insert(line) != nil) }
        #expect(table.present(0..<224) == Array(0..<10) + Array(25..<224))
        #expect((0..<10).allSatisfy { table.isMain($0) })
        table.check()
    }

    @Test func aScanDoesNotDriveOutWhatIsUsed() throws {
        let table = try Table()
        for line in UInt64(0)..<224 { _ = table.insert(line) }
        for line in UInt64(0)..<100 { for _ in 0..<3 { table.touch(line) } }
        for line in UInt64(10_000)..<13_000 { #expect(table.insert(line) != nil) }
        #expect(table.present(0..<224) == Array(0..<100))
        table.check()
    }

    @Test func aLineThatComesBackSoonGoesToTheMainPart() throws {
        let table = try Table()
        for line in UInt64(0)..<224 { _ = table.insert(line) }
        _ = table.insert(500)
        #expect(table.find(0) == nil)
        #expect(!table.isMain(500))
        _ = table.insert(0)
        #expect(table.isMain(0))
        table.check()
    }

    @Test func aSmallPartBelowATenthIsLeftAlone() throws {
        let table = try Table()
        for line in UInt64(0)..<224 {
            let way = try #require(table.insert(line))
            if line >= 22 { table.page.replacement[way] |= Replacement.main }
        }
        table.access.sidecar.small = 22
        _ = table.insert(1000)
        #expect(table.find(0) == nil)
        // Now the small part has 22 lines again. The new one moves: 21 are too few.
        table.page.replacement[0] |= Replacement.main
        table.access.sidecar.small -= 1
        _ = table.insert(1001)
        #expect(table.find(1000) == nil)
        #expect(table.present(1..<224) == Array(1..<224))
        table.check()
    }

    @Test func inTheMainPartTheUnusedLeaveBeforeTheUsed() throws {
        let table = try Table()
        for line in UInt64(0)..<224 {
            let way = try #require(table.insert(line))
            table.page.replacement[way] |= Replacement.main
        }
        table.access.sidecar.small = 0
        for line in UInt64(0)..<200 { table.touch(line) }
        for line in UInt64(1000)..<1020 { #expect(table.insert(line) != nil) }
        #expect(table.present(0..<200).count == 200)
        #expect(table.present(200..<224) == Array(220..<224))
        table.check()
    }

    @Test func dirtyLinesAreNeverEvicted() throws {
        let table = try Table()
        for line in UInt64(0)..<224 { _ = table.insert(line, dirty: line != 100) }
        #expect(table.insert(1000) == 100)
        #expect(table.find(100) == nil)
        table.access.makeDirty(100, 1)
        #expect(table.insert(1001) == nil)
        #expect(table.present(0..<224).count == 223)
        table.check()
    }

    @Test(arguments: ["reader", "writer", "exclusive", "cleaner"])
    func linesInUseAreNeverEvicted(use: String) throws {
        let table = try Table()
        for line in UInt64(0)..<224 { _ = table.insert(line) }
        for way in 0..<224 where way != 33 {
            switch use {
            case "reader": table.access.sidecar.uses[way].addReader()
            case "writer": table.access.sidecar.uses[way].addWriter()
            case "exclusive": table.access.sidecar.uses[way].becomeExclusive()
            default: table.access.sidecar.uses[way].isCleaning = true
            }
        }
        #expect(table.insert(1000) == 33)
        table.access.sidecar.uses[33].addReader()
        #expect(table.insert(1001) == nil)
        #expect(table.present(0..<224).count == 223)
    }

    @Test func anEvictedLineIsCountedNoLonger() throws {
        let table = try Table()
        for line in UInt64(0)..<500 { _ = table.insert(line) }
        #expect(table.bench.sum(.occupiedLines) == 224)
        #expect(table.access.sidecar.occupied == 224)
        table.check()
    }

    // MARK: - Cores

    @Test func droppingACoreLeavesOtherCoresAlone() throws {
        let bench = try Bench(.writeBack, setCount: 3)
        bench.addCore(2)
        for sector in stride(from: UInt64(0), to: 1280, by: 8) {
            try bench.write(sector, 8, 1)
            try bench.write(sector, 8, 2, core: 2)
            bench.finishAll()
        }
        #expect(bench.shared.dropLines(core: 1) == .done)
        #expect(bench.sum(.occupiedLines) == 0 && bench.sum(.dirtyLines) == 0)
        #expect(bench.shared.sum(.dirtyLines, core: 2) == 160)
        bench.shared.removeCore(1)
        #expect(!bench.shared.hasCore(1) && bench.shared.hasCore(2))
        bench.shared.checkInvariants(quiescent: true)
    }

    @Test func aCoreWithALineInUseIsNotDroppedYet() throws {
        let bench = try Bench(.writeBack)
        try bench.write(0, 8, 1)
        bench.take()
        try bench.write(8, 8, 2)
        bench.take()
        bench.finish("writeCache w0:0+8")
        #expect(bench.shared.dropLines(core: 1) == .again)
        bench.finishAll()
        #expect(bench.shared.dropLines(core: 1) == .done)
        #expect(bench.sum(.occupiedLines) == 0)
    }
}
