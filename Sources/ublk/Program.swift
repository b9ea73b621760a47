import ArgumentParser

/// Plain ublk devices from the command line; arguments as kublk and ublksrv have them.
@main
struct Program: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "ublk", abstract: "Makes, lists and deletes userspace block devices.",
        subcommands: [
            Add.self, Delete.self, List.self, ShowFeatures.self, Recover.self, Stop.self,
            Quiesce.self, UpdateSize.self, SetAffinity.self, StartAll.self, UdevNames.self,
        ])

    /// Like ArgumentParser's, but every failure is exit code 1.
    static func main() {
        do {
            let words = withJoinedMinusOne(
                withoutRublkWords(Array(CommandLine.arguments.dropFirst())))
            var command = try parseAsRoot(words)
            try command.run()
        } catch {
            let code = exitCode(for: error)
            let text = fullMessage(for: error)
            if !text.isEmpty {
                let prefix = "Error: "
                let plain = text.hasPrefix(prefix) ? String(text.dropFirst(prefix.count)) : text
                if code.isSuccess { print(text) } else { complain(plain) }
            }
            exit(withError: code.isSuccess ? ExitCode.success : ExitCode(1))
        }
    }
}

/// A sentence for the user; ends the program with exit code 1.
struct Failure: Error, CustomStringConvertible {
    let description: String
    init(_ description: String) { self.description = description }
}
