/// The 512 bytes that a writer writes to a sector: they say whose they are, where they belong and
/// when they were written, and each word of the rest follows from that. So bytes that are not
/// exactly one version of exactly this sector are told from it.
enum SectorContent: Equatable {
    case zeroes
    case version(Version)
    /// Anything else, in words.
    case foreign(String)

    static let byteCount = 512
    private static let magic: UInt64 = 0x5455_4352_4557_4F50  // "POWERCUT"
    private static let headerWords = 5
    private static let words = byteCount / 8

    static func write(
        _ writer: Writer, sector: UInt64, _ version: Version,
        to bytes: UnsafeMutableRawBufferPointer
    ) {
        let header = [magic, writer.seed, writer.stream, sector, version.rawValue]
        for (index, word) in header.enumerated() { store(word, index, bytes) }
        let start = fillStart(writer, sector, version)
        for index in headerWords..<words { store(fill(start, index), index, bytes) }
    }

    /// What the bytes are, read at this place of this writer.
    init(_ bytes: UnsafeRawBufferPointer, writer: Writer, sector: UInt64) {
        precondition(bytes.count == Self.byteCount)
        guard Self.load(0, bytes) == Self.magic else {
            let isZero = (0..<Self.words).allSatisfy { Self.load($0, bytes) == 0 }
            self = isZero ? .zeroes : .foreign("no content of this test")
            return
        }
        let version = Version(rawValue: Self.load(4, bytes))
        guard Self.load(1, bytes) == writer.seed else {
            self = .foreign("content of another run")
            return
        }
        guard Self.load(2, bytes) == writer.stream, Self.load(3, bytes) == sector else {
            self = .foreign(
                "content of sector \(Self.load(3, bytes)) of "
                    + (Self.load(2, bytes) == writer.stream ? "this" : "another")
                    + " stream, \(version)")
            return
        }
        let start = Self.fillStart(writer, sector, version)
        let isWhole = (Self.headerWords..<Self.words).allSatisfy {
            Self.load($0, bytes) == Self.fill(start, $0)
        }
        self = isWhole ? .version(version) : .foreign("torn inside the sector, \(version)")
    }

    private static func fillStart(_ writer: Writer, _ sector: UInt64, _ version: Version) -> UInt64
    {
        mixed(mixed(writer.seed ^ writer.stream) ^ mixed(sector &+ mixed(version.rawValue)))
    }

    private static func fill(_ start: UInt64, _ index: Int) -> UInt64 {
        mixed(start &+ UInt64(index) &* 0x9E37_79B9_7F4A_7C15)
    }

    private static func load(_ word: Int, _ bytes: UnsafeRawBufferPointer) -> UInt64 {
        UInt64(littleEndian: bytes.loadUnaligned(fromByteOffset: word * 8, as: UInt64.self))
    }

    private static func store(_ value: UInt64, _ word: Int, _ bytes: UnsafeMutableRawBufferPointer)
    {
        bytes.storeBytes(of: value.littleEndian, toByteOffset: word * 8, as: UInt64.self)
    }
}
