/// The help, worded and laid out as Open CAS prints it.
enum HelpText {
    static let hint = "Try `casadm --help | -H' for more information."
    private static let indent = "   "

    static func general() -> [String] {
        var lines = [
            "Cache Acceleration Software Linux", "", "Usage: casadm <command> [option...]",
        ]
        lines += ["", "Available commands:"]
        for command in Catalogue.commands {
            let short = command.short.map { "-\($0)" } ?? ""
            lines.append(
                indent + short.padded(to: 4) + "--" + command.long.padded(to: 25)
                    + command.summary)
        }
        lines += [
            "", "For detailed help on the above commands use --help after the command.", "e.g.",
            indent + "casadm --\(Catalogue.commands[0].long) --help",
            "For more information, see README.md and Docs/ of ublk-cas.",
        ]
        return lines
    }

    static func command(_ command: CommandSpec) -> [String] {
        var usage = "Usage: casadm --\(command.long)"
        for option in command.options where option.isRequired {
            usage += " --\(option.long)"
            if let argument = option.argumentText { usage += " " + argument }
        }
        if command.options.contains(where: { !$0.isRequired }) { usage += " [option...]" }
        var lines = [usage, "", indent + command.summary, ""]
        guard !command.options.isEmpty else { return lines }
        lines.append("Options that are valid with \(command.bracketName) are:")
        lines += command.options.map(optionLine)
        return lines
    }

    private static func optionLine(_ option: OptionSpec) -> String {
        let short = option.short.map { "-\($0)" } ?? ""
        let name = (["--\(option.long)", option.argumentText].compactMap(\.self))
            .joined(separator: " ")
        return indent + short.padded(to: 4) + name.padded(to: 33) + option.summary
    }
}

extension OptionSpec {
    /// The argument as the help shows it: "<ID>", "[<ID>]", or nil for a flag.
    fileprivate var argumentText: String? {
        switch argument {
        case .none: nil
        case .required(let name): isBracketed ? "[<\(name)>]" : "<\(name)>"
        case .optional(let name): "[<\(name)>]"
        }
    }
}

extension String {
    /// Spaces added at the end, up to `width` characters.
    func padded(to width: Int) -> String {
        self + String(repeating: " ", count: Swift.max(0, width - count))
    }

    /// Spaces added at the front, up to `width` characters.
    func aligned(to width: Int) -> String {
        String(repeating: " ", count: Swift.max(0, width - count)) + self
    }
}
