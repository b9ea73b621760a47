/// The root of a cache device: what it is, how it is laid out, and whether it was left in order.
///
/// Written to both slots, one after the other, with a flush between them: at any moment at least
/// one copy is whole, and a damaged one is never the only one that tells the newest state. The
/// copy with the higher generation counts.
package struct Superblock: Equatable, Sendable {
    /// Each change of the superblock or the configuration raises it.
    package var generation: UInt64 = 0
    package var uuid: UInt128
    /// Changes at every format; set pages and journal blocks of another epoch mean nothing.
    package var epoch: UInt64
    /// Changes each time the cache is started; names the memory image that belongs to it.
    package var session: UInt64 = 0
    package var cacheID: UInt16
    package var lineBytes: UInt32
    package var setCount: UInt64
    package var journalBlockCount: UInt64
    /// The device must have at least so many bytes.
    package var requiredBytes: UInt64
    package var state: State = .new
    /// `clean` only: `SetPageDigest` of all set pages, so that a stale one is noticed.
    package var setPageDigest: UInt64 = 0
    package var configurationBytes: UInt32 = 0
    package var configurationChecksum: UInt32 = 0

    package enum State: UInt8, Sendable {
        /// Formatted and never used: no set page was written.
        case new = 0
        /// Stopped in order: the set pages on the device tell everything.
        case clean = 1
        /// Being used, or its user died.
        case inUse = 2
    }

    /// Why 4096 bytes are not a superblock this version can use.
    package enum DecodeError: Error, Equatable, Sendable {
        /// No magic: never a cache of this kind.
        case noMagic
        case otherVersion(UInt32)
        case badChecksum
        /// The checksum is right and the content is not.
        case badContent
        /// Written with a feature (a bit each) that this version does not know.
        case unknownFeatures(UInt64)
    }

    package enum Layout {
        package static let magic = (offset: 0, size: 8)
        package static let version = (offset: 8, size: 4)
        package static let checksum = (offset: 12, size: 4)
        package static let featuresCompatible = (offset: 16, size: 8)
        package static let featuresReadOnly = (offset: 24, size: 8)
        package static let featuresIncompatible = (offset: 32, size: 8)
        package static let generation = (offset: 40, size: 8)
        package static let uuid = (offset: 48, size: 16)
        package static let epoch = (offset: 64, size: 8)
        package static let session = (offset: 72, size: 8)
        package static let setCount = (offset: 80, size: 8)
        package static let journalBlockCount = (offset: 88, size: 8)
        package static let requiredBytes = (offset: 96, size: 8)
        package static let setPageDigest = (offset: 104, size: 8)
        package static let lineBytes = (offset: 112, size: 4)
        package static let configurationBytes = (offset: 116, size: 4)
        package static let configurationChecksum = (offset: 120, size: 4)
        package static let cacheID = (offset: 124, size: 2)
        package static let state = (offset: 126, size: 1)
        package static let reserved = (offset: 127, size: 3969)

        package static let fields = [
            magic, version, checksum, featuresCompatible, featuresReadOnly, featuresIncompatible,
            generation, uuid, epoch, session, setCount, journalBlockCount, requiredBytes,
            setPageDigest, lineBytes, configurationBytes, configurationChecksum, cacheID, state,
            reserved,
        ]
        package static let byteCount = 4096
        package static let magicValue: UInt64 = 0x5341_432d_4b4c_4255  // "UBLK-CAS" in memory order.
        package static let versionValue: UInt32 = 1
    }

    package init(uuid: UInt128, epoch: UInt64, cacheID: UInt16, geometry: Geometry) {
        self.uuid = uuid
        self.epoch = epoch
        self.cacheID = cacheID
        lineBytes = geometry.lineBytes
        setCount = geometry.setCount
        journalBlockCount = geometry.journalBlockCount
        requiredBytes = geometry.requiredBytes
    }

    /// Nil only if the superblock was put together wrongly: `init(decoding:)` has checked it.
    package var geometry: Geometry? {
        Geometry(
            lineBytes: lineBytes, setCount: setCount, journalBlockCount: journalBlockCount)
    }
}

extension Superblock {
    package func encode(into block: UnsafeMutableRawBufferPointer) {
        precondition(block.count == Layout.byteCount)
        block.initializeMemory(as: UInt8.self, repeating: 0)
        let fields = ByteFields(block)
        fields.store(Layout.magicValue, Layout.magic)
        fields.store(Layout.versionValue, Layout.version)
        fields.store(generation, Layout.generation)
        fields.store(uuid, Layout.uuid)
        fields.store(epoch, Layout.epoch)
        fields.store(session, Layout.session)
        fields.store(setCount, Layout.setCount)
        fields.store(journalBlockCount, Layout.journalBlockCount)
        fields.store(requiredBytes, Layout.requiredBytes)
        fields.store(setPageDigest, Layout.setPageDigest)
        fields.store(lineBytes, Layout.lineBytes)
        fields.store(configurationBytes, Layout.configurationBytes)
        fields.store(configurationChecksum, Layout.configurationChecksum)
        fields.store(cacheID, Layout.cacheID)
        fields.store(state.rawValue, Layout.state)
        fields.store(fields.checksum(without: Layout.checksum), Layout.checksum)
    }

    /// The only door from bytes to a superblock.
    package init(decoding block: UnsafeMutableRawBufferPointer) throws(DecodeError) {
        precondition(block.count == Layout.byteCount)
        let fields = ByteFields(block)
        guard fields.load(UInt64.self, Layout.magic) == Layout.magicValue else { throw .noMagic }
        // Of another version nothing is known but magic and version, not even the checksum.
        let version = fields.load(UInt32.self, Layout.version)
        guard version == Layout.versionValue else { throw .otherVersion(version) }
        guard fields.load(Layout.checksum) == fields.checksum(without: Layout.checksum) else {
            throw .badChecksum
        }
        let unknown = fields.load(UInt64.self, Layout.featuresIncompatible)
        guard unknown == 0 else { throw .unknownFeatures(unknown) }
        guard let state = State(rawValue: fields.load(Layout.state)),
            fields.isZero(Layout.reserved)
        else { throw .badContent }
        generation = fields.load(Layout.generation)
        uuid = fields.load(Layout.uuid)
        epoch = fields.load(Layout.epoch)
        session = fields.load(Layout.session)
        setCount = fields.load(Layout.setCount)
        journalBlockCount = fields.load(Layout.journalBlockCount)
        requiredBytes = fields.load(Layout.requiredBytes)
        setPageDigest = fields.load(Layout.setPageDigest)
        lineBytes = fields.load(Layout.lineBytes)
        configurationBytes = fields.load(Layout.configurationBytes)
        configurationChecksum = fields.load(Layout.configurationChecksum)
        cacheID = fields.load(Layout.cacheID)
        self.state = state
        guard let geometry, geometry.requiredBytes == requiredBytes,
            (1...16384).contains(cacheID),
            configurationBytes <= UInt32(Geometry.configurationBytesMax)
        else { throw .badContent }
    }
}
