import ArgumentParser
import CacheEngine
import CacheFormat
import CacheRuntime
import Glibc

/// How long it takes to load a cache that was not stopped, against its number of lines.
struct RecoveryBench: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "recovery",
        abstract: "Loads caches that were not stopped: full of lines, their journal half full.")

    @Option(parsing: .upToNextOption, help: "Lines of each cache, in thousands.")
    var thousands: [Int] = [256, 1024, 4096, 16384]

    @Option(help: "Where the files are made; none of them is left.")
    var directory = "/var/tmp"

    @Flag(help: "Only the numbers, one line a row, separated by spaces; without the heading.")
    var plain = false

    func run() throws {
        if !plain { print(RecoveryResult.heading) }
        for count in thousands {
            let lost = try LostCache(lineCount: UInt64(count) * 1024, directory: directory)
            let result = try lost.load()
            print(plain ? result.plain : result.aligned)
        }
    }
}

/// A cache on a file without the data of its lines, as a power cut could have left it.
private struct LostCache {
    private let file: BackingFile
    private let medium: CountedMedium
    private let geometry: Geometry
    private static let session: UInt64 = 1

    init(lineCount: UInt64, directory: String) throws {
        let byteCount = lineCount * 4096 * 100 / 97
        file = try BackingFile(path: nil, directory: directory, byteCount: 0)
        guard truncate(file.path, off_t(byteCount)) == 0 else {
            throw BenchError("making a file of \(byteCount) bytes: errno \(errno)")
        }
        medium = CountedMedium(
            try DeviceFile.open(
                path: file.path, role: .cache, allowsPlainFile: true, patience: 0))
        let core = Configuration.Core(
            id: 1, coreOffset: 0, sectorCount: 1 << 40, logicalBlockBytes: 512,
            devicePath: "/dev/core")
        var configuration = Configuration(mode: .writeBack)
        configuration.cores = [core]
        let store = try CacheStore.format(
            medium, cacheID: 1, lineBytes: 4096, session: Self.session,
            configuration: configuration)
        geometry = store.geometry
        try writePages(store)
        try writeJournal()
        try medium.flush()
    }

    private func identity(_ way: Int, _ set: UInt64) -> Identity {
        let extent = set + UInt64(way / 16) * geometry.setCount
        return Identity(core: 1, line: extent * 16 + UInt64(way % 16), ioClass: 0)
    }

    /// Every way has a line, one of four of them a dirty one.
    private func writePages(_ store: CacheStore) throws {
        let page = AlignedMemory(byteCount: 4096)
        let view = SetPageView(base: page.base)
        for set in 0..<geometry.setCount {
            view.makeEmpty(set: set, epoch: store.superblock.epoch)
            for way in 0..<SetPageLayout.ways {
                view.setIdentity(way, identity(way, set))
                view.setState(
                    way, LineState(valid: 0xff, dirty: way % 4 == 0 ? 0xff : 0, recorded: true))
                view.replacement[way] = 0x80
            }
            view.seal(sequence: 2)
            try medium.write(page.bytes, at: geometry.setPageOffset(set: set, slot: 0))
        }
    }

    /// Half of the places hold blocks full of records, for one set after the other.
    private func writeJournal() throws {
        let memory = AlignedMemory(byteCount: 4096)
        let block = JournalBlockView(base: memory.base)
        var count: UInt64 = 0
        let last = geometry.journalBlockCount / 2
        for sequence in 1...last {
            block.begin(session: Self.session, sequence: sequence)
            for _ in 0..<JournalLayout.recordsMax {
                let (number, set) = count.quotientAndRemainder(dividingBy: geometry.setCount)
                let way = Int(number % UInt64(SetPageLayout.ways))
                block.append(
                    JournalRecord(
                        set: UInt32(set), way: UInt8(way), identity: identity(way, set),
                        dirty: 0xff, granules: 0xff, checksum: nil, number: UInt32(number) + 1))
                count += 1
            }
            block.seal(tail: 1, trustedThrough: sequence, durableThrough: sequence - 1)
            try medium.write(memory.bytes, at: geometry.journalOffset(sequence: sequence))
        }
    }

    /// As the product does it.
    func load() throws -> RecoveryResult {
        medium.reset()
        let pages = AlignedMemory(byteCount: Int(geometry.setCount) * 4096)
        let clock = ContinuousClock()
        let begin = clock.now
        let store = try CacheStore.open(medium)
        let report = try store.recover(into: pages.base, acceptsLoss: false)
        let recovered = clock.now
        let shared = SharedCache(geometry: geometry, pages: pages.base, workerCount: 1)
        defer { shared.deallocate() }
        shared.addCore(1, coreOffset: 0, sectorCount: 1 << 40, canDiscard: false)
        guard shared.adoptPages() == nil else { throw BenchError("the pages make no sense") }
        let end = clock.now
        return RecoveryResult(
            lines: geometry.lineCount, report: report, reads: medium.reads,
            mebibytes: medium.bytesRead >> 20, writes: medium.writes,
            transferSeconds: medium.seconds, recoverSeconds: (recovered - begin) / .seconds(1),
            adoptSeconds: (end - recovered) / .seconds(1))
    }
}

private struct RecoveryResult {
    var lines: UInt64
    var report: RecoveryReport
    var reads: Int
    var mebibytes: UInt64
    var writes: Int
    var transferSeconds: Double
    var recoverSeconds: Double
    var adoptSeconds: Double

    static let heading =
        "     lines    dirty   records   reads     MiB  writes  seconds  of it transfers  adoption"

    private var values: [String] {
        [
            "\(lines)", "\(report.dirtyLines)", "\(report.journalRecords)", "\(reads)",
            "\(mebibytes)", "\(writes)", rounded(recoverSeconds + adoptSeconds),
            rounded(transferSeconds), rounded(adoptSeconds),
        ]
    }

    private func rounded(_ seconds: Double) -> String { "\((seconds * 100).rounded() / 100)" }

    var plain: String { values.joined(separator: " ") }

    var aligned: String {
        zip(values, [10, 9, 10, 8, 8, 8, 9, 17, 10]).map { value, width in
            String(repeating: " ", count: max(0, width - value.count)) + value
        }.joined()
    }
}

/// Memory as direct I/O wants it.
private final class AlignedMemory {
    let base: UnsafeMutableRawPointer
    private let byteCount: Int

    init(byteCount: Int) {
        self.byteCount = byteCount
        base = .allocate(byteCount: byteCount, alignment: 4096)
        base.initializeMemory(as: UInt8.self, repeating: 0, count: byteCount)
    }

    deinit { base.deallocate() }

    var bytes: UnsafeRawBufferPointer { UnsafeRawBufferPointer(start: base, count: byteCount) }
}

/// Counts what is done with the file beneath it. One thread's.
private final class CountedMedium: StoreMedium, @unchecked Sendable {
    private let file: DeviceFile
    private(set) var reads = 0
    private(set) var bytesRead: UInt64 = 0
    private(set) var writes = 0
    private(set) var seconds = 0.0

    init(_ file: DeviceFile) { self.file = file }

    var path: String { file.path }
    var byteCount: UInt64 { file.byteCount }

    func reset() { (reads, bytesRead, writes, seconds) = (0, 0, 0, 0) }

    private func timed(_ body: () throws(CacheError) -> Void) throws(CacheError) {
        let begin = ContinuousClock.now
        defer { seconds += (ContinuousClock.now - begin) / .seconds(1) }
        try body()
    }

    func read(into bytes: UnsafeMutableRawBufferPointer, at offset: UInt64) throws(CacheError) {
        reads += 1
        bytesRead += UInt64(bytes.count)
        try timed { () throws(CacheError) in try file.read(into: bytes, at: offset) }
    }

    func write(_ bytes: UnsafeRawBufferPointer, at offset: UInt64) throws(CacheError) {
        writes += 1
        try timed { () throws(CacheError) in try file.write(bytes, at: offset) }
    }

    func flush() throws(CacheError) {
        try timed { () throws(CacheError) in try file.flush() }
    }
}
