import ArgumentParser
import Simulator

@main
struct Simulate: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Plays seeded scenarios against the cache engine and judges every answer.")

    @Option(help: "Replay this seed alone.")
    var seed: UInt64?

    @Option(help: "The first seed of a long run.")
    var from: UInt64 = 1

    @Option(help: "How many seeds; without --minutes.")
    var count = 100

    @Option(help: "Run for this many minutes.")
    var minutes: Double?

    @Flag(
        help: """
            Play short scenarios, each one over and over: with a power cut, and with a death of \
            the process, at every one of its events.
            """)
    var everyEvent = false

    @Flag(
        help: """
            With --every-event: the process dies after every single store to its memory image, \
            too.
            """)
    var everyStore = false

    @Option(help: "Replay: with --crash-at, after so many stores of a turn.")
    var stores: UInt64?

    @Option(help: "Replay: with --every-event, the power cut at this event alone.")
    var cutAt: UInt64?

    @Option(help: "Replay: with --every-event, the death of the process at this event alone.")
    var crashAt: UInt64?

    func run() throws {
        let clock = ContinuousClock()
        let start = clock.now
        let first = seed ?? from
        print("first seed \(first)")
        TrapReport.install()
        var totals = Totals()
        while seed == nil ? goesOn(totals.seeds, clock.now - start) : totals.seeds < 1 {
            let seed = first &+ totals.seeds
            totals.seeds += 1
            if everyEvent {
                try playEveryEvent(seed, &totals)
            } else {
                try play(Scenario(seed: seed), &totals, replay: "--seed \(seed)")
            }
        }
        print(totals.text)
    }

    private func goesOn(_ number: UInt64, _ elapsed: Duration) -> Bool {
        if let minutes { return elapsed < .seconds(minutes * 60) }
        return number < count
    }

    private func playEveryEvent(_ seed: UInt64, _ totals: inout Totals) throws {
        var scenario = Scenario.short(seed: seed)
        scenario.powerCutAt = cutAt
        scenario.crashAt = crashAt
        scenario.crashAfterStores = stores
        let eventCount = try play(scenario, &totals, replay: "--every-event --seed \(seed)")
            .eventCount
        guard cutAt == nil, crashAt == nil else { return }
        for event in 1...eventCount {
            if everyStore {
                try playEveryStore(scenario, event, &totals)
                continue
            }
            scenario.powerCutAt = event
            scenario.crashAt = nil
            try play(
                scenario, &totals, replay: "--every-event --seed \(seed) --cut-at \(event)")
            scenario.powerCutAt = nil
            scenario.crashAt = event
            try play(
                scenario, &totals, replay: "--every-event --seed \(seed) --crash-at \(event)")
        }
    }

    private func playEveryStore(
        _ unbroken: Scenario, _ event: UInt64, _ totals: inout Totals
    ) throws {
        var scenario = unbroken
        scenario.crashAt = event
        for stores in UInt64(0)... {
            scenario.crashAfterStores = stores
            let replay =
                "--every-event --seed \(scenario.seed) --crash-at \(event) --stores \(stores)"
            let simulation = try play(scenario, &totals, replay: replay)
            guard simulation.diedInTurn else { return }
        }
    }

    @discardableResult
    private func play(
        _ scenario: Scenario, _ totals: inout Totals, replay: String
    ) throws -> Simulation {
        TrapReport.note(replay: replay)
        let simulation = Simulation(scenario, traced: seed != nil)
        do {
            try simulation.run()
        } catch {
            print("VIOLATION \(error)")
            print("replay: simulate \(replay)")
            throw ExitCode(1)
        }
        totals.events += simulation.eventCount
        totals.crashes += simulation.crashes
        totals.powerCuts += simulation.powerCuts
        totals.trials += simulation.trials
        return simulation
    }
}

private struct Totals {
    var seeds: UInt64 = 0
    var events: UInt64 = 0
    var crashes = 0
    var powerCuts = 0
    var trials = 0

    var text: String {
        "\(seeds) seeds, \(events) events, \(crashes) process crashes, \(powerCuts) power cuts, "
            + "\(trials) more tried, 0 violations"
    }
}
