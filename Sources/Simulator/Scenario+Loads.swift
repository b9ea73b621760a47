import CacheEngine

/// Loads that put one thing to the test: everything is chosen so that it happens often.
package enum CrowdedLoad: String, CaseIterable, Sendable {
    case commits, discards, records, overlaps, flushes, deaths

    /// About half of all seeds have none. `dice` is 0 to 99.
    init?(dice: Int) {
        switch dice {
        case 0..<16: self = .commits
        case 16..<26: self = .discards
        case 26..<36: self = .records
        case 36..<44: self = .overlaps
        case 44..<50: self = .flushes
        case 50..<56: self = .deaths
        default: return nil
        }
    }
}

extension Scenario {
    /// After everything but the faults has been chosen.
    mutating func crowd(_ load: CrowdedLoad?, _ random: inout SeededRandom) {
        switch load {
        case .commits: crowdCommits(&random)
        case .discards: crowdDiscards(&random)
        case .records: crowdRecords(&random)
        case .overlaps: crowdOverlaps(&random)
        case .flushes: crowdFlushes(&random)
        case .deaths: crowdDeaths(&random)
        case nil: break
        }
    }

    /// Small writes to the same lines, dirty and clean in turn, and commits all the time.
    private mutating func crowdCommits(_ random: inout SeededRandom) {
        mode = .writeBack
        journalBlocks = 16 + random.below(9)
        workerCount = 2 + random.below(2)
        hasChecksums = (even: true, odd: random.chance(50))
        flushPercent = 2 + random.below(20)
        forceUnitAccessPercent = [0, 40][random.below(2)]
        writePercent = 90
        requestSectorsMax = [8, 16, 64][random.below(3)]
        hotSectors = [64, 512, 2048][random.below(3)]
        depth = [4, 16, 64][random.below(3)]
        modeSwitchPerMille = 0
        coreFlushPerMille = [0, 10, 50][random.below(3)]
        trialPercent = 15
    }

    /// What is dirty is discarded, and its place written in all modes.
    private mutating func crowdDiscards(_ random: inout SeededRandom) {
        if random.chance(70) { mode = .writeBack }
        discardPercent = 10 + random.below(20)
        flushPercent = [1, 5, 20][random.below(3)]
        forceUnitAccessPercent = [0, 5, 40][random.below(3)]
        writePercent = [50, 80][random.below(2)]
        requestSectorsMax = [8, 16, 64][random.below(3)]
        hotSectors = [64, 512][random.below(2)]
        // A user discards nothing that is being written: with few requests that is often so.
        depth = 2 + random.below(8)
        alignmentSectors = [1, 2, 8][random.below(3)]
        canDiscard = true
        echoPercent = [0, 20, 60][random.below(3)]
        if random.chance(50) { crashesPerHundredThousand = 1000 }
        if random.chance(60) { errorPerMille = [3, 10, 60][random.below(3)] }
        modeSwitchPerMille = [0, 2, 30][random.below(3)]
        coreFlushPerMille = [0, 5, 50][random.below(3)]
        requestCount = 1500
        trialPercent = 30
    }

    /// Writes to the same place at the same time, so that some records have no checksum.
    private mutating func crowdOverlaps(_ random: inout SeededRandom) {
        mode = .writeBack
        workerCount = [1, 2, 2, 3][random.below(4)]
        hasChecksums = (even: true, odd: random.chance(30))
        firstWorkerPercent = [0, 80, 95][random.below(3)]
        flushPercent = 3 + random.below(12)
        forceUnitAccessPercent = [0, 20][random.below(2)]
        writePercent = 90
        requestSectorsMax = [8, 16][random.below(2)]
        hotSectors = [64, 1024, coreSectors, coreSectors][random.below(4)]
        echoPercent = [5, 20][random.below(2)]
        hasAbsentCore = false
        depth = 2 + random.below(24)
        modeSwitchPerMille = 0
        coreFlushPerMille = [5, 50, 200][random.below(3)]
        errorPerMille = [0, 1, 5, 20][random.below(4)]
        if random.chance(40) { crashesPerHundredThousand = [100, 1000][random.below(2)] }
        // Commits fail for a while, and writes go on.
        outagesPer100000 = 100
        requestCount = 1000
        trialPercent = 30
    }

    /// FLUSH upon FLUSH: most commits have few records, many none.
    private mutating func crowdFlushes(_ random: inout SeededRandom) {
        mode = .writeBack
        journalBlocks = 16
        coreCount = 2
        coreSectors = 768
        hasAbsentCore = false
        workerCount = 1 + random.below(2)
        hasChecksums = (even: true, odd: true)
        firstCorePercent = [0, 90, 97][random.below(3)]
        flushPercent = 30 + random.below(60)
        forceUnitAccessPercent = 0
        writePercent = 95
        requestSectorsMax = 8
        alignmentSectors = 8
        hotSectors = [64, coreSectors][random.below(2)]
        depth = [16, 64, 200][random.below(3)]
        modeSwitchPerMille = 0
        coreFlushPerMille = [0, 1, 20][random.below(3)]
        requestCount = 6000
        trialPercent = [0, 2][random.below(2)]
        // Of many writers to one line the last one has seen more than three hundred.
        flushesWhileWaiting = 1000
        if random.chance(50) { lookForStarvation(&random) }
    }

    /// Everything is dirty soon, and stays so: the last record waits for a block that nobody else
    /// needs, while commits go on.
    private mutating func lookForStarvation(_ random: inout SeededRandom) {
        coreCount = 1
        depth = 12 + random.below(8)
        flushPercent = 40 + random.below(20)
        discardPercent = 0
        coreSectors = 1536
        hotSectors = coreSectors
        requestCount = 16000
        slow = .cacheFlushes
        slowPercent = [80, 90, 97][random.below(3)]
        coreFlushPerMille = 0
        coreRemovalPerMille = 0
        durability = .flush
        errorPerMille = 0
        crashesPerHundredThousand = 0
        powerCutsPer100000 = 0
        trialPercent = 0
        // Without disturbance it is two or three commits with two flushes each.
        flushesWhileWaiting = 30
    }

    /// Deaths while something is being written that others read meanwhile.
    private mutating func crowdDeaths(_ random: inout SeededRandom) {
        if random.chance(80) { mode = .writeBack }
        crashesPerHundredThousand = 500 + random.below(3000)
        writePercent = 50
        flushPercent = 5 + random.below(20)
        requestSectorsMax = [8, 16, 64][random.below(3)]
        hotSectors = [64, 512][random.below(2)]
        echoPercent = [0, 30][random.below(2)]
        hasAbsentCore = false
        depth = 4 + random.below(24)
        coreFlushPerMille = [5, 20, 50][random.below(3)]
        modeSwitchPerMille = [0, 10, 30][random.below(3)]
        errorPerMille = [0, 20, 100][random.below(3)]
        requestCount = 1500
        trialPercent = 30
        slow = .writes
        slowPercent = [0, 80][random.below(2)]
    }

    /// More records than a small journal has room for.
    private mutating func crowdRecords(_ random: inout SeededRandom) {
        mode = .writeBack
        lineBytes = 4096
        setCount = 5
        coreCount = 1
        hasAbsentCore = false
        coreSectors = setCount * 224 * 8
        hotSectors = coreSectors
        journalBlocks = [16, 16, 40][random.below(3)]
        requestSectorsMax = 1024
        depth = 24 + random.below(48)
        writePercent = 95
        flushPercent = [0, 1, 4, 10][random.below(4)]
        modeSwitchPerMille = 0
        coreFlushPerMille = [10, 50][random.below(2)]
        echoPercent = [0, 30][random.below(2)]
        requestCount = 600
        trialPercent = 30
        if random.chance(50) {
            // Blocks that are full to the last record when a commit begins.
            requestSectorsMax = 64
            alignmentSectors = 64
            requestCount = 2000
        }
    }
}
