import CBytes
import CacheFormat
import Testing

@Suite struct ChecksumTests {
    @Test func theStandardCheckValueIsFound() {
        let text = Array("123456789".utf8)
        #expect(ucas_crc32c(0, text, text.count) == 0xE306_9283)
        #expect(ucas_crc32c_portable(0, text, text.count) == 0xE306_9283)
        #expect(text.withUnsafeBytes { checksum($0) } == 0xE306_9283)
    }

    /// RFC 3720, appendix B.4.
    @Test func theExamplesOfTheStandardAreFound() {
        let zeros = [UInt8](repeating: 0, count: 32)
        let ones = [UInt8](repeating: 0xff, count: 32)
        let rising = [UInt8](0..<32)
        for crc in [ucas_crc32c, ucas_crc32c_portable] {
            #expect(crc(0, zeros, 32) == 0x8A91_36AA)
            #expect(crc(0, ones, 32) == 0x62A8_AB43)
            #expect(crc(0, rising, 32) == 0x46DD_794E)
        }
    }

    @Test func hardwareAndTableAgreeAtEveryLengthAndAlignment() {
        var random = SystemRandomNumberGenerator()
        let bytes = (0..<300).map { _ in UInt8.random(in: .min ... .max, using: &random) }
        bytes.withUnsafeBytes { buffer in
            guard let base = buffer.baseAddress else { return }
            for offset in 0..<16 {
                for count in 0...bytes.count - offset {
                    let seed = UInt32.random(in: .min ... .max, using: &random)
                    let hardware = ucas_crc32c(seed, base + offset, count)
                    let table = ucas_crc32c_portable(seed, base + offset, count)
                    #expect(hardware == table, "offset \(offset), \(count) bytes, seed \(seed)")
                }
            }
        }
    }

    @Test func aBufferMayBeTakenInPieces() {
        let bytes = (0..<100).map { UInt8(truncatingIfNeeded: $0 &* 37) }
        let whole = ucas_crc32c(0, bytes, bytes.count)
        for cut in 0...bytes.count {
            let first = ucas_crc32c(0, bytes, cut)
            let rest = Array(bytes[cut...])
            #expect(ucas_crc32c(first, rest, rest.count) == whole)
        }
    }

    @Test func nothingHasTheChecksumZero() {
        #expect(checksum(UnsafeRawBufferPointer(start: nil, count: 0)) == 0)
    }

    @Test func theChecksumsOwnBytesCountAsZero() {
        let field: Field = (offset: 32, size: 4)
        let block = Block()
        for index in 0..<Block.byteCount { block[index] = UInt8(truncatingIfNeeded: index &* 7) }
        let withContent = block.disk.checksum(without: field)
        for index in 32..<36 { block[index] = 0 }
        #expect(block.disk.checksum(without: field) == withContent)
        #expect(block.bytes.withUnsafeBytes { checksum($0) } == withContent)
        block[36] ^= 1
        #expect(block.disk.checksum(without: field) != withContent)
    }
}

@Suite struct SearchTests {
    private static func randomBytes() -> [UInt8] {
        // Few different values, so that many match; the neighbours must not be looked at.
        let most = UInt8.random(in: 0...255)
        return (0..<33).map { _ in UInt8.random(in: 0...most) }
    }

    private static func matches(_ bytes: ArraySlice<UInt8>, _ mask: UInt8, _ value: UInt8) -> UInt32
    {
        var result: UInt32 = 0
        for (place, byte) in bytes.enumerated() where byte & mask == value {
            result |= 1 << UInt32(place)
        }
        return result
    }

    @Test func everyValueIsFoundWhereItIs() {
        for _ in 0..<40 {
            let bytes = Self.randomBytes()
            for value in UInt8.min ... .max {
                // Also from an odd address.
                for from in 0...1 {
                    let expected = Self.matches(bytes[from..<from + 32], 0xff, value)
                    bytes.withUnsafeBufferPointer { buffer in
                        guard let base = buffer.baseAddress else { return }
                        #expect(ucas_match_mask32(base + from, value) == expected)
                        #expect(ucas_match_mask32_portable(base + from, value) == expected)
                    }
                }
            }
        }
    }

    @Test func everyMaskedValueIsFoundWhereItIs() {
        for _ in 0..<40 {
            let bytes = Self.randomBytes()
            let mask = UInt8.random(in: .min ... .max)
            for value in UInt8.min ... .max {
                let expected = Self.matches(bytes[0..<32], mask, value)
                #expect(ucas_masked_match_mask32(bytes, mask, value) == expected)
                #expect(ucas_masked_match_mask32_portable(bytes, mask, value) == expected)
            }
        }
    }

    @Test func eachOfThe32PlacesHasItsBit() {
        for place in 0..<32 {
            var bytes = [UInt8](repeating: 0x7f, count: 32)
            bytes[place] = 0x80
            #expect(ucas_match_mask32(bytes, 0x80) == 1 << UInt32(place))
            #expect(ucas_masked_match_mask32(bytes, 0x80, 0x80) == 1 << UInt32(place))
            #expect(ucas_masked_match_mask32(bytes, 0x80, 0) == ~(1 << UInt32(place)))
        }
    }
}
