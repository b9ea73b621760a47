/// One option of a command, as the help prints it and the argument check knows it.
struct OptionSpec: Sendable {
    enum Argument: Sendable {
        case none
        case required(String)
        /// May be left away.
        case optional(String)
    }

    var short: Character?
    var long: String
    var summary: String
    var argument = Argument.none
    var isRequired = false
    /// The help puts brackets around the argument's name, as Open CAS does for one that is needed.
    var isBracketed = false

    /// As in "Missing required option -i/--cache-id".
    var slashName: String {
        short.map { "-\($0)/--\(long)" } ?? "--\(long)"
    }

    func matches(_ argument: String) -> Bool {
        if argument == "--\(long)" { return true }
        guard let short else { return false }
        return argument == "-\(short)"
    }
}

/// One command: what stands first on the command line.
struct CommandSpec: Sendable {
    enum Name: Sendable {
        case start, stop, setMode, addCore, removeCore, list, stats, resetCounters, flush
        case setParameter, getParameter
        case version, help, zeroMetadata, upgrade
    }

    var name: Name
    var short: Character?
    var long: String
    var summary: String
    var options: [OptionSpec] = []
    var needsRoot = true

    func matches(_ argument: String) -> Bool {
        if argument == "--\(long)" { return true }
        guard let short else { return false }
        return argument == "-\(short)"
    }

    /// As in "Options that are valid with --start-cache (-S) are:".
    var bracketName: String {
        short.map { "--\(long) (-\($0))" } ?? "--\(long)"
    }
}

/// All commands, in the order in which the help lists them.
enum Catalogue {
    static let commands: [CommandSpec] = [
        start, stop, setParameter, getParameter, setMode, addCore, removeCore, list, stats,
        resetCounters, flush, version, help, zeroMetadata, upgrade,
    ]

    static func command(_ argument: String) -> CommandSpec? {
        commands.first { $0.matches(argument) }
    }

    private static let cacheID = OptionSpec(
        short: "i", long: "cache-id", summary: "Identifier of cache instance <1-16384>",
        argument: .required("ID"), isRequired: true)

    private static let coreID = OptionSpec(
        short: "j", long: "core-id",
        summary: "Identifier of core <0-4095> within given cache instance",
        argument: .required("ID"))

    private static let outputFormat = OptionSpec(
        short: "o", long: "output-format", summary: "Output format: {table|csv|json}",
        argument: .required("FORMAT"))

    /// Of commands whose answer is a sentence, where only JSON makes a difference.
    private static let answerFormat = OptionSpec(
        short: "o", long: "output-format", summary: "Output format: {table|json}",
        argument: .required("FORMAT"))

    private static let byIDPath = OptionSpec(
        short: "b", long: "by-id-path",
        summary: "Display by-id path to disks instead of short form /dev/sdx")

    private static let modeNames = "{wt|wb|pt}"

    private static let start = CommandSpec(
        name: .start, short: "S", long: "start-cache",
        summary: "Start new cache instance or load using metadata",
        options: [
            OptionSpec(
                short: "d", long: "cache-device", summary: "Caching device to be used",
                argument: .required("DEVICE"), isRequired: true),
            OptionSpec(
                short: "i", long: "cache-id",
                summary: cacheID.summary
                    + " (if not provided, the first available number will be used)",
                argument: .required("ID")),
            OptionSpec(
                short: "l", long: "load",
                summary: "Load cache metadata from caching device "
                    + "(DANGEROUS - see manual or Admin Guide for details)"),
            OptionSpec(
                short: "f", long: "force", summary: "Force the creation of cache instance"),
            OptionSpec(
                short: "c", long: "cache-mode",
                summary: "Set cache mode from available: \(modeNames) "
                    + "Write-Through, Write-Back, Pass-Through; "
                    + "without this parameter Write-Through will be set by default",
                argument: .required("NAME")),
            OptionSpec(
                short: "x", long: "cache-line-size",
                summary: "Set cache line size in kibibytes: {4}[KiB] (default: 4)",
                argument: .required("NUMBER")),
            OptionSpec(
                long: "durability",
                summary: "When a write may be answered: flush - it survives a crash of the server; "
                    + "a power cut from the next flush on (default); write - it survives a power "
                    + "cut at once",
                argument: .required("flush|write")),
            OptionSpec(
                long: "force-partial",
                summary: "With --load: start without the parts of damaged metadata that cannot be "
                    + "read (their dirty data are lost)"),
            answerFormat,
        ])

    private static let parameterName = OptionSpec(
        short: "n", long: "name", summary: "Name of the parameter: {durability}",
        argument: .required("NAME"), isRequired: true)

    private static let setParameter = CommandSpec(
        name: .setParameter, short: "X", long: "set-param",
        summary: "Set various runtime parameters",
        options: [
            parameterName, cacheID,
            OptionSpec(
                short: "p", long: "policy",
                summary: "durability: when a write may be answered, {flush|write}",
                argument: .required("VALUE"), isRequired: true),
            answerFormat,
        ])

    private static let getParameter = CommandSpec(
        name: .getParameter, short: "G", long: "get-param",
        summary: "Get various runtime parameters",
        options: [parameterName, cacheID, outputFormat])

    private static let stop = CommandSpec(
        name: .stop, short: "T", long: "stop-cache", summary: "Stop cache instance",
        options: [
            cacheID,
            OptionSpec(
                short: "n", long: "no-data-flush",
                summary: "Do not flush dirty data (may be dangerous)"),
            answerFormat,
        ])

    private static let setMode = CommandSpec(
        name: .setMode, short: "Q", long: "set-cache-mode", summary: "Set cache mode",
        options: [
            OptionSpec(
                short: "c", long: "cache-mode",
                summary: "Cache mode. Available cache modes: \(modeNames)",
                argument: .required("NAME"), isRequired: true),
            cacheID,
            OptionSpec(
                short: "f", long: "flush-cache",
                summary: "Flush all dirty data from cache before switching to new mode. "
                    + "Option is required when switching from Write-Back or Write-Only mode",
                argument: .required("yes|no")),
            answerFormat,
        ])

    private static let addCore = CommandSpec(
        name: .addCore, short: "A", long: "add-core",
        summary: "Add core device to cache instance",
        options: [
            cacheID, coreID,
            OptionSpec(
                short: "d", long: "core-device", summary: "Path to core device",
                argument: .required("DEVICE"), isRequired: true),
            answerFormat,
        ])

    private static let removeCore = CommandSpec(
        name: .removeCore, short: "R", long: "remove-core",
        summary: "Remove active core device from cache instance",
        options: [
            cacheID,
            OptionSpec(
                short: "j", long: "core-id", summary: coreID.summary,
                argument: .required("ID"), isRequired: true),
            OptionSpec(
                short: "f", long: "force",
                summary: "Force active core removal without data flush"),
            answerFormat,
        ])

    private static let list = CommandSpec(
        name: .list, short: "L", long: "list-caches",
        summary: "List all cache instances and core devices",
        options: [outputFormat, byIDPath])

    private static let stats = CommandSpec(
        name: .stats, short: "P", long: "stats",
        summary: "Print statistics for cache instance",
        options: [
            cacheID,
            OptionSpec(
                short: "j", long: "core-id",
                summary: "Limit display of core-specific statistics to only ones pertaining to "
                    + "a specific core. If this option is not given, casadm will display "
                    + "statistics pertaining to all cores assigned to given cache instance.",
                argument: .required("ID")),
            OptionSpec(
                short: "d", long: "io-class-id", summary: "Display per IO class statistics",
                argument: .optional("ID")),
            OptionSpec(
                short: "f", long: "filter",
                summary: "Apply filters from the following set: "
                    + "{all, conf, usage, req, blk, err}",
                argument: .required("FILTER-SPEC")),
            outputFormat, byIDPath,
        ])

    private static let resetCounters = CommandSpec(
        name: .resetCounters, short: "Z", long: "reset-counters",
        summary: "Reset cache statistics for core device within cache instance",
        options: [
            cacheID,
            OptionSpec(
                short: "j", long: "core-id",
                summary: coreID.summary + ". If not specified, statistics are reset for all "
                    + "cores in cache instance.",
                argument: .required("ID")),
            answerFormat,
        ])

    private static let flush = CommandSpec(
        name: .flush, short: "F", long: "flush-cache",
        summary: "Flush all dirty data from the caching device to core devices",
        options: [
            cacheID,
            OptionSpec(
                short: "j", long: "core-id", summary: coreID.summary,
                argument: .required("ID"), isBracketed: true),
            answerFormat,
        ])

    private static let version = CommandSpec(
        name: .version, short: "V", long: "version", summary: "Print CAS version",
        options: [outputFormat], needsRoot: false)

    private static let help = CommandSpec(
        name: .help, short: "H", long: "help", summary: "Print help", needsRoot: false)

    private static let zeroMetadata = CommandSpec(
        name: .zeroMetadata, long: "zero-metadata",
        summary: "Clear metadata from caching device",
        options: [
            OptionSpec(
                short: "d", long: "device",
                summary: "Path to device on which metadata would be cleared",
                argument: .required("DEVICE"), isRequired: true),
            OptionSpec(
                short: "f", long: "force",
                summary: "Ignore potential dirty data on cache device"),
            answerFormat,
        ])

    private static let upgrade = CommandSpec(
        name: .upgrade, long: "upgrade",
        summary: "Let the casd beside this casadm serve a cache that is in use",
        options: [cacheID, answerFormat])
}
