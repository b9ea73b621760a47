import ControlClient
import ControlProtocol

/// All caches and their cores: the tree of `casadm -L`.
struct CacheList {
    struct Row: Equatable {
        var isCore: Bool
        var id: UInt16
        var disk: String
        var status: String
        var policy: String
        var device: String

        var cells: [String] {
            [isCore ? "core" : "cache", String(id), disk, status, policy, device]
        }
    }

    static let header = ["type", "id", "disk", "status", "write policy", "device"]

    var rows: [Row]
    /// What there is to say about caches without a server.
    var notes: [String]

    init(
        _ caches: [CacheSnapshot], unserved: [RunningCaches.Unserved] = [],
        devicePath: (String) -> String
    ) {
        rows = []
        notes = unserved.flatMap(Self.notes)
        for cache in caches.sorted(by: { $0.id < $1.id }) {
            rows.append(
                Row(
                    isCore: false, id: cache.id, disk: devicePath(cache.device),
                    status: Self.status(cache), policy: Self.policy(cache), device: "-"))
            for core in cache.cores.sorted(by: { $0.id < $1.id }) {
                rows.append(
                    Row(
                        isCore: true, id: core.id, disk: devicePath(core.device),
                        status: Self.status(core, in: cache), policy: "-",
                        device: core.state == .active ? core.exportedDevice : "-"))
            }
        }
        for cache in unserved {
            rows.append(
                Row(
                    isCore: false, id: cache.record.id, disk: devicePath(cache.record.device),
                    status: cache.isRestarting ? "Restarting" : "Not running", policy: "-",
                    device: "-"))
        }
    }

    private static func notes(_ cache: RunningCaches.Unserved) -> [String] {
        if cache.isRestarting { return [] }
        let id = cache.record.id
        var lines = [
            "",
            "Cache \(id): "
                + (cache.record.failure ?? "The cache is out of service: its server is gone."),
            "Requests to its exported devices wait. To go on:",
            "    casadm --start-cache --load --cache-device \(cache.record.device)",
            "To end them, with errors for whoever uses them:",
            "    casadm --stop-cache --no-data-flush --cache-id \(id)",
        ]
        if !cache.record.log.isEmpty {
            lines += ["The last lines of its log:"] + cache.record.log.map { "    \($0)" }
        }
        return lines
    }

    static func status(_ cache: CacheSnapshot) -> String {
        if let progress = cache.flushProgress { return flushing(progress) }
        return switch cache.state {
        case .running: "Running"
        case .stopping: "Stopping"
        case .notRunning: "Not running"
        case .incomplete: "Incomplete"
        }
    }

    /// While the whole cache is flushed, a core with nothing dirty left is done.
    private static func status(_ core: CoreSnapshot, in cache: CacheSnapshot) -> String {
        if let progress = core.flushProgress { return flushing(progress) }
        if cache.flushProgress != nil {
            return flushing(core.statistics.usage.dirty == 0 ? 1 : 0)
        }
        return core.state == .active ? "Active" : "Inactive"
    }

    private static func policy(_ cache: CacheSnapshot) -> String {
        cache.previousMode.map { "\($0.rawValue)->\(cache.mode.rawValue)" } ?? cache.mode.rawValue
    }

    private static func flushing(_ progress: Double) -> String {
        "Flushing (\(Decimals.percent(progress)) %)"
    }

    func treeLines(_ drawing: DrawingSet) -> [String] {
        let table = [Self.header] + rows.map(\.cells)
        // The branch sign stands in the first column, before "core".
        let widths = Self.header.indices.map { column in
            table.map { $0[column].count }.max() ?? 0
        }
        return table.enumerated().map { index, cells in
            var cells = cells
            if index > 0, rows[index - 1].isCore {
                let isLast = index == rows.count || !rows[index].isCore
                cells[0] = "\(isLast ? drawing.lastLeaf : drawing.leaf)\(cells[0])"
            }
            let columns = zip(cells, widths).dropLast().map { $0.padded(to: $1 + 3) }
            return columns.joined() + (cells.last ?? "")
        }
    }

    func csvLines() -> [String] {
        ([Self.header] + rows.map(\.cells)).map(CSVView.line)
    }

    var json: JSONText {
        var caches: [(Row, [Row])] = []
        for row in rows {
            if row.isCore {
                caches[caches.count - 1].1.append(row)
            } else {
                caches.append((row, []))
            }
        }
        return .object([
            (
                "caches",
                .array(
                    caches.map { cache, cores in
                        .object(
                            Self.members(cache) + [
                                ("write policy", .string(cache.policy)),
                                ("cores", .array(cores.map { .object(Self.members($0)) })),
                            ])
                    })
            )
        ])
    }

    private static func members(_ row: Row) -> [(String, JSONText)] {
        [
            ("id", .number(row.id)), ("disk", .string(row.disk)), ("status", .string(row.status)),
            ("device", row.device == "-" ? .null : .string(row.device)),
        ]
    }
}
