import ControlProtocol

/// How a command's result is written.
enum OutputFormat: String, Sendable {
    case table, csv, json
}

/// Parts of the statistics an admin can ask for.
struct StatsFilter: OptionSet, Sendable {
    let rawValue: Int

    static let configuration = StatsFilter(rawValue: 1)
    static let usage = StatsFilter(rawValue: 2)
    static let requests = StatsFilter(rawValue: 4)
    static let blocks = StatsFilter(rawValue: 8)
    static let errors = StatsFilter(rawValue: 16)
    static let all: StatsFilter = [.configuration, .usage, .requests, .blocks, .errors]

    static let names: [String: StatsFilter] = [
        "all": .all, "conf": .configuration, "usage": .usage, "req": .requests, "blk": .blocks,
        "err": .errors,
    ]
}

/// Checks of single values, with Open CAS's words.
enum Values {
    private static let trailer = "Error during options handling"

    static func cacheID(_ text: String) throws(UsageError) -> UInt16 {
        UInt16(try number(text, "cache id", 1...16384))
    }

    static func coreID(_ text: String) throws(UsageError) -> UInt16 {
        UInt16(try number(text, "core id", 0...4095))
    }

    static func ioClass(_ text: String) throws(UsageError) -> UInt16 {
        UInt16(try number(text, "IO class id", 0...33))
    }

    static func lineKiB(_ text: String) throws(UsageError) -> UInt32 {
        let value = try number(text, "cache line size", 4...64)
        guard value.nonzeroBitCount == 1 else {
            throw UsageError("Invalid cache line size, must be a power of 2.", trailer)
        }
        return UInt32(value)
    }

    static func mode(_ text: String) throws(UsageError) -> CacheMode {
        guard let mode = CacheMode(rawValue: text) else {
            let names = CacheMode.allCases.map(\.rawValue).joined(separator: ", ")
            throw UsageError("Invalid cache mode \(text), must be one of: \(names).", trailer)
        }
        return mode
    }

    static func durability(_ text: String) throws(UsageError) -> Durability {
        guard let durability = Durability(rawValue: text) else {
            let names = Durability.allCases.map(\.rawValue).joined(separator: ", ")
            throw UsageError("Invalid durability \(text), must be one of: \(names).", trailer)
        }
        return durability
    }

    static func parameterName(_ text: String) throws(UsageError) {
        guard text == "durability" else {
            throw UsageError("Invalid parameter namespace \(text), must be: durability.", trailer)
        }
    }

    static func format(_ text: String) throws(UsageError) -> OutputFormat {
        guard let format = OutputFormat(rawValue: text) else {
            throw UsageError("Invalid output format \(text), must be table, csv or json.", trailer)
        }
        return format
    }

    static func filter(_ text: String) throws(UsageError) -> StatsFilter {
        var filter: StatsFilter = []
        for name in text.split(separator: ",", omittingEmptySubsequences: false) {
            guard let part = StatsFilter.names[String(name)] else {
                throw UsageError(
                    "Invalid filter \(text), must be a comma-separated list of: "
                        + "all, conf, usage, req, blk, err.", trailer)
            }
            filter.formUnion(part)
        }
        return filter
    }

    static func yesOrNo(_ text: String) throws(UsageError) -> Bool {
        switch text {
        case "yes": return true
        case "no": return false
        default:
            throw UsageError("Error: 'yes' or 'no' required as an argument for -f option.", trailer)
        }
    }

    private static func number(
        _ text: String, _ what: String, _ range: ClosedRange<UInt64>
    ) throws(UsageError) -> UInt64 {
        let isDecimal = !text.isEmpty && text.utf8.allSatisfy { (48...57).contains($0) }
        guard isDecimal else {
            throw UsageError(
                "Invalid \(what), must be a correct unsigned decimal integer.", trailer)
        }
        guard let value = UInt64(text), range.contains(value) else {
            throw UsageError(
                "Invalid \(what), must be in the range \(range.lowerBound)-\(range.upperBound).",
                trailer)
        }
        return value
    }
}
