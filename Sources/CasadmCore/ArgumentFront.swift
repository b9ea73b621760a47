/// A command line that cannot be carried out: what Open CAS says about it.
struct UsageError: Error, Equatable {
    /// For standard error.
    var lines: [String]
    /// Whether the hint about `--help` follows.
    var hint = true

    init(_ lines: String..., hint: Bool = true) {
        self.lines = lines
        self.hint = hint
    }
}

/// What stands on the command line, checked for its shape.
enum Invocation {
    case generalHelp
    case commandHelp(CommandSpec)
    /// Arguments are long options only, each value apart; an optional value left away is empty.
    case run(CommandSpec, [String])
}

/// Checks a command line in the order and with the words of Open CAS, and turns it into something
/// an argument parser reads: the command, and its options spelled out.
enum ArgumentFront {
    /// `arguments` without the program's name.
    static func invocation(
        _ arguments: [String], isRoot: Bool
    ) throws(UsageError) -> Invocation {
        guard let first = arguments.first else { throw UsageError("No command given.") }
        guard isOptionLike(first), let command = Catalogue.command(first) else {
            throw UsageError("Unrecognized command \(first)")
        }
        let rest = Array(arguments.dropFirst())
        if rest.contains(where: { $0 == "--help" || $0 == "-H" }) { return .commandHelp(command) }
        if command.name == .help { return .generalHelp }
        guard isRoot || !command.needsRoot else {
            throw UsageError("Must be run as root.", hint: false)
        }
        try checkCounts(rest, command)
        return .run(command, try normalised(rest, command))
    }

    private static func checkCounts(
        _ arguments: [String], _ command: CommandSpec
    ) throws(UsageError) {
        for option in command.options {
            let count = arguments.count { option.matches($0) }
            if option.isRequired, count == 0 {
                throw UsageError("Missing required option \(option.slashName)")
            }
            if count > 1 {
                throw UsageError("Option supplied more than once \(option.slashName)")
            }
        }
    }

    private static func normalised(
        _ arguments: [String], _ command: CommandSpec
    ) throws(UsageError) -> [String] {
        var result: [String] = []
        var rest = arguments[...]
        while let name = rest.popFirst() {
            guard isOptionLike(name) else { throw UsageError("Invalid format \(name)") }
            guard let option = command.options.first(where: { $0.matches(name) }) else {
                throw UsageError("Unrecognized option \(name)")
            }
            result.append("--\(option.long)")
            if case .none = option.argument { continue }
            let values = rest.prefix { !startsOption($0) }
            rest = rest.dropFirst(values.count)
            switch (option.argument, values.count) {
            case (_, 1): result.append(contentsOf: values)
            case (.optional, 0): result.append("")
            case (_, 0): throw UsageError("Missing required argument in \(name)")
            default: throw UsageError("Invalid number of arguments for \(name)")
            }
        }
        return result
    }

    /// "-x", or "--" and a letter: anything else is no option and no command.
    private static func isOptionLike(_ argument: String) -> Bool {
        let bytes = Array(argument.utf8)
        guard bytes.count >= 2, bytes[0] == UInt8(ascii: "-") else { return false }
        if isLetter(bytes[1]) { return bytes.count == 2 }
        return bytes.count >= 3 && bytes[1] == UInt8(ascii: "-") && isLetter(bytes[2])
    }

    /// A lone dash is a value.
    private static func startsOption(_ argument: String) -> Bool {
        argument.hasPrefix("-") && argument != "-"
    }

    private static func isLetter(_ byte: UInt8) -> Bool {
        (UInt8(ascii: "a")...UInt8(ascii: "z")).contains(byte | 0x20)
    }
}
