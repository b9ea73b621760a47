import CacheEngine

/// Plays one scenario from its seed: the product's engines and turn loops over a simulated world.
///
/// After every event that changed something the invariants of the set table are checked (at
/// sampled events, the whole table each time); every read is judged; at the end everything is
/// flushed, and each core must hold what its users wrote.
package final class Simulation {
    let world: World
    var workers: [SimulatedWorker] = []
    package var crashes = 0
    /// The process died before the end of its last turn.
    package var diedInTurn = false
    var madeBeforeCrash = 0
    var isCrashDue = false
    private(set) var made = 0
    var removing: SimulatedCore?
    var flushing: Set<UInt16> = []
    var modeChange: ModeChange?
    var durabilityChange: DurabilityChange?
    var absent: SimulatedCore?

    /// With `traced` a violation is told with the last events of its sector; that costs time.
    package init(_ scenario: Scenario, traced: Bool = false) {
        world = World(scenario, traced: traced)
        startWorkers()
    }

    func startWorkers() {
        workers = (0..<world.scenario.workerCount).map { SimulatedWorker(world: world, index: $0) }
    }

    package var powerCuts: Int { world.powerCuts }
    package var trials: Int { world.trials }
    package var eventCount: UInt64 { world.eventCount }

    /// Runs to the end; the first rule that does not hold is thrown.
    package func run() throws(Violation) {
        var before = made
        var idleSteps = 0
        while made < world.scenario.requestCount {
            step()
            if cutIsDue { cutPower() }
            if let event = world.scenario.crashAt, crashes == 0, world.eventCount >= event {
                crash(afterStores: world.scenario.crashAfterStores)
            }
            try playAbsence()
            idleSteps = made == before ? idleSteps + 1 : 0
            before = made
            if idleSteps > 500_000 { world.fail("requests never end: \(stall)") }
            if let violation = world.violation { throw violation }
        }
        try drain()
        if world.scenario.errorPerMille == 0 { try flushAll() }
        world.finishAdoption()
        world.shared.checkInvariants(quiescent: true)
    }

    private func step() {
        let world = self.world
        let underWay = world.underWay.count + world.requests.reduce(0) { $0 + $1.count }
        if underWay < world.scenario.depth, world.random.chance(50) {
            world.makeRequest()
            made += 1
            if made % 64 == 0 { world.pruneHistories() }
        }
        maybeManage()
        maybeCrash()
        if world.scenario.errorPerMille > 0 { beginOrEndOutage() }
        progress()
    }

    private func beginOrEndOutage() {
        let scenario = world.scenario
        if scenario.endsInOutage, made + 30 > scenario.requestCount {
            world.isOutage = true
            return
        }
        let chance = world.isOutage ? 200 : scenario.outagesPer100000
        if world.random.below(100_000) < chance { world.isOutage.toggle() }
    }

    /// What the product's adoption thread does.
    private func adoptSome() {
        let set = UInt32(world.random.below(world.scenario.setCount))
        if world.random.chance(5) { world.shared.adopt(sets: set..<set + 1) }
        if world.random.chance(1) { world.finishAdoption() }
    }

    private var cutIsDue: Bool {
        let scenario = world.scenario
        if let event = scenario.powerCutAt, world.powerCuts == 0 {
            return world.eventCount >= event
        }
        guard scenario.powerCutsPer100000 > 0 else { return false }
        return world.random.below(100_000) < scenario.powerCutsPer100000
    }

    /// The machine loses power, comes back, and the cache is loaded.
    private func cutPower() {
        workers = []
        world.cutPower()
        world.recover()
        for core in world.cores { core.isPaused = core.isAbsent }
        removing = nil
        flushing = []
        modeChange = nil
        durabilityChange = nil
        if let core = absent { world.shared.setHasDevice(core.id, false) }
        world.shared.mode = world.randomMode
        startWorkers()
    }

    /// Lets one thing happen: a device acts, or a worker takes a turn.
    private func progress() {
        _ = world.tick()
        if !world.transfers.isEmpty, world.random.chance(60) { world.stepTransfer() }
        if world.random.chance(1) { world.writeBackSome(world.cacheDevice, percent: 20) }
        if !world.shared.isAdopted { adoptSome() }
        let worker = world.random.below(workers.count)
        workers[worker].turn()
        world.checkJournal()
        if world.random.chance(2) { world.shared.checkInvariants(quiescent: false) }
    }

    /// Who has what, when nothing goes on any more.
    private var stall: String {
        let workers = self.workers.map { "runnable \($0.isRunnable) quiescent \($0.isQuiescent)" }
        return "\(world.underWay.count) under way, \(world.transfers.count) transfers, "
            + "removing \(removing?.id ?? .max) flushing \(flushing), \(workers), "
            + "journal: \(world.shared.journalText)"
    }

    func drain() throws(Violation) {
        world.finishAdoption()
        var idle = 0
        var turns = 0
        while idle < 3 {
            if !world.transfers.isEmpty { world.stepTransfer() }
            var quiet = world.transfers.isEmpty && world.inboxes.allSatisfy(\.isEmpty)
            for worker in workers {
                worker.turn()
                if !worker.isQuiescent { quiet = false }
            }
            idle = quiet && world.underWay.isEmpty ? idle + 1 : 0
            turns += 1
            if turns > 200_000 { world.fail("requests never end: \(stall)") }
            if let violation = world.violation { throw violation }
            finishRemoval()
            continueModeChange()
            continueDurabilityChange()
            if removing != nil || modeChange != nil || durabilityChange != nil { idle = 0 }
        }
    }

    private func flushAll() throws(Violation) {
        world.shared.mode = .writeBack
        for core in world.cores where core.isAttached { beginFlush(core) }
        try drain()
        for core in world.cores where core.isAttached {
            if world.flushesEnded[core.id] != 0 {
                world.fail("the last flush of core \(core.id) failed")
            }
            if world.shared.sum(.dirtyLines, core: core.id) != 0 {
                world.fail("core \(core.id) is dirty after its flush")
            }
            // What went to the core directly is the users' to flush.
            world.submit(Request(.flush, core: core.id), core)
            try drain()
            world.checkCoreContents(core)
            if let violation = world.violation { throw violation }
        }
    }
}

/// A worker: the product's turn loop over the simulated backend.
final class SimulatedWorker {
    private var loop: TurnLoop<SimulatedBackend>
    private let clients: SlotClients

    init(world: World, index: Int) {
        clients = SlotClients()
        let hasChecksums = world.scenario.hasChecksums
        let engine = Engine(
            shared: world.shared, worker: index, limits: world.scenario.limits,
            dataChecksum: (index % 2 == 0 ? hasChecksums.even : hasChecksums.odd)
                ? clients.dataChecksum : nil)
        loop = TurnLoop(
            engine: engine,
            backend: SimulatedBackend(world: world, worker: index, clients: clients), eventMax: 8)
    }

    func turn() {
        if loop.backend.isRunnable { loop.turn(mayWait: true) }
    }
    /// The last turn of its process. False if it had fewer stores to the memory image.
    func die(afterStores stores: UInt64, _ image: MemoryImageTrap) -> Bool {
        loop.backend.isDying = true
        return image.run(untilStores: stores) { loop.turn(mayWait: false) }
    }
    var isQuiescent: Bool { loop.isQuiescent }
    var isRunnable: Bool { loop.backend.isRunnable }
}
