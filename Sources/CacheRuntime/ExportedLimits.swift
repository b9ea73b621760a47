/// What an exported device promises to the block layer: the limits of its cache and core devices
/// put on top of each other, as Open CAS does it.
package struct ExportedLimits: Equatable, Sendable {
    package let sectorCount: UInt64
    package let logicalBlockBytes: UInt32
    package let physicalBlockBytes: UInt32
    package let ioMinBytes: UInt32
    package let ioOptBytes: UInt32
    /// The longest request, in 512-byte sectors.
    package let maxSectors: UInt32
    package let discardGranularityBytes: UInt32
    package let discardAlignmentBytes: UInt32
    package let discardMaxSectors: UInt32
    /// What its users' memory is aligned to where the devices read and write it.
    package let memoryAlignmentBytes: UInt32
    /// Its users must not change data that is being written, likewise.
    package let needsStableData: Bool

    /// The longest request taken whatever the core says: what a request's buffer holds.
    package static let requestBytesMax: UInt32 = 512 << 10

    package init(
        cache: DeviceLimits, core: DeviceLimits, lineBytes: UInt32, coreName: String
    ) throws(CacheError) {
        guard cache.logicalBlockBytes <= core.logicalBlockBytes else {
            throw CacheError(
                .incompatible,
                "Cache device logical sector size is greater than core device '\(coreName)' "
                    + "logical sector size (\(cache.logicalBlockBytes) and "
                    + "\(core.logicalBlockBytes) bytes).")
        }
        // A request must be a whole number of blocks of either device.
        guard core.logicalBlockBytes <= 4096 else {
            throw CacheError(
                .incompatible,
                "The core device '\(coreName)' has logical sectors of \(core.logicalBlockBytes) "
                    + "bytes; at most 4096 are possible.")
        }
        memoryAlignmentBytes = max(cache.memoryAlignmentBytes, core.memoryAlignmentBytes, 4)
        needsStableData = cache.needsStableData || core.needsStableData
        let logical = max(cache.logicalBlockBytes, core.logicalBlockBytes)
        let physical = max(cache.physicalBlockBytes, core.physicalBlockBytes, logical)
        sectorCount = core.bytes / UInt64(logical) * UInt64(logical) / 512
        logicalBlockBytes = logical
        physicalBlockBytes = physical
        ioMinBytes = max(
            Self.powerOfTwo(cache.ioMinBytes), Self.powerOfTwo(core.ioMinBytes), physical)
        ioOptBytes = Self.commonMultiple(cache.ioOptBytes, core.ioOptBytes, atLeast: ioMinBytes)
        let pageSectors: UInt32 = 4096 / 512
        maxSectors = max(
            min(core.maxSectors, Self.requestBytesMax / 512) / pageSectors * pageSectors,
            pageSectors)
        if core.discardMaxBytes > 0 {
            discardGranularityBytes = max(
                Self.powerOfTwo(core.discardGranularityBytes), physical)
            discardAlignmentBytes = core.discardAlignmentBytes
            discardMaxSectors = UInt32(clamping: core.discardMaxBytes / 512)
        } else {
            // The core has nothing to forget, but its lines in the cache can go.
            discardGranularityBytes = max(lineBytes, physical)
            discardAlignmentBytes = 0
            discardMaxSectors = UInt32(clamping: sectorCount)
        }
    }

    /// ublk speaks of sizes as exponents: 0 for what cannot be said.
    private static func powerOfTwo(_ bytes: UInt32) -> UInt32 {
        bytes.nonzeroBitCount == 1 && bytes <= 256 << 20 ? bytes : 0
    }

    /// The least common multiple of both, if it is a power of two that ublk can express; else the
    /// larger one that is; else `atLeast`.
    private static func commonMultiple(_ a: UInt32, _ b: UInt32, atLeast: UInt32) -> UInt32 {
        max(powerOfTwo(a), powerOfTwo(b), atLeast)
    }
}
