/// Where everything is on a cache device, and which set a core line belongs to.
///
/// | from | what |
/// | --- | --- |
/// | 0 | superblock slot 0 (4 KiB) |
/// | 4 KiB | configuration slot 0 (508 KiB) |
/// | 512 KiB | superblock slot 1 (4 KiB) |
/// | 516 KiB | configuration slot 1 (508 KiB) |
/// | 1 MiB | journal: `journalBlockCount` blocks of 4 KiB |
/// | `setPagesOffset` | slot 0 of every set page, then slot 1 of every set page |
/// | `dataOffset` (a multiple of 1 MiB) | the lines, set by set, way by way |
public struct Geometry: Equatable, Sendable {
    /// Core lines are taken to sets in pieces of this many bytes.
    public static let extentBytes = 65536
    public static let blockBytes = 4096
    public static let superblockOffsets: (UInt64, UInt64) = (0, 512 << 10)
    public static let configurationOffsets: (UInt64, UInt64) = (4 << 10, 516 << 10)
    public static let configurationBytesMax = 508 << 10
    public static let journalOffset: UInt64 = 1 << 20
    /// The smallest cache device (Open CAS's limit).
    public static let deviceBytesMin: UInt64 = 40 << 20

    /// 4096 to 65536, a power of two.
    public let lineBytes: UInt32
    public let setCount: UInt64
    public let journalBlockCount: UInt64
    public let linesPerExtent: UInt32
    /// The unit of "valid" and "dirty": a sixteenth of a line, at least a sector.
    public let granuleBytes: UInt32
    public let granulesPerLine: UInt32
    public let setPagesOffset: UInt64
    public let dataOffset: UInt64
    public let placement: SetPlacement

    /// Nil if the numbers do not describe a cache: the one door, for new caches and loaded ones.
    public init?(lineBytes: UInt32, setCount: UInt64, journalBlockCount: UInt64) {
        guard lineBytes >= 4096, lineBytes <= 65536, lineBytes.nonzeroBitCount == 1,
            setCount >= 1, setCount < 1 << 32, journalBlockCount >= 1, journalBlockCount < 1 << 32
        else { return nil }
        self.lineBytes = lineBytes
        self.setCount = setCount
        self.journalBlockCount = journalBlockCount
        linesPerExtent = UInt32(Self.extentBytes) / lineBytes
        granuleBytes = max(512, lineBytes / 16)
        granulesPerLine = lineBytes / granuleBytes
        let block = UInt64(Self.blockBytes)
        setPagesOffset = Self.journalOffset + journalBlockCount * block
        let pagesEnd = setPagesOffset + 2 * setCount * block
        let mebibyte: UInt64 = 1 << 20
        dataOffset = (pagesEnd + mebibyte - 1) / mebibyte * mebibyte
        placement = SetPlacement(setCount: setCount, linesPerExtent: linesPerExtent)
    }

    /// The geometry of a new cache on a device of this size; nil if the device is too small.
    ///
    /// The journal gets a 64th of the device, at least 1 MiB and at most 4 GiB: with a FLUSH every
    /// 32 writes of 4 KiB, writing set pages to make room in it then costs 1 % more writes.
    public static func forDevice(byteCount: UInt64, lineBytes: UInt32) -> Geometry? {
        guard byteCount >= deviceBytesMin, lineBytes >= 4096 else { return nil }
        let journalBytes = min(max(byteCount / 64, 1 << 20), 4 << 30)
        let journalBlocks = journalBytes / UInt64(blockBytes)
        let setBytes = UInt64(SetPageLayout.ways) * UInt64(lineBytes) + 2 * UInt64(blockBytes)
        let fixed = journalOffset + journalBlocks * UInt64(blockBytes) + 1 << 20
        guard byteCount > fixed + setBytes else { return nil }
        return Geometry(
            lineBytes: lineBytes, setCount: (byteCount - fixed) / setBytes,
            journalBlockCount: journalBlocks)
    }

    /// Bytes a device must have.
    public var requiredBytes: UInt64 {
        dataOffset + setCount * UInt64(SetPageLayout.ways) * UInt64(lineBytes)
    }

    public var lineCount: UInt64 { setCount * UInt64(SetPageLayout.ways) }

    @inlinable public func set(ofCoreLine line: UInt64, coreOffset: UInt32) -> UInt64 {
        placement.set(ofCoreLine: line, coreOffset: coreOffset)
    }

    /// Bytes from the start of the cache device to a way's line.
    @inlinable public func cacheOffset(set: UInt32, way: Int) -> UInt64 {
        dataOffset &+ (UInt64(set) &* 224 &+ UInt64(way)) &* UInt64(lineBytes)
    }

    /// Bytes from the start of the cache device to the place of a journal block.
    public func journalOffset(sequence: UInt64) -> UInt64 {
        Self.journalOffset + sequence % journalBlockCount * UInt64(Self.blockBytes)
    }

    /// Bytes from the start of the cache device to slot 0 or 1 of a set's page.
    public func setPageOffset(set: UInt64, slot: Int) -> UInt64 {
        precondition(set < setCount && (slot == 0 || slot == 1))
        return setPagesOffset + (UInt64(slot) * setCount + set) * UInt64(Self.blockBytes)
    }
}

/// Which set a core line belongs to: set = (extent + offset of the core) mod set count.
public struct SetPlacement: Equatable, Sendable {
    @usableFromInline let setCount: UInt64
    /// ⌊(2⁶⁴ - 1) / setCount⌋: turns the division into a multiplication.
    @usableFromInline let reciprocal: UInt64
    @usableFromInline let extentLineShift: UInt64

    init(setCount: UInt64, linesPerExtent: UInt32) {
        self.setCount = setCount
        reciprocal = UInt64.max / setCount
        extentLineShift = UInt64(linesPerExtent.trailingZeroBitCount)
    }

    /// The quotient by the reciprocal is at most one too small. With d sets the reciprocal is above
    /// 2⁶⁴/d - 1, so the product's upper half is above n/d - n/2⁶⁴ - 1: the rest is below 2d.
    @inlinable @inline(__always)
    public func set(ofCoreLine line: UInt64, coreOffset: UInt32) -> UInt64 {
        let number = line &>> extentLineShift &+ UInt64(coreOffset)
        let quotient = number.multipliedFullWidth(by: reciprocal).high
        var rest = number &- quotient &* setCount
        if rest >= setCount { rest &-= setCount }
        return rest
    }
}
