import CBytes

/// A field of an on-disk structure: where it is, and how long.
public typealias Field = (offset: Int, size: Int)

/// Why bytes of a cache device are not what they should be.
public enum FormatError: Error, Equatable, Sendable {
    /// Nothing of ours is here.
    case noMagic
    /// Ours, but damaged: which structure.
    case damaged(String)
    /// Written by a format this program does not know: its version.
    case otherVersion(UInt32)
    /// Needs features (bits) this program does not have.
    case unknownFeatures(UInt64)
    /// A number that cannot be right: which.
    case impossible(String)
    /// More than its place can hold: which.
    case tooLarge(String)
}

/// The only door to on-disk bytes: bounds checked, alignment not required, little endian.
public struct DiskBytes {
    public let base: UnsafeMutableRawPointer
    public let count: Int

    public init(base: UnsafeMutableRawPointer, count: Int) {
        self.base = base
        self.count = count
    }

    public func load<T: FixedWidthInteger & BitwiseCopyable>(_ field: Field, as _: T.Type) -> T {
        precondition(field.size == MemoryLayout<T>.size && field.offset >= 0)
        precondition(field.offset + field.size <= count, "a field behind the end")
        return T(littleEndian: base.loadUnaligned(fromByteOffset: field.offset, as: T.self))
    }

    public func store<T: FixedWidthInteger & BitwiseCopyable>(_ value: T, _ field: Field) {
        precondition(field.size == MemoryLayout<T>.size && field.offset >= 0)
        precondition(field.offset + field.size <= count, "a field behind the end")
        base.storeBytes(of: value.littleEndian, toByteOffset: field.offset, as: T.self)
    }

    public func isZero(_ field: Field) -> Bool {
        precondition(field.offset >= 0 && field.offset + field.size <= count)
        for index in field.offset..<field.offset + field.size
        where base.load(fromByteOffset: index, as: UInt8.self) != 0 { return false }
        return true
    }

    public func clear() { base.initializeMemory(as: UInt8.self, repeating: 0, count: count) }

    /// CRC-32C of all bytes but the four of `field`, which count as zero.
    public func checksum(without field: Field) -> UInt32 {
        precondition(field.size == 4 && field.offset + 4 <= count)
        var crc = ucas_crc32c(0, base, field.offset)
        var zero: UInt32 = 0
        crc = ucas_crc32c(crc, &zero, 4)
        return ucas_crc32c(crc, base + field.offset + 4, count - field.offset - 4)
    }
}

/// CRC-32C of a buffer, continued from that of what is before it.
public func checksum(_ bytes: UnsafeRawBufferPointer, continuing seed: UInt32 = 0) -> UInt32 {
    guard let base = bytes.baseAddress else { return seed }
    return ucas_crc32c(seed, base, bytes.count)
}
