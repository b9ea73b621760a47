import CacheRuntime
import Glibc

/// A device in memory that loses power at a chosen write: of what was not flushed, a seeded
/// subset of sectors is there afterwards.
final class FaultyMedium: StoreMedium, @unchecked Sendable {
    let path = "/dev/faulty"
    private(set) var durable: [UInt8]
    private var volatile: [(offset: Int, bytes: [UInt8])] = []
    private(set) var writeCount = 0
    /// The number of the write at which the power fails; nil for never.
    var failingWrite: Int?
    /// Bytes that cannot be read.
    var unreadable: Range<UInt64>?
    private var random: UInt64

    init(byteCount: Int, seed: UInt64 = 1) {
        durable = [UInt8](repeating: 0, count: byteCount)
        random = seed &* 0x9E37_79B9_7F4A_7C15 | 1
    }

    /// A device that holds this, durably.
    init(_ image: [UInt8], seed: UInt64 = 1) {
        durable = image
        random = seed &* 0x9E37_79B9_7F4A_7C15 | 1
    }

    /// The same device after a power cut. If it spoils, what was being written may hold neither the
    /// old nor the new content, as with drives that cannot read it then.
    init(afterPowerCutOf other: FaultyMedium, spoils: Bool = false) {
        durable = other.durable
        random = other.random
        for (offset, bytes) in other.volatile {
            if spoils, coin() {
                let noise = [UInt8](repeating: 0x5a, count: bytes.count)
                durable.replaceSubrange(offset..<offset + bytes.count, with: noise)
                continue
            }
            for sector in stride(from: 0, to: bytes.count, by: 512) where coin() {
                durable.replaceSubrange(
                    offset + sector..<offset + sector + 512, with: bytes[sector..<sector + 512])
            }
        }
    }

    private func coin() -> Bool {
        random ^= random << 13
        random ^= random >> 7
        random ^= random << 17
        return random >> 40 & 1 == 0
    }

    var byteCount: UInt64 { UInt64(durable.count) }

    private var powerFailed: CacheError { CacheError(.inputOutput, "The power failed.") }

    func read(into bytes: UnsafeMutableRawBufferPointer, at offset: UInt64) throws(CacheError) {
        if let unreadable, unreadable.overlaps(offset..<offset + UInt64(bytes.count)) {
            throw CacheError(.inputOutput, "Reading failed.")
        }
        let start = Int(offset)
        bytes.copyBytes(from: durable[start..<start + bytes.count])
        for write in volatile {
            let from = max(start, write.offset)
            let to = min(start + bytes.count, write.offset + write.bytes.count)
            for place in from..<max(from, to) {
                bytes[place - start] = write.bytes[place - write.offset]
            }
        }
    }

    func write(_ bytes: UnsafeRawBufferPointer, at offset: UInt64) throws(CacheError) {
        precondition(bytes.count % 512 == 0 && offset % 512 == 0)
        precondition(Int(offset) + bytes.count <= durable.count, "a write past the end")
        // The failing write may have reached the device in part.
        volatile.append((Int(offset), Array(bytes)))
        writeCount += 1
        if writeCount == failingWrite { throw powerFailed }
    }

    func flush() throws(CacheError) {
        if let failingWrite, writeCount >= failingWrite { throw powerFailed }
        for (offset, bytes) in volatile {
            durable.replaceSubrange(offset..<offset + bytes.count, with: bytes)
        }
        volatile = []
    }

    /// Overwrites durable bytes.
    func poke(_ bytes: [UInt8], at offset: Int) {
        durable.replaceSubrange(offset..<offset + bytes.count, with: bytes)
    }
}
