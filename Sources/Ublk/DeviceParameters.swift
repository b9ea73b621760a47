package import CLinux

/// What a ublk device promises to the block layer; set once, before it is started.
package struct DeviceParameters: Equatable, Sendable {
    package struct Attributes: OptionSet, Sendable {
        package let rawValue: UInt32
        package init(rawValue: UInt32) { self.rawValue = rawValue }
        package static let readOnly = Attributes(rawValue: 1)
        package static let rotational = Attributes(rawValue: 2)
        /// The kernel sends FLUSH requests.
        package static let volatileCache = Attributes(rawValue: 4)
        /// Counts only together with `volatileCache`.
        package static let forceUnitAccess = Attributes(rawValue: 8)
    }

    package struct Discard: Equatable, Sendable {
        /// Bytes; the granularity a power of two.
        package var alignmentBytes: UInt32 = 0
        package var granularityBytes: UInt32
        package var maxSectors: UInt32
        package var maxWriteZeroesSectors: UInt32 = 0

        package init(granularityBytes: UInt32, maxSectors: UInt32) {
            self.granularityBytes = granularityBytes
            self.maxSectors = maxSectors
        }
    }

    package var attributes: Attributes = []
    /// Each a power of two; the logical one 512 to 4096.
    package var logicalBlockBytes: UInt32 = 512
    package var physicalBlockBytes: UInt32 = 4096
    package var ioMinBytes: UInt32 = 4096
    package var ioOptBytes: UInt32 = 4096
    /// The longest request, in 512-byte sectors.
    package var maxSectors: UInt32
    package var sectorCount: UInt64
    /// Nil: neither discards nor write-zeroes are sent.
    package var discard: Discard?

    package init(sectorCount: UInt64, maxSectors: UInt32) {
        self.sectorCount = sectorCount
        self.maxSectors = maxSectors
    }

    package static let basicType: UInt32 = 1
    package static let discardType: UInt32 = 2

    /// The kernel's structure.
    package var encoded: ucas_ublk_parameters {
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
        return parameters
    }

    private func shift(_ bytes: UInt32) -> UInt8 {
        precondition(bytes.nonzeroBitCount == 1, "a block size that is not a power of two")
        return UInt8(bytes.trailingZeroBitCount)
    }
}
