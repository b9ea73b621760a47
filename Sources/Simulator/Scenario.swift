package import CacheEngine

/// What one seed plays: drawn from the seed, so that each run stresses something else (swarm).
package struct Scenario {
    package var seed: UInt64
    package var lineBytes: UInt32 = 4096
    package var setCount = 2
    package var journalBlocks = 32
    /// Whether the journal's records have checksums of the data: those of even workers, and those
    /// of odd ones. The product has all or none; both together put more to the test.
    package var hasChecksums = (even: true, odd: true)
    /// Some writes have none, whoever's worker they come to.
    package var hasDataElsewhere = false
    package var durability = EngineDurability.flush
    /// Per 100,000 steps: cuts of the power.
    package var powerCutsPer100000 = 0
    /// Of the moments at which something was promised or became durable: how many are tried.
    package var trialPercent = 0
    /// The power is cut, or the process dies, at this event, once.
    package var powerCutAt: UInt64?
    package var crashAt: UInt64?
    /// It dies within the turn that follows, after so many stores to the memory image.
    package var crashAfterStores: UInt64?
    package var coreCount = 1
    /// Sectors of each core.
    package var coreSectors = 0
    package var workerCount = 1
    package var mode = EngineMode.writeBack
    /// Requests under way at most.
    package var depth = 8
    package var requestSectorsMax = 64
    /// Percent of requests; the rest are reads.
    package var writePercent = 50
    package var flushPercent = 2
    package var discardPercent = 0
    package var forceUnitAccessPercent = 5
    /// Most requests go to this many sectors.
    package var hotSectors = 512
    package var alignmentSectors = 1
    package var errorPerMille = 0
    /// Which transfers may fail.
    package var failing = TransferKinds.all
    /// Chances in 100 000, at each step, that all of them fail for a while.
    package var outagesPer100000 = 0
    /// And in the end they do, until all is told.
    package var endsInOutage = false
    /// Which transfers are slow, and in how many percent of its steps such a one does nothing.
    package var slow = TransferKinds.none
    package var slowPercent = 0
    package var canDiscard = true
    /// Per mille of steps that switch the mode, the durability, begin a flush, take a core away and
    /// bring it back.
    package var modeSwitchPerMille = 0
    package var durabilitySwitchPerMille = 0
    package var coreFlushPerMille = 0
    package var coreRemovalPerMille = 0
    /// For a third of the run one core has no device, as after a load without it: no requests come
    /// for it, and its lines, dirty ones too, stay in the cache.
    package var hasAbsentCore = false
    /// Chances in 100 000, at each step, that the process dies and another one goes on.
    package var crashesPerHundredThousand = 0
    package var requestCount = 3000
    /// Of requests: how many in a hundred the first worker, and the first core, get before all of
    /// them share the rest.
    package var firstWorkerPercent = 0
    package var firstCorePercent = 0
    /// Of requests: how many in a hundred go where something was changed last.
    package var echoPercent = 0
    /// Flushes of the journal during one request, if more of them mean that it was forgotten.
    package var flushesWhileWaiting: UInt64?
    package var limits = EngineLimits()

    /// With a load given it is crowded with that, whatever its seed.
    package init(seed: UInt64, load: CrowdedLoad? = nil) {
        self.seed = seed
        hasDataElsewhere = seed & 3 == 3
        var random = SeededRandom(seed: seed)
        lineBytes = random.chance(70) ? 4096 : 8192
        setCount = [1, 2, 3, 5][random.below(4)]
        coreCount = 1 + random.below(3)
        let cacheSectors = setCount * 224 * Int(lineBytes) / 512
        coreSectors = cacheSectors * (1 + random.below(4)) / coreCount + 8 * random.below(16) + 128
        workerCount = 1 + random.below(3)
        mode = [.writeBack, .writeBack, .writeThrough, .passThrough][random.below(4)]
        depth = 1 + random.below(48)
        requestSectorsMax = [8, 16, 128, 300, 1024][random.below(5)]
        writePercent = [10, 50, 80, 95][random.below(4)]
        flushPercent = random.below(6)
        discardPercent = random.chance(30) ? 1 + random.below(8) : 0
        hotSectors = [64, 512, coreSectors, coreSectors][random.below(4)]
        alignmentSectors = random.chance(50) ? 1 : 8
        errorPerMille = random.chance(25) ? 1 + random.below([30, 150][random.below(2)]) : 0
        canDiscard = random.chance(70)
        if random.chance(40) { modeSwitchPerMille = 1 + random.below(10) }
        if random.chance(60) { coreFlushPerMille = 1 + random.below(20) }
        if random.chance(30) { coreRemovalPerMille = 1 + random.below(3) }
        limits.requestSlots = 32 + random.below(64)
        limits.partSlots = 64 + random.below(256)
        limits.cleaningBatches = 1 + random.below(4)
        limits.cleaningBatchBytes = [131072, 524288][random.below(2)]
        hasAbsentCore = coreCount > 1 && random.chance(25)
        journalBlocks = [16, 24, 64, 400][random.below(4)]
        hasChecksums = (even: random.chance(80), odd: random.chance(80))
        if random.chance(25) { durability = .write }
        if random.chance(60) { powerCutsPer100000 = [5, 20, 100][random.below(3)] }
        trialPercent = [0, 3, 10, 30][random.below(4)]
        if random.chance(40) { crashesPerHundredThousand = [10, 100, 1000][random.below(3)] }
        crowd(load ?? CrowdedLoad(dice: random.below(100)), &random)
        chooseFaults(&random)
    }

    private mutating func chooseFaults(_ random: inout SeededRandom) {
        if durability == .flush, flushesWhileWaiting == nil, random.chance(25) {
            durabilitySwitchPerMille = 1 + random.below(10)
        }
        if flushesWhileWaiting == nil, slowPercent == 0, random.chance(50) {
            slow = [.cacheFlushes, .journalBlocks, .setPages, .reads, .writes][random.below(5)]
            slowPercent = [60, 90, 97][random.below(3)]
        }
        if journalBlocks <= 40, requestSectorsMax > 8, random.chance(40) {
            // So much happens while one goes on.
            slow = .cacheFlushes
            slowPercent = 97
        }
        guard errorPerMille > 0 else { return }
        failing = [.all, .metadata, .metadata, .writes][random.below(4)]
        if random.chance(50) { outagesPer100000 = [10, 100][random.below(2)] }
        endsInOutage = random.chance(20)
    }
}

extension Scenario {
    /// A short one, to be played again and again with a cut, or a crash, at each of its events.
    package static func short(seed: UInt64) -> Scenario {
        var scenario = Scenario(seed: seed)
        scenario.requestCount = 60
        scenario.depth = min(scenario.depth, 12)
        scenario.flushPercent = max(scenario.flushPercent, 4)
        scenario.powerCutsPer100000 = 0
        scenario.crashesPerHundredThousand = 0
        scenario.hasAbsentCore = false
        return scenario
    }
}

/// Some of the transfers, by what they are for.
package struct TransferKinds: OptionSet, Sendable {
    package let rawValue: Int

    package init(rawValue: Int) { self.rawValue = rawValue }

    package static let journalBlocks = TransferKinds(rawValue: 1)
    package static let setPages = TransferKinds(rawValue: 2)
    package static let cacheFlushes = TransferKinds(rawValue: 4)
    package static let reads = TransferKinds(rawValue: 8)
    /// And flushes of cores, and discards.
    package static let writes = TransferKinds(rawValue: 16)
    package static let data: TransferKinds = [.reads, .writes]
    package static let none: TransferKinds = []
    package static let metadata: TransferKinds = [.journalBlocks, .setPages, .cacheFlushes]
    package static let all: TransferKinds = [.metadata, .data]
}

/// A rule of the design that did not hold.
package struct Violation: Error, CustomStringConvertible {
    package let seed: UInt64
    package let text: String
    package var description: String { "seed \(seed): \(text)" }
}
