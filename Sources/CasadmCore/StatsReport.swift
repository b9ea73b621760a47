import ControlProtocol

/// The statistics of a cache, of a core or of an io class, as Open CAS lists them.
struct StatsReport {
    let cache: CacheSnapshot
    let filter: StatsFilter
    /// Shows a device's path; the admin chooses between the node's name and the name it was given.
    let devicePath: (String) -> String

    private static let blockBytes: UInt64 = 4096

    func ofCache() -> Report {
        var report = Report()
        if filter.contains(.configuration) {
            report.sections.append(.facts(title: "conf", cacheFacts()))
        }
        let usage = usageRows(cache.statistics.usage, dirtyOf: blocks(cache.sizeBytes))
        if filter.contains(.usage) {
            report.sections.append(.counters(title: "Usage statistics", usage))
            if cache.state == .incomplete {
                report.sections.append(
                    .counters(title: "Inactive usage statistics", inactiveRows()))
            }
        }
        append(cache.statistics, plural: "(s)", to: &report)
        return report
    }

    func ofCore(_ core: CoreSnapshot) -> Report {
        var report = Report()
        if filter.contains(.configuration) {
            report.sections.append(.facts(title: "conf", coreFacts(core)))
        }
        if filter.contains(.usage) {
            let usage = core.statistics.usage
            report.sections.append(
                .counters(
                    title: "Usage statistics", usageRows(usage, dirtyOf: usage.occupancy)))
        }
        append(core.statistics, plural: "", to: &report)
        return report
    }

    /// All requests and lines belong to the class of what no rule has classified.
    func ofUnclassified(_ core: CoreSnapshot?) -> Report {
        let statistics = core?.statistics ?? cache.statistics
        var report = Report()
        if filter.contains(.configuration) {
            report.sections.append(
                .facts(
                    title: "conf",
                    [
                        Fact("IO class ID", 0), Fact("IO class name", "unclassified"),
                        Fact("Eviction priority", 255), Fact("Max size", "100%"),
                    ]))
        }
        if filter.contains(.usage) {
            let rows = usageRows(statistics.usage, dirtyOf: statistics.usage.occupancy)
            report.sections.append(
                .counters(title: "Usage statistics", rows.filter { $0.name != "Free" }))
        }
        let withoutErrors = StatsReport(
            cache: cache, filter: filter.subtracting(.errors), devicePath: devicePath)
        withoutErrors.append(statistics, plural: core == nil ? "(s)" : "", to: &report)
        return report
    }

    private func append(_ statistics: Statistics, plural: String, to report: inout Report) {
        if filter.contains(.requests) {
            report.sections.append(
                .counters(title: "Request statistics", requestRows(statistics.requests)))
        }
        if filter.contains(.blocks) {
            report.sections.append(
                .counters(title: "Block statistics", blockRows(statistics.blocks, plural)))
        }
        if filter.contains(.errors) {
            report.sections.append(
                .counters(title: "Error statistics", errorRows(statistics.errors)))
        }
    }

    /// Rounded up, once for each counter.
    private func blocks(_ bytes: UInt64) -> UInt64 {
        bytes / Self.blockBytes + (bytes % Self.blockBytes == 0 ? 0 : 1)
    }
}

extension StatsReport {
    private func cacheFacts() -> [Fact] {
        let inactive = cache.cores.count { $0.state == .inactive }
        return [
            Fact("Cache Id", cache.id),
            sizeFact("Cache Size", cache.sizeBytes),
            Fact("Cache Device", devicePath(cache.device)),
            Fact("Exported Object", "-"),
            Fact("Core Devices", cache.cores.count),
            Fact("Inactive Core Devices", inactive),
            Fact("Write Policy", cache.mode.rawValue),
            Fact("Cleaning Policy", cache.cleaningPolicy),
            Fact("Promotion Policy", cache.promotionPolicy),
            Fact("Prefetch Policy", cache.prefetchPolicy),
            Fact("Durability", cache.durability.rawValue),
            Fact("Cache line size", cache.lineBytes / 1024, unit: "KiB"),
            footprintFact(cache.metadataBytes),
            dirtyFact(cache.dirtySeconds),
            Fact("Status", CacheList.status(cache)),
        ]
    }

    private func coreFacts(_ core: CoreSnapshot) -> [Fact] {
        [
            Fact("Core Id", core.id),
            Fact("Core Device", devicePath(core.device)),
            Fact("Exported Object", core.state == .active ? core.exportedDevice : "-"),
            sizeFact("Core Size", core.sizeBytes),
            dirtyFact(core.dirtySeconds),
            Fact("Status", core.state == .active ? "Active" : "Inactive"),
            Fact("Seq cutoff threshold", core.sequentialCutoffKiB, unit: "KiB"),
            Fact("Seq cutoff policy", core.sequentialCutoffPolicy),
        ]
    }

    private func sizeFact(_ name: String, _ bytes: UInt64) -> Fact {
        let count = bytes / Self.blockBytes
        let hundredths = Decimals.rounded(count * Self.blockBytes, per: 1 << 30, decimals: 2)
        return Fact(
            name,
            [
                Fact.Value(
                    text: String(count), unit: CounterRow.Unit.blocks.rawValue, isNumber: true),
                Fact.Value(text: hundredths, unit: "GiB", isNumber: true),
            ])
    }

    private func footprintFact(_ bytes: UInt64) -> Fact {
        let units = ["B", "KiB", "MiB", "GiB", "TiB"]
        var index = 0
        while index + 1 < units.count, bytes >> (10 * UInt64(index + 1)) > 0 { index += 1 }
        let text = Decimals.rounded(bytes, per: 1 << (10 * UInt64(index)), decimals: 1)
        return Fact(
            "Metadata Memory Footprint",
            [Fact.Value(text: text, unit: units[index], isNumber: true)])
    }

    private func dirtyFact(_ seconds: UInt64?) -> Fact {
        Fact(
            "Dirty for",
            [
                Fact.Value(text: String(seconds ?? 0), unit: "s", isNumber: true),
                Fact.Value(text: seconds.map(Self.duration) ?? "Cache clean"),
            ])
    }

    /// As in "1 [h] 3 [s]"; nothing is said of units that are zero.
    private static func duration(_ seconds: UInt64) -> String {
        let parts = [
            (seconds / 86400, "d"), (seconds % 86400 / 3600, "h"), (seconds % 3600 / 60, "m"),
            (seconds % 60, "s"),
        ]
        let text = parts.filter { $0.0 > 0 }.map { "\($0.0) [\($0.1)]" }.joined(separator: " ")
        return text.isEmpty ? "Cache clean" : text
    }
}

extension StatsReport {
    /// Occupancy and free are shares of the cache; clean and dirty too in the view of the cache,
    /// but shares of its own occupancy in the view of a core or an io class.
    private func usageRows(_ usage: Usage, dirtyOf whole: UInt64) -> [CounterRow] {
        let size = blocks(cache.sizeBytes)
        return [
            row("Occupancy", usage.occupancy, of: size, .blocks),
            row("Free", usage.free, of: size, .blocks),
            row("Clean", usage.clean, of: whole, .blocks),
            row("Dirty", usage.dirty, of: whole, .blocks),
        ]
    }

    private func inactiveRows() -> [CounterRow] {
        let inactive = cache.cores.filter { $0.state == .inactive }.map(\.statistics.usage)
        let size = blocks(cache.sizeBytes)
        let occupancy = inactive.reduce(0) { $0 + $1.occupancy }
        let clean = inactive.reduce(0) { $0 + $1.clean }
        let dirty = inactive.reduce(0) { $0 + $1.dirty }
        return [
            row("Inactive Occupancy", occupancy, of: size, .blocks),
            row("Inactive Clean", clean, of: size, .blocks),
            row("Inactive Dirty", dirty, of: size, .blocks),
        ]
    }

    private func requestRows(_ counters: RequestCounters) -> [CounterRow] {
        let user = counters.user
        func line(_ name: String, _ count: UInt64, _ group: Bool = false) -> CounterRow {
            row(name, count, of: user, .requests, group)
        }
        func direction(_ name: String, _ counts: RequestCounters.Direction) -> [CounterRow] {
            [
                line("\(name) hits", counts.hits, true),
                line("\(name) deferred", counts.deferred),
                line("\(name) partial misses", counts.partialMisses),
                line("\(name) full misses", counts.fullMisses),
                line("\(name) total", counts.total),
            ]
        }
        func whole(_ name: String, _ count: UInt64, _ group: Bool = true) -> CounterRow {
            row(name, count, of: count, .requests, group)
        }
        return direction("Read", counters.reads) + direction("Write", counters.writes) + [
            line("Pass-Through reads", counters.reads.passThrough, true),
            line("Pass-Through writes", counters.writes.passThrough),
            line("Serviced requests", counters.serviced),
            whole("Prefetch: readahead", counters.prefetchReadahead),
            whole("Cleaner", counters.cleaner),
            whole("User requests", user),
            whole("Total requests", counters.total, false),
        ]
    }

    /// Cleaner and prefetch are part of the totals of core and cache, and are shown as a share of
    /// those. (Open CAS divides them by what passed through, which says nothing.)
    private func blockRows(_ counters: BlockCounters, _ plural: String) -> [CounterRow] {
        let core = (blocks(counters.coreReads), blocks(counters.coreWrites))
        let cache = (blocks(counters.cacheReads), blocks(counters.cacheWrites))
        let exported = (blocks(counters.exportedReads), blocks(counters.exportedWrites))
        let prefetch = (
            blocks(counters.prefetchCoreReads), blocks(counters.prefetchCacheWrites)
        )
        let cleaner = (blocks(counters.cleanerCacheReads), blocks(counters.cleanerCoreWrites))
        let coreTotal = core.0 + core.1 + prefetch.0 + cleaner.1
        let cacheTotal = cache.0 + cache.1 + prefetch.1 + cleaner.0
        func group(
            _ name: String, _ counts: (UInt64, UInt64), _ total: UInt64
        ) -> [CounterRow] {
            [
                row("Reads from \(name)", counts.0, of: total, .blocks, true),
                row("Writes to \(name)", counts.1, of: total, .blocks),
                row("Total to/from \(name)", total, of: total, .blocks),
            ]
        }
        return group("core\(plural)", core, coreTotal) + group("cache", cache, cacheTotal)
            + group("exported object\(plural)", exported, exported.0 + exported.1) + [
                row("Prefetch core reads: readahead", prefetch.0, of: coreTotal, .blocks, true),
                row("Prefetch cache writes: readahead", prefetch.1, of: cacheTotal, .blocks),
                row("Cleaner cache reads", cleaner.0, of: cacheTotal, .blocks, true),
                row("Cleaner core writes", cleaner.1, of: coreTotal, .blocks),
            ]
    }

    private func errorRows(_ counters: ErrorCounters) -> [CounterRow] {
        func group(
            _ name: String, _ reads: UInt64, _ writes: UInt64, _ total: UInt64
        ) -> [CounterRow] {
            [
                row("\(name) read errors", reads, of: total, .requests, true),
                row("\(name) write errors", writes, of: total, .requests),
                row("\(name) total errors", total, of: total, .requests),
            ]
        }
        let total = counters.total
        return group("Cache", counters.cacheReads, counters.cacheWrites, counters.cacheTotal)
            + group("Core", counters.coreReads, counters.coreWrites, counters.coreTotal)
            + [row("Total errors", total, of: total, .requests, true)]
    }

    private func row(
        _ name: String, _ count: UInt64, of whole: UInt64, _ unit: CounterRow.Unit,
        _ startsGroup: Bool = false
    ) -> CounterRow {
        CounterRow(
            name: name, count: count, share: Share(count, of: whole), unit: unit,
            startsGroup: startsGroup)
    }
}
