import CacheEngine
import CacheFormat
import CacheRuntime
import Glibc
import Testing

/// A cache that was used by the product's workers and never stopped, loaded by the product.
@Suite(.serialized) struct CrashedCacheTests {
    private static let coreBytes = 16 << 20

    /// Files as they were at the "crash", and what the core must hold after recovery.
    private final class Crash {
        let cache = TemporaryFile(byteCount: 0)
        let core = TemporaryFile(byteCount: 0)
        let pattern: LoadPattern
        let geometry: Geometry

        /// `requestCount` writes, one after the other, of which every 20th is a FLUSH.
        init(requestCount: UInt64) throws {
            let liveCache = TemporaryFile(byteCount: 40 << 20)
            let liveCore = TemporaryFile(byteCount: coreBytes)
            var options = LoadRun.Options(cachePath: liveCache.path, corePath: liveCore.path)
            options.mode = .writeBack
            let run = try LoadRun(options, workerCount: 1)
            var configuration = Configuration(mode: .writeBack)
            configuration.cores = [
                Configuration.Core(
                    id: LoadRun.coreID, coreOffset: 0, sectorCount: UInt64(coreBytes / 512),
                    logicalBlockBytes: 512, devicePath: core.path)
            ]
            let store = try CacheStore.format(
                run.cache, cacheID: 7, lineBytes: 4096, session: 1, configuration: configuration)
            store.makeEmptyPages(in: run.shared.pageView(0).base)
            geometry = store.geometry
            var pattern = LoadPattern()
            pattern.core = LoadRun.coreID
            pattern.sectorCount = UInt64(coreBytes / 512)
            pattern.readPercent = 0
            pattern.isSequential = true
            pattern.depth = 1
            pattern.requestCount = requestCount
            pattern.verifies = true
            pattern.flushInterval = 20
            self.pattern = pattern
            _ = try run.run([pattern])
            #expect(system("cp \(liveCache.path) \(cache.path)") == 0)
            #expect(system("cp \(liveCore.path) \(core.path)") == 0)
        }

        func load(forcePartial: Bool = false) throws(CacheError) -> CacheInstance {
            var options = CacheInstance.Options(devicePath: cache.path)
            options.load = true
            options.forcePartial = forcePartial
            options.workerCount = 1
            options.allowsPlainFiles = true
            options.exportsDevices = false
            options.limits.cleaningBatchBytes = 128 << 10
            return try CacheInstance.start(options)
        }

        /// The blocks of the core that hold their first version.
        func written(_ blocks: Range<Int>) -> [Int] {
            blocks.filter { block in
                let words = core.peek(4096, at: block * 4096).withUnsafeBytes {
                    Array($0.bindMemory(to: UInt64.self))
                }
                let first = pattern.firstWord(block: block, version: 1)
                return words == (0..<512).map { first &+ UInt64($0) }
            }
        }

        func zeroes(_ blocks: Range<Int>) -> [Int] {
            blocks.filter { core.peek(4096, at: $0 * 4096).allSatisfy { $0 == 0 } }
        }
    }

    @Test func everythingFlushedIsRecovered() throws {
        let crash = try Crash(requestCount: 600)
        #expect(crash.zeroes(0..<580).count == 580)
        do {
            let instance = try crash.load()
            let report = try #require(instance.recovery?.report)
            // 19 of 20 requests are writes.
            #expect(report.dirtyLines == 570 && report.damagedSets == [])
            #expect(report.recordsDropped == 0 && report.recordsCompared > 0)
            #expect(instance.snapshot().cores.first?.dirtyLines == 570)
            try instance.stop(flush: true, cancelled: { false })
        }
        #expect(crash.written(0..<570).count == 570)
        #expect(crash.zeroes(570..<600).count == 30)
    }

    /// What was written after the last FLUSH nobody was promised.
    @Test func whatWasNotFlushedMayBeGone() throws {
        let crash = try Crash(requestCount: 607)
        do {
            let instance = try crash.load()
            #expect(instance.recovery?.report.dirtyLines == 570)
            try instance.stop(flush: true, cancelled: { false })
        }
        #expect(crash.written(0..<577) == Array(0..<570))
    }

    @Test func recoveredDirtyDataSurvivesAStopWithoutAFlush() throws {
        let crash = try Crash(requestCount: 200)
        do {
            let instance = try crash.load()
            try instance.stop(flush: false, cancelled: { false })
        }
        do {
            let instance = try crash.load()
            #expect(instance.recovery == nil)
            #expect(instance.snapshot().cores.first?.dirtyLines == 190)
            try instance.stop(flush: true, cancelled: { false })
        }
        #expect(crash.written(0..<190).count == 190)
    }

    /// What a mode switch left to be cleaned in the background is no flush of somebody else's.
    @Test(arguments: [false, true]) func theCleaningBehindAModeSwitchMakesWay(
        forRemoval: Bool
    ) throws {
        let crash = try Crash(requestCount: 2000)
        do {
            let instance = try crash.load()
            try instance.setMode(.writeThrough, flush: false, cancelled: { false })
            while let core = instance.snapshot().cores.first, core.dirtyLines > 0,
                core.flushProgress == nil
            { usleep(100) }
            if forRemoval {
                try instance.removeCore(
                    id: LoadRun.coreID, flush: true, cancelled: { false })
            } else {
                try instance.flush(core: LoadRun.coreID, cancelled: { false })
                #expect(instance.snapshot().cores.first?.dirtyLines == 0)
            }
            try instance.stop(flush: false, cancelled: { false })
        }
        #expect(crash.written(0..<1900).count == 1900)
    }

    @Test func aDamagedSetIsRefusedAndCanBeGivenUp() throws {
        let crash = try Crash(requestCount: 200)
        for slot in 0...1 {
            let place = Int(crash.geometry.setPageOffset(set: 3, slot: slot))
            crash.cache.poke([0xa5], at: place + 1000)
        }
        let text = message { () throws(CacheError) in _ = try crash.load() }
        #expect(text?.hasPrefix("Metadata is damaged: 1 of ") == true)
        #expect(text?.contains(" set 3 (core 1 64 KiB at 192 KiB and every ") == true)
        do {
            let instance = try crash.load(forcePartial: true)
            #expect(instance.recovery?.report.damagedSets == [3])
            try instance.stop(flush: true, cancelled: { false })
        }
        // 16 blocks of 4 KiB belong to each set.
        #expect(crash.written(0..<190) == Array(0..<48) + Array(64..<190))
    }

    /// After a stop, too, the rest can be started.
    @Test func aSetThatIsDamagedAfterAStopCanBeGivenUp() throws {
        let crash = try Crash(requestCount: 200)
        do {
            let instance = try crash.load()
            try instance.stop(flush: false, cancelled: { false })
        }
        for slot in 0...1 {
            let place = Int(crash.geometry.setPageOffset(set: 3, slot: slot))
            crash.cache.poke([0xa5], at: place + 1000)
        }
        let text = message { () throws(CacheError) in _ = try crash.load() }
        #expect(text?.contains(" set 3 (core 1 64 KiB at 192 KiB and every ") == true)
        #expect(text?.contains("--force-partial") == true)
        do {
            let instance = try crash.load(forcePartial: true)
            #expect(instance.recovery?.report.damagedSets == [3])
            #expect(instance.recovery?.wasStopped == true)
            #expect(instance.snapshot().cores.first?.dirtyLines == 190 - 16)
            try instance.stop(flush: true, cancelled: { false })
        }
        #expect(crash.written(0..<190) == Array(0..<48) + Array(64..<190))
    }

    /// A place of which nothing is left could belong to any journal: the next one begins without it.
    @Test func aLostPlaceOfTheJournalIsRefusedAndEmptied() throws {
        let crash = try Crash(requestCount: 200)
        let place = Int(
            crash.geometry.journalOffset(sequence: crash.geometry.journalBlockCount - 1))
        let zeroes = [UInt8](repeating: 0, count: 4096)
        crash.cache.poke(zeroes, at: place)
        let text = message { () throws(CacheError) in _ = try crash.load() }
        #expect(text?.contains(" of the journal on ") == true, "\(text ?? "")")
        do {
            let instance = try crash.load(forcePartial: true)
            #expect(instance.recovery?.report.dirtyLines == 190)
            #expect(crash.cache.peek(4096, at: place) != zeroes)
            try instance.stop(flush: true, cancelled: { false })
        }
        #expect(crash.written(0..<190).count == 190)
    }
}
