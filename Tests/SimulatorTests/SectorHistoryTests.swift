import Testing

@testable import Simulator

/// The judge of reads: what it lets pass, and above all what it does not.
@Suite struct SectorHistoryTests {
    /// A sector with one write of stamp 7, begun at 10 and ended at 20.
    private static func written() -> SectorHistory {
        var history = SectorHistory()
        history.writeBegan(7, at: 10)
        history.writeEnded(7, at: 20, certain: true)
        return history
    }

    /// As `written`, and a write of stamp 8 begun at 30 and ended, successfully or not, at 40.
    private static func rewritten(certain: Bool = true) -> SectorHistory {
        var history = written()
        history.writeBegan(8, at: 30)
        history.writeEnded(8, at: 40, certain: certain)
        return history
    }

    /// Whether a read may return the stamp, with no trace of it left behind.
    private static func mayRead(
        _ history: SectorHistory, _ stamp: UInt64, begun: UInt64, at now: UInt64
    ) -> Bool {
        var copy = history
        return copy.readEnded(stamp, begun: begun, at: now)
    }

    @Test func aSectorNobodyWroteHoldsZero() {
        let history = SectorHistory()
        #expect(Self.mayRead(history, 0, begun: 1, at: 2))
        #expect(!Self.mayRead(history, 1, begun: 1, at: 2))
        #expect(!Self.mayRead(history, .max, begun: 1, at: 2))
        #expect(history.settled(before: 1) == 0)
    }

    @Test func whatNobodyWroteIsWrong() {
        #expect(Self.mayRead(Self.rewritten(), 8, begun: 50, at: 60))
        #expect(!Self.mayRead(Self.rewritten(), 9, begun: 50, at: 60))
    }

    @Test func afterACompletedWriteTheOldContentIsStale() {
        #expect(Self.mayRead(Self.written(), 7, begun: 21, at: 30))
        #expect(!Self.mayRead(Self.written(), 0, begun: 21, at: 30))
        #expect(!Self.mayRead(Self.rewritten(), 7, begun: 41, at: 50))
        #expect(!Self.mayRead(Self.rewritten(), 0, begun: 41, at: 50))
    }

    @Test func aReadThatBeganBeforeTheEndOfTheWriteMayStillReturnTheOld() {
        #expect(Self.mayRead(Self.rewritten(), 7, begun: 39, at: 50))
        #expect(Self.mayRead(Self.rewritten(), 8, begun: 39, at: 50))
        // But nothing older than what was certain by then.
        #expect(!Self.mayRead(Self.rewritten(), 0, begun: 39, at: 50))
    }

    @Test func duringAWriteEitherMayBeReadAndNothingIsDecided() {
        var history = Self.written()
        history.writeBegan(8, at: 30)
        for (stamp, begun) in [(8, 31), (7, 33), (8, 35), (7, 37)] as [(UInt64, UInt64)] {
            let isAllowed = history.readEnded(stamp, begun: begun, at: begun + 1)
            #expect(isAllowed)
        }
        #expect(!Self.mayRead(history, 0, begun: 31, at: 32))
        #expect(history.settled(before: 33) == nil)
    }

    @Test func ofTwoWritesAtTheSameTimeTheFirstReadDecides() {
        var history = Self.written()
        history.writeBegan(8, at: 30)
        history.writeBegan(9, at: 31)
        history.writeEnded(9, at: 40, certain: true)
        history.writeEnded(8, at: 41, certain: true)
        #expect(!Self.mayRead(history, 7, begun: 50, at: 51))
        #expect(Self.mayRead(history, 8, begun: 50, at: 51))
        #expect(history.settled(before: 50) == nil)
        let isAllowed = history.readEnded(9, begun: 50, at: 51)
        #expect(isAllowed)
        #expect(!Self.mayRead(history, 8, begun: 60, at: 61))
        #expect(Self.mayRead(history, 9, begun: 60, at: 61))
        // A read that was under way when the other decided may have seen the loser.
        #expect(Self.mayRead(history, 8, begun: 50, at: 61))
        #expect(history.settled(before: 60) == 9)
    }

    // A discard is told as a write of zero that is not certain.
    @Test(arguments: [7, 8] as [UInt64])
    func aFailedWriteMayOrMayNotHaveHappenedUntilARead(stamp: UInt64) {
        var history = Self.rewritten(certain: false)
        #expect(history.settled(before: 50) == nil)
        let isAllowed = history.readEnded(stamp, begun: 50, at: 51)
        #expect(isAllowed)
        #expect(!Self.mayRead(history, 15 - stamp, begun: 60, at: 61))
        #expect(history.settled(before: 60) == stamp)
    }

    @Test func aFailedWriteDoesNotBringBackWhatWasOverwrittenBefore() {
        #expect(!Self.mayRead(Self.rewritten(certain: false), 0, begun: 50, at: 51))
    }

    @Test func aDiscardedSectorMayComeBackAsZeroButNotAfterItsContentWasRead() {
        var history = Self.written()
        history.writeBegan(0, at: 30)
        history.writeEnded(0, at: 40, certain: false)
        #expect(Self.mayRead(history, 0, begun: 50, at: 51))
        let isAllowed = history.readEnded(7, begun: 50, at: 51)
        #expect(isAllowed)
        #expect(!Self.mayRead(history, 0, begun: 60, at: 61))
    }

    @Test func settledIsTheOneValueOfASectorAtRest() {
        #expect(Self.written().settled(before: 21) == 7)
        #expect(Self.written().settled(before: 20) == nil)
        #expect(Self.rewritten().settled(before: 41) == 8)
    }

    @Test func pruningChangesNoVerdict() {
        var history = SectorHistory()
        for stamp in UInt64(1)...20 {
            history.writeBegan(stamp, at: stamp * 10)
            history.writeEnded(stamp, at: stamp * 10 + 5, certain: true)
        }
        // What no FLUSH has covered may come back after a power cut: it is kept.
        var kept = history
        kept.prune(oldestRead: 195)
        #expect(kept.text == history.text)
        history.flushed(before: 300)
        var pruned = history
        pruned.prune(oldestRead: 195)
        #expect(pruned.text.count < history.text.count)
        for begun in [195, 199, 205, 206, 300] as [UInt64] {
            for stamp in UInt64(0)...21 {
                let verdict = Self.mayRead(history, stamp, begun: begun, at: 400)
                #expect(Self.mayRead(pruned, stamp, begun: begun, at: 400) == verdict)
            }
        }
        #expect(pruned.settled(before: 400) == 20)
    }

    // MARK: - Power cuts

    private static func mayRecover(_ history: SectorHistory, _ stamp: UInt64) -> Bool {
        var copy = history
        return copy.recovered(stamp, at: 500)
    }

    /// 7 is written from 10 to 20, then 8 from 30 to 40.
    @Test func untilAFlushAnyOldContentMayComeBack() {
        let history = Self.rewritten()
        #expect([0, 7, 8].allSatisfy { Self.mayRecover(history, $0) })
        #expect(!Self.mayRecover(history, 9))
    }

    @Test func aFlushMakesDurableWhatHadEndedWhenItBegan() {
        for (moment, expected) in [(35, [7, 8]), (45, [8])] as [(UInt64, [UInt64])] {
            var history = Self.rewritten()
            history.flushed(before: moment)
            #expect([0, 7, 8].filter { Self.mayRecover(history, $0) } == expected, "\(moment)")
        }
    }

    @Test func aDurableWriteIsNotUndone() {
        var history = Self.rewritten()
        history.madeDurable(8)
        #expect([0, 7, 8].filter { Self.mayRecover(history, $0) } == [8])
    }

    @Test func whatIsUnderWayAtTheCutMayBeThereOrNot() {
        var history = Self.written()
        history.flushed(before: 25)
        history.writeBegan(8, at: 30)
        history.writeEnded(8, at: 40, certain: false)
        #expect([0, 7, 8].filter { Self.mayRecover(history, $0) } == [7, 8])
    }

    @Test func whatCameBackStays() {
        var history = Self.rewritten()
        let isAllowed = history.recovered(7, at: 50)
        #expect(isAllowed)
        #expect(Self.mayRead(history, 7, begun: 60, at: 61))
        #expect(!Self.mayRead(history, 8, begun: 60, at: 61))
        #expect(!Self.mayRecover(history, 8) && Self.mayRecover(history, 7))
    }

    @Test func theEndOfAWriteThatNeverBeganTraps() async {
        await #expect(processExitsWith: .failure) {
            var history = SectorHistory()
            history.writeEnded(3, at: 5, certain: true)
        }
    }
}
