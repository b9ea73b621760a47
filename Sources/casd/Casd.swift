import ArgumentParser
import ControlPlane
import ControlProtocol
import Foundation
import Logging

/// The server of one cache. `casadm -S` starts it; it can be started by hand or a service manager.
@main
struct Casd: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "casd",
        abstract: "Serves one cache: an SSD in front of slow block devices.",
        subcommands: [Supervise.self, Work.self, Withdraw.self, Versions.self],
        defaultSubcommand: Supervise.self)
}

/// The options of `casadm -S`, and where to report readiness.
struct ServerOptions: ParsableArguments {
    @Option(name: [.customShort("d"), .long], help: "The cache device.")
    var cacheDevice: String

    @Option(name: [.customShort("i"), .long], help: "1 to 16384; the first free one if omitted.")
    var cacheId: UInt16?

    @Option(name: [.customShort("c"), .long], help: "wt (default), wb or pt.")
    var cacheMode: String?

    @Option(name: [.customShort("x"), .long], help: "Cache line size in KiB: 4.")
    var cacheLineSize: UInt32?

    @Option(help: "When a write may be answered: flush (default) or write.")
    var durability: String?

    @Flag(help: "With --load: start without metadata that cannot be read.")
    var forcePartial = false

    @Flag(name: [.customShort("l"), .long], help: "Load the cache that is on the device.")
    var load = false

    @Flag(name: [.customShort("f"), .long], help: "Make a new cache whatever is on the device.")
    var force = false

    @Flag(help: .hidden)
    var resume = false

    @Option(help: "File descriptor on which one line of JSON tells whether the cache is ready.")
    var readyFd: Int32?

    func startOptions() throws -> StartOptions {
        var mode: CacheMode?
        if let cacheMode {
            mode = CacheMode(rawValue: cacheMode)
            if mode == nil { throw ValidationError("Unknown cache mode '\(cacheMode)'.") }
        }
        var promise: Durability?
        if let durability {
            promise = Durability(rawValue: durability)
            if promise == nil { throw ValidationError("Unknown durability '\(durability)'.") }
        }
        return StartOptions(
            cacheDevice: cacheDevice, cacheID: cacheId, mode: mode, lineKiB: cacheLineSize,
            durability: promise, load: load, force: force, forcePartial: forcePartial,
            resume: resume)
    }
}

struct Supervise: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "supervise", abstract: "Start the cache's worker process and watch it.")

    @OptionGroup var options: ServerOptions

    @Option(help: .hidden)
    var takenOver: String?

    func run() async throws {
        let taken = try takenOver.map {
            try JSONDecoder().decode(TakenOver.self, from: Data($0.utf8))
        }
        let supervisor = Supervisor(
            options: try options.startOptions(), ready: ReadyPipe(descriptor: options.readyFd),
            logger: makeLogger("casd.supervisor"), taking: taken)
        throw ExitCode(supervisor.run())
    }
}

struct Work: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "worker", abstract: "Serve the cache; started by the supervisor.",
        shouldDisplay: false)

    @OptionGroup var options: ServerOptions

    @Flag(help: "Wait on the readiness descriptor for the end of another worker.")
    var waits = false

    func run() async throws {
        let waitingPlace = waits ? options.readyFd.map(WaitingPlace.init(descriptor:)) : nil
        let worker = WorkerProcess(
            options: try options.startOptions(), ready: ReadyPipe(descriptor: options.readyFd),
            logger: makeLogger("casd.worker"), waitingPlace: waitingPlace,
            prepare: RuntimeService.prepare, startService: RuntimeService.start)
        throw ExitCode(await worker.run())
    }
}

struct Withdraw: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "withdraw",
        abstract: "End the exported devices of a cache whose server is gone.")

    @Option(name: [.customShort("d"), .long], help: "The cache device.")
    var cacheDevice: String

    @Option(help: "File descriptor on which one line of JSON tells how it went.")
    var readyFd: Int32?

    func run() async throws {
        let ready = ReadyPipe(descriptor: readyFd)
        let logger = makeLogger("casd.withdraw")
        do {
            let id = try RuntimeService.withdraw(cacheDevice: cacheDevice, logger)
            ready.report(.ready(cacheID: id))
        } catch {
            logger.error("\(error.message)")
            ready.report(.failed(error))
            throw ExitCode(1)
        }
    }
}

struct Versions: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "versions", abstract: "Tell, in JSON, what this program agrees with.")

    func run() async throws {
        let text = try JSONEncoder().encode(RuntimeService.versions)
        FileHandle.standardOutput.write(text + Data("\n".utf8))
    }
}

private func makeLogger(_ label: String) -> Logger {
    LoggingSystem.bootstrap { label in StreamLogHandler.standardError(label: label) }
    return Logger(label: label)
}
