/// What an admin has decided about a cache, and which cores it has.
package struct Configuration: Equatable, Sendable {
    package enum Mode: UInt8, Sendable {
        case writeThrough = 0
        case writeBack = 1
        case passThrough = 2
    }
    package enum CleaningPolicy: UInt8, Sendable {
        case nop = 0
        case alru = 1
        case acp = 2
    }
    package enum PromotionPolicy: UInt8, Sendable {
        case always = 0
        case nhit = 1
    }
    package enum SequentialCutoffPolicy: UInt8, Sendable {
        case always = 0
        case full = 1
        case never = 2
    }

    package struct Core: Equatable, Sendable {
        /// 0 to 4095.
        package var id: UInt16
        /// Where the core's first extent lies: added to every extent number.
        package var coreOffset: UInt32
        package var sectorCount: UInt64
        package var sequentialCutoffKiB: UInt32 = 1024
        package var sequentialCutoffPolicy = SequentialCutoffPolicy.full
        package var devicePath: String

        package init(id: UInt16, coreOffset: UInt32, sectorCount: UInt64, devicePath: String) {
            self.id = id
            self.coreOffset = coreOffset
            self.sectorCount = sectorCount
            self.devicePath = devicePath
        }
    }

    package var mode: Mode
    package var cleaningPolicy = CleaningPolicy.alru
    package var promotionPolicy = PromotionPolicy.always
    /// By id, ascending.
    package var cores: [Core] = []

    package init(mode: Mode) { self.mode = mode }

    package enum CodingError: Error, Equatable, Sendable {
        case damaged
        /// A record that must be understood and is not.
        case unknownRecord(UInt16)
        case tooLong
    }
}

/// On the device a configuration is a row of records, each type (u16), reserved (u16, 0), length of
/// the content in bytes (u32), content. What later versions add becomes a record of a new type:
/// readers skip types they do not know, unless the type's top bit forbids it.
///
/// | type | content |
/// | --- | --- |
/// | 1 | cache: mode u8, cleaning policy u8, promotion policy u8, 0 u8 |
/// | 2 | core: id u16, cutoff policy u8, 0 u8, core offset u32, cutoff KiB u32, 0 u32, sectors u64, path in UTF-8 |
extension Configuration {
    private enum RecordType: UInt16 {
        case cache = 1
        case core = 2

        static let mustBeKnown: UInt16 = 0x8000
    }

    package func encode() throws(CodingError) -> [UInt8] {
        var writer = RecordWriter()
        writer.begin(RecordType.cache.rawValue)
        writer.append(mode.rawValue)
        writer.append(cleaningPolicy.rawValue)
        writer.append(promotionPolicy.rawValue)
        writer.append(UInt8(0))
        writer.end()
        for core in cores {
            writer.begin(RecordType.core.rawValue)
            writer.append(core.id)
            writer.append(core.sequentialCutoffPolicy.rawValue)
            writer.append(UInt8(0))
            writer.append(core.coreOffset)
            writer.append(core.sequentialCutoffKiB)
            writer.append(UInt32(0))
            writer.append(core.sectorCount)
            writer.append(text: core.devicePath)
            writer.end()
        }
        guard writer.bytes.count <= Geometry.configurationBytesMax else { throw .tooLong }
        return writer.bytes
    }

    package init(decoding bytes: UnsafeMutableRawBufferPointer) throws(CodingError) {
        var rest = RecordReader(bytes)
        var found: Configuration?
        var cores: [Core] = []
        while !rest.isAtEnd {
            let type = try rest.next(UInt16.self)
            guard try rest.next(UInt16.self) == 0 else { throw .damaged }
            var content = try rest.next(byteCount: Int(try rest.next(UInt32.self)))
            switch RecordType(rawValue: type) {
            case .cache: found = try Self.decodeCache(&content)
            case .core: cores.append(try Core(&content))
            case nil: if type & RecordType.mustBeKnown != 0 { throw .unknownRecord(type) }
            }
        }
        guard let found, zip(cores, cores.dropFirst()).allSatisfy({ $0.id < $1.id }) else {
            throw .damaged
        }
        self = found
        self.cores = cores
    }

    private static func decodeCache(
        _ content: inout RecordReader
    ) throws(CodingError) -> Configuration {
        guard let mode = Mode(rawValue: try content.next(UInt8.self)),
            let cleaning = CleaningPolicy(rawValue: try content.next(UInt8.self)),
            let promotion = PromotionPolicy(rawValue: try content.next(UInt8.self))
        else { throw .damaged }
        var configuration = Configuration(mode: mode)
        configuration.cleaningPolicy = cleaning
        configuration.promotionPolicy = promotion
        return configuration
    }
}

extension Configuration.Core {
    fileprivate init(_ content: inout RecordReader) throws(Configuration.CodingError) {
        id = try content.next(UInt16.self)
        guard
            let policy = Configuration.SequentialCutoffPolicy(
                rawValue: try content.next(UInt8.self))
        else { throw .damaged }
        sequentialCutoffPolicy = policy
        _ = try content.next(UInt8.self)
        coreOffset = try content.next(UInt32.self)
        sequentialCutoffKiB = try content.next(UInt32.self)
        _ = try content.next(UInt32.self)
        sectorCount = try content.next(UInt64.self)
        guard let path = content.restAsText(), !path.isEmpty, id < 4096, sectorCount > 0 else {
            throw .damaged
        }
        devicePath = path
    }
}

/// Appends records.
private struct RecordWriter {
    private(set) var bytes: [UInt8] = []
    private var start = 0

    mutating func begin(_ type: UInt16) {
        append(type)
        append(UInt16(0))
        append(UInt32(0))
        start = bytes.count
    }

    /// Fills in the length of the record begun last.
    mutating func end() {
        let length = UInt32(bytes.count - start)
        for index in 0..<4 { bytes[start - 4 + index] = UInt8(length >> (index * 8) & 0xff) }
    }

    mutating func append<Value: FixedWidthInteger & BitwiseCopyable>(_ value: Value) {
        withUnsafeBytes(of: value.littleEndian) { bytes.append(contentsOf: $0) }
    }

    mutating func append(text: String) { bytes.append(contentsOf: text.utf8) }
}

/// Reads records and never past their end.
private struct RecordReader {
    private let fields: ByteFields
    private var next = 0
    private let end: Int

    init(_ bytes: UnsafeMutableRawBufferPointer) {
        fields = ByteFields(bytes)
        end = bytes.count
    }

    var isAtEnd: Bool { next == end }

    mutating func next<Value: FixedWidthInteger & BitwiseCopyable>(
        _: Value.Type
    ) throws(Configuration.CodingError) -> Value {
        let size = MemoryLayout<Value>.size
        guard end - next >= size else { throw .damaged }
        defer { next += size }
        return fields.load((offset: next, size: size))
    }

    mutating func next(byteCount: Int) throws(Configuration.CodingError) -> RecordReader {
        guard byteCount >= 0, end - next >= byteCount else { throw .damaged }
        defer { next += byteCount }
        return RecordReader(
            UnsafeMutableRawBufferPointer(rebasing: fields.bytes[next..<next + byteCount]))
    }

    mutating func restAsText() -> String? {
        defer { next = end }
        return String(validating: fields.bytes[next..<end], as: UTF8.self)
    }
}
