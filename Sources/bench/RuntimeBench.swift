import ArgumentParser
import CacheEngine
import CacheFormat
import CacheRuntime
import Glibc
import Synchronization

/// The product's workers and rings over files, past the page cache; requests are made up inside.
struct RuntimeBench: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "runtime",
        abstract: "4 KiB operations a second of the cache without ublk, over files.")

    @Option(
        help: "read-hit, write-hit, write-through, read-miss or mixed; all but the last if omitted."
    )
    var row: RuntimeRow?

    @Option(help: "Workers, each with a ring and an engine of its own.")
    var workers = 1

    @Option(help: "Operations of each worker.")
    var operations = 200_000

    @Option(help: "Requests of each worker under way at a time.")
    var depth: UInt32 = 32

    @Option(help: "Lines of the cache, about.")
    var lines = 32_768

    @Option(help: "Where the files are made; none of them is left.")
    var directory = "/var/tmp"

    @Option(help: "A file to use as cache device, made if missing, and kept.")
    var cacheFile: String?

    @Option(help: "A file to use as core device, made if missing, and kept.")
    var coreFile: String?

    @Flag(help: "Only the numbers, one line a row, separated by spaces; without the heading.")
    var plain = false

    mutating func validate() throws {
        guard operations > 0 else { throw ValidationError("At least one operation.") }
        guard (1...64).contains(workers) else { throw ValidationError("1 to 64 workers.") }
        guard (1...256).contains(depth) else { throw ValidationError("Depth is 1 to 256.") }
        guard lines >= RuntimeLoad.linesMin(workers: workers, depth: depth) else {
            throw ValidationError("Too few lines for so many requests.")
        }
    }

    func run() throws {
        let places = try Places(
            lines: lines, workerCount: workers, directory: directory, cacheFile: cacheFile,
            coreFile: coreFile)
        if !plain { print(RuntimeResult.heading) }
        for row in row.map({ [$0] }) ?? RuntimeRow.comparable {
            let load = try RuntimeLoad(
                row: row, places: places, workerCount: workers, depth: depth)
            let result = try load.run(operations: UInt64(operations))
            print(plain ? result.plain : result.aligned)
        }
    }
}

enum RuntimeRow: String, CaseIterable, ExpressibleByArgument {
    case readHit = "read-hit"
    /// Write-back: the write goes to the cache device alone.
    case writeHit = "write-hit"
    /// Lines that are in the cache, written to both devices.
    case writeThrough = "write-through"
    /// Every line is read from the core device and put into a full cache.
    case readMiss = "read-miss"
    /// Write-back, with everything that can happen: half of it writes, a part of it hits, dirty
    /// lines evicted, flushes, discards.
    case mixed

    /// The rows in which every operation is of the same kind.
    static let comparable: [RuntimeRow] = [.readHit, .writeHit, .writeThrough, .readMiss]

    /// Whether it uses more of the core than the cache can hold.
    var exceedsCache: Bool { self == .readMiss || self == .mixed }

    var mode: EngineMode { self == .writeHit || self == .mixed ? .writeBack : .writeThrough }

    var readPercent: UInt32 {
        switch self {
        case .readHit, .readMiss: 100
        case .writeHit, .writeThrough: 0
        case .mixed: 50
        }
    }
}

/// The two devices, as files of the right sizes, all of their blocks written.
struct Places {
    let setCount: Int
    private let cache: BackingFile
    private let core: BackingFile

    var cachePath: String { cache.path }
    var corePath: String { core.path }
    /// For each worker twice what the cache holds: what is read in turn is never found in it, even
    /// if the other workers rest.
    let coreLines: Int
    /// Every set filled to three quarters, about.
    var residentLines: Int { setCount * 160 }

    init(
        lines: Int, workerCount: Int, directory: String, cacheFile: String?, coreFile: String?
    ) throws {
        setCount = lines / SetPageLayout.ways
        coreLines = setCount * SetPageLayout.ways * 2 * workerCount
        let setBytes = SetPageLayout.ways * 4096 + 2 * Geometry.blockBytes
        // Superblocks, journal, and the rounding of each part to a mebibyte.
        let bytes = (setCount * setBytes + (16 << 20)) * 1024 / 1023
        cache = try BackingFile(
            path: cacheFile, directory: directory,
            byteCount: max(bytes / 4096 * 4096, Int(Geometry.deviceBytesMin)))
        core = try BackingFile(
            path: coreFile, directory: directory,
            byteCount: coreLines * 4096)
    }
}

/// A cache over the two files, filled as the row needs it, and the load on it.
struct RuntimeLoad {
    private let row: RuntimeRow
    private let run: LoadRun
    private let places: Places
    private let workerCount: Int
    private let depth: UInt32

    /// The fill writes 64 KiB at a time, and each worker needs more places than requests.
    static func linesMin(workers: Int, depth: UInt32) -> Int {
        let setsMin = (workers * (Int(depth) + 1) * 16 + 159) / 160
        return max(setsMin, 2) * SetPageLayout.ways
    }

    init(row: RuntimeRow, places: Places, workerCount: Int, depth: UInt32) throws {
        self.row = row
        self.places = places
        self.workerCount = workerCount
        self.depth = depth
        var options = LoadRun.Options(cachePath: places.cachePath, corePath: places.corePath)
        options.mode = row.mode
        options.setCount = UInt64(places.setCount)
        run = try LoadRun(options, workerCount: workerCount)
        try fill()
    }

    private func fill() throws {
        var patterns = patterns()
        for index in patterns.indices {
            if !row.exceedsCache {
                patterns[index].isSequential = true
                patterns[index].readPercent = 0
                patterns[index].requestSectors = 128
            }
            patterns[index].requestCount =
                patterns[index].sectorCount / UInt64(patterns[index].requestSectors)
        }
        _ = try drive(patterns)
    }

    /// One pattern a worker: each has a part of the core, in whole extents, to itself.
    private func patterns() -> [LoadPattern] {
        let lines = row.exceedsCache ? places.coreLines : places.residentLines
        let share = lines / workerCount / 16 * 16
        return (0..<workerCount).map { worker in
            var pattern = LoadPattern()
            pattern.core = LoadRun.coreID
            pattern.firstSector = UInt64(worker * share) * 8
            pattern.sectorCount = UInt64(share) * 8
            pattern.depth = depth
            pattern.seed = UInt64(worker + 1)
            pattern.readPercent = row.readPercent
            if row == .readMiss {
                pattern.isSequential = true
                pattern.stride = scatteringStride(share)
            }
            if row == .mixed {
                pattern.flushInterval = 64
                pattern.discardInterval = 49
            }
            return pattern
        }
    }

    private func drive(_ patterns: [LoadPattern]) throws -> [LoadProgress] {
        let progress = try run.run(patterns)
        guard progress.allSatisfy({ $0.errors.load(ordering: .relaxed) == 0 }) else {
            throw BenchError("a device failed")
        }
        return progress
    }

    func run(operations: UInt64) throws -> RuntimeResult {
        var patterns = patterns()
        for index in patterns.indices {
            patterns[index].requestCount = operations
            patterns[index].measuresLatency = true
        }
        let before = missCount
        let progress = try drive(patterns)
        try check(misses: missCount - before, of: operations * UInt64(workerCount))
        return RuntimeResult(row: row, activity: run.activity, progress: progress)
    }

    private var missCount: UInt64 {
        [Counter.readFullMisses, .readPartialMisses, .writeFullMisses, .writePartialMisses]
            .reduce(0) { $0 + run.shared.sum($1, core: LoadRun.coreID) }
    }

    /// Whether the row was what it is called.
    private func check(misses: UInt64, of total: UInt64) throws {
        let isRight: Bool
        switch row {
        case .readHit, .writeHit, .writeThrough: isRight = misses == 0
        // The load begins with lines that the fill may have left in the cache.
        case .readMiss: isRight = misses >= total - total / 100
        case .mixed: isRight = misses > 0 && misses < total
        }
        guard isRight else {
            throw BenchError("\(row.rawValue): \(misses) misses in \(total) operations")
        }
    }
}

/// Leaps all over `count` blocks and comes to each of them once: has no divisor with `count`.
func scatteringStride(_ count: Int) -> Int {
    func divisor(_ a: Int, _ b: Int) -> Int { b == 0 ? a : divisor(b, a % b) }
    var stride = max(1, count * 618 / 1000)
    while divisor(stride, count) != 1 { stride += 1 }
    return stride
}

struct BenchError: Error, CustomStringConvertible {
    let description: String
    init(_ description: String) { self.description = description }
}
