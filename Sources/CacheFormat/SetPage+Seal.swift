extension SetPageView {
    /// Why 4096 bytes are not the page of a set.
    package enum Unusable: Equatable, Sendable {
        /// No page of this cache: never written, or written before the last format.
        case foreign
        /// A page of this cache whose bytes are not those that were written.
        case damaged
    }

    private var fields: ByteFields {
        ByteFields(UnsafeMutableRawBufferPointer(start: base, count: SetPageLayout.byteCount))
    }

    package var sequence: UInt64 { fields.load(SetPageLayout.sequence) }
    package var checksum: UInt32 { fields.load(SetPageLayout.checksum) }

    /// Writes the header of the page's next version, its checksum last. Nobody may change the page
    /// until it was written to the device.
    package func seal(set: UInt64, epoch: UInt64) {
        let next = sequence &+ 1
        fields.store(SetPageLayout.magicValue, SetPageLayout.magic)
        fields.store(SetPageLayout.version, SetPageLayout.formatVersion)
        fields.store(set, SetPageLayout.setNumber)
        fields.store(epoch, SetPageLayout.epoch)
        fields.store(next, SetPageLayout.sequence)
        fields.store(fields.checksum(without: SetPageLayout.checksum), SetPageLayout.checksum)
    }

    /// Nil if the bytes are a version of this set's page.
    package func unusable(set: UInt64, epoch: UInt64) -> Unusable? {
        guard fields.load(UInt32.self, SetPageLayout.magic) == SetPageLayout.magicValue,
            fields.load(UInt64.self, SetPageLayout.epoch) == epoch
        else { return .foreign }
        guard fields.load(UInt16.self, SetPageLayout.formatVersion) == SetPageLayout.version,
            fields.load(UInt64.self, SetPageLayout.setNumber) == set,
            checksum == fields.checksum(without: SetPageLayout.checksum),
            fields.isZero(SetPageLayout.reserved)
        else { return .damaged }
        return nil
    }
}

/// Stands for all set pages at a clean stop: one number in the superblock that changes if any page
/// is another one, an older version of itself included.
package struct SetPageDigest: Equatable, Sendable {
    package private(set) var value: UInt64 = 0

    package init() {}

    /// Takes the page in, in any order of sets.
    package mutating func add(set: UInt64, sequence: UInt64, checksum: UInt32) {
        var mixed = set &* 0x9E37_79B9_7F4A_7C15 ^ sequence &* 0xC2B2_AE3D_27D4_EB4F
        mixed ^= UInt64(checksum) << 17
        mixed = (mixed ^ mixed >> 31) &* 0xD6E8_FEB8_6659_FD93
        value &+= mixed ^ mixed >> 32
    }
}
