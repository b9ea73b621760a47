/// What a cache was told to be: everything that must come back after a restart.
///
/// | bytes | what |
/// | --- | --- |
/// | 0-7 | magic |
/// | 8-15 | generation, the same as the superblock's that names it |
/// | 16 | cache mode |
/// | 17 | durability |
/// | 18 | cleaning policy |
/// | 19 | promotion policy |
/// | 20-21 | number of cores |
/// | 22-31 | reserved, zero |
/// | 32… | the cores, one after the other |
///
/// A core: id (2), length of its path in bytes (2), core offset (4), size in sectors (8), flags
/// (4), logical block size in bytes (4), sequential cutoff threshold in KiB (4), policy (1),
/// reserved (3), path in UTF-8, zero bytes up to a multiple of 8.
public struct Configuration: Equatable, Sendable {
    public enum Mode: UInt8, Sendable, CaseIterable {
        case writeThrough = 0, writeBack = 1, writeAround = 2, passThrough = 3, writeOnly = 4
    }
    public enum Durability: UInt8, Sendable { case flush = 0, write = 1 }
    public enum CleaningPolicy: UInt8, Sendable { case nop = 0, alru = 1, acp = 2 }
    public enum PromotionPolicy: UInt8, Sendable { case always = 0, nhit = 1, ghost = 2 }
    public enum CutoffPolicy: UInt8, Sendable { case full = 0, always = 1, never = 2 }

    public struct Core: Equatable, Sendable {
        /// Cores are smaller than this (256 PiB): in lines of 4 KiB their numbers fit a set page.
        public static let sectorsMax: UInt64 = 1 << 49

        /// 0 to 4095.
        public var id: UInt16
        /// Shifts the core's extents against other cores' sets.
        public var coreOffset: UInt32
        public var sectorCount: UInt64
        public var logicalBlockBytes: UInt32
        public var cutoffThresholdKiB: UInt32 = 1024
        public var cutoffPolicy = CutoffPolicy.never
        public var devicePath: String

        public init(
            id: UInt16, coreOffset: UInt32, sectorCount: UInt64, logicalBlockBytes: UInt32,
            devicePath: String
        ) {
            self.id = id
            self.coreOffset = coreOffset
            self.sectorCount = sectorCount
            self.logicalBlockBytes = logicalBlockBytes
            self.devicePath = devicePath
        }
    }

    public var mode: Mode
    public var durability = Durability.flush
    public var cleaningPolicy = CleaningPolicy.nop
    public var promotionPolicy = PromotionPolicy.always
    public var cores: [Core] = []

    public init(mode: Mode) { self.mode = mode }

    public static let magicValue: UInt64 = 0x464E_4F43_5341_4355  // "UCASCONF" in memory order.
    private static let headBytes = 32
    private static let coreHeadBytes = 32
    public static let pathBytesMax = 4096
}

extension Configuration {
    /// The bytes for a configuration slot; fails if they do not fit.
    public func encode(generation: UInt64) throws(FormatError) -> [UInt8] {
        var bytes: [UInt8] = []
        append(&bytes, Self.magicValue)
        append(&bytes, generation)
        bytes += [
            mode.rawValue, durability.rawValue, cleaningPolicy.rawValue, promotionPolicy.rawValue,
        ]
        append(&bytes, UInt16(cores.count))
        bytes += [UInt8](repeating: 0, count: 10)
        precondition(bytes.count == Self.headBytes)
        for core in cores {
            let path = Array(core.devicePath.utf8)
            guard path.count <= Self.pathBytesMax else { throw .tooLarge("core device path") }
            append(&bytes, core.id)
            append(&bytes, UInt16(path.count))
            append(&bytes, core.coreOffset)
            append(&bytes, core.sectorCount)
            append(&bytes, UInt32(0))
            append(&bytes, core.logicalBlockBytes)
            append(&bytes, core.cutoffThresholdKiB)
            bytes += [core.cutoffPolicy.rawValue, 0, 0, 0]
            bytes += path
            while bytes.count % 8 != 0 { bytes.append(0) }
        }
        guard bytes.count <= Geometry.configurationBytesMax else {
            throw .tooLarge("configuration")
        }
        return bytes
    }

    private func append<T: FixedWidthInteger>(_ bytes: inout [UInt8], _ value: T) {
        var left = value
        for _ in 0..<MemoryLayout<T>.size {
            bytes.append(UInt8(truncatingIfNeeded: left))
            left >>= 8
        }
    }

    /// Reads a configuration whose checksum the superblock has vouched for; believes no number.
    public init(decoding bytes: [UInt8], generation: UInt64) throws(FormatError) {
        var reader = Reader(bytes: bytes)
        guard try reader.next(UInt64.self) == Self.magicValue,
            try reader.next(UInt64.self) == generation
        else { throw .damaged("configuration") }
        guard let mode = Mode(rawValue: try reader.next(UInt8.self)),
            let durability = Durability(rawValue: try reader.next(UInt8.self)),
            let cleaning = CleaningPolicy(rawValue: try reader.next(UInt8.self)),
            let promotion = PromotionPolicy(rawValue: try reader.next(UInt8.self))
        else { throw .impossible("mode or policy") }
        self.init(mode: mode)
        self.durability = durability
        cleaningPolicy = cleaning
        promotionPolicy = promotion
        let count = try reader.next(UInt16.self)
        guard count <= 4096 else { throw .impossible("number of cores") }
        try reader.skipZeros(10)
        for _ in 0..<count {
            let core = try Self.decodeCore(&reader)
            guard !cores.contains(where: { $0.id == core.id }) else {
                throw .impossible("core id")
            }
            cores.append(core)
        }
        guard reader.isAtEnd else { throw .damaged("configuration") }
    }

    private static func decodeCore(_ reader: inout Reader) throws(FormatError) -> Core {
        let id = try reader.next(UInt16.self)
        let pathBytes = Int(try reader.next(UInt16.self))
        let coreOffset = try reader.next(UInt32.self)
        let sectorCount = try reader.next(UInt64.self)
        guard try reader.next(UInt32.self) == 0 else { throw .impossible("core flags") }
        let blockBytes = try reader.next(UInt32.self)
        let threshold = try reader.next(UInt32.self)
        guard let policy = CutoffPolicy(rawValue: try reader.next(UInt8.self)) else {
            throw .impossible("sequential cutoff policy")
        }
        try reader.skipZeros(3)
        guard id < 4096, pathBytes <= pathBytesMax, sectorCount > 0,
            sectorCount < Core.sectorsMax,
            let path = try reader.text(pathBytes)
        else { throw .impossible("core") }
        try reader.skipZeros((8 - reader.position % 8) % 8)
        var core = Core(
            id: id, coreOffset: coreOffset, sectorCount: sectorCount,
            logicalBlockBytes: blockBytes, devicePath: path)
        core.cutoffThresholdKiB = threshold
        core.cutoffPolicy = policy
        return core
    }
}

/// Walks over bytes that may end too early.
private struct Reader {
    let bytes: [UInt8]
    private(set) var position = 0

    init(bytes: [UInt8]) { self.bytes = bytes }

    var isAtEnd: Bool { position == bytes.count }

    mutating func next<T: FixedWidthInteger>(_: T.Type) throws(FormatError) -> T {
        guard bytes.count - position >= MemoryLayout<T>.size else {
            throw .damaged("configuration")
        }
        var value: T = 0
        for index in (0..<MemoryLayout<T>.size).reversed() {
            value = value << 8 | T(truncatingIfNeeded: bytes[position + index])
        }
        position += MemoryLayout<T>.size
        return value
    }

    mutating func skipZeros(_ count: Int) throws(FormatError) {
        for _ in 0..<count where try next(UInt8.self) != 0 { throw .impossible("reserved bytes") }
    }

    mutating func text(_ count: Int) throws(FormatError) -> String? {
        guard bytes.count - position >= count else { throw .damaged("configuration") }
        defer { position += count }
        return String(validating: bytes[position..<position + count], as: UTF8.self)
    }
}
