import CacheEngine
import CacheRuntime
import Synchronization
import Testing

/// The product's workers over real files, fed from inside the process.
@Suite(.serialized) struct WorkerTests {
    /// A cache of two sets (448 lines) in front of 16 MiB: everything is evicted again and again.
    private func makeRun(
        _ mode: EngineMode, workers: Int, setCount: UInt64 = 2
    ) throws -> (run: LoadRun, files: [TemporaryFile]) {
        let cache = TemporaryFile(byteCount: 48 << 20)
        let core = TemporaryFile(byteCount: 16 << 20)
        var options = LoadRun.Options(cachePath: cache.path, corePath: core.path)
        options.mode = mode
        options.setCount = setCount
        options.limits.cleaningBatchBytes = 128 << 10
        return (try LoadRun(options, workerCount: workers), [cache, core])
    }

    private func patterns(
        workers: Int, requests: UInt64, sectors: UInt32, readPercent: UInt32, seed: UInt64
    ) -> [LoadPattern] {
        let share = (UInt64(16 << 20) / 512 / UInt64(workers)) / UInt64(sectors) * UInt64(sectors)
        return (0..<workers).map { worker in
            var pattern = LoadPattern()
            pattern.core = LoadRun.coreID
            pattern.firstSector = UInt64(worker) * share
            pattern.sectorCount = share
            pattern.requestSectors = sectors
            pattern.readPercent = readPercent
            pattern.requestCount = requests
            pattern.depth = 16
            pattern.verifies = true
            pattern.flushInterval = 97
            pattern.seed = seed + UInt64(worker)
            return pattern
        }
    }

    @Test(arguments: [EngineMode.writeBack, .writeThrough, .passThrough], [1, 2])
    func everyReadReturnsWhatWasWritten(mode: EngineMode, workers: Int) throws {
        for (seed, sectors) in [(UInt64(1), UInt32(8)), (2, 3), (3, 33), (4, 256)] {
            let (run, files) = try makeRun(mode, workers: workers)
            let progress = try run.run(
                patterns(
                    workers: workers, requests: 1500, sectors: sectors, readPercent: 50,
                    seed: seed))
            for one in progress {
                #expect(one.answered.load(ordering: .relaxed) == 1500)
                #expect(one.errors.load(ordering: .relaxed) == 0)
                #expect(one.mismatches.load(ordering: .relaxed) == 0, "seed \(seed)")
            }
            run.shared.checkInvariants(quiescent: true)
            withExtendedLifetime(files) {}
        }
    }

    @Test func countersTellWhatHappened() throws {
        let (run, files) = try makeRun(.writeBack, workers: 1, setCount: 20)
        var pattern = patterns(workers: 1, requests: 1000, sectors: 8, readPercent: 0, seed: 5)
        pattern[0].isSequential = true
        pattern[0].flushInterval = 0
        _ = try run.run(pattern)
        let core = LoadRun.coreID
        #expect(run.shared.sum(.dirtyLines, core: core) == 1000)
        #expect(run.shared.sum(.writeFullMisses, core: core) == 1000)
        #expect(run.shared.sum(.cacheWriteBytes, core: core) == 1000 * 4096)
        #expect(run.shared.sum(.coreWriteBytes, core: core) == 0)
        withExtendedLifetime(files) {}
    }

    @Test func aFlushBringsTheCoreUpToDate() throws {
        let (run, files) = try makeRun(.writeBack, workers: 2, setCount: 20)
        var patterns = patterns(workers: 2, requests: 2000, sectors: 8, readPercent: 0, seed: 6)
        for index in patterns.indices { patterns[index].isSequential = true }
        for index in patterns.indices { patterns[index].flushInterval = 0 }
        _ = try run.run(patterns, flushes: true)
        #expect(run.shared.sum(.dirtyLines, core: LoadRun.coreID) == 0)
        #expect(run.shared.sum(.cleanerCoreWriteBytes, core: LoadRun.coreID) == 4000 * 4096)
        run.shared.checkInvariants(quiescent: true)
        for pattern in patterns {
            for block in stride(from: 0, to: 2000, by: 7) {
                let place = Int(pattern.firstSector) * 512 + block * 4096
                let bytes = files[1].peek(4096, at: place)
                let words = bytes.withUnsafeBytes { Array($0.bindMemory(to: UInt64.self)) }
                let first = pattern.firstWord(block: block, version: 1)
                #expect(words == (0..<512).map { first &+ UInt64($0) }, "block \(block)")
            }
        }
    }
}
