import ArgumentParser
import CacheEngine
import CacheFormat
import Glibc

/// The engine alone: null devices that answer at once, in memory, on the worker's own thread.
struct EngineBench: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "engine", abstract: "Operations a second of the cache engine alone.")

    @Option(
        help: """
            read-hit, write-hit, write-insert or read-miss; all if omitted. driver: the load \
            without the engine, to be subtracted from counted instructions.
            """)
    var row: EngineRow?

    @Option(help: "Threads, each with an engine on the shared cache.")
    var threads = 1

    @Option(help: "Operations of each thread.")
    var operations = 4_000_000

    @Option(help: "Lines of the cache, about.")
    var lines = 262_144

    func run() throws {
        for row in row.map({ [$0] }) ?? EngineRow.allCases.dropLast() {
            let load = EngineLoad(
                row: row, threadCount: threads, lines: lines, operations: operations)
            let seconds = load.run()
            let rate = Double(operations * threads) / seconds
            print("\(row.rawValue) \(threads) \(Int(rate))")
        }
    }
}

enum EngineRow: String, CaseIterable, ExpressibleByArgument {
    case readHit = "read-hit"
    case writeHit = "write-hit"
    case writeInsert = "write-insert"
    case readMiss = "read-miss"
    case driver
}

/// One cache, filled as the row needs it, and threads that each drive an engine of their own.
final class EngineLoad: @unchecked Sendable {
    private let row: EngineRow
    private let threadCount: Int
    private let shared: SharedCache
    private let geometry: Geometry
    /// Operations of each thread.
    private let operations: Int
    /// Lines that are in the cache before the measurement.
    private let residentLines: UInt64

    init(row: EngineRow, threadCount: Int, lines: Int, operations: Int) {
        self.row = row
        self.threadCount = threadCount
        self.operations = operations
        let sets = max(2, lines / SetPageLayout.ways)
        guard
            let geometry = Geometry(
                lineBytes: 4096, setCount: UInt64(sets), journalBlockCount: 4096)
        else { preconditionFailure("impossible geometry") }
        self.geometry = geometry
        let bytes = sets * SetPageLayout.byteCount
        let pages = UnsafeMutableRawPointer.allocate(byteCount: bytes, alignment: 4096)
        pages.initializeMemory(as: UInt8.self, repeating: 0, count: bytes)
        shared = SharedCache(geometry: geometry, pages: pages, workerCount: threadCount)
        // As many lines as fill every set to three quarters.
        residentLines = UInt64(sets) * 160
        let coreLines = freshStart(threadCount)
        shared.addCore(1, coreOffset: 0, sectorCount: coreLines * 8, canDiscard: true)
        shared.mode = row == .writeHit ? .writeBack : .writeThrough
        fill()
    }

    /// The first line that only this thread, and nothing before it, comes to.
    private func freshStart(_ thread: Int) -> UInt64 {
        geometry.lineCount + UInt64(thread * operations) * Self.freshStep
    }

    /// Leaves the extent, and comes to every set.
    private static let freshStep: UInt64 = 17

    private func fill() {
        var loop = NullLoop(shared, worker: 0)
        if row == .readHit || row == .writeHit || row == .readMiss {
            // Three quarters of the lines: no set evicts.
            for line in 0..<residentLines { loop.run(.write, line: line) }
        }
        if row == .writeInsert {
            // Full of clean lines, so that each insert evicts one.
            for line in 0..<UInt64(geometry.lineCount) { loop.run(.write, line: line) }
        }
        loop.finish()
    }

    /// Runs the measurement; returns seconds.
    func run() -> Double {
        let start = now()
        var threads: [pthread_t] = []
        for number in 0..<threadCount {
            let job = Job { [self] in drive(number) }
            var thread = pthread_t()
            let context = Unmanaged.passRetained(job).toOpaque()
            pthread_create(
                &thread, nil,
                { context in
                    guard let context else { return nil }
                    Unmanaged<Job>.fromOpaque(context).takeRetainedValue().body()
                    return nil
                }, context)
            threads.append(thread)
        }
        for thread in threads { pthread_join(thread, nil) }
        return now() - start
    }

    /// A line that is in the cache. The numbers come from a linear congruential generator (Knuth's
    /// MMIX constants), of which only the upper bits are used.
    @inline(__always) private func resident(_ random: inout UInt64) -> UInt64 {
        random = random &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
        return random.multipliedFullWidth(by: residentLines).high
    }

    @inline(__always) private func next(_ fresh: inout UInt64) -> UInt64 {
        defer { fresh &+= Self.freshStep }
        return fresh
    }

    private func drive(_ number: Int) {
        var loop = NullLoop(shared, worker: number)
        var random = UInt64(number + 1) &* 0x9E37_79B9_7F4A_7C15
        // Inserts and misses never come back to a line: every one is new.
        var fresh = freshStart(number)
        var left = operations
        func goesOn() -> Bool {
            left &-= 1
            return left >= 0
        }
        switch row {
        case .readHit: while goesOn() { loop.run(.read, line: resident(&random)) }
        case .writeHit: while goesOn() { loop.run(.write, line: resident(&random)) }
        case .readMiss: while goesOn() { loop.run(.read, line: next(&fresh)) }
        case .writeInsert: while goesOn() { loop.run(.write, line: next(&fresh)) }
        case .driver: while goesOn() { loop.runNothing(.read, line: resident(&random)) }
        }
        loop.finish()
    }
}

private final class Job: Sendable {
    let body: @Sendable () -> Void
    init(_ body: @escaping @Sendable () -> Void) { self.body = body }
}

private func now() -> Double {
    var time = timespec()
    clock_gettime(CLOCK_MONOTONIC, &time)
    return Double(time.tv_sec) + Double(time.tv_nsec) / 1e9
}

/// An engine whose devices answer at once, in turns like a worker's: requests up to the depth are
/// submitted, then their transfers taken and completed.
struct NullLoop: ~Copyable {
    private var engine: Engine
    private var submittedCount = 0
    private var checksum: UInt64 = 0
    private static let depth = 32

    init(_ shared: SharedCache, worker: Int) {
        engine = Engine(shared: shared, worker: worker, limits: EngineLimits())
    }

    /// One 4 KiB request; carried out, with those before it, when there are as many as the depth.
    @inline(__always) mutating func run(_ operation: Request.Operation, line: UInt64) {
        let request = Request(operation, core: 1, startSector: line &* 8, sectorCount: 8)
        guard engine.submit(request) != nil else { preconditionFailure("the engine is full") }
        submittedCount &+= 1
        if submittedCount == Self.depth { finish() }
    }

    /// Until all that was submitted has been answered, and what is left of it done.
    @inline(__always) mutating func finish() {
        submittedCount = 0
        while let command = engine.nextCommand() {
            let token = command.pointee.token
            let isTransfer = command.pointee.kind.rawValue < Command.Kind.answer.rawValue
            engine.commandTaken()
            if isTransfer, engine.completeHit(token, result: 0) == nil {
                engine.complete(token, result: 0)
            }
        }
    }

    /// What `run` does besides calling the engine.
    @inline(__always) mutating func runNothing(_ operation: Request.Operation, line: UInt64) {
        let request = Request(operation, core: 1, startSector: line &* 8, sectorCount: 8)
        checksum = nothing(checksum, request)
        submittedCount &+= 1
        if submittedCount == Self.depth { submittedCount = 0 }
    }
}

/// In place of the engine: a call with its arguments.
@inline(never) private func nothing(_ checksum: UInt64, _ request: Request) -> UInt64 {
    checksum &+ request.startSector
}
