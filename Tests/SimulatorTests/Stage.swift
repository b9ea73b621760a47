import CacheEngine

@testable import Simulator

/// One simulated cache that the test drives itself, request by request, and may do harm to.
final class Stage {
    let simulation: Simulation
    var world: World { simulation.world }
    var core: SimulatedCore { world.cores[0] }

    /// One core, one worker, write-back, devices that do not fail.
    static var calm: Scenario {
        var scenario = Scenario(seed: 1)
        scenario.lineBytes = 4096
        scenario.setCount = 1
        scenario.coreCount = 1
        scenario.coreSectors = 4096
        scenario.workerCount = 1
        scenario.mode = .writeBack
        scenario.errorPerMille = 0
        scenario.failing = .all
        scenario.canDiscard = true
        scenario.limits = EngineLimits()
        return scenario
    }

    init(_ change: (inout Scenario) -> Void = { _ in }) {
        var scenario = Self.calm
        change(&scenario)
        simulation = Simulation(scenario)
    }

    /// Gives the request to the cache and plays until everything has ended.
    func play(_ operation: Request.Operation, _ sector: UInt64 = 0, _ count: UInt32 = 0) {
        world.submit(
            Request(operation, core: 0, startSector: sector, sectorCount: count), core)
        for _ in 0..<100_000 {
            for worker in simulation.workers { worker.turn() }
            if !world.transfers.isEmpty { world.stepTransfer() }
            let isIdle = simulation.workers.allSatisfy { $0.isQuiescent && !$0.isRunnable }
            if isIdle, world.transfers.isEmpty { return }
        }
        world.fail("there is no end to it")
    }

    /// A request that the cache never sees: the test answers it.
    func pretend(
        _ operation: Request.Operation, _ sector: UInt64 = 0, _ count: UInt32 = 0,
        content: UInt64? = nil, result: Int32 = 0
    ) {
        world.submit(
            Request(operation, core: 0, startSector: sector, sectorCount: count), core)
        guard let client = world.requests[0].popLast() else { return }
        world.underWay[client.origin] = client
        if let content {
            for index in client.buffer.stamps.indices { client.buffer.stamps[index] = content }
        }
        world.answered(client, result: result)
    }

    /// The violation's first line.
    var violation: String? {
        world.violation?.text.split(separator: "\n").first.map(String.init)
    }
}
