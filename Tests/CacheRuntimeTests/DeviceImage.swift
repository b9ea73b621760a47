import CacheEngine
import CacheFormat
import CacheRuntime

/// A page in memory of its own.
final class AlignedPage {
    let base = UnsafeMutableRawPointer.allocate(byteCount: 4096, alignment: 4096)
    init() { base.initializeMemory(as: UInt8.self, repeating: 0, count: 4096) }
    deinit { base.deallocate() }

    var bytes: [UInt8] { Array(UnsafeRawBufferPointer(start: base, count: 4096)) }

    /// A set page with one line in way 4.
    func page(line: UInt64, dirty: UInt16) -> SetPageView {
        let view = SetPageView(base: base)
        view.makeEmpty(set: 3, epoch: 1)
        view.setIdentity(4, Identity(core: 1, line: line, ioClass: 0))
        view.setState(4, LineState(valid: 0xff, dirty: dirty, recorded: true))
        return view
    }
}

/// A device in memory that any number of loads may write to, and that is as before after `reset`.
final class ImageMedium: StoreMedium, @unchecked Sendable {
    let path = "/dev/image"
    private let image: [UInt8]
    /// By the number of a block of 4 KiB.
    private var changes: [Int: [UInt8]] = [:]
    /// Blocks that cannot be read so many times more, if they are not written again.
    private var unreadable: [Int: Int] = [:]

    init(_ image: [UInt8]) { self.image = image }

    var byteCount: UInt64 { UInt64(image.count) }

    func reset() {
        changes = [:]
        unreadable = [:]
    }

    private func block(_ number: Int) -> [UInt8] {
        changes[number] ?? Array(image[number * 4096..<(number + 1) * 4096])
    }

    func read(into bytes: UnsafeMutableRawBufferPointer, at offset: UInt64) throws(CacheError) {
        precondition(bytes.count % 4096 == 0 && offset % 4096 == 0)
        let first = Int(offset / 4096)
        let end = first + bytes.count / 4096
        if let block = unreadable.keys.first(where: { $0 >= first && $0 < end }),
            let times = unreadable[block]
        {
            unreadable[block] = times > 1 ? times - 1 : nil
            throw CacheError(.inputOutput, "Reading '\(path)' at \(block * 4096) failed.")
        }
        image.withUnsafeBytes {
            bytes.copyMemory(
                from: UnsafeRawBufferPointer(rebasing: $0[Int(offset)..<Int(offset) + bytes.count]))
        }
        for (number, content) in changes
        where number >= first && number < end {
            UnsafeMutableRawBufferPointer(
                rebasing: bytes[(number - first) * 4096..<(number - first + 1) * 4096]
            ).copyBytes(from: content)
        }
    }

    func write(_ bytes: UnsafeRawBufferPointer, at offset: UInt64) throws(CacheError) {
        precondition(bytes.count % 4096 == 0 && offset % 4096 == 0)
        for index in 0..<bytes.count / 4096 {
            changes[Int(offset / 4096) + index] = Array(
                bytes[index * 4096..<(index + 1) * 4096])
            unreadable[Int(offset / 4096) + index] = nil
        }
    }

    func flush() throws(CacheError) {}

    func flip(_ bit: Int, at offset: UInt64) {
        var content = block(Int(offset / 4096))
        content[bit / 8] ^= 1 << UInt8(bit % 8)
        changes[Int(offset / 4096)] = content
    }

    func zero(at offset: UInt64) {
        changes[Int(offset / 4096)] = [UInt8](repeating: 0, count: 4096)
    }

    func makeUnreadable(at offset: UInt64, times: Int = .max) {
        unreadable[Int(offset / 4096)] = times
    }
}

/// What of a cache is dirty: granules by the identity of their line.
typealias DirtyContent = [UInt64: UInt16]

/// A cache on a device of 40 MiB that lost its power: some sets by their pages alone, some by the
/// journal behind them, with and without data that was written last.
final class DeviceImage {
    static let session: UInt64 = 5
    let medium: FaultyMedium
    let store: CacheStore
    var geometry: Geometry { store.geometry }

    static func configuration() -> Configuration {
        var configuration = Configuration(mode: .writeBack)
        for id in [UInt16(1), 9] {
            configuration.cores.append(
                Configuration.Core(
                    id: id, coreOffset: UInt32(id) * 3, sectorCount: 1 << 20,
                    logicalBlockBytes: 512, devicePath: "/dev/core\(id)"))
        }
        return configuration
    }

    init() throws(CacheError) {
        medium = FaultyMedium(byteCount: 40 << 20)
        store = try CacheStore.format(
            medium, cacheID: 3, lineBytes: 4096, session: Self.session,
            configuration: Self.configuration())
        writePages()
        writeJournal()
    }

    /// A line of core 1 that belongs to the set.
    func line(_ index: UInt64, set: UInt64) -> UInt64 {
        let extent = (set + geometry.setCount - 3 % geometry.setCount) % geometry.setCount
        return (extent + index / 16 * geometry.setCount) * 16 + index % 16
    }

    func identity(_ index: UInt64, set: UInt64) -> Identity {
        Identity(core: 1, line: line(index, set: set), ioClass: 0)
    }

    /// Sets 0 to 5 have been written, some more than once.
    static let usedSets = UInt64(0)..<6

    private func writePages() {
        // Two pages, and nothing later.
        page(0, 2, number: 2, [0: 0xff, 1: 0x0f])
        page(0, 3, number: 5, [0: 0xff, 1: 0xff, 2: 0x01])
        // Two pages, and records that follow.
        page(1, 4, number: 7, [10: 0x0f, 11: 0xf0])
        page(1, 3, number: 4, [10: 0x03])
        // The first page and one more, of which records follow.
        page(2, 2, number: 3, [5: 0x0f])
        // Set 3: the first page, and records. Set 4 as set 0.
        page(4, 6, number: 1, [0: 0x80])
        page(4, 5, number: 1, [0: 0x80, 9: 0])
        page(5, 8, number: 9, [223: 0xff])
        page(5, 7, number: 8, [223: 0x7f])
    }

    /// Way by way the dirty granules of that way's line; 0: clean.
    func page(_ set: UInt64, _ sequence: UInt64, number: UInt32, _ ways: [Int: UInt16]) {
        let block = AlignedPage()
        let view = SetPageView(base: block.base)
        view.makeEmpty(set: set, epoch: store.superblock.epoch)
        for (way, dirty) in ways {
            let identity = identity(UInt64(way), set: set)
            view.setIdentity(way, identity)
            view.setState(way, LineState(valid: 0xff, dirty: dirty, recorded: true))
            view.fingerprints[way] = SetPageView.fingerprint(
                core: identity.core, line: identity.line)
            view.replacement[way] = 0x80
        }
        view.recordNumber = number
        view.seal(sequence: sequence)
        medium.poke(
            block.bytes, at: Int(geometry.setPageOffset(set: set, slot: Int(sequence & 1))))
    }

    private func writeJournal() {
        block(20, tail: 18, trusted: 17, [record(0, 4, way: 1, dirty: 0xff, granules: 0xf0)])
        block(
            21, tail: 18, trusted: 20,
            [
                record(0, 5, way: 2, dirty: 0x01),
                record(1, 5, way: 10, dirty: 0x0f, granules: 0x0c),
                record(3, 1, way: 7, dirty: 0xff),
            ])
        block(
            22, tail: 20, trusted: 21,
            [
                record(1, 6, way: 11, dirty: 0xf0), record(1, 7, way: 12, dirty: 0, granules: 0),
                record(1, 8, way: 12, dirty: 0x33), record(2, 4, way: 5, dirty: 0, granules: 0),
            ])
        // The last one: durable, but nobody says so.
        block(
            23, tail: 20, trusted: 22,
            [record(2, 5, way: 6, dirty: 0xff), record(3, 2, way: 8, dirty: 0x0f)])
    }

    private func record(
        _ set: UInt32, _ number: UInt32, way: UInt8, dirty: UInt16, granules: UInt16? = nil
    ) -> JournalRecord {
        let written = granules ?? dirty
        return JournalRecord(
            set: set, way: way, identity: identity(UInt64(way), set: UInt64(set)), dirty: dirty,
            granules: written, checksum: written == 0 ? nil : writeData(set, way, written),
            number: number)
    }

    /// Writes the data of those granules; returns its checksum.
    private func writeData(_ set: UInt32, _ way: UInt8, _ granules: UInt16) -> UInt32 {
        let offset = Int(geometry.cacheOffset(set: set, way: Int(way)))
        var crc: UInt32 = 0
        for granule in 0..<8 where granules & 1 << UInt16(granule) != 0 {
            let content = [UInt8](repeating: way ^ UInt8(granule) &* 31, count: 512)
            medium.poke(content, at: offset + granule * 512)
            crc = content.withUnsafeBytes { checksum($0, continuing: crc) }
        }
        return crc
    }

    func block(
        _ sequence: UInt64, tail: UInt64, trusted: UInt64, _ records: [JournalRecord]
    ) {
        let block = AlignedPage()
        let view = JournalBlockView(base: block.base)
        view.begin(session: Self.session, sequence: sequence)
        for record in records { view.append(record) }
        view.seal(tail: tail, trustedThrough: trusted, durableThrough: trusted)
        medium.poke(block.bytes, at: Int(geometry.journalOffset(sequence: sequence)))
    }

    /// What must be there after a load.
    var expected: DirtyContent {
        var content: DirtyContent = [:]
        let dirty: [(set: UInt64, ways: [UInt64: UInt16])] = [
            (0, [0: 0xff, 1: 0xff, 2: 0x01]), (1, [10: 0x0f, 11: 0xf0, 12: 0x33]), (2, [6: 0xff]),
            (3, [7: 0xff, 8: 0x0f]), (4, [0: 0x80]), (5, [223: 0xff]),
        ]
        for (set, ways) in dirty {
            for (way, granules) in ways { content[identity(way, set: set).rawValue] = granules }
        }
        return content
    }
}

/// Loads whatever is on a medium as the product does, up to the pages in memory.
struct LoadedImage {
    var dirty: DirtyContent = [:]
    var report: RecoveryReport?

    init(_ medium: any StoreMedium, acceptsLoss: Bool = false) throws(CacheError) {
        let store = try CacheStore.open(medium)
        let count = Int(store.geometry.setCount)
        let pages = UnsafeMutableRawPointer.allocate(byteCount: count * 4096, alignment: 4096)
        defer { pages.deallocate() }
        report = try store.readPages(into: pages, acceptsLoss: acceptsLoss)
        for set in 0..<count {
            let view = SetPageView(base: pages + set * 4096)
            for way in 0..<SetPageLayout.ways where view.state(way).dirty != 0 {
                dirty[view.identity(way).rawValue] = view.state(way).dirty
            }
        }
    }
}
