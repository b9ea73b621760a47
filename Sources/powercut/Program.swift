import ArgumentParser
import Glibc

/// The programs of a power-cut test, inside the machine that is cut: writers of known contents, and
/// the check after the cut. See Docs/Testing.md.
@main
struct Program: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "powercut",
        abstract: "Writes what can be recognised, and checks what a power cut has left of it.",
        discussion: """
            A STREAM is one of
              direct:NAME:FILE:FIRST:COUNT    sectors of a device or file, with O_DIRECT
              buffered:NAME:FILE:FIRST:COUNT  the same through the page cache
              slots:NAME:FOLDER:COUNT         files that are replaced and removed
              log:NAME:FOLDER                 a file that grows
            """,
        subcommands: [Write.self, CheckCommand.self])
}

struct CommonOptions: ParsableArguments {
    @Option(help: "Of the run: decides all steps and contents.")
    var seed: UInt64

    @Option(help: "Greater with each start of the machine.")
    var round: UInt32

    @Option(help: "The folder where checks note what they saw.")
    var seen: String
}

struct Write: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Write a stream until killed; says what is durable.")

    @OptionGroup var common: CommonOptions

    @Option(help: "The first step (areas); those before it in this round were done.")
    var from: UInt32 = 1

    @Option(help: "The last step.")
    var to = UInt32.max

    @Flag(help: "Each write that returned is durable (areas).")
    var eachWriteCounts = false

    @Argument var stream: Stream

    func run() throws {
        let writer = Writer(seed: common.seed, name: stream.name)
        let run = WriterRun(
            stream: stream, writer: writer, round: common.round, steps: from...max(from, to),
            eachWriteCounts: eachWriteCounts, seenFolder: common.seen)
        do {
            try run.run()
        } catch {
            say("wrong \(stream.name) round \(common.round): \(error)")
            throw ExitCode(1)
        }
    }
}

struct CheckCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "check", abstract: "Compare streams with what was said of them.")

    @OptionGroup var common: CommonOptions

    @Option(help: "A file with what writers said since the last check; may be given again.")
    var promises: [String] = []

    @Argument var streams: [Stream]

    func run() throws {
        var promises = Promises()
        for path in self.promises { try promises.add(try text(path)) }
        var check = Check(
            seed: common.seed, round: common.round, promises: promises, seenFolder: common.seen)
        for stream in streams { try check.run(stream) }
        print(
            "\(promises.count) promises, \(check.fileCount) files, \(check.sectorCount) sectors")
        for loss in check.losses.prefix(20) { print("LOST: \(loss)") }
        if check.losses.count > 20 { print("LOST: … \(check.losses.count) in all") }
        if !check.losses.isEmpty { throw ExitCode(1) }
    }

    private func text(_ path: String) throws -> String {
        let file = try File(path, O_RDONLY)
        let buffer = UnsafeMutableRawBufferPointer.allocate(
            byteCount: try file.byteCount, alignment: 8)
        defer { buffer.deallocate() }
        try file.read(buffer, at: 0)
        return String(decoding: buffer, as: UTF8.self)
    }
}
