import CacheFormat
import Testing

@Suite struct SuperblockTests {
    private static func sample() throws -> Superblock {
        let geometry = try #require(
            Geometry(lineBytes: 4096, setCount: 5, journalBlockCount: 256))
        var superblock = Superblock(
            cacheUUID: 0x0011_2233_4455_6677_8899_aabb_ccdd_eeff, epoch: 0x1817_1615_1413_1211,
            session: 0x2827_2625_2423_2221, geometry: geometry, cacheID: 0x1234,
            state: .cleanlyStopped)
        superblock.generation = 0x0807_0605_0403_0201
        superblock.configurationSlot = 1
        superblock.configurationBytes = 0x3132
        superblock.configurationChecksum = 0x4142_4344
        superblock.dirtyLineCount = 0x51
        superblock.setPageDigest = 0x6162_6364_6566_6768
        superblock.dirtyDigest = 0x7172_7374_7576_7778
        return superblock
    }

    private static func encoded() throws -> Block {
        let block = Block()
        // What was in the slot before must not shine through.
        for index in 0..<Block.byteCount { block[index] = 0xee }
        try sample().encode(into: block.disk)
        return block
    }

    private static func refusal(_ block: Block) -> FormatError? {
        formatError { () throws(FormatError) in _ = try Superblock(decoding: block.disk) }
    }

    @Test func theFieldsFill4096BytesWithoutGapOrOverlap() {
        #expect(seams(of: Superblock.Layout.fields, byteCount: 4096) == [])
        #expect(Superblock.Layout.byteCount == 4096)
    }

    @Test func theBytesAreTheseForEver() throws {
        var expected: [UInt8] = Array("UBLKCAS1".utf8)
        expected += [0x02, 0x00, 0x00, 0x00, 0x35, 0x16, 0x41, 0x2f]
        expected += [UInt8](repeating: 0, count: 24)
        expected += [0xff, 0xee, 0xdd, 0xcc, 0xbb, 0xaa, 0x99, 0x88]
        expected += [0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11, 0x00]
        expected += [0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x08]
        expected += [0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18]
        expected += [0x21, 0x22, 0x23, 0x24, 0x25, 0x26, 0x27, 0x28]
        expected += [0x05, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00]
        expected += [0x00, 0x01, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00]
        expected += [0x00, 0x10, 0x00, 0x00, 0x34, 0x12, 0x02, 0x01]
        expected += [0x32, 0x31, 0x00, 0x00, 0x44, 0x43, 0x42, 0x41]
        expected += [0x51, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00]
        expected += [0x68, 0x67, 0x66, 0x65, 0x64, 0x63, 0x62, 0x61]
        expected += [0x78, 0x77, 0x76, 0x75, 0x74, 0x73, 0x72, 0x71]
        expected += [UInt8](repeating: 0, count: 4096 - 136)
        #expect(try Self.encoded().bytes == expected)
    }

    @Test func whatWasWrittenIsReadAgain() throws {
        let block = try Self.encoded()
        let read = try Superblock(decoding: block.disk)
        #expect(read == (try Self.sample()))
        #expect(Self.refusal(block) == nil)
    }

    @Test func everyFlippedBitIsFound() throws {
        let block = try Self.encoded()
        let magicBits = Superblock.Layout.magic.size * 8
        var wrong: [Int] = []
        for bit in 0..<Block.byteCount * 8 {
            block.flip(bit: bit)
            let expected: FormatError = bit < magicBits ? .noMagic : .damaged("superblock")
            if Self.refusal(block) != expected { wrong.append(bit) }
            block.flip(bit: bit)
        }
        #expect(wrong == [])
        #expect(Self.refusal(block) == nil)
    }

    @Test func impossibleNumbersAreRefusedUnderAGoodChecksum() throws {
        func refusal<T: FixedWidthInteger & BitwiseCopyable>(
            _ value: T, _ field: Field
        ) throws -> FormatError? {
            let block = try Self.encoded()
            block.forge(value, field, checksum: Superblock.Layout.checksum)
            return Self.refusal(block)
        }
        typealias Layout = Superblock.Layout
        #expect(try refusal(UInt32(1), Layout.formatVersion) == .otherVersion(1))
        #expect(try refusal(UInt32(3000), Layout.lineBytes) == .impossible("geometry"))
        #expect(try refusal(UInt64(0), Layout.setCount) == .impossible("geometry"))
        #expect(try refusal(UInt64(1 << 32), Layout.setCount) == .impossible("geometry"))
        #expect(try refusal(UInt64(0), Layout.journalBlockCount) == .impossible("geometry"))
        #expect(try refusal(UInt8(0), Layout.state) == .impossible("state"))
        #expect(try refusal(UInt8(4), Layout.state) == .impossible("state"))
        for state in [UInt8(1), 2, 3] { #expect(try refusal(state, Layout.state) == nil) }
        #expect(try refusal(UInt16(0), Layout.cacheID) == .impossible("cache id"))
        #expect(try refusal(UInt16(16385), Layout.cacheID) == .impossible("cache id"))
        #expect(try refusal(UInt16(16384), Layout.cacheID) == nil)
        #expect(
            try refusal(UInt8(2), Layout.configurationSlot) == .impossible("configuration slot"))
        let most = UInt32(Geometry.configurationBytesMax)
        #expect(try refusal(most, Layout.configurationBytes) == nil)
        #expect(
            try refusal(most + 1, Layout.configurationBytes)
                == .impossible("configuration length"))
        for offset in [136, 4095] {
            #expect(
                try refusal(UInt8(1), (offset: offset, size: 1)) == .impossible("reserved bytes"))
        }
    }

    @Test func featuresThatAreNotKnownAreRefusedUnlessCompatible() throws {
        func refusal(_ bits: UInt64, _ field: Field) throws -> FormatError? {
            let block = try Self.encoded()
            block.forge(bits, field, checksum: Superblock.Layout.checksum)
            return Self.refusal(block)
        }
        typealias Layout = Superblock.Layout
        #expect(try refusal(0x10, Layout.incompatibleFeatures) == .unknownFeatures(0x10))
        #expect(try refusal(0x20, Layout.readOnlyCompatibleFeatures) == .unknownFeatures(0x20))
        #expect(try refusal(0x40, Layout.compatibleFeatures) == nil)
    }

    @Test func anEmptyDeviceHasNoMagic() {
        #expect(Self.refusal(Block()) == .noMagic)
    }
}
