import CacheFormat
import Testing

@Suite struct SetPageTests {
    private static let set: UInt64 = 0x0102_0304_0506_0708
    private static let epoch: UInt64 = 0x2122_2324_2526_2728
    private static let sequence: UInt64 = 0x1112_1314_1516_1718

    /// A page with one line in way 7.
    private static func sealed() -> Block {
        let block = Block()
        let page = block.page
        page.makeEmpty(set: set, epoch: epoch)
        page.smallHand = 5
        page.mainHand = 223
        page.fingerprints[7] = 0xab
        page.replacement[7] = 0xfd
        page.setIdentity(7, Identity(core: 0x321, line: 0x1234_5678_9abc, ioClass: 0x15))
        var state = LineState(valid: 0x0fff, dirty: 0x00ff)
        state.recorded = 0x000f
        state.commitStamp = 0x7777
        page.setState(7, state)
        page.recordNumber = 0x3132_3334
        page.firstBlock = 0x4142_4344_4546_4748
        page.seal(sequence: sequence)
        return block
    }

    private static func content(_ block: Block) -> SetPageContent {
        block.content(set: set, epoch: epoch)
    }

    @Test func theFieldsFill4096BytesWithoutGapOrOverlap() {
        #expect(seams(of: SetPageLayout.fields, byteCount: 4096) == [])
        #expect(SetPageLayout.byteCount == 4096)
        #expect(SetPageLayout.entries.size == SetPageLayout.ways * SetPageLayout.entryBytes)
        #expect(SetPageLayout.fingerprints.size == SetPageLayout.ways)
        #expect(SetPageLayout.replacement.size == SetPageLayout.ways)
    }

    @Test func theBytesAreTheseForEver() {
        var expected = [UInt8](repeating: 0, count: 4096)
        let head: [UInt8] = [
            0x50, 0x54, 0x45, 0x53, 0x01, 0x00, 0x05, 0xdf,
            0x08, 0x07, 0x06, 0x05, 0x04, 0x03, 0x02, 0x01,
            0x18, 0x17, 0x16, 0x15, 0x14, 0x13, 0x12, 0x11,
            0x28, 0x27, 0x26, 0x25, 0x24, 0x23, 0x22, 0x21,
            0x8e, 0x79, 0xbd, 0xb5, 0x00, 0x00, 0x00, 0x00,
            0x34, 0x33, 0x32, 0x31, 0x00, 0x00, 0x00, 0x00,
        ]
        expected.replaceSubrange(0..<head.count, with: head)
        // The first block means nothing outside of memory.
        expected[64 + 7] = 0xab
        // What means nothing outside the process (0x70) is not stored.
        expected[288 + 7] = 0x8d
        // Dirty is what the journal has recorded; stamps are for memory only.
        let entry: [UInt8] = [
            0xbc, 0x9a, 0x78, 0x56, 0x34, 0x52, 0xc8, 0x54,
            0xff, 0x0f, 0x0f, 0x00, 0x00, 0x00, 0x00, 0x00,
        ]
        expected.replaceSubrange(512 + 7 * 16..<512 + 8 * 16, with: entry)
        #expect(Self.sealed().bytes == expected)
    }

    @Test func theAccessorsAreWhereTheTableSays() {
        let block = Block()
        for way in [0, 1, 100, 223] {
            block.page.fingerprints[way] = 0x11
            block.page.replacement[way] = 0x22
            block.page.setIdentity(way, Identity(rawValue: 0x3333_3333_3333_3333))
            block.page.setState(way, LineState(rawValue: 0x4444_4444_4444_4444))
            #expect(block[SetPageLayout.fingerprints.offset + way] == 0x11)
            #expect(block[SetPageLayout.replacement.offset + way] == 0x22)
            let entry = SetPageLayout.entries.offset + way * SetPageLayout.entryBytes
            #expect(block.bytes[entry..<entry + 8].allSatisfy { $0 == 0x33 })
            #expect(block.bytes[entry + 8..<entry + 16].allSatisfy { $0 == 0x44 })
        }
    }

    @Test func aSealedPageIsValid() {
        #expect(Self.content(Self.sealed()) == .valid(sequence: Self.sequence))
    }

    @Test func everyFlippedBitIsFound() {
        let block = Self.sealed()
        let magicBits = SetPageLayout.magic.size * 8
        var wrong: [Int] = []
        for bit in 0..<Block.byteCount * 8 {
            block.flip(bit: bit)
            let expected: SetPageContent = bit < magicBits ? .foreign : .damaged
            if Self.content(block) != expected { wrong.append(bit) }
            block.flip(bit: bit)
        }
        #expect(wrong == [])
        #expect(Self.content(block) == .valid(sequence: Self.sequence))
    }

    @Test func anEmptyDeviceIsForeign() {
        #expect(Self.content(Block()) == .foreign)
    }

    @Test func aPageOfAnEarlierFormatOfTheDeviceIsForeign() {
        #expect(Self.sealed().content(set: Self.set, epoch: Self.epoch + 1) == .foreign)
    }

    @Test func aPageOfAnotherSetIsDamage() {
        #expect(Self.sealed().content(set: Self.set + 1, epoch: Self.epoch) == .damaged)
    }

    /// Nonsense under a good checksum: written so by somebody, believed by nobody.
    @Test func impossibleNumbersAreDamageUnderAGoodChecksum() {
        func damaged<T: FixedWidthInteger & BitwiseCopyable>(_ value: T, _ field: Field) -> Bool {
            let block = Self.sealed()
            block.forge(value, field, checksum: SetPageLayout.checksum)
            return Self.content(block) == .damaged
        }
        #expect(damaged(UInt16(2), SetPageLayout.formatVersion))
        #expect(damaged(UInt8(224), SetPageLayout.smallHand))
        #expect(damaged(UInt8(224), SetPageLayout.mainHand))
        #expect(!damaged(UInt8(223), SetPageLayout.smallHand))
        for offset in [36, 39, 44, 47, 48, 55, 56, 63] {
            #expect(damaged(UInt8(1), (offset: offset, size: 1)), "\(offset)")
        }
        #expect(!damaged(UInt32(5), SetPageLayout.recordNumber))
    }

    @Test func theNumbersInTheHeaderAreWhereTheTableSays() {
        let block = Block()
        let page = block.page
        page.recordNumber = 0x1122_3344
        page.setSequence(0x6162_6364_6566_6767, checksum: 0)
        page.firstBlock = 0x4142
        page.settle(
            sequence: 0x6162_6364_6566_6768, checksum: 0x1112_1314,
            firstBlock: 0x5152_5354_5556_5758)
        #expect(block.disk.load(SetPageLayout.recordNumber, as: UInt32.self) == 0x1122_3344)
        #expect(
            block.disk.load((offset: 48, size: 8), as: UInt64.self) == 0x5152_5354_5556_5758)
        #expect(block.disk.load((offset: 56, size: 8), as: UInt64.self) == 0x4142)
        #expect(
            block.disk.load(SetPageLayout.sequence, as: UInt64.self) == 0x6162_6364_6566_6768)
        #expect(page.recordNumber == 0x1122_3344 && page.firstBlock == 0x5152_5354_5556_5758)
        #expect(page.sequence == 0x6162_6364_6566_6768)
        page.seal(sequence: 2)
        #expect(page.recordNumber == 0x1122_3344 && page.firstBlock == 0)
    }

    @Test func makingAPageEmptyLeavesNothingOfIt() {
        let block = Self.sealed()
        block.page.makeEmpty(set: 9, epoch: 8)
        let fresh = Block()
        fresh.page.makeEmpty(set: 9, epoch: 8)
        #expect(block.bytes == fresh.bytes)
        fresh.page.seal(sequence: 1)
        #expect(fresh.content(set: 9, epoch: 8) == .valid(sequence: 1))
    }
}

@Suite struct LineWordTests {
    @Test func anIdentityKeepsItsParts() {
        for core in [0, 1, 4095] as [UInt16] {
            for line in [0, 1, 1 << 46 - 1] as [UInt64] {
                for ioClass in [0, 63] as [UInt8] {
                    let identity = Identity(core: core, line: line, ioClass: ioClass)
                    #expect(identity.core == core)
                    #expect(identity.line == line)
                    #expect(identity.ioClass == ioClass)
                    #expect(Identity(rawValue: identity.rawValue) == identity)
                }
            }
        }
    }

    @Test func theFieldsOfAStateDoNotTouchEachOther() {
        var state = LineState(valid: 0, dirty: 0)
        #expect(state.isEmpty)
        let fields: [WritableKeyPath<LineState, UInt16>] = [
            \.valid, \.dirty, \.recorded, \.commitStamp,
        ]
        for (index, field) in fields.enumerated() {
            state[keyPath: field] = 0xa5f1
            for (other, field) in fields.enumerated() {
                #expect(state[keyPath: field] == (other <= index ? 0xa5f1 : 0))
            }
        }
        #expect(state.rawValue == 0xa5f1_a5f1_a5f1_a5f1)
        for (index, field) in fields.enumerated() {
            state[keyPath: field] = 0x0a0e
            for (other, field) in fields.enumerated() {
                #expect(state[keyPath: field] == (other <= index ? 0x0a0e : 0xa5f1))
            }
        }
    }

    @Test func aStateIsEmptyIfItsLowerHalfIs() {
        var state = LineState(valid: 0, dirty: 0)
        state.commitStamp = 7
        #expect(state.isEmpty)
        #expect(!LineState(valid: 0, dirty: 1).isEmpty)
        #expect(!LineState(valid: 0x8000, dirty: 0).isEmpty)
    }

    @Test func theDeviceHasWhatIsRecorded() {
        var state = LineState(valid: 0xff, dirty: 0x3f, recorded: false)
        #expect(state == LineState(valid: 0xff, dirty: 0x3f))
        #expect(state.onDevice == LineState(valid: 0xff, dirty: 0))
        state = LineState(valid: 0xff, dirty: 0x3f, recorded: true)
        #expect(state.recorded == 0x3f && state.dirty == 0x3f)
        state.recorded = 0x30
        state.commitStamp = 9
        #expect(state.onDevice == LineState(valid: 0xff, dirty: 0x30))
    }

    @Test func noLineHasTheFingerprintOfAFreeWay() {
        for line in UInt64(0)..<200_000 where SetPageView.fingerprint(core: 3, line: line) == 0 {
            Issue.record("line \(line) has the fingerprint 0")
        }
    }

    @Test func theLinesOfAnExtentHaveDifferentFingerprints() {
        for extent in UInt64(0)..<20_000 {
            let lines = extent * 16..<extent * 16 + 16
            let prints = Set(lines.map { SetPageView.fingerprint(core: 1, line: $0) })
            if prints.count != 16 { Issue.record("extent \(extent): \(prints.count) of 16") }
        }
    }
}

@Suite struct SetPageDigestTests {
    private static func page(set: UInt64, sequence: UInt64, content: UInt8 = 0) -> Block {
        let block = Block()
        block.page.makeEmpty(set: set, epoch: 1)
        block.page.fingerprints[0] = content
        block.page.seal(sequence: sequence)
        return block
    }

    private static func digest(_ pages: [(set: UInt64, block: Block)]) -> SetPageDigest {
        var digest = SetPageDigest()
        for page in pages { digest.add(set: page.set, page.block.page) }
        return digest
    }

    @Test func theOrderOfSetsDoesNotMatter() {
        let pages = (UInt64(0)..<5).map { (set: $0, block: Self.page(set: $0, sequence: $0 + 1)) }
        #expect(Self.digest(pages) == Self.digest(pages.reversed()))
        #expect(Self.digest(pages) != Self.digest([]))
    }

    @Test func anotherPageChangesIt() {
        let base = Self.digest([(4, Self.page(set: 4, sequence: 7))])
        #expect(base == Self.digest([(4, Self.page(set: 4, sequence: 7))]))
        #expect(base != Self.digest([(4, Self.page(set: 4, sequence: 6))]))
        #expect(base != Self.digest([(5, Self.page(set: 4, sequence: 7))]))
        #expect(base != Self.digest([(4, Self.page(set: 4, sequence: 7, content: 1))]))
    }
}

@Suite struct DirtyDigestTests {
    /// A page with dirty lines, by way.
    private static func page(_ lines: [Int: (line: UInt64, dirty: UInt16)]) -> Block {
        let block = Block()
        block.page.makeEmpty(set: 3, epoch: 1)
        for (way, line) in lines {
            block.page.setIdentity(way, Identity(core: 1, line: line.line, ioClass: 0))
            block.page.setState(
                way, LineState(valid: line.dirty, dirty: line.dirty, recorded: true))
        }
        return block
    }

    private static func digest(_ pages: [(set: UInt64, block: Block)]) -> DirtyDigest {
        var digest = DirtyDigest()
        for page in pages { digest.add(set: page.set, page.block.page) }
        return digest
    }

    @Test func anEmptyCacheHasTheDigest0() {
        #expect(Self.digest([(0, Self.page([:])), (1, Self.page([:]))]).value == 0)
    }

    @Test func theOrderOfSetsDoesNotMatter() {
        let pages = (UInt64(0)..<5).map { (set: $0, block: Self.page([9: ($0, 0xf)])) }
        #expect(Self.digest(pages) == Self.digest(pages.reversed()))
        #expect(Self.digest(pages) != Self.digest([]))
    }

    @Test func whateverIsDirtyElsewhereOrOtherwiseChangesIt() {
        let base = Self.digest([(3, Self.page([9: (7, 0x0f)]))])
        #expect(base == Self.digest([(3, Self.page([9: (7, 0x0f)]))]))
        #expect(base != Self.digest([(4, Self.page([9: (7, 0x0f)]))]))
        #expect(base != Self.digest([(3, Self.page([8: (7, 0x0f)]))]))
        #expect(base != Self.digest([(3, Self.page([9: (6, 0x0f)]))]))
        #expect(base != Self.digest([(3, Self.page([9: (7, 0x0e)]))]))
        #expect(base != Self.digest([(3, Self.page([:]))]))
        #expect(base != Self.digest([(3, Self.page([9: (7, 0x0f), 10: (8, 1)]))]))
    }

    /// The digest of memory at a stop is compared with one of what recovery found.
    @Test func onlyWhatTheDeviceIsToHaveDirtyCounts() {
        let base = Self.digest([(3, Self.page([9: (7, 0x0f)]))])
        let other = Self.page([9: (7, 0x0f), 20: (70, 0xf0)])
        other.page.setState(20, LineState(valid: 0xff, dirty: 0xf0))
        var state = other.page.state(9)
        state.valid = 0xff
        state.commitStamp = 5
        other.page.setState(9, state)
        other.page.replacement[9] = 0x8f
        other.page.recordNumber = 77
        #expect(base == Self.digest([(3, other)]))
    }
}
