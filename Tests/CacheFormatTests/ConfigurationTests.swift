import CacheFormat
import Testing

@Suite struct ConfigurationTests {
    private static func sample() -> Configuration {
        var first = Configuration.Core(
            id: 0x0102, coreOffset: 0x1112_1314, sectorCount: 0x0001_2223_2425_2627,
            logicalBlockBytes: 4096, devicePath: "/dev/é")
        first.cutoffThresholdKiB = 0x0102_0304
        first.cutoffPolicy = .always
        let second = Configuration.Core(
            id: 4095, coreOffset: 0, sectorCount: 1, logicalBlockBytes: 512,
            devicePath: "/dev/sdb")
        var configuration = Configuration(mode: .writeBack)
        configuration.durability = .write
        configuration.cleaningPolicy = .acp
        configuration.promotionPolicy = .nhit
        configuration.cores = [first, second]
        return configuration
    }

    private static let generation: UInt64 = 0x3132_3334_3536_3738

    private static func refusal(_ bytes: [UInt8]) -> FormatError? {
        formatError { () throws(FormatError) in
            _ = try Configuration(decoding: bytes, generation: generation)
        }
    }

    /// The sample with the bytes at `offset` replaced.
    private static func forged(_ bytes: [UInt8], at offset: Int) throws -> FormatError? {
        var forged = try sample().encode(generation: generation)
        forged.replaceSubrange(offset..<offset + bytes.count, with: bytes)
        return refusal(forged)
    }

    @Test func theBytesAreTheseForEver() throws {
        var expected: [UInt8] = Array("UCASCONF".utf8)
        expected += [0x38, 0x37, 0x36, 0x35, 0x34, 0x33, 0x32, 0x31]
        // Mode, durability, cleaning, promotion, number of cores, reserved.
        expected += [1, 1, 2, 1, 2, 0] + [UInt8](repeating: 0, count: 10)
        // Core: id, length of path, offset; sectors; flags, block size; threshold, policy.
        expected += [0x02, 0x01, 7, 0, 0x14, 0x13, 0x12, 0x11]
        expected += [0x27, 0x26, 0x25, 0x24, 0x23, 0x22, 0x01, 0x00]
        expected += [0, 0, 0, 0, 0x00, 0x10, 0, 0]
        expected += [0x04, 0x03, 0x02, 0x01, 1, 0, 0, 0]
        expected += Array("/dev/é".utf8) + [0]
        expected += [0xff, 0x0f, 8, 0, 0, 0, 0, 0]
        expected += [1, 0, 0, 0, 0, 0, 0, 0]
        expected += [0, 0, 0, 0, 0x00, 0x02, 0, 0]
        expected += [0x00, 0x04, 0, 0, 2, 0, 0, 0]
        expected += Array("/dev/sdb".utf8)
        #expect(try Self.sample().encode(generation: Self.generation) == expected)
    }

    @Test func whatWasWrittenIsReadAgain() throws {
        let bytes = try Self.sample().encode(generation: Self.generation)
        #expect(try Configuration(decoding: bytes, generation: Self.generation) == Self.sample())
        for mode in Configuration.Mode.allCases {
            let bytes = try Configuration(mode: mode).encode(generation: 1)
            #expect(try Configuration(decoding: bytes, generation: 1).mode == mode)
        }
    }

    @Test func everyFlippedBitChangesTheChecksumInTheSuperblock() throws {
        var bytes = try Self.sample().encode(generation: Self.generation)
        let good = bytes.withUnsafeBytes { checksum($0) }
        for bit in 0..<bytes.count * 8 {
            bytes[bit / 8] ^= 1 << UInt8(bit % 8)
            #expect(bytes.withUnsafeBytes { checksum($0) } != good, "bit \(bit)")
            bytes[bit / 8] ^= 1 << UInt8(bit % 8)
        }
    }

    /// Even without the checksum no bit is without meaning.
    @Test func everyFlippedBitIsRefusedOrReadAsSomethingElse() throws {
        let good = Self.sample()
        var bytes = try good.encode(generation: Self.generation)
        for bit in 0..<bytes.count * 8 {
            bytes[bit / 8] ^= 1 << UInt8(bit % 8)
            let read = try? Configuration(decoding: bytes, generation: Self.generation)
            #expect(read != good, "bit \(bit)")
            bytes[bit / 8] ^= 1 << UInt8(bit % 8)
        }
    }

    @Test func bytesThatEndTooEarlyOrTooLateAreDamage() throws {
        let bytes = try Self.sample().encode(generation: Self.generation)
        for count in 0..<bytes.count {
            #expect(Self.refusal(Array(bytes[..<count])) == .damaged("configuration"))
        }
        #expect(Self.refusal(bytes + [0]) == .damaged("configuration"))
    }

    @Test func randomBytesBehindAGoodHeadNeverTrap() throws {
        let bytes = try Self.sample().encode(generation: Self.generation)
        var refused = 0
        for round in 0..<3000 {
            var noise = bytes
            for index in (round % 2 == 0 ? 16 : 32)..<noise.count where Int.random(in: 0..<4) == 0 {
                noise[index] = .random(in: .min ... .max)
            }
            if round % 3 == 0 { noise.removeLast(Int.random(in: 0...noise.count - 32)) }
            if Self.refusal(noise) != nil { refused += 1 }
        }
        #expect(refused > 2000)
    }

    @Test func anotherGenerationIsDamage() throws {
        let bytes = try Self.sample().encode(generation: Self.generation + 1)
        #expect(Self.refusal(bytes) == .damaged("configuration"))
    }

    @Test func impossibleNumbersAreRefused() throws {
        for (offset, firstUnknown) in [(16, UInt8(5)), (17, 2), (18, 3), (19, 3)] {
            #expect(
                try Self.forged([firstUnknown], at: offset) == .impossible("mode or policy"))
        }
        #expect(try Self.forged([0x01, 0x10], at: 20) == .impossible("number of cores"))
        #expect(try Self.forged([1], at: 22) == .impossible("reserved bytes"))
        #expect(try Self.forged([1], at: 31) == .impossible("reserved bytes"))
        // The first core begins at 32.
        #expect(try Self.forged([0x00, 0x10], at: 32) == .impossible("core"))
        #expect(try Self.forged([0xff, 0x0f], at: 32) == .impossible("core id"))
        #expect(try Self.forged([0xff, 0xff], at: 34) == .impossible("core"))
        let zero = [UInt8](repeating: 0, count: 8)
        #expect(try Self.forged(zero, at: 40) == .impossible("core"))
        #expect(try Self.forged([0, 0, 0, 0, 0, 0, 0x80, 0], at: 40) == .impossible("core"))
        #expect(try Self.forged([1], at: 48) == .impossible("core flags"))
        #expect(try Self.forged([3], at: 60) == .impossible("sequential cutoff policy"))
        #expect(try Self.forged([1], at: 61) == .impossible("reserved bytes"))
        // Not UTF-8.
        #expect(try Self.forged([0xff], at: 64) == .impossible("core"))
        // The byte that fills the path up to a multiple of 8.
        #expect(try Self.forged([1], at: 71) == .impossible("reserved bytes"))
    }

    @Test func whatDoesNotFitIsNotWritten() {
        func refusal(pathBytes: Int, cores: Int) -> FormatError? {
            var configuration = Configuration(mode: .writeThrough)
            configuration.cores = (0..<cores).map {
                Configuration.Core(
                    id: UInt16($0), coreOffset: 0, sectorCount: 1, logicalBlockBytes: 512,
                    devicePath: String(repeating: "p", count: pathBytes))
            }
            return formatError { () throws(FormatError) in
                let bytes = try configuration.encode(generation: 1)
                let read = try Configuration(decoding: bytes, generation: 1)
                if read != configuration { throw .damaged("what was written") }
            }
        }
        #expect(refusal(pathBytes: 4096, cores: 1) == nil)
        #expect(refusal(pathBytes: 4097, cores: 1) == .tooLarge("core device path"))
        // 32 bytes of head; each core 32 and its path: 126 × 4128 are still below 508 KiB.
        #expect(refusal(pathBytes: 4096, cores: 126) == nil)
        #expect(refusal(pathBytes: 4096, cores: 127) == .tooLarge("configuration"))
        #expect(refusal(pathBytes: 88, cores: 4096) == nil)
    }
}
