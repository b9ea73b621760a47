import CacheFormat
import Testing

@Suite struct JournalBlockTests {
    private static let session: UInt64 = 0x1817_1615_1413_1211
    private static let sequence: UInt64 = 0x2827_2625_2423_2221

    private static let record = JournalRecord(
        set: 0x0102_0304, way: 223, identity: Identity(rawValue: 0x6867_6665_6463_6261),
        dirty: 0x01ff, granules: 0x010f, checksum: 0x7172_7374, number: 0x8182_8384)

    /// Records that differ in everything.
    private static func records(_ count: Int) -> [JournalRecord] {
        (0..<count).map { index in
            let number = UInt64(index)
            return JournalRecord(
                set: UInt32(index * 7), way: UInt8(index % 224),
                identity: Identity(core: UInt16(index), line: number << 20 | 5, ioClass: 0),
                dirty: 0x00ff ^ UInt16(index), granules: (0x00ff ^ UInt16(index)) & 0x55,
                checksum: index % 3 == 0 ? nil : UInt32(index) &* 0x9E37_79B9,
                number: UInt32(index + 1))
        }
    }

    private static func sealed(
        _ records: [JournalRecord] = [record], session: UInt64 = session,
        sequence: UInt64 = sequence
    ) -> Block {
        let block = Block()
        // What the buffer held before must not shine through.
        for index in 0..<Block.byteCount { block[index] = 0xee }
        let view = block.journal
        view.begin(session: session, sequence: sequence)
        for record in records { view.append(record) }
        view.seal(
            tail: 0x3837_3635_3433_3231, trustedThrough: 0x4847_4645_4443_4241,
            durableThrough: 0x5857_5655_5453_5251)
        return block
    }

    private static let setCount: UInt64 = 1 << 31

    private static func read(_ block: Block) -> [JournalRecord?] {
        (0..<block.journal.recordCount).map { block.journalRecord(at: $0, setCount: setCount) }
    }

    // MARK: - Bytes

    @Test func theFieldsFillTheirSpaceWithoutGapOrOverlap() {
        #expect(seams(of: JournalLayout.sectorFields, byteCount: JournalLayout.headerBytes) == [])
        #expect(seams(of: JournalLayout.recordFields, byteCount: JournalLayout.recordBytes) == [])
        #expect(
            JournalLayout.headerBytes + JournalLayout.recordsPerSector * JournalLayout.recordBytes
                == JournalLayout.sectorBytes)
        #expect(
            JournalLayout.sectorCount * JournalLayout.sectorBytes == JournalLayout.byteCount)
        #expect(JournalLayout.byteCount == Geometry.blockBytes)
        #expect(JournalLayout.recordsMax == 120)
    }

    @Test func theBytesAreTheseForEver() {
        var expected = [UInt8](repeating: 0, count: 4096)
        func set(_ offset: Int, _ bytes: [UInt8]) {
            expected.replaceSubrange(offset..<offset + bytes.count, with: bytes)
        }
        let checksums: [[UInt8]] = [
            [0x33, 0x05, 0xd7, 0x6e], [0xcb, 0x7c, 0xe5, 0x9f], [0x45, 0x36, 0xd8, 0x1d],
            [0x9c, 0x70, 0xba, 0x3e], [0x86, 0xdb, 0xf2, 0xa9], [0xce, 0x1a, 0x74, 0x40],
            [0xe7, 0x2f, 0x13, 0x7f], [0xaf, 0xee, 0x95, 0x96],
        ]
        for sector in 0..<8 {
            let count: UInt8 = sector == 0 ? 1 : 0
            set(sector * 512, checksums[sector] + [UInt8(sector), count, 0x01, 0x00])
            set(sector * 512 + 8, [0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18])
            set(sector * 512 + 16, [0x21, 0x22, 0x23, 0x24, 0x25, 0x26, 0x27, 0x28])
        }
        set(24, [0x31, 0x32, 0x33, 0x34, 0x35, 0x36, 0x37, 0x38])
        set(512 + 24, [0x41, 0x42, 0x43, 0x44, 0x45, 0x46, 0x47, 0x48])
        set(1024 + 24, [0x51, 0x52, 0x53, 0x54, 0x55, 0x56, 0x57, 0x58])
        set(32, [0x04, 0x03, 0x02, 0x01, 0xdf, 0x01, 0x0f, 0x01])
        set(40, [0x61, 0x62, 0x63, 0x64, 0x65, 0x66, 0x67, 0x68])
        set(48, [0xff, 0x01, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00])
        set(56, [0x74, 0x73, 0x72, 0x71, 0x84, 0x83, 0x82, 0x81])
        #expect(Self.sealed().bytes == expected)
    }

    // MARK: - Reading what was written

    @Test(arguments: [0, 1, 14, 15, 16, 30, 31, 119, 120])
    func whatWasWrittenIsReadAgain(count: Int) {
        let records = Self.records(count)
        let block = Self.sealed(records)
        let view = block.journal
        #expect(block.journalContent == .whole(session: Self.session, sequence: Self.sequence))
        #expect(view.session == Self.session && view.sequence == Self.sequence)
        #expect(view.tail == 0x3837_3635_3433_3231)
        #expect(view.trustedThrough == 0x4847_4645_4443_4241)
        #expect(view.durableThrough == 0x5857_5655_5453_5251)
        #expect(view.recordCount == count)
        #expect(Self.read(block) == records)
    }

    @Test func aPlaceThatWasNeverWrittenIsWholeAndEmpty() {
        let block = Block()
        block.journal.begin(session: 0, sequence: 0)
        block.journal.seal(tail: 0, trustedThrough: 0, durableThrough: 0)
        #expect(block.journalContent == .whole(session: 0, sequence: 0))
        #expect(block.journal.recordCount == 0)
    }

    @Test func aRecordMoreThanFitsTraps() async {
        await #expect(processExitsWith: .failure) {
            let block = JournalBlockTests.sealed(JournalBlockTests.records(120))
            block.journal.append(JournalBlockTests.record)
        }
    }

    /// A process that dies in between leaves a block whose records are whole.
    @Test func aRecordCountsWhenAllOfItIsThere() {
        let before = Block()
        before.journal.begin(session: 1, sequence: 1)
        for record in Self.records(15) { before.journal.append(record) }
        let after = Block()
        after.base.copyMemory(from: before.base, byteCount: Block.byteCount)
        after.journal.append(Self.record)
        // In any order of the other stores: without the count there is no sixteenth record.
        let counts = (0..<8).map { $0 * 512 + JournalLayout.recordCount.offset }
        for index in 0..<Block.byteCount where !counts.contains(index) {
            before[index] = after[index]
        }
        #expect(Self.read(before) == Self.records(15))
        #expect(Self.read(after) == Self.records(15) + [Self.record])
    }

    // MARK: - Damage

    @Test func everyFlippedBitIsDamage() {
        let block = Self.sealed(Self.records(40))
        var wrong: [Int] = []
        for bit in 0..<Block.byteCount * 8 {
            block.flip(bit: bit)
            if block.journalContent != .damaged { wrong.append(bit) }
            block.flip(bit: bit)
        }
        #expect(wrong == [])
        #expect(
            block.journalContent == .whole(session: Self.session, sequence: Self.sequence))
    }

    @Test func zeroesAndForeignBytesAreDamage() {
        let block = Block()
        #expect(block.journalContent == .damaged)
        for index in 0..<Block.byteCount { block[index] = UInt8(truncatingIfNeeded: index * 7) }
        #expect(block.journalContent == .damaged)
    }

    /// Each sector is of the old or of the new block, as a power cut leaves them.
    @Test func sectorsOfTwoBlocksAreTorn() {
        let old = Self.sealed(Self.records(120), sequence: 5)
        let new = Self.sealed(Self.records(33), sequence: 5 + 64)
        for mask in 0..<256 {
            let block = Block()
            for sector in 0..<8 {
                let from = mask & 1 << sector == 0 ? old : new
                (block.base + sector * 512).copyMemory(
                    from: from.base + sector * 512, byteCount: 512)
            }
            let expected: JournalContent =
                mask == 0
                ? .whole(session: Self.session, sequence: 5)
                : mask == 255 ? .whole(session: Self.session, sequence: 69) : .torn
            #expect(block.journalContent == expected, "\(mask)")
        }
    }

    @Test func sectorsOfAnotherSessionAreTorn() {
        let block = Self.sealed()
        let other = Self.sealed(session: Self.session + 1)
        (block.base + 512).copyMemory(from: other.base + 512, byteCount: 512)
        #expect(block.journalContent == .torn)
    }

    @Test func aSectorInTheWrongPlaceIsDamage() {
        let block = Self.sealed([])
        (block.base + 5 * 512).copyMemory(from: block.base + 6 * 512, byteCount: 512)
        #expect(block.journalContent == .damaged)
    }

    /// Makes the first sector's checksum right again, as a program of ours would that wrote
    /// nonsense.
    private static func forge<T: FixedWidthInteger & BitwiseCopyable>(
        _ value: T, _ field: Field
    ) -> Block {
        let block = sealed()
        let sector = DiskBytes(base: block.base, count: 512)
        sector.store(value, field)
        sector.store(sector.checksum(without: JournalLayout.checksum), JournalLayout.checksum)
        return block
    }

    @Test func impossibleNumbersInAHeaderAreDamageUnderAGoodChecksum() {
        #expect(Self.forge(UInt16(2), JournalLayout.formatVersion).journalContent == .damaged)
        #expect(Self.forge(UInt8(16), JournalLayout.recordCount).journalContent == .damaged)
        #expect(Self.forge(UInt8(1), JournalLayout.sectorIndex).journalContent == .damaged)
        #expect(Self.forge(UInt8(15), JournalLayout.recordCount).journalContent != .damaged)
    }

    @Test func aRecordThatCannotBeMeantIsNone() {
        func record<T: FixedWidthInteger & BitwiseCopyable>(
            _ value: T, _ field: Field
        ) -> JournalRecord? {
            let place = Field(JournalLayout.headerBytes + field.offset, field.size)
            return Self.forge(value, place).journalRecord(at: 0, setCount: Self.setCount)
        }
        #expect(record(UInt8(224), JournalLayout.way) == nil)
        #expect(record(UInt8(255), JournalLayout.way) == nil)
        #expect(record(UInt8(222), JournalLayout.way)?.way == 222)
        #expect(record(UInt32(1 << 31), JournalLayout.set) == nil)
        #expect(record(UInt32(0x7fff_ffff), JournalLayout.set)?.set == 0x7fff_ffff)
        #expect(record(UInt8(3), JournalLayout.flags) == nil)
        #expect(record(UInt8(0x81), JournalLayout.flags) == nil)
        // Granules written that are not dirty afterwards.
        #expect(record(UInt16(0x0200), JournalLayout.granules) == nil)
        #expect(record(UInt16(0x01ff), JournalLayout.granules)?.granules == 0x01ff)
        for offset in 18..<24 { #expect(record(UInt8(1), (offset, 1)) == nil, "\(offset)") }
        // Without the flag the checksum is none, whatever stands there.
        #expect(record(UInt8(0), JournalLayout.flags)?.checksum == .some(nil))
    }
}
