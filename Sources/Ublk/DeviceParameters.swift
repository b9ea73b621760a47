public import CLinux

/// What a ublk device promises to the block layer; set once, before it is started.
public struct DeviceParameters: Equatable, Sendable {
    public struct Attributes: OptionSet, Sendable {
        public let rawValue: UInt32
        public init(rawValue: UInt32) { self.rawValue = rawValue }
        public static let readOnly = Attributes(rawValue: 1)
        public static let rotational = Attributes(rawValue: 2)
        /// The kernel sends FLUSH requests.
        public static let volatileCache = Attributes(rawValue: 4)
        /// Counts only together with `volatileCache`.
        public static let forceUnitAccess = Attributes(rawValue: 8)
    }

    public struct Discard: Equatable, Sendable {
        /// Bytes; the granularity a power of two.
        public var alignmentBytes: UInt32 = 0
        public var granularityBytes: UInt32
        public var maxSectors: UInt32
        public var maxWriteZeroesSectors: UInt32 = 0

        public init(granularityBytes: UInt32, maxSectors: UInt32) {
            self.granularityBytes = granularityBytes
            self.maxSectors = maxSectors
        }
    }

    public var attributes: Attributes = []
    /// Each a power of two; the logical one 512 to 4096.
    public var logicalBlockBytes: UInt32 = 512
    public var physicalBlockBytes: UInt32 = 4096
    public var ioMinBytes: UInt32 = 4096
    public var ioOptBytes: UInt32 = 4096
    /// The longest request, in 512-byte sectors.
    public var maxSectors: UInt32
    public var sectorCount: UInt64
    /// Nil: neither discards nor write-zeroes are sent.
    public var discard: Discard?
    /// What the memory of requests is aligned to: a power of two up to a page; nil: 4. Where pages
    /// go to another device without being copied, what that device asks for (Linux 6.15).
    public var memoryAlignmentBytes: UInt32?

    public init(sectorCount: UInt64, maxSectors: UInt32) {
        self.sectorCount = sectorCount
        self.maxSectors = maxSectors
    }

    public static let basicType: UInt32 = 1
    public static let discardType: UInt32 = 2
    public static let memoryAlignmentType: UInt32 = 16

    /// The kernel's structure.
    public var encoded: ucas_ublk_parameters {
        var parameters = ucas_ublk_parameters()
        parameters.length = UInt32(MemoryLayout<ucas_ublk_parameters>.size)
        parameters.types = Self.basicType
        parameters.basic.attributes = attributes.rawValue
        parameters.basic.logical_shift = shift(logicalBlockBytes)
        parameters.basic.physical_shift = shift(max(physicalBlockBytes, logicalBlockBytes))
        parameters.basic.io_min_shift = shift(max(ioMinBytes, logicalBlockBytes))
        parameters.basic.io_opt_shift = shift(max(ioOptBytes, logicalBlockBytes))
        parameters.basic.max_sectors = maxSectors
        parameters.basic.sectors = sectorCount
        if let discard {
            precondition(discard.granularityBytes.nonzeroBitCount == 1)
            parameters.types |= Self.discardType
            parameters.discard.alignment = discard.alignmentBytes
            parameters.discard.granularity = discard.granularityBytes
            parameters.discard.max_discard_sectors = discard.maxSectors
            parameters.discard.max_write_zeroes_sectors = discard.maxWriteZeroesSectors
            parameters.discard.max_segments = 1
        }
        if let memoryAlignmentBytes {
            precondition(memoryAlignmentBytes.nonzeroBitCount == 1 && memoryAlignmentBytes <= 4096)
            parameters.types |= Self.memoryAlignmentType
            parameters.dma_align.mask = memoryAlignmentBytes - 1
        }
        return parameters
    }

    private func shift(_ bytes: UInt32) -> UInt8 {
        precondition(bytes.nonzeroBitCount == 1, "a block size that is not a power of two")
        return UInt8(bytes.trailingZeroBitCount)
    }
}
