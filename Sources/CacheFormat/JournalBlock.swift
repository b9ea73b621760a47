import Synchronization

/// One change of a set's lines, as the journal keeps it.
///
/// It is absolute: it says what holds afterwards, so that replaying it twice is replaying it once.
public struct JournalRecord: Equatable, Sendable {
    public var set: UInt32
    /// 0 to 223.
    public var way: UInt8
    public var identity: Identity
    /// All granules of the way that are dirty from now on; 0: the way has nothing that counts.
    public var dirty: UInt16
    /// Those of them whose data was written for this record. If it turns out that their data did
    /// not reach the device, only these are lost.
    public var granules: UInt16
    /// CRC-32C of the data of `granules`, in order; nil if nobody saw it.
    public var checksum: UInt32?
    /// Counts the records of the set: one more than the one before. It wraps around.
    public var number: UInt32

    public init(
        set: UInt32, way: UInt8, identity: Identity, dirty: UInt16, granules: UInt16,
        checksum: UInt32?, number: UInt32
    ) {
        self.set = set
        self.way = way
        self.identity = identity
        self.dirty = dirty
        self.granules = granules
        self.checksum = checksum
        self.number = number
    }
}

/// The one table of offsets of a journal block: eight sectors of 512 bytes, each a header of 32
/// bytes and up to 15 records of 32.
///
/// Each sector has a checksum of its own. A device writes a sector whole or not at all, so a block
/// that a power cut has torn consists of whole sectors, new and old ones; a sector that is not
/// whole was damaged otherwise.
public enum JournalLayout {
    // The header of each sector.
    public static let checksum: Field = (0, 4)
    public static let sectorIndex: Field = (4, 1)
    public static let recordCount: Field = (5, 1)
    public static let formatVersion: Field = (6, 2)
    public static let session: Field = (8, 8)
    public static let sequence: Field = (16, 8)
    /// Sector 0: the oldest block that is needed. Sector 1: up to this block the data that records
    /// name is durable. Sector 2: up to this block the journal itself is. 0 in the others.
    public static let fact: Field = (24, 8)
    // A record, from its start.
    public static let set: Field = (0, 4)
    public static let way: Field = (4, 1)
    public static let flags: Field = (5, 1)
    public static let granules: Field = (6, 2)
    public static let identity: Field = (8, 8)
    public static let dirty: Field = (16, 2)
    public static let reserved: Field = (18, 6)
    public static let dataChecksum: Field = (24, 4)
    public static let number: Field = (28, 4)

    public static let sectorFields = [
        checksum, sectorIndex, recordCount, formatVersion, session, sequence, fact,
    ]
    public static let recordFields = [
        set, way, flags, granules, identity, dirty, reserved, dataChecksum, number,
    ]
    public static let byteCount = 4096
    public static let sectorBytes = 512
    public static let sectorCount = 8
    public static let headerBytes = 32
    public static let recordBytes = 32
    public static let recordsPerSector = 15
    public static let recordsMax = sectorCount * recordsPerSector
    public static let version: UInt16 = 1
    /// Flag bit 0 of a record: `dataChecksum` means something.
    public static let hasChecksum: UInt8 = 1
}

/// A journal block in place: 4096 bytes.
public struct JournalBlockView {
    public let base: UnsafeMutableRawPointer

    public init(base: UnsafeMutableRawPointer) { self.base = base }

    private func sector(_ index: Int) -> DiskBytes {
        precondition(index >= 0 && index < JournalLayout.sectorCount)
        return DiskBytes(
            base: base + index * JournalLayout.sectorBytes, count: JournalLayout.sectorBytes)
    }

    private func record(_ index: Int) -> DiskBytes {
        precondition(index >= 0 && index < JournalLayout.recordsMax)
        let (sector, place) = index.quotientAndRemainder(
            dividingBy: JournalLayout.recordsPerSector)
        let offset =
            sector * JournalLayout.sectorBytes + JournalLayout.headerBytes
            + place * JournalLayout.recordBytes
        return DiskBytes(base: base + offset, count: JournalLayout.recordBytes)
    }
}

// MARK: - Writing

extension JournalBlockView {
    /// Makes it an empty block. Sequence 0 and session 0: a place that was never written.
    public func begin(session: UInt64, sequence: UInt64) {
        DiskBytes(base: base, count: JournalLayout.byteCount).clear()
        for index in 0..<JournalLayout.sectorCount {
            sector(index).store(UInt8(index), JournalLayout.sectorIndex)
            sector(index).store(JournalLayout.version, JournalLayout.formatVersion)
            sector(index).store(session, JournalLayout.session)
            sector(index).store(sequence, JournalLayout.sequence)
        }
    }

    /// Adds a record behind those there are. It counts only when it is whole: the number of
    /// records is stored last.
    public func append(_ new: JournalRecord) {
        let index = recordCount
        let bytes = record(index)
        bytes.store(new.set, JournalLayout.set)
        bytes.store(new.way, JournalLayout.way)
        bytes.store(new.checksum == nil ? 0 : JournalLayout.hasChecksum, JournalLayout.flags)
        bytes.store(new.granules, JournalLayout.granules)
        bytes.store(new.identity.rawValue, JournalLayout.identity)
        bytes.store(new.dirty, JournalLayout.dirty)
        bytes.store(new.checksum ?? 0, JournalLayout.dataChecksum)
        bytes.store(new.number, JournalLayout.number)
        atomicMemoryFence(ordering: .releasing)
        let count = UInt8(truncatingIfNeeded: index % JournalLayout.recordsPerSector + 1)
        sector(index / JournalLayout.recordsPerSector).store(count, JournalLayout.recordCount)
    }

    /// Gives it what it says of others, and its checksums: ready to be written.
    public func seal(tail: UInt64, trustedThrough: UInt64, durableThrough: UInt64) {
        sector(0).store(tail, JournalLayout.fact)
        sector(1).store(trustedThrough, JournalLayout.fact)
        sector(2).store(durableThrough, JournalLayout.fact)
        for index in 0..<JournalLayout.sectorCount {
            let bytes = sector(index)
            bytes.store(
                bytes.checksum(without: JournalLayout.checksum), JournalLayout.checksum)
        }
    }
}

// MARK: - Reading

/// What a place of the journal turned out to hold.
public enum JournalContent: Equatable, Sendable {
    case whole(session: UInt64, sequence: UInt64)
    /// Whole sectors of different blocks: its writing was interrupted.
    case torn
    /// Some sector is none that anybody wrote.
    case damaged
}

extension JournalBlockView {
    public var session: UInt64 { sector(0).load(JournalLayout.session, as: UInt64.self) }
    public var sequence: UInt64 { sector(0).load(JournalLayout.sequence, as: UInt64.self) }
    public var tail: UInt64 { sector(0).load(JournalLayout.fact, as: UInt64.self) }
    public var trustedThrough: UInt64 { sector(1).load(JournalLayout.fact, as: UInt64.self) }
    public var durableThrough: UInt64 { sector(2).load(JournalLayout.fact, as: UInt64.self) }

    public var recordCount: Int {
        (0..<JournalLayout.sectorCount).reduce(0) {
            $0 + Int(sector($1).load(JournalLayout.recordCount, as: UInt8.self))
        }
    }

    public func validate() -> JournalContent {
        var isOne = true
        for index in 0..<JournalLayout.sectorCount {
            guard isWhole(index) else { return .damaged }
            let bytes = sector(index)
            isOne =
                isOne && bytes.load(JournalLayout.session, as: UInt64.self) == session
                && bytes.load(JournalLayout.sequence, as: UInt64.self) == sequence
        }
        return isOne ? .whole(session: session, sequence: sequence) : .torn
    }

    /// Of a damaged block: the newest block of the session that one of its whole sectors belongs
    /// to, 0 if they belong to none; nil if no sector is whole.
    public func newestTold(session: UInt64) -> UInt64? {
        let whole = (0..<JournalLayout.sectorCount).filter(isWhole).map(sector)
        return whole.map {
            $0.load(JournalLayout.session, as: UInt64.self) == session
                ? $0.load(JournalLayout.sequence, as: UInt64.self) : 0
        }.max()
    }

    private func isWhole(_ index: Int) -> Bool {
        let bytes = sector(index)
        return bytes.load(JournalLayout.checksum, as: UInt32.self)
            == bytes.checksum(without: JournalLayout.checksum)
            && bytes.load(JournalLayout.sectorIndex, as: UInt8.self) == UInt8(index)
            && bytes.load(JournalLayout.formatVersion, as: UInt16.self) == JournalLayout.version
            && bytes.load(JournalLayout.recordCount, as: UInt8.self)
                <= UInt8(JournalLayout.recordsPerSector)
    }

    /// Record `index` of a whole block; nil if it is none that could be meant.
    public func record(at index: Int, setCount: UInt64) -> JournalRecord? {
        let bytes = record(index)
        let flags = bytes.load(JournalLayout.flags, as: UInt8.self)
        let checksum = bytes.load(JournalLayout.dataChecksum, as: UInt32.self)
        let found = JournalRecord(
            set: bytes.load(JournalLayout.set, as: UInt32.self),
            way: bytes.load(JournalLayout.way, as: UInt8.self),
            identity: Identity(rawValue: bytes.load(JournalLayout.identity, as: UInt64.self)),
            dirty: bytes.load(JournalLayout.dirty, as: UInt16.self),
            granules: bytes.load(JournalLayout.granules, as: UInt16.self),
            checksum: flags & JournalLayout.hasChecksum != 0 ? checksum : nil,
            number: bytes.load(JournalLayout.number, as: UInt32.self))
        guard UInt64(found.set) < setCount, found.way < UInt8(SetPageLayout.ways),
            flags & ~JournalLayout.hasChecksum == 0, found.granules & ~found.dirty == 0,
            bytes.isZero(JournalLayout.reserved)
        else { return nil }
        return found
    }
}
