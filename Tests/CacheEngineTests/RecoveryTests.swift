import CacheFormat
import Testing

@testable import CacheEngine

/// Which page of a set counts.
@Suite struct RecoveryPageTests {
    private typealias Line = RecoveryImage.Line

    private static func image() throws -> RecoveryImage { try #require(RecoveryImage()) }

    @Test func aFormattedCacheIsEmpty() throws {
        let outcome = try Self.image().recover()
        #expect(outcome.damage == nil && outcome.valid == [] && outcome.damagedSets == [])
        #expect(outcome.replayed == [])
    }

    @Test(arguments: [2, 3] as [UInt64]) func theNewerPageWins(newer: UInt64) throws {
        let image = try Self.image()
        image.page(1, newer - 1, number: 1, [4: Line(line: 5, dirty: 0x0f)])
        image.page(1, newer, number: 2, [4: Line(line: 5, dirty: 0x1f)])
        let outcome = image.recover()
        #expect(outcome.dirty == ["s1w4 line 5 1f"] && outcome.damagedSets == [])
    }

    @Test func whatIsCleanIsDropped() throws {
        let image = try Self.image()
        image.page(
            1, 2, number: 1, [4: Line(line: 5, dirty: 0x0f), 9: Line(line: 6, dirty: 0)])
        let outcome = image.recover()
        #expect(outcome.valid == ["s1w4 line 5 f"] && outcome.dirty == outcome.valid)
        #expect(outcome.report?.cleanLinesDropped == 1)
        #expect(outcome.report?.dirtyLines == 1 && outcome.report?.dirtyBytes == 2048)
    }

    @Test func withoutAWholePageTheSetIsDamaged() throws {
        let image = try Self.image()
        image.page(1, 2, number: 1, [4: Line(line: 5, dirty: 0x0f)])
        for slot in 0...1 { (image.slotBase(1, slot) + 700).storeBytes(of: 0xa5, as: UInt8.self) }
        let outcome = image.recover()
        #expect(outcome.damagedSets == [1] && outcome.dirty == [])
    }

    @Test func aPageInTheWrongSlotDoesNotCount() throws {
        let image = try Self.image()
        image.page(1, 2, number: 1, [4: Line(line: 5, dirty: 0x0f)])
        image.page(1, 4, number: 2, [4: Line(line: 5, dirty: 0xff)], slot: 1)
        let outcome = image.recover()
        #expect(outcome.damagedSets == [1])
    }

    @Test func aPageOfAnotherSetOrEpochDoesNotCount() throws {
        let image = try Self.image()
        image.page(1, 2, number: 1, [4: Line(line: 5, dirty: 0x0f)])
        image.page(1, 3, number: 2, [4: Line(line: 5, dirty: 0xff)])
        image.slotBase(2, 1).copyMemory(from: image.slotBase(1, 1), byteCount: 4096)
        #expect(image.recover().damagedSets == [2])
    }

    /// Under a good checksum: a program of ours never wrote that.
    @Test func aPageWhoseStatesCannotBeDoesNotCount() throws {
        for bad in [0x0000_000f_0000_0000, 0x0001_0000_0000_ffff, 0x00ff_000f] as [UInt64] {
            let image = try Self.image()
            image.page(1, 2, number: 1, [:])
            image.page(1, 3, number: 1, [:])
            let view = SetPageView(base: image.slotBase(1, 1))
            view.setState(7, LineState(rawValue: bad))
            let bytes = DiskBytes(base: view.base, count: 4096)
            bytes.store(
                bytes.checksum(without: SetPageLayout.checksum), SetPageLayout.checksum)
            #expect(image.recover().damagedSets == [1], "\(bad)")
        }
    }

    // MARK: - Suspect copies

    private static func suspect() throws -> RecoveryImage {
        let image = try Self.image()
        image.page(1, 2, number: 1, [4: Line(line: 5, dirty: 0x0f)])
        image.page(1, 3, number: 2, [4: Line(line: 5, dirty: 0xff)])
        (image.slotBase(1, 1) + 700).storeBytes(of: 0xa5, as: UInt8.self)
        return image
    }

    @Test func theOlderOfTwoPagesDoesNotCountByItself() throws {
        let outcome = try Self.suspect().recover()
        #expect(outcome.damagedSets == [1])
    }

    /// It was being written: what it includes is in the journal still.
    @Test func theOlderPageCountsIfTheJournalGoesOnWhereItEnds() throws {
        let image = try Self.suspect()
        image.block(
            1, .init(), [image.record(2, set: 1, way: 4, line: 5, dirty: 0xff, granules: 0xf0)])
        image.data[image.dataOffset(set: 1, way: 4)] = 4711
        let outcome = image.recover()
        #expect(outcome.damagedSets == [] && outcome.dirty == ["s1w4 line 5 ff"])
        #expect(outcome.replayed == [1])
    }

    @Test func theOlderPageDoesNotCountIfTheJournalGoesOnLater() throws {
        let image = try Self.suspect()
        image.block(1, .init(trusted: 1), [image.record(3, set: 1, way: 9, dirty: 0xff)])
        #expect(image.recover().damagedSets == [1])
    }

    @Test func theOlderPageDoesNotCountIfTheJournalEndsBeforeIt() throws {
        let image = try Self.suspect()
        image.block(1, .init(trusted: 1), [image.record(1, set: 1, way: 4, line: 5, dirty: 0x0f)])
        #expect(image.recover().damagedSets == [1])
    }

    /// Formatting makes both copies: one that is gone, be it of a set that was never used, may have
    /// been the newer one.
    @Test(arguments: 0...3) func aCopyThatIsGoneIsMissed(kind: Int) throws {
        let image = try Self.image()
        if kind > 0 { image.page(1, 2, number: 2, [4: Line(line: 5, dirty: 0xff)]) }
        let slot = image.slotBase(1, 0)
        switch kind {
        case 1: slot.initializeMemory(as: UInt8.self, repeating: 0, count: 4096)
        case 2: slot.storeBytes(of: 0x51, as: UInt8.self)
        case 3: (slot + 700).storeBytes(of: 0xa5, as: UInt8.self)
        default:
            for index in 0..<4096 {
                (slot + index).storeBytes(of: UInt8(index % 251), as: UInt8.self)
            }
        }
        #expect(image.recover().damagedSets == [1])
    }

    // MARK: - A stop

    /// A stop writes pages whose records the journal need not have.
    @Test func duringAStopAPageThatIsTornIsToldByTheDigest() throws {
        let image = try Self.image()
        image.page(0, 2, number: 1, [3: Line(line: 5, dirty: 0x0f)])
        image.page(1, 2, number: 1, [4: Line(line: 5, dirty: 0x0f)])
        let digest = image.digest()
        image.page(1, 3, number: 1, [4: Line(line: 5, dirty: 0x0f), 8: Line(line: 9, dirty: 0)])
        #expect(image.digest() == digest)
        (image.slotBase(1, 1) + 700).storeBytes(of: 0xa5, as: UInt8.self)
        #expect(image.recover().damagedSets == [1])
        let outcome = image.recover(digest: digest)
        #expect(outcome.damagedSets == [])
        #expect(outcome.dirty == ["s0w3 line 5 f", "s1w4 line 5 f"])
        // What is lost is no part of it.
        #expect(image.recover(digest: digest &+ 1).damagedSets == [1])
    }

    /// Every page is whole, but one of them is not what the stop wrote or left.
    @Test func duringAStopAPageThatIsTooOldIsToldByTheDigest() throws {
        let image = try Self.image()
        image.page(1, 2, number: 1, [4: Line(line: 5, dirty: 0x0f)])
        let digest = image.digest()
        image.page(1, 0, number: 0, [:])
        let outcome = image.recover(digest: digest)
        #expect(outcome.report?.isNotAsStopped == true && outcome.damagedSets == [])
    }

    @Test func duringAStopAnOlderPageIsNotTakenForTheNewest() throws {
        let image = try Self.image()
        image.page(1, 2, number: 1, [4: Line(line: 5, dirty: 0x0f)])
        image.page(1, 3, number: 2, [4: Line(line: 5, dirty: 0xff)])
        let digest = image.digest()
        #expect(image.recover(digest: digest).damagedSets == [])
        (image.slotBase(1, 1) + 700).storeBytes(of: 0xa5, as: UInt8.self)
        #expect(image.recover(digest: digest).damagedSets == [1])
    }

    @Test func theDigestIsOfWhatTheJournalSaysToo() throws {
        let image = try Self.image()
        image.page(1, 2, number: 1, [4: Line(line: 5, dirty: 0x0f)])
        let before = image.digest()
        image.page(1, 3, number: 2, [4: Line(line: 5, dirty: 0xff)])
        let digest = image.digest()
        // Torn, and the journal has the record: for set 0 there is damage of the same kind.
        (image.slotBase(1, 1) + 700).storeBytes(of: 0xa5, as: UInt8.self)
        image.page(0, 2, number: 0, [:])
        (image.slotBase(0, 0) + 700).storeBytes(of: 0xa5, as: UInt8.self)
        image.block(
            1, .init(trusted: 1),
            [image.record(2, set: 1, way: 4, line: 5, dirty: 0xff, granules: 0xf0)])
        #expect(image.recover(digest: digest).damagedSets == [])
        #expect(image.recover(digest: before).damagedSets == [0])
    }
}

/// What the journal says after the pages.
@Suite struct RecoveryJournalTests {
    private typealias Line = RecoveryImage.Line

    private static func image() throws -> RecoveryImage { try #require(RecoveryImage()) }

    @Test func recordsAreAppliedInOrder() throws {
        let image = try Self.image()
        image.block(
            1, .init(trusted: 0),
            [
                image.record(1, way: 3, line: 5, dirty: 0x0f),
                image.record(2, way: 3, line: 5, dirty: 0x3f, granules: 0x30),
                image.record(1, set: 2, way: 0, line: 2, dirty: 0xff),
            ])
        image.block(2, .init(trusted: 1, durable: 1), [image.record(3, way: 4, line: 6, dirty: 1)])
        image.block(3, .init(trusted: 2, durable: 2))
        let outcome = image.recover()
        #expect(outcome.damage == nil && outcome.damagedSets == [])
        #expect(outcome.dirty == ["s0w3 line 5 3f", "s0w4 line 6 1", "s2w0 line 2 ff"])
        #expect(outcome.replayed == [0, 2])
        #expect(outcome.report?.journalBlocks == 3 && outcome.report?.journalRecords == 4)
        #expect(outcome.report?.recordsCompared == 0)
    }

    @Test func aCleanRecordTakesAwayAndMayGiveTheWayToAnother() throws {
        let image = try Self.image()
        image.page(0, 2, number: 1, [3: Line(line: 5, dirty: 0xff)])
        let clean = image.record(2, way: 3, line: 5, dirty: 0, granules: 0, checksum: nil)
        image.block(1, .init(trusted: 1), [clean])
        #expect(image.recover().dirty == [])
        image.block(
            1, .init(trusted: 1), [clean, image.record(3, way: 3, line: 6, dirty: 0x01)])
        #expect(image.recover().dirty == ["s0w3 line 6 1"])
    }

    @Test func whatThePageIncludesIsNotAppliedAgain() throws {
        let image = try Self.image()
        // Cleaned, and written again since: the page has it all.
        image.page(0, 2, number: 3, [3: Line(line: 5, dirty: 0x01)])
        image.block(
            1, .init(trusted: 1),
            [
                image.record(1, way: 3, line: 5, dirty: 0xff),
                image.record(2, way: 3, line: 5, dirty: 0, granules: 0, checksum: nil),
                image.record(3, way: 3, line: 5, dirty: 0x01),
                image.record(4, way: 6, line: 9, dirty: 0x80),
            ])
        let outcome = image.recover()
        #expect(outcome.dirty == ["s0w3 line 5 1", "s0w6 line 9 80"])
        #expect(outcome.report?.journalRecords == 1 && outcome.damagedSets == [])
    }

    @Test func numbersWrapAround() throws {
        let image = try Self.image()
        image.page(0, 2, number: .max - 1, [:])
        image.block(
            1, .init(trusted: 1),
            [
                image.record(.max - 1, way: 1, line: 1, dirty: 1),
                image.record(.max, way: 2, line: 2, dirty: 2),
                image.record(0, way: 3, line: 3, dirty: 4),
                image.record(1, way: 4, line: 4, dirty: 8),
            ])
        let outcome = image.recover()
        #expect(outcome.dirty == ["s0w2 line 2 2", "s0w3 line 3 4", "s0w4 line 4 8"])
    }

    @Test func aRecordThatIsMissingIsDamageOfItsSetAlone() throws {
        let image = try Self.image()
        image.block(
            1, .init(trusted: 1),
            [
                image.record(1, way: 1, line: 1, dirty: 1),
                image.record(1, set: 1, way: 1, line: 1, dirty: 1),
                image.record(3, way: 2, line: 2, dirty: 2),
                image.record(4, way: 3, line: 3, dirty: 2),
                image.record(2, set: 1, way: 2, line: 2, dirty: 2),
            ])
        let outcome = image.recover()
        #expect(outcome.damagedSets == [0] && outcome.damage == nil)
        #expect(outcome.dirty.filter { $0.hasPrefix("s1") } == ["s1w1 line 1 1", "s1w2 line 2 2"])
    }

    // MARK: - Doubt

    /// Block 1 is told durable with its data, block 2 is the last one.
    private static func doubtful(
        _ record: (RecoveryImage) -> JournalRecord, trusted: UInt64 = 1
    ) throws -> RecoveryImage {
        let image = try Self.image()
        image.block(1, .init(), [image.record(1, way: 3, line: 5, dirty: 0x0f)])
        image.block(2, .init(trusted: trusted, durable: 1), [record(image)])
        return image
    }

    @Test func theDataOfTheLastBlockIsCompared() throws {
        let image = try Self.doubtful { $0.record(2, way: 4, line: 6, dirty: 0xff) }
        image.data[image.dataOffset(way: 4)] = 4711
        var outcome = image.recover()
        #expect(outcome.dirty == ["s0w3 line 5 f", "s0w4 line 6 ff"])
        #expect(outcome.report?.recordsCompared == 1 && outcome.report?.recordsDropped == 0)
        // It did not reach the device; nobody had been promised it.
        for other in [4712, nil] as [UInt32?] {
            image.data[image.dataOffset(way: 4)] = other
            outcome = image.recover()
            #expect(outcome.dirty == ["s0w3 line 5 f"])
            #expect(outcome.report?.recordsDropped == 1)
            #expect(outcome.damagedSets == [] && outcome.replayed == [0])
        }
    }

    @Test func withoutAChecksumWhatIsInDoubtIsDropped() throws {
        let image = try Self.doubtful { $0.record(2, way: 4, line: 6, dirty: 1, checksum: nil) }
        #expect(image.recover().dirty == ["s0w3 line 5 f"])
    }

    @Test func whatABlockSaysIsThereIsNotCompared() throws {
        let image = try Self.doubtful(
            { $0.record(2, way: 4, line: 6, dirty: 1, checksum: nil) }, trusted: 2)
        let outcome = image.recover()
        #expect(outcome.dirty == ["s0w3 line 5 f", "s0w4 line 6 1"])
        #expect(outcome.report?.recordsCompared == 0)
    }

    @Test func aLaterBlockConfirmsIt() throws {
        let image = try Self.doubtful { $0.record(2, way: 4, line: 6, dirty: 1, checksum: nil) }
        image.block(3, .init(trusted: 2, durable: 2))
        #expect(image.recover().dirty == ["s0w3 line 5 f", "s0w4 line 6 1"])
    }

    @Test func aCleanRecordNeedsNoData() throws {
        let image = try Self.doubtful {
            $0.record(2, way: 3, line: 5, dirty: 0x03, granules: 0, checksum: nil)
        }
        let outcome = image.recover()
        #expect(outcome.dirty == ["s0w3 line 5 3"] && outcome.report?.recordsCompared == 0)
    }

    @Test func ofALineOnlyWhatTheRecordWroteIsDropped() throws {
        let image = try Self.doubtful {
            $0.record(2, way: 3, line: 5, dirty: 0xff, granules: 0xf0)
        }
        #expect(image.recover().dirty == ["s0w3 line 5 f"])
    }

    /// The next record says all that is dirty, and means what it says with the one before.
    @Test func whatWasDroppedDoesNotComeBackWithTheNextRecord() throws {
        let image = try Self.doubtful {
            $0.record(2, way: 3, line: 5, dirty: 0x1f, granules: 0x10, checksum: 1)
        }
        image.block(
            3, .init(trusted: 1, durable: 1),
            [image.record(3, way: 3, line: 5, dirty: 0x3f, granules: 0x20)])
        image.data[image.dataOffset(way: 3)] = 4711
        #expect(image.recover().dirty == ["s0w3 line 5 2f"])
    }

    @Test func ofANewLineNothingIsLeftOfTheOldOne() throws {
        let image = try Self.image()
        image.page(0, 2, number: 1, [3: Line(line: 5, dirty: 0xff)])
        image.block(
            1, .init(),
            [
                image.record(2, way: 3, line: 5, dirty: 0, granules: 0, checksum: nil),
                image.record(3, way: 3, line: 6, dirty: 0x0f),
            ])
        // The second one's data is not there.
        let outcome = image.recover()
        #expect(outcome.dirty == [] && outcome.valid == [])
    }

    // MARK: - Which blocks

    @Test func replayBeginsAtTheTailThatTheNewestBlockTells() throws {
        let image = try Self.image()
        image.page(0, 2, number: 2, [3: Line(line: 5, dirty: 0x0f)])
        image.block(18, .init(tail: 10, trusted: 17, durable: 17))
        for block in UInt64(10)..<18 { image.block(block, .init(tail: 3, trusted: block - 1)) }
        // At the places of 19 and 20 are 3 and 4, which nobody needs any more.
        image.block(3, .init(), [image.record(77, way: 9, line: 9, dirty: 1)])
        image.block(4, .init(), [image.record(78, way: 9, line: 9, dirty: 1)])
        let outcome = image.recover()
        #expect(outcome.damage == nil && outcome.dirty == ["s0w3 line 5 f"])
        #expect(outcome.report?.journalBlocks == 9)
    }

    @Test func blocksOfAnotherSessionDoNotCount() throws {
        let image = try Self.image()
        image.block(1, .init(trusted: 1), [image.record(1, way: 3, line: 5, dirty: 0x0f)])
        let other = RecoveryImage.Facts(trusted: 9, durable: 9, session: 4)
        image.block(2, other, [image.record(2, way: 4, line: 6, dirty: 0x0f)])
        image.block(9, other)
        #expect(image.recover().dirty == ["s0w3 line 5 f"])
    }

    @Test func aBlockAtAnotherPlaceDoesNotCount() throws {
        let image = try Self.image()
        image.block(1, .init(trusted: 1), [image.record(1, way: 3, line: 5, dirty: 0x0f)])
        image.block(2, .init(trusted: 2), [image.record(2, way: 4, line: 6, dirty: 0x0f)])
        image.journal(9).base.copyMemory(from: image.journal(2).base, byteCount: 4096)
        image.block(2, .init(session: 4))
        #expect(image.recover().dirty == ["s0w3 line 5 f"])
    }

    /// Blocks 1 to 3, of which 2 is durable, and a fourth.
    private static func four() throws -> RecoveryImage {
        let image = try Self.image()
        for block in UInt64(1)...4 {
            image.block(
                block, .init(trusted: min(block - 1, 2), durable: min(block - 1, 2)),
                [image.record(UInt32(block), way: UInt8(block), line: block, dirty: 1)])
        }
        for way in 1...4 { image.data[image.dataOffset(way: way)] = 4711 }
        return image
    }

    private static func tear(_ image: RecoveryImage, _ block: UInt64) {
        let old = image.journal(block).base + 3 * 512
        let bytes = DiskBytes(base: old, count: 512)
        bytes.store(UInt64(0), JournalLayout.session)
        bytes.store(UInt64(0), JournalLayout.sequence)
        bytes.store(bytes.checksum(without: JournalLayout.checksum), JournalLayout.checksum)
    }

    @Test func whatWasNotDurableMayBeTornOrMissing() throws {
        #expect(try Self.four().recover().dirty.count == 4)
        for block in [3, 4] as [UInt64] {
            var image = try Self.four()
            Self.tear(image, block)
            #expect(image.recover().damage == nil)
            #expect(image.recover().dirty.count == Int(block) - 1)
            image = try Self.four()
            image.block(block, .init(session: 0))
            #expect(image.recover().damage == nil)
            #expect(image.recover().dirty.count == Int(block) - 1)
        }
    }

    @Test(arguments: [1, 2] as [UInt64]) func whatWasDurableMustBeThere(block: UInt64) throws {
        var image = try Self.four()
        Self.tear(image, block)
        #expect(image.recover().damage == .missing(block: block))
        image = try Self.four()
        image.block(block, .init(session: 4))
        #expect(image.recover().damage == .missing(block: block))
    }

    @Test(arguments: 1...4) func aBlockThatWasDamagedIsNotTakenForOneThatIsTorn(
        block: UInt64
    ) throws {
        let image = try Self.four()
        (image.journal(block).base + 1000).storeBytes(of: 0xa5, as: UInt8.self)
        let damage = image.recover().damage
        #expect(damage == (block <= 2 ? .missing(block: block) : .unreadable(block: block)))
    }

    /// What confirms a commit is durable before blocks that are sealed earlier.
    @Test(arguments: [0, 1000]) func aBlockBehindAGapMayHaveSaidWhatIsNeeded(from: Int) throws {
        let image = try Self.four()
        Self.tear(image, 4)
        image.block(6, .init(trusted: 3, durable: 2))
        image.data[image.dataOffset(way: 3)] = 4712
        #expect(image.recover().dirty.count == 3)
        (image.journal(6).base + from).initializeMemory(
            as: UInt8.self, repeating: 0xa5, count: from == 0 ? 4096 : 1)
        #expect(image.recover().damage == .unreadable(block: 6))
    }

    /// A place that was never written, and a block before the tail.
    @Test func damageWhereNothingIsNeededDoesNotMatter() throws {
        let image = try Self.four()
        (image.journal(5).base + 1000).storeBytes(of: 0xa5, as: UInt8.self)
        (image.journal(9).base + 1000).storeBytes(of: 0xa5, as: UInt8.self)
        #expect(image.recover().damage == nil && image.recover().dirty.count == 4)
        image.block(4, .init(tail: 2, trusted: 2, durable: 2))
        (image.journal(1).base + 1000).storeBytes(of: 0xa5, as: UInt8.self)
        #expect(image.recover().damage == nil)
    }

    /// Behind one that never was durable nothing was promised.
    @Test func ofADamagedJournalAllIsLeftThatMayHaveBeenPromised() throws {
        var image = try Self.four()
        (image.journal(1).base + 1000).storeBytes(of: 0xa5, as: UInt8.self)
        #expect(image.blocksLeft() == [2..<5])
        Self.tear(image, 3)
        #expect(image.blocksLeft() == [2..<3])
        image = try Self.four()
        (image.journal(3).base + 1000).storeBytes(of: 0xa5, as: UInt8.self)
        #expect(image.blocksLeft() == [1..<3, 4..<5])
        image = try Self.four()
        Self.tear(image, 2)
        #expect(image.blocksLeft() == [1..<2, 3..<5])
        image.block(4, .init(tail: 6, trusted: 2, durable: 2))
        #expect(image.blocksLeft() == [])
    }

    @Test(arguments: [0, 6, 20] as [UInt64]) func aTailThatCannotBeIsDamage(tail: UInt64) throws {
        let image = try Self.four()
        image.block(4, .init(tail: tail, trusted: 2, durable: 2))
        #expect(image.recover().damage == .impossible(block: 4))
    }

    @Test func aTailThatIsTooFarBackIsDamage() throws {
        let image = try Self.image()
        image.block(20, .init(tail: 4, trusted: 19, durable: 19))
        #expect(image.recover().damage == .impossible(block: 20))
    }

    @Test func aRecordThatCannotBeIsDamage() throws {
        let image = try Self.four()
        image.block(2, .init(trusted: 1, durable: 1), [image.record(2, set: 3, dirty: 1)])
        #expect(image.recover().damage == .impossible(block: 2))
    }

    // MARK: - Again

    /// Interrupted at any of its writes and done again it comes to the same.
    @Test(arguments: 0...8) func aSecondRecoveryComesToTheSame(sectors: Int) throws {
        let image = try Self.image()
        image.page(0, 2, number: 1, [3: Line(line: 5, dirty: 0x0f)])
        image.page(0, 3, number: 2, [3: Line(line: 5, dirty: 0x1f)])
        image.block(
            1, .init(),
            [
                image.record(2, way: 3, line: 5, dirty: 0x1f, granules: 0x10),
                image.record(3, way: 3, line: 5, dirty: 0, granules: 0, checksum: nil),
                image.record(1, set: 1, way: 7, line: 1, dirty: 0x0f),
            ])
        image.block(
            2, .init(trusted: 1, durable: 1),
            [
                image.record(4, way: 3, line: 6, dirty: 0xff),
                image.record(2, set: 1, way: 7, line: 1, dirty: 0x3f, granules: 0x30),
            ])
        // The data of the one is there, that of the other is not.
        image.data[image.dataOffset(way: 3)] = 4711
        let first = image.recover(storedSectors: sectors)
        #expect(first.dirty == ["s0w3 line 6 ff", "s1w7 line 1 f"])
        #expect(first.replayed == [0, 1] && first.damagedSets == [])
        let second = image.recover(storedSectors: sectors)
        #expect(second.dirty == first.dirty && second.damagedSets == [])
        #expect(second.damage == nil)
        let third = image.recover()
        #expect(third.dirty == first.dirty && third.damagedSets == [] && third.damage == nil)
    }

    @Test func whatADamagedSetHadIsLostOnlyWhenItIsAccepted() throws {
        let image = try Self.image()
        image.page(1, 2, number: 1, [4: Line(line: 5, dirty: 0x0f)])
        image.block(1, .init(trusted: 1), [image.record(1, way: 3, line: 5, dirty: 0x0f)])
        for slot in 0...1 { (image.slotBase(1, slot) + 700).storeBytes(of: 0xa5, as: UInt8.self) }
        let outcome = image.recover(storedSectors: 8)
        #expect(outcome.damagedSets == [1] && outcome.replayed == [0])
        #expect(image.recover().damagedSets == [1])
    }
}
