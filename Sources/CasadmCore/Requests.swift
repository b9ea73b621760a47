import ArgumentParser
import ControlProtocol

/// What an admin asks for, with every value checked.
enum Request: Equatable {
    case start(StartOptions)
    case stop(cache: UInt16, flush: Bool)
    case setMode(cache: UInt16, mode: CacheMode, flush: Bool?)
    case addCore(cache: UInt16, core: UInt16?, device: String)
    case removeCore(cache: UInt16, core: UInt16, flush: Bool)
    case list(byIDPath: Bool)
    case stats(StatsRequest)
    case resetCounters(cache: UInt16, core: UInt16?)
    case setDurability(cache: UInt16, Durability)
    case parameters(cache: UInt16)
    case flush(cache: UInt16, core: UInt16?)
    case version
    case zeroMetadata(device: String, force: Bool)
    case upgrade(cache: UInt16)
}

struct StatsRequest: Equatable {
    /// Which io classes to show instead of the whole object.
    enum IOClass: Equatable {
        case none, all
        case one(UInt16)
    }

    var cache: UInt16
    var core: UInt16?
    var ioClass = IOClass.none
    var filter = StatsFilter.all
    var byIDPath = false
}

/// A request, and how its result is to be written.
struct Order: Equatable {
    var request: Request
    var format = OutputFormat.table
}

extension Order {
    /// Reads the options of a command, as the argument front has left them.
    static func parsed(
        _ command: CommandSpec.Name, _ arguments: [String]
    ) throws(UsageError) -> Order {
        switch command {
        case .start: try order(StartArguments.self, arguments)
        case .stop: try order(StopArguments.self, arguments)
        case .setMode: try order(ModeArguments.self, arguments)
        case .addCore: try order(AddCoreArguments.self, arguments)
        case .removeCore: try order(RemoveCoreArguments.self, arguments)
        case .list: try order(ListArguments.self, arguments)
        case .stats: try order(StatsArguments.self, arguments)
        case .setParameter: try order(SetParameterArguments.self, arguments)
        case .getParameter: try order(GetParameterArguments.self, arguments)
        case .resetCounters: try order(ResetCountersArguments.self, arguments)
        case .flush: try order(FlushArguments.self, arguments)
        case .version, .help: try order(VersionArguments.self, arguments)
        case .zeroMetadata: try order(ZeroMetadataArguments.self, arguments)
        case .upgrade: try order(UpgradeArguments.self, arguments)
        }
    }

    private static func order<Arguments: CommandArguments>(
        _ type: Arguments.Type, _ arguments: [String]
    ) throws(UsageError) -> Order {
        let parsed: Arguments
        do {
            parsed = try Arguments.parse(arguments)
        } catch {
            throw UsageError(Arguments.message(for: error), "Error during options handling")
        }
        let request = try parsed.request()
        return Order(request: request, format: try parsed.outputFormat.map(Values.format) ?? .table)
    }
}

/// The options of one command as text; `request` checks their values.
private protocol CommandArguments: ParsableArguments {
    var outputFormat: String? { get }
    func request() throws(UsageError) -> Request
}

private struct StartArguments: CommandArguments {
    @Option var cacheDevice: String
    @Option var cacheId: String?
    @Flag var load = false
    @Flag var force = false
    @Option var cacheMode: String?
    @Option var cacheLineSize: String?
    @Option var durability: String?
    @Flag var forcePartial = false
    @Option var outputFormat: String?

    func request() throws(UsageError) -> Request {
        let options = StartOptions(
            cacheDevice: cacheDevice, cacheID: try cacheId.map(Values.cacheID),
            mode: try cacheMode.map(Values.mode), lineKiB: try cacheLineSize.map(Values.lineKiB),
            durability: try durability.map(Values.durability), load: load, force: force,
            forcePartial: forcePartial)
        let loadOnly = StartOptions(
            cacheDevice: cacheDevice, load: true, forcePartial: forcePartial)
        guard !load || options == loadOnly else {
            throw UsageError(
                "Use of 'load' with 'force', 'cache-id', 'cache-mode', 'cache-line-size' or "
                    + "'durability' simultaneously is forbidden.", hint: false)
        }
        guard load || !forcePartial else {
            throw UsageError("'force-partial' is for use with 'load' only.", hint: false)
        }
        return .start(options)
    }
}

private struct StopArguments: CommandArguments {
    @Option var cacheId: String
    @Flag var noDataFlush = false
    @Option var outputFormat: String?

    func request() throws(UsageError) -> Request {
        .stop(cache: try Values.cacheID(cacheId), flush: !noDataFlush)
    }
}

private struct ModeArguments: CommandArguments {
    @Option var cacheMode: String
    @Option var cacheId: String
    @Option var flushCache: String?
    @Option var outputFormat: String?

    func request() throws(UsageError) -> Request {
        .setMode(
            cache: try Values.cacheID(cacheId), mode: try Values.mode(cacheMode),
            flush: try flushCache.map(Values.yesOrNo))
    }
}

private struct AddCoreArguments: CommandArguments {
    @Option var cacheId: String
    @Option var coreId: String?
    @Option var coreDevice: String
    @Option var outputFormat: String?

    func request() throws(UsageError) -> Request {
        .addCore(
            cache: try Values.cacheID(cacheId), core: try coreId.map(Values.coreID),
            device: coreDevice)
    }
}

private struct RemoveCoreArguments: CommandArguments {
    @Option var cacheId: String
    @Option var coreId: String
    @Flag var force = false
    @Option var outputFormat: String?

    func request() throws(UsageError) -> Request {
        .removeCore(
            cache: try Values.cacheID(cacheId), core: try Values.coreID(coreId), flush: !force)
    }
}

private struct ListArguments: CommandArguments {
    @Option var outputFormat: String?
    @Flag var byIdPath = false

    func request() throws(UsageError) -> Request { .list(byIDPath: byIdPath) }
}

private struct StatsArguments: CommandArguments {
    @Option var cacheId: String
    @Option var coreId: String?
    @Option var ioClassId: String?
    @Option var filter: String?
    @Option var outputFormat: String?
    @Flag var byIdPath = false

    func request() throws(UsageError) -> Request {
        var request = StatsRequest(
            cache: try Values.cacheID(cacheId), core: try coreId.map(Values.coreID),
            byIDPath: byIdPath)
        if let ioClassId {
            request.ioClass = ioClassId.isEmpty ? .all : .one(try Values.ioClass(ioClassId))
        }
        if let filter { request.filter = try Values.filter(filter) }
        return .stats(request)
    }
}

private struct ResetCountersArguments: CommandArguments {
    @Option var cacheId: String
    @Option var coreId: String?
    @Option var outputFormat: String?

    func request() throws(UsageError) -> Request {
        .resetCounters(
            cache: try Values.cacheID(cacheId), core: try coreId.map(Values.coreID))
    }
}

private struct SetParameterArguments: CommandArguments {
    @Option var name: String
    @Option var cacheId: String
    @Option var policy: String
    @Option var outputFormat: String?

    func request() throws(UsageError) -> Request {
        try Values.parameterName(name)
        return .setDurability(
            cache: try Values.cacheID(cacheId), try Values.durability(policy))
    }
}

private struct GetParameterArguments: CommandArguments {
    @Option var name: String
    @Option var cacheId: String
    @Option var outputFormat: String?

    func request() throws(UsageError) -> Request {
        try Values.parameterName(name)
        return .parameters(cache: try Values.cacheID(cacheId))
    }
}

private struct FlushArguments: CommandArguments {
    @Option var cacheId: String
    @Option var coreId: String?
    @Option var outputFormat: String?

    func request() throws(UsageError) -> Request {
        .flush(cache: try Values.cacheID(cacheId), core: try coreId.map(Values.coreID))
    }
}

private struct VersionArguments: CommandArguments {
    @Option var outputFormat: String?

    func request() throws(UsageError) -> Request { .version }
}

private struct ZeroMetadataArguments: CommandArguments {
    @Option var device: String
    @Flag var force = false
    @Option var outputFormat: String?

    func request() throws(UsageError) -> Request { .zeroMetadata(device: device, force: force) }
}

private struct UpgradeArguments: CommandArguments {
    @Option var cacheId: String
    @Option var outputFormat: String?

    func request() throws(UsageError) -> Request {
        .upgrade(cache: try Values.cacheID(cacheId))
    }
}
