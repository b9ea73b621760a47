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

    @Option(help: "Crowd every seed with this load.")
    var load: CrowdedLoad?

    @Option(help: "How many seeds; without --minutes.")
    var count: UInt64 = 100

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
            Play short scenarios over and over: the process dies after every single store to its \
            memory image that a turn makes.
            """)
    var everyStore = false

    @Option(help: "Replay: with --every-store, the death after so many stores alone.")
    var stores: UInt64?

    @Option(help: "Replay: with --every-event, the power cut at this event alone.")
    var cutAt: UInt64?

    @Option(help: "Replay: with --every-event or --every-store, the death at this event alone.")
    var crashAt: UInt64?

    func run() throws {
        let first = seed ?? from
        print("first seed \(first)")
        TrapReport.install()
        var totals = Totals(
            deadline: minutes.map { ContinuousClock.now + .seconds($0 * 60) })
        while seed != nil ? totals.seeds < 1 : minutes != nil || totals.seeds < count {
            if totals.isOver { break }
            let seed = first &+ totals.seeds
            totals.seeds += 1
            if everyStore {
                try playEveryStore(seed, &totals)
            } else if everyEvent {
                try playEveryEvent(seed, &totals)
            } else {
                let option = load.map { " --load \($0)" } ?? ""
                try play(
                    Scenario(seed: seed, load: load), &totals, replay: "--seed \(seed)\(option)")
            }
        }
        print(totals.text)
    }

    private func playEveryEvent(_ seed: UInt64, _ totals: inout Totals) throws {
        var scenario = Scenario.short(seed: seed)
        scenario.powerCutAt = cutAt
        scenario.crashAt = crashAt
        let option = "--every-event --seed \(seed)"
        let eventCount = try play(scenario, &totals, replay: option).eventCount
        guard cutAt == nil, crashAt == nil else { return }
        for event in 1...eventCount where !totals.isOver {
            scenario.powerCutAt = event
            scenario.crashAt = nil
            try play(scenario, &totals, replay: "\(option) --cut-at \(event)")
            scenario.powerCutAt = nil
            scenario.crashAt = event
            try play(scenario, &totals, replay: "\(option) --crash-at \(event)")
        }
    }

    /// In a long run, at some events of each seed.
    private func playEveryStore(_ seed: UInt64, _ totals: inout Totals) throws {
        var scenario = Scenario.short(seed: seed)
        let eventCount = try play(scenario, &totals, replay: "--seed \(seed)").eventCount
        let step = self.seed == nil ? max(1, eventCount / 64) : 1
        for event in stride(from: 1 + seed % step, through: eventCount, by: Int(step)) {
            if let crashAt, crashAt != event { continue }
            scenario.crashAt = event
            for stores in (stores ?? 0)... {
                if totals.isOver { return }
                scenario.crashAfterStores = stores
                let replay =
                    "--every-store --seed \(seed) --crash-at \(event) --stores \(stores)"
                let simulation = try play(scenario, &totals, replay: replay)
                if self.stores != nil || !simulation.diedInTurn { break }
            }
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

extension CrowdedLoad: ExpressibleByArgument {}

private struct Totals {
    let deadline: ContinuousClock.Instant?
    var seeds: UInt64 = 0
    var events: UInt64 = 0
    var crashes = 0
    var powerCuts = 0
    var trials = 0

    init(deadline: ContinuousClock.Instant?) { self.deadline = deadline }

    var isOver: Bool { deadline.map { ContinuousClock.now >= $0 } ?? false }

    var text: String {
        "\(seeds) seeds, \(events) events, \(crashes) process crashes, \(powerCuts) power cuts, "
            + "\(trials) more tried, 0 violations"
    }
}
