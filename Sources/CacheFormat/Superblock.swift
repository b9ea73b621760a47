/// The root of a cache device: which cache it is, where things are, which configuration is valid.
///
/// Both slots are written, one after the other, with a flush between them; the valid one with the
/// higher generation counts. So at any moment at least one is whole, and a damaged one is never the
/// only one that tells the newest state. A slot is only written after everything it names is
/// durable.
public struct Superblock: Equatable, Sendable {
    public enum Layout {
        public static let magic: Field = (0, 8)
        public static let formatVersion: Field = (8, 4)
        public static let checksum: Field = (12, 4)
        public static let compatibleFeatures: Field = (16, 8)
        public static let readOnlyCompatibleFeatures: Field = (24, 8)
        public static let incompatibleFeatures: Field = (32, 8)
        public static let cacheUUID: Field = (40, 16)
        public static let generation: Field = (56, 8)
        public static let epoch: Field = (64, 8)
        public static let session: Field = (72, 8)
        public static let setCount: Field = (80, 8)
        public static let journalBlockCount: Field = (88, 8)
        public static let lineBytes: Field = (96, 4)
        public static let cacheID: Field = (100, 2)
        public static let state: Field = (102, 1)
        public static let configurationSlot: Field = (103, 1)
        public static let configurationBytes: Field = (104, 4)
        public static let configurationChecksum: Field = (108, 4)
        public static let dirtyLineCount: Field = (112, 8)
        public static let setPageDigest: Field = (120, 8)
        public static let dirtyDigest: Field = (128, 8)
        public static let reserved: Field = (136, 3960)

        public static let fields = [
            magic, formatVersion, checksum, compatibleFeatures, readOnlyCompatibleFeatures,
            incompatibleFeatures, cacheUUID, generation, epoch, session, setCount,
            journalBlockCount, lineBytes, cacheID, state, configurationSlot, configurationBytes,
            configurationChecksum, dirtyLineCount, setPageDigest, dirtyDigest,
            reserved,
        ]
        public static let byteCount = 4096
    }

    /// "UBLKCAS1" in memory order.
    public static let magicValue: UInt64 = 0x3153_4143_4B4C_4255
    public static let formatVersion: UInt32 = 2
    /// Features of each kind that this program knows.
    public static let knownIncompatible: UInt64 = 0
    public static let knownReadOnlyCompatible: UInt64 = 0

    public enum State: UInt8, Sendable {
        /// In use, or its server ended without stopping it.
        case inUse = 1
        /// Stopped in order: every set page is on the device.
        case cleanlyStopped = 2
        /// In use, and its set pages are being written for a stop: what is dirty does not change
        /// any more.
        case stopping = 3
    }

    public var cacheUUID: UInt128
    /// Changes at every format: set pages and journal blocks of another epoch are foreign.
    public var epoch: UInt64
    public var generation: UInt64 = 0
    /// Changes at every start; the memory image names it, too.
    public var session: UInt64
    public var geometry: Geometry
    /// 1 to 16384.
    public var cacheID: UInt16
    public var state: State
    /// Slot 0 or 1 of the configuration, its length and its CRC-32C.
    public var configurationSlot = 0
    public var configurationBytes: UInt32 = 0
    public var configurationChecksum: UInt32 = 0
    /// At the last clean stop; for whoever asks whether the cache may be thrown away.
    public var dirtyLineCount: UInt64 = 0
    /// At the last clean stop, `SetPageDigest` of all set pages; 0 while in use.
    public var setPageDigest: UInt64 = 0
    /// While stopping, `DirtyDigest` of all sets; 0 otherwise.
    public var dirtyDigest: UInt64 = 0

    public init(
        cacheUUID: UInt128, epoch: UInt64, session: UInt64, geometry: Geometry, cacheID: UInt16,
        state: State
    ) {
        self.cacheUUID = cacheUUID
        self.epoch = epoch
        self.session = session
        self.geometry = geometry
        self.cacheID = cacheID
        self.state = state
    }

    /// Writes the slot's 4096 bytes.
    public func encode(into bytes: DiskBytes) {
        precondition(bytes.count == Layout.byteCount)
        bytes.clear()
        bytes.store(Self.magicValue, Layout.magic)
        bytes.store(Self.formatVersion, Layout.formatVersion)
        bytes.store(cacheUUID, Layout.cacheUUID)
        bytes.store(generation, Layout.generation)
        bytes.store(epoch, Layout.epoch)
        bytes.store(session, Layout.session)
        bytes.store(geometry.setCount, Layout.setCount)
        bytes.store(geometry.journalBlockCount, Layout.journalBlockCount)
        bytes.store(geometry.lineBytes, Layout.lineBytes)
        bytes.store(cacheID, Layout.cacheID)
        bytes.store(state.rawValue, Layout.state)
        bytes.store(UInt8(configurationSlot), Layout.configurationSlot)
        bytes.store(configurationBytes, Layout.configurationBytes)
        bytes.store(configurationChecksum, Layout.configurationChecksum)
        bytes.store(dirtyLineCount, Layout.dirtyLineCount)
        bytes.store(setPageDigest, Layout.setPageDigest)
        bytes.store(dirtyDigest, Layout.dirtyDigest)
        bytes.store(bytes.checksum(without: Layout.checksum), Layout.checksum)
    }

    /// Believes nothing: magic, checksum, version, features, then every number.
    public init(decoding bytes: DiskBytes) throws(FormatError) {
        precondition(bytes.count == Layout.byteCount)
        guard bytes.load(Layout.magic, as: UInt64.self) == Self.magicValue else { throw .noMagic }
        let version = bytes.load(Layout.formatVersion, as: UInt32.self)
        guard
            bytes.load(Layout.checksum, as: UInt32.self)
                == bytes.checksum(without: Layout.checksum)
        else { throw .damaged("superblock") }
        guard version == Self.formatVersion else { throw .otherVersion(version) }
        let features =
            bytes.load(Layout.incompatibleFeatures, as: UInt64.self) & ~Self.knownIncompatible
            | bytes.load(Layout.readOnlyCompatibleFeatures, as: UInt64.self)
            & ~Self.knownReadOnlyCompatible
        guard features == 0 else { throw .unknownFeatures(features) }
        guard
            let geometry = Geometry(
                lineBytes: bytes.load(Layout.lineBytes, as: UInt32.self),
                setCount: bytes.load(Layout.setCount, as: UInt64.self),
                journalBlockCount: bytes.load(Layout.journalBlockCount, as: UInt64.self))
        else { throw .impossible("geometry") }
        guard let state = State(rawValue: bytes.load(Layout.state, as: UInt8.self)) else {
            throw .impossible("state")
        }
        self.init(
            cacheUUID: bytes.load(Layout.cacheUUID, as: UInt128.self),
            epoch: bytes.load(Layout.epoch, as: UInt64.self),
            session: bytes.load(Layout.session, as: UInt64.self), geometry: geometry,
            cacheID: bytes.load(Layout.cacheID, as: UInt16.self), state: state)
        try decodeRest(bytes)
    }

    private mutating func decodeRest(_ bytes: DiskBytes) throws(FormatError) {
        generation = bytes.load(Layout.generation, as: UInt64.self)
        configurationSlot = Int(bytes.load(Layout.configurationSlot, as: UInt8.self))
        configurationBytes = bytes.load(Layout.configurationBytes, as: UInt32.self)
        configurationChecksum = bytes.load(Layout.configurationChecksum, as: UInt32.self)
        dirtyLineCount = bytes.load(Layout.dirtyLineCount, as: UInt64.self)
        setPageDigest = bytes.load(Layout.setPageDigest, as: UInt64.self)
        dirtyDigest = bytes.load(Layout.dirtyDigest, as: UInt64.self)
        guard (1...16384).contains(cacheID) else { throw .impossible("cache id") }
        guard configurationSlot < 2 else { throw .impossible("configuration slot") }
        guard configurationBytes <= UInt32(Geometry.configurationBytesMax) else {
            throw .impossible("configuration length")
        }
        guard bytes.isZero(Layout.reserved) else { throw .impossible("reserved bytes") }
    }
}
