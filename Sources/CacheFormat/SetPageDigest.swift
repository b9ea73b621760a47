/// Stands for all set pages at a clean stop: one number in the superblock that changes if any page
/// is another one. It tells an older version of a page, whole in itself, from the newest.
public struct SetPageDigest: Equatable, Sendable {
    public private(set) var value: UInt64 = 0

    public init() {}

    /// Takes a sealed page in, in any order of sets.
    public mutating func add(set: UInt64, _ page: SetPageView) {
        var mixed = set &* 0x9E37_79B9_7F4A_7C15 ^ page.sequence &* 0xC2B2_AE3D_27D4_EB4F
        mixed ^= UInt64(page.checksum) << 17
        mixed = (mixed ^ mixed >> 31) &* 0xD6E8_FEB8_6659_FD93
        value &+= mixed ^ mixed >> 32
    }
}

/// Stands for everything that is dirty: one number in the superblock during a stop, when pages are
/// written whose records the journal need not have.
public struct DirtyDigest: Equatable, Sendable {
    public private(set) var value: UInt64 = 0

    public init() {}

    /// Takes a set in, in any order; what is dirty is what the device is to have.
    public mutating func add(set: UInt64, _ page: SetPageView) {
        for way in 0..<SetPageLayout.ways {
            let dirty = page.state(way).recorded
            guard dirty != 0 else { continue }
            var mixed = (set &* 224 &+ UInt64(way)) &* 0x9E37_79B9_7F4A_7C15
            mixed ^= page.identity(way).rawValue &* 0xC2B2_AE3D_27D4_EB4F
            mixed = (mixed ^ mixed >> 29 ^ UInt64(dirty) << 32) &* 0xD6E8_FEB8_6659_FD93
            value &+= mixed ^ mixed >> 31
        }
    }
}
