import CacheEngine
import CacheFormat
import Testing

@testable import Simulator

@Suite struct SimulationTests {
    /// Seeds that found a fault once.
    static let regressions: [UInt64] = [5041, 5162, 5192, 5620, 5644, 5952, 5963, 3_001_004, 68]

    private static func sum(_ counter: Counter, _ simulation: Simulation) -> UInt64 {
        simulation.world.cores.map { simulation.world.shared.sum(counter, core: $0.id) }
            .reduce(0, +)
    }

    @Test(arguments: zip([101, 73] as [UInt64], [.records, .flushes] as [CrowdedLoad]))
    func aCrowdedSeedPlaysWithoutViolation(seed: UInt64, load: CrowdedLoad) throws {
        try Simulation(Scenario(seed: seed, load: load)).run()
    }

    @Test(arguments: regressions + Array(1...20))
    func aSeedPlaysWithoutViolation(seed: UInt64) throws {
        let scenario = Scenario(seed: seed)
        let simulation = Simulation(scenario)
        try simulation.run()
        #expect(simulation.world.violation == nil)
        #expect(simulation.eventCount > UInt64(scenario.requestCount))
        // Every one was answered, and every answer of a read is judged.
        #expect(simulation.world.underWay.isEmpty)
        // Counters begin anew with each power cut and each death of the process.
        guard simulation.world.powerCuts == 0, simulation.crashes == 0 else { return }
        #expect(Self.sum(.exportedReadBytes, simulation) > 0, "no read was judged")
        #expect(Self.sum(.exportedWriteBytes, simulation) > 0, "nothing was written")
    }

    /// Everything that a run leaves behind.
    private struct Outcome: Equatable {
        var eventCount: UInt64
        var stampCount: UInt64
        var counters: [UInt64]
        var devices: [[UInt64]]
        var events: [[String]]
    }

    private static func outcome(seed: UInt64) throws -> Outcome {
        var scenario = Scenario(seed: seed)
        scenario.requestCount = 500
        let simulation = Simulation(scenario, traced: true)
        try simulation.run()
        let world = simulation.world
        return Outcome(
            eventCount: world.eventCount, stampCount: world.nextStamp,
            counters: Counter.allCases.map { sum($0, simulation) },
            devices: ([world.cacheDevice] + world.cores.map(\.device)).flatMap {
                [$0.current, $0.durable]
            },
            events: world.cores.map {
                world.trace?.lines(core: $0.id, sector: 0, most: .max) ?? []
            })
    }

    /// The seeds of the first standstills behind a death between two stores.
    @Test(.enabled(if: MemoryImageTrap.works), arguments: [2] as [UInt64])
    func aProcessMayDieBetweenTwoStores(seed: UInt64) throws {
        var scenario = Scenario.short(seed: seed)
        let whole = Simulation(scenario)
        try whole.run()
        var deaths = 0
        for event in stride(from: UInt64(40), to: whole.eventCount, by: 41) {
            scenario.crashAt = event
            for stores in UInt64(0)..<8 {
                scenario.crashAfterStores = stores
                let simulation = Simulation(scenario)
                try simulation.run()
                guard simulation.diedInTurn else { break }
                deaths += 1
            }
        }
        #expect(deaths > 0)
    }

    @Test(.enabled(if: MemoryImageTrap.works)) func anImageIsLeftAsItWasBetweenTwoStores() {
        let count = 8192
        let memory = UnsafeMutableRawPointer.allocate(byteCount: count, alignment: 4096)
        defer { memory.deallocate() }
        memory.initializeMemory(as: UInt8.self, repeating: 0, count: count)
        let trap = MemoryImageTrap([UnsafeMutableRawBufferPointer(start: memory, count: count)])
        func storeFour() {
            for place in [0, 5000, 8, 4999] {
                (memory + place).storeBytes(of: UInt8(place & 0xff) | 1, as: UInt8.self)
            }
        }
        for stores in UInt64(0)...5 {
            memory.initializeMemory(as: UInt8.self, repeating: 0, count: count)
            #expect(trap.run(untilStores: stores, storeFour) == (stores < 4))
            let there = [0, 5000, 8, 4999].map { memory.load(fromByteOffset: $0, as: UInt8.self) }
            #expect(there.filter { $0 != 0 }.count == min(Int(stores), 4))
            #expect(there.prefix(min(Int(stores), 4)).allSatisfy { $0 != 0 })
        }
    }

    @Test(.enabled(if: MemoryImageTrap.works)) func aPageIsSettledInOneStore() {
        let memory = UnsafeMutableRawPointer.allocate(byteCount: 4096, alignment: 4096)
        defer { memory.deallocate() }
        let trap = MemoryImageTrap([UnsafeMutableRawBufferPointer(start: memory, count: 4096)])
        let page = SetPageView(base: memory)
        for stores in UInt64(0)...4 {
            page.makeEmpty(set: 0, epoch: 1)
            page.setSequence(4, checksum: 0)
            page.firstBlock = 22
            let died = trap.run(untilStores: stores) {
                page.settle(sequence: 5, checksum: 9, firstBlock: 40)
            }
            #expect([4: 22, 5: 40][page.sequence] == page.firstBlock)
            #expect(died == (page.sequence == 4))
        }
    }

    /// Seeds from before processes died in the simulator play what they played then.
    @Test(arguments: regressions)
    func aSeedPlaysWithoutDeathsToo(seed: UInt64) throws {
        var scenario = Scenario(seed: seed)
        scenario.crashesPerHundredThousand = 0
        let simulation = Simulation(scenario)
        try simulation.run()
        #expect(simulation.crashes == 0)
    }

    @Test(arguments: [31, 32, 33] as [UInt64])
    func nothingIsLostWhenTheProcessDiesOverAndOver(seed: UInt64) throws {
        var scenario = Scenario(seed: seed)
        scenario.mode = .writeBack
        scenario.crashesPerHundredThousand = 2000
        let simulation = Simulation(scenario)
        try simulation.run()
        #expect(simulation.crashes > 20)
    }

    @Test(arguments: [2, 3, 9, 5963] as [UInt64])
    func aSeedPlaysTheSameEachTime(seed: UInt64) throws {
        let first = try Self.outcome(seed: seed)
        #expect(first.events.contains { !$0.isEmpty })
        #expect(try Self.outcome(seed: seed) == first)
    }

    @Test func anotherSeedPlaysSomethingElse() throws {
        #expect(try Self.outcome(seed: 2).events != Self.outcome(seed: 3).events)
    }

    /// What a seed without FLUSH says of cores that hold what nobody wrote, when it reads them.
    private static func violationOfSpoiltCores(traced: Bool) throws -> Violation {
        var scenario = Scenario(seed: 2)
        scenario.flushPercent = 0
        scenario.trialPercent = 0
        scenario.durabilitySwitchPerMille = 0
        scenario.coreRemovalPerMille = 0
        let simulation = Simulation(scenario, traced: traced)
        for core in simulation.world.cores {
            for sector in 0..<core.sectorCount { core.device.write(sector, 4711, durably: true) }
        }
        return try #require(throws: Violation.self) { try simulation.run() }
    }

    @Test func aCoreWithContentNobodyWroteIsAViolation() throws {
        let violation = try Self.violationOfSpoiltCores(traced: false)
        #expect(violation.seed == 2)
        #expect(violation.text.contains("was read as 4711"))
    }

    @Test func aTracedViolationTellsTheEventsOfItsSector() throws {
        let lines = try Self.violationOfSpoiltCores(traced: true).text.split(separator: "\n")
        #expect(lines.count > 3 && lines[1].hasPrefix("may be: "))
        #expect(lines.dropFirst(2).contains { $0.contains("read") && $0.contains("begins") })
    }

    @Test func requestsThatNeverEndAreAViolation() throws {
        var scenario = Scenario(seed: 2)
        // After either the request would be sent again, or be over.
        scenario.crashesPerHundredThousand = 0
        scenario.powerCutsPer100000 = 0
        let simulation = Simulation(scenario)
        let core = simulation.world.cores[0]
        // Answered by nobody: it is under way for ever.
        simulation.world.submit(
            Request(.read, core: core.id, startSector: 0, sectorCount: 1), core)
        for worker in simulation.world.requests.indices {
            for client in simulation.world.requests[worker] {
                simulation.world.underWay[client.origin] = client
            }
            simulation.world.requests[worker] = []
        }
        let violation = try #require(throws: Violation.self) { try simulation.run() }
        #expect(violation.text.hasPrefix("requests never end"))
    }
}

@Suite struct ScenarioTests {
    @Test func aSeedDrawsTheSameScenarioEachTime() {
        #expect("\(Scenario(seed: 77))" == "\(Scenario(seed: 77))")
        #expect("\(Scenario(seed: 77))" != "\(Scenario(seed: 78))")
    }

    @Test func everyScenarioIsPossible() {
        for seed in UInt64(1)...2000 {
            let scenario = Scenario(seed: seed)
            #expect([4096, 8192].contains(scenario.lineBytes))
            #expect(scenario.setCount > 0 && scenario.coreCount > 0 && scenario.workerCount > 0)
            #expect(scenario.coreSectors > 0 && scenario.depth > 0)
            #expect(scenario.hotSectors > 0 && scenario.requestSectorsMax > 0)
            #expect(scenario.flushPercent + scenario.discardPercent < 100)
            #expect(scenario.limits.requestSlots > 0 && scenario.limits.cleaningBatches > 0)
            // The longest request must have a part for each extent.
            #expect(scenario.limits.partSlots > scenario.requestSectorsMax / 128 + 1)
        }
    }

    /// Swarm: nothing is always there, and everything is there now and then.
    @Test func seedsDifferInWhatTheyStress() {
        let scenarios = (UInt64(1)...300).map({ Scenario(seed: $0) })
        let traits: [(String, (Scenario) -> Bool)] = [
            ("errors", { $0.errorPerMille > 0 }), ("discards", { $0.discardPercent > 0 }),
            ("cores that cannot discard", { !$0.canDiscard }),
            ("mode switches", { $0.modeSwitchPerMille > 0 }),
            ("flushes of cores", { $0.coreFlushPerMille > 0 }),
            ("removals", { $0.coreRemovalPerMille > 0 }),
            ("write-back", { $0.mode == .writeBack }),
            ("write-through", { $0.mode == .writeThrough }),
            ("pass-through", { $0.mode == .passThrough }),
            ("8 KiB lines", { $0.lineBytes == 8192 }), ("one worker", { $0.workerCount == 1 }),
            ("three workers", { $0.workerCount == 3 }),
            ("deaths of the process", { $0.crashesPerHundredThousand > 0 }),
        ]
        for (name, has) in traits {
            let count = scenarios.count(where: has)
            #expect(count > 10 && count < 290, "\(name): \(count) of 300")
        }
    }
}

@Suite struct SeededRandomTests {
    /// The published sequence for this seed.
    @Test func itIsSplitMix64() {
        var random = SeededRandom(seed: 1_234_567)
        let expected: [UInt64] = [
            6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423,
            4_593_380_528_125_082_431, 16_408_922_859_458_223_821,
        ]
        #expect((0..<5).map { _ in random.next() } == expected)
    }

    @Test func everyNumberBelowTheBoundComesAndNoOther() {
        var random = SeededRandom(seed: 5)
        var counts = [Int](repeating: 0, count: 7)
        for _ in 0..<7000 { counts[random.below(7)] += 1 }
        #expect(counts.allSatisfy { $0 > 850 && $0 < 1150 })
        #expect((0..<100).allSatisfy { _ in random.below(1) == 0 })
    }

    @Test func chanceIsInPercent() {
        var random = SeededRandom(seed: 6)
        #expect((0..<1000).allSatisfy { _ in !random.chance(0) })
        #expect((0..<1000).allSatisfy { _ in random.chance(100) })
        let hits = (0..<10_000).count { _ in random.chance(30) }
        #expect(hits > 2800 && hits < 3200)
    }
}

@Suite struct EventTraceTests {
    @Test func itTellsTheLastEventsOfOneSectorInOrder() {
        let trace = EventTrace()
        for number in 0..<10 { trace.note(core: 1, sectors: number..<number + 2, "\(number)") }
        trace.note(core: 2, sectors: 0..<100, "other")
        #expect(trace.lines(core: 1, sector: 5) == ["4", "5"])
        #expect(trace.lines(core: 1, sector: 5, most: 1) == ["5"])
        #expect(trace.lines(core: 1, sector: 50) == [])
        #expect(trace.lines(core: 2, sector: 50) == ["other"])
    }
}
