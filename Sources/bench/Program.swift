import ArgumentParser

/// Measures the layers of the product. `Tools/bench` runs it and adds what needs other programs.
@main
struct Bench: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "bench", abstract: "Measures the cache engine, the runtime and recovery.",
        subcommands: [EngineBench.self, RuntimeBench.self, RecoveryBench.self])
}
