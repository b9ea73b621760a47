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

    func run() throws {
        let clock = ContinuousClock()
        let start = clock.now
        let first = seed ?? from
        print("first seed \(first)")
        var number: UInt64 = 0
        var events: UInt64 = 0
        var crashes = 0
        while seed == nil ? goesOn(number, clock.now - start) : number < 1 {
            let simulation = Simulation(
                Scenario(seed: first &+ number), traced: seed != nil)
            do {
                try simulation.run()
            } catch {
                print("VIOLATION \(error)")
                print("replay: simulate --seed \(first &+ number)")
                throw ExitCode(1)
            }
            events += simulation.eventCount
            crashes += simulation.crashes
            number += 1
        }
        print("\(number) seeds, \(events) events, \(crashes) process crashes, 0 violations")
    }

    private func goesOn(_ number: UInt64, _ elapsed: Duration) -> Bool {
        if let minutes { return elapsed < .seconds(minutes * 60) }
        return number < count
    }
}
