public import Synchronization

/// The one table of offsets of a set page. In memory and on the device it is the same bytes,
/// little endian.
public enum SetPageLayout {
    public static let magic: Field = (offset: 0, size: 4)
    public static let formatVersion: Field = (offset: 4, size: 2)
    public static let smallHand: Field = (offset: 6, size: 1)
    public static let mainHand: Field = (offset: 7, size: 1)
    public static let setNumber: Field = (offset: 8, size: 8)
    public static let sequence: Field = (offset: 16, size: 8)
    public static let epoch: Field = (offset: 24, size: 8)
    public static let checksum: Field = (offset: 32, size: 4)
    public static let reserved: Field = (offset: 36, size: 4)
    /// How many journal records of the set it includes; it wraps around.
    public static let recordNumber: Field = (offset: 40, size: 4)
    public static let reservedToo: Field = (offset: 44, size: 4)
    /// In memory only: the oldest journal block with a record that no durable page includes; 0 if
    /// there is none. Of two, for even and for odd sequences: so both change with one store.
    public static let firstBlocks: Field = (offset: 48, size: 16)
    public static let fingerprints: Field = (offset: 64, size: 224)
    public static let replacement: Field = (offset: 288, size: 224)
    public static let entries: Field = (offset: 512, size: 3584)

    public static let fields = [
        magic, formatVersion, smallHand, mainHand, setNumber, sequence, epoch, checksum, reserved,
        recordNumber, reservedToo, firstBlocks, fingerprints, replacement, entries,
    ]
    public static let byteCount = 4096
    public static let ways = 224
    public static let entryBytes = 16
    public static let magicValue: UInt32 = 0x5345_5450  // "PTES" in memory order.
    public static let version: UInt16 = 1
}

/// The identity word of a way: which line it holds.
public struct Identity: Equatable, Sendable {
    /// Bits 0-45 core line, 46-57 core id, 58-63 io class.
    public let rawValue: UInt64

    @inlinable public init(rawValue: UInt64) { self.rawValue = rawValue }

    @inlinable public init(core: UInt16, line: UInt64, ioClass: UInt8) {
        precondition(core < 4096 && line < 1 << 46 && ioClass < 64)
        rawValue = line | UInt64(core) << 46 | UInt64(ioClass) << 58
    }

    @inlinable public var line: UInt64 { rawValue & (1 << 46 - 1) }
    @inlinable public var core: UInt16 { UInt16(truncatingIfNeeded: rawValue >> 46 & 0xfff) }
    @inlinable public var ioClass: UInt8 { UInt8(truncatingIfNeeded: rawValue >> 58) }
}

/// The state word of a way: its lower half is 0 if nothing in it is valid.
///
/// The upper half is for memory only and 0 on the device.
public struct LineState: Equatable, Sendable {
    /// Bits 0-15 valid granules, 16-31 dirty ones; 32-47 those that are dirty by the journal's
    /// records, 48-63 the lower bits of the commit that the way's last record belongs to.
    public let rawValue: UInt64

    @inlinable public init(rawValue: UInt64) { self.rawValue = rawValue }

    @inlinable public init(valid: UInt16, dirty: UInt16) {
        rawValue = UInt64(valid) | UInt64(dirty) << 16
    }

    /// As loaded: the journal or a page has said so.
    public init(valid: UInt16, dirty: UInt16, recorded: Bool) {
        self.init(valid: valid, dirty: dirty)
        if recorded { self.recorded = dirty }
    }

    /// What the device has of it: dirty is what the journal has recorded.
    public var onDevice: LineState { LineState(valid: valid, dirty: recorded) }

    @inlinable public var isEmpty: Bool { UInt32(truncatingIfNeeded: rawValue) == 0 }

    public var valid: UInt16 {
        @inlinable get { UInt16(truncatingIfNeeded: rawValue) }
        @inlinable set { self = LineState(rawValue: rawValue & ~0xffff | UInt64(newValue)) }
    }
    public var dirty: UInt16 {
        @inlinable get { UInt16(truncatingIfNeeded: rawValue >> 16) }
        @inlinable set {
            self = LineState(rawValue: rawValue & ~0xffff_0000 | UInt64(newValue) << 16)
        }
    }
    /// Dirty granules that the journal has a record of. Dirty and not recorded is what a write
    /// under way, or one that failed, left.
    public var recorded: UInt16 {
        @inlinable get { UInt16(truncatingIfNeeded: rawValue >> 32) }
        @inlinable set {
            self = LineState(rawValue: rawValue & ~0xffff_0000_0000 | UInt64(newValue) << 32)
        }
    }
    /// The lower bits of the number of the commit that has the way's last record.
    public var commitStamp: UInt16 {
        @inlinable get { UInt16(truncatingIfNeeded: rawValue >> 48) }
        @inlinable set {
            self = LineState(rawValue: rawValue & 0xffff_ffff_ffff | UInt64(newValue) << 48)
        }
    }
}

/// A set page in place.
///
/// Identity and state words are stored with release order, so that a process that dies between two
/// stores leaves a page whose meaning never depends on the later one.
public struct SetPageView {
    public let base: UnsafeMutableRawPointer

    @inlinable public init(base: UnsafeMutableRawPointer) { self.base = base }

    @inlinable public var fingerprints: UnsafeMutablePointer<UInt8> {
        (base + 64).assumingMemoryBound(to: UInt8.self)
    }
    @inlinable public var replacement: UnsafeMutablePointer<UInt8> {
        (base + 288).assumingMemoryBound(to: UInt8.self)
    }
    @inlinable public func word(_ way: Int, _ index: Int) -> UnsafeMutablePointer<Atomic<UInt64>> {
        precondition(way >= 0 && way < 224)
        return (base + (512 + way * 16 + index * 8)).assumingMemoryBound(to: Atomic<UInt64>.self)
    }

    @inlinable public func identity(_ way: Int) -> Identity {
        Identity(rawValue: word(way, 0).pointee.load(ordering: .relaxed))
    }
    @inlinable public func setIdentity(_ way: Int, _ identity: Identity) {
        word(way, 0).pointee.store(identity.rawValue, ordering: .releasing)
    }
    @inlinable public func state(_ way: Int) -> LineState {
        LineState(rawValue: word(way, 1).pointee.load(ordering: .relaxed))
    }
    @inlinable public func setState(_ way: Int, _ state: LineState) {
        word(way, 1).pointee.store(state.rawValue, ordering: .releasing)
    }

    /// The next way the small part's hand looks at.
    public var smallHand: UInt8 {
        get { base.load(fromByteOffset: SetPageLayout.smallHand.offset, as: UInt8.self) }
        nonmutating set {
            base.storeBytes(
                of: newValue, toByteOffset: SetPageLayout.smallHand.offset, as: UInt8.self)
        }
    }
    public var mainHand: UInt8 {
        get { base.load(fromByteOffset: SetPageLayout.mainHand.offset, as: UInt8.self) }
        nonmutating set {
            base.storeBytes(
                of: newValue, toByteOffset: SetPageLayout.mainHand.offset, as: UInt8.self)
        }
    }

    /// 1 to 255; 0 is a free way's. Lines of one extent differ.
    @inlinable public static func fingerprint(core: UInt16, line: UInt64) -> UInt8 {
        let mixed = (line | UInt64(core) << 46) >> 4 &* 0xD6E8_FEB8_6659_FD93
        let byte = UInt8(truncatingIfNeeded: mixed >> 56) ^ UInt8(truncatingIfNeeded: line & 15)
        return byte == 0 ? 128 : byte
    }
}

// MARK: - On the device

/// What a slot of a set page turned out to hold.
public enum SetPageContent: Equatable, Sendable {
    case valid(sequence: UInt64)
    /// Nothing of this cache: never written since it was made.
    case foreign
    case damaged
}

extension SetPageView {
    private var bytes: DiskBytes { DiskBytes(base: base, count: SetPageLayout.byteCount) }

    public var sequence: UInt64 { bytes.load(SetPageLayout.sequence, as: UInt64.self) }
    public var checksum: UInt32 { bytes.load(SetPageLayout.checksum, as: UInt32.self) }

    /// Makes the page an empty one of set `set`.
    public func makeEmpty(set: UInt64, epoch: UInt64) {
        bytes.clear()
        bytes.store(SetPageLayout.magicValue, SetPageLayout.magic)
        bytes.store(SetPageLayout.version, SetPageLayout.formatVersion)
        bytes.store(set, SetPageLayout.setNumber)
        bytes.store(epoch, SetPageLayout.epoch)
    }

    /// How many journal records of the set the page includes.
    public var recordNumber: UInt32 {
        get { bytes.load(SetPageLayout.recordNumber, as: UInt32.self) }
        nonmutating set { bytes.store(newValue, SetPageLayout.recordNumber) }
    }
    public var firstBlock: UInt64 {
        get { bytes.load(firstBlockField(sequence), as: UInt64.self) }
        nonmutating set { bytes.store(newValue, firstBlockField(sequence)) }
    }
    private func firstBlockField(_ sequence: UInt64) -> Field {
        (offset: SetPageLayout.firstBlocks.offset + Int(sequence & 1) * 8, size: 8)
    }

    /// Notes that the device has the page that follows, durably, and what that does not include.
    ///
    /// A process that dies in between leaves the one or the other. A page that is on the device
    /// and is not known to be would be written again over itself; one that is believed to lack
    /// what it has would be written again without a record behind the other copy: torn, neither
    /// could be told from damage.
    public func settle(sequence next: UInt64, checksum: UInt32, firstBlock: UInt64) {
        precondition(next == sequence + 1, "a page is settled out of turn")
        bytes.store(checksum, SetPageLayout.checksum)
        bytes.store(firstBlock, firstBlockField(next))
        atomicMemoryFence(ordering: .releasing)
        bytes.store(next, SetPageLayout.sequence)
    }

    /// What the page in memory is called; of the newest on the device.
    public func setSequence(_ sequence: UInt64, checksum: UInt32) {
        bytes.store(sequence, SetPageLayout.sequence)
        bytes.store(checksum, SetPageLayout.checksum)
    }

    /// Gives the page its sequence number and checksum, ready to be written.
    ///
    /// What means nothing outside the process is cleared.
    public func seal(sequence: UInt64) {
        for way in 0..<SetPageLayout.ways {
            replacement[way] &= 0x8f
            setState(way, state(way).onDevice)
        }
        for either in UInt64(0)...1 { bytes.store(UInt64(0), firstBlockField(either)) }
        bytes.store(sequence, SetPageLayout.sequence)
        bytes.store(bytes.checksum(without: SetPageLayout.checksum), SetPageLayout.checksum)
    }

    /// Whether the bytes are the page of this set of this cache, whole.
    ///
    /// A page with a good checksum of another epoch is foreign. A page without magic is foreign,
    /// too: the device held something else there. The caller knows whether that may be.
    public func validate(set: UInt64, epoch: UInt64) -> SetPageContent {
        guard bytes.load(SetPageLayout.magic, as: UInt32.self) == SetPageLayout.magicValue else {
            return .foreign
        }
        guard
            bytes.load(SetPageLayout.checksum, as: UInt32.self)
                == bytes.checksum(without: SetPageLayout.checksum)
        else { return .damaged }
        guard bytes.load(SetPageLayout.epoch, as: UInt64.self) == epoch else { return .foreign }
        guard bytes.load(SetPageLayout.setNumber, as: UInt64.self) == set,
            bytes.load(SetPageLayout.formatVersion, as: UInt16.self) == SetPageLayout.version,
            bytes.isZero(SetPageLayout.reserved), bytes.isZero(SetPageLayout.reservedToo),
            bytes.isZero(SetPageLayout.firstBlocks),
            smallHand < SetPageLayout.ways, mainHand < SetPageLayout.ways
        else { return .damaged }
        return .valid(sequence: sequence)
    }
}
