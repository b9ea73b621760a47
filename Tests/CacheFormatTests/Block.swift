import CacheFormat

/// 4096 bytes in memory that stand for a block of the cache device.
final class Block {
    let base: UnsafeMutableRawPointer
    static let byteCount = 4096

    init() {
        base = .allocate(byteCount: Self.byteCount, alignment: 4096)
        base.initializeMemory(as: UInt8.self, repeating: 0, count: Self.byteCount)
    }

    // Not deallocated: views of it may outlive it in one expression.

    var disk: DiskBytes { DiskBytes(base: base, count: Self.byteCount) }
    var page: SetPageView { SetPageView(base: base) }
    var journal: JournalBlockView { JournalBlockView(base: base) }
    var bytes: [UInt8] { Array(UnsafeRawBufferPointer(start: base, count: Self.byteCount)) }

    func content(set: UInt64, epoch: UInt64) -> SetPageContent {
        page.validate(set: set, epoch: epoch)
    }

    var journalContent: JournalContent { withExtendedLifetime(self) { journal.validate() } }

    func journalRecord(at index: Int, setCount: UInt64) -> JournalRecord? {
        withExtendedLifetime(self) { journal.record(at: index, setCount: setCount) }
    }

    subscript(_ index: Int) -> UInt8 {
        get { base.load(fromByteOffset: index, as: UInt8.self) }
        set { base.storeBytes(of: newValue, toByteOffset: index, as: UInt8.self) }
    }

    func flip(bit: Int) { self[bit / 8] ^= 1 << UInt8(bit % 8) }

    /// Overwrites a field and makes the checksum right again, as a program of ours would that
    /// wrote nonsense.
    func forge<T: FixedWidthInteger & BitwiseCopyable>(
        _ value: T, _ field: Field, checksum: Field
    ) {
        disk.store(value, field)
        disk.store(disk.checksum(without: checksum), checksum)
    }
}

/// The fields of a table as `offset..<end`, in the order of the bytes.
func ranges(of fields: [Field]) -> [Range<Int>] {
    fields.map { $0.offset..<$0.offset + $0.size }.sorted { $0.lowerBound < $1.lowerBound }
}

/// The bytes from the start of which the fields leave a gap or overlap; empty if they are dense.
func seams(of fields: [Field], byteCount: Int) -> [Int] {
    var next = 0
    var wrong: [Int] = []
    for range in ranges(of: fields) {
        if range.lowerBound != next || range.isEmpty { wrong.append(range.lowerBound) }
        next = range.upperBound
    }
    if next != byteCount { wrong.append(next) }
    return wrong
}

/// The error a decoding throws; nil if it throws none.
func formatError(_ body: () throws(FormatError) -> Void) -> FormatError? {
    do throws(FormatError) {
        try body()
        return nil
    } catch {
        return error
    }
}
