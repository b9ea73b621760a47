import ControlProtocol
import Foundation
import Testing

@testable import CasadmCore

@Suite struct NumberTests {
    /// The two steps of Open CAS: a whole number of hundredths of a percent; then, where its last
    /// digit is 5 or more, 5 added before it is printed with one decimal.
    private func openCAS(_ part: UInt64, _ whole: UInt64) -> String {
        let hundredths = 10_000 * part / whole
        let adjusted = hundredths % 10 >= 5 ? hundredths + 5 : hundredths
        return String(format: "%.1f", Double(adjusted - adjusted % 10) / 100)
    }

    @Test func sharesAreRoundedAsOpenCASDoes() {
        for whole in [1, 3, 7, 999, 1000, 10_007] as [UInt64] {
            for part in stride(from: 0, through: whole, by: Int(whole / 50 + 1)) {
                #expect(Share(part, of: whole).text == openCAS(part, whole))
            }
        }
    }

    @Test(
        arguments: [
            (0, 0, "0.0"), (5, 0, "0.0"), (1, 1, "100.0"), (1, 3, "33.3"), (2, 3, "66.7"),
            (1, 2000, "0.1"), (9, 20_000, "0.0"), (1235, 10_000, "12.4"), (3, 1, "300.0"),
            (UInt64.max, UInt64.max, "100.0"), (UInt64.max / 2, UInt64.max, "50.0"),
        ] as [(UInt64, UInt64, String)])
    func shares(part: UInt64, whole: UInt64, text: String) {
        #expect(Share(part, of: whole).text == text)
    }

    @Test(
        arguments: [
            (0, 1 << 30, 2, "0.00"), (3 << 30, 1 << 30, 2, "3.00"),
            ((1 << 30) * 3 / 2, 1 << 30, 2, "1.50"), ((1 << 30) - 1, 1 << 30, 2, "1.00"),
            (1_887_437, 1 << 20, 1, "1.8"), (1023, 1, 1, "1023.0"),
            (10_347_970 * 4096, 1 << 30, 2, "39.47"),
        ] as [(UInt64, UInt64, Int, String)])
    func decimals(value: UInt64, divisor: UInt64, digits: Int, text: String) {
        #expect(Decimals.rounded(value, per: divisor, decimals: digits) == text)
    }

    @Test(arguments: [(0.0, "0.0"), (0.1234, "12.3"), (1.0, "100.0"), (1.5, "100.0"), (-1, "0.0")])
    func percents(part: Double, text: String) {
        #expect(Decimals.percent(part) == text)
    }
}

@Suite struct ReportTests {
    private let cache = CacheSnapshot.sample()

    @Test func usageTableIsDrawnAsOpenCASDraws() {
        let report = StatsReport(cache, filter: .usage).ofCache()
        #expect(
            TextView(drawing: .unicode).lines(report) == [
                "╔══════════════════╤═══════╤══════╤═════════════╗",
                "║ Usage statistics │ Count │  %   │   Units     ║",
                "╠══════════════════╪═══════╪══════╪═════════════╣",
                "║ Occupancy        │  1000 │  9.8 │ 4KiB Blocks ║",
                "║ Free             │  9240 │ 90.2 │ 4KiB Blocks ║",
                "║ Clean            │   667 │  6.5 │ 4KiB Blocks ║",
                "║ Dirty            │   333 │  3.3 │ 4KiB Blocks ║",
                "╚══════════════════╧═══════╧══════╧═════════════╝",
            ])
    }

    @Test func groupsAreSeparatedByRules() {
        let report = StatsReport(cache, filter: .errors).ofCache()
        #expect(
            TextView(drawing: .ascii).lines(report) == [
                "+====================+=======+=======+==========+",
                "| Error statistics   | Count |   %   | Units    |",
                "+====================+=======+=======+==========+",
                "| Cache read errors  |     1 |  33.3 | Requests |",
                "| Cache write errors |     2 |  66.7 | Requests |",
                "| Cache total errors |     3 | 100.0 | Requests |",
                "+--------------------+-------+-------+----------+",
                "| Core read errors   |     0 |   0.0 | Requests |",
                "| Core write errors  |     0 |   0.0 | Requests |",
                "| Core total errors  |     0 |   0.0 | Requests |",
                "+--------------------+-------+-------+----------+",
                "| Total errors       |     3 | 100.0 | Requests |",
                "+====================+=======+=======+==========+",
            ])
    }

    @Test func configurationOfACache() {
        let report = StatsReport(cache, filter: .configuration).ofCache()
        #expect(
            TextView(drawing: .ascii).lines(report) == [
                "Cache Id                  1",
                "Cache Size                10240 [4KiB Blocks] / 0.04 [GiB]",
                "Cache Device              /dev/cache",
                "Exported Object           -",
                "Core Devices              1",
                "Inactive Core Devices     0",
                "Write Policy              wb",
                "Cleaning Policy           alru",
                "Promotion Policy          always",
                "Prefetch Policy           none",
                "Durability                flush",
                "Cache line size           4 [KiB]",
                "Metadata Memory Footprint 1.8 [MiB]",
                "Dirty for                 0 [s] / Cache clean",
                "Status                    Running",
            ])
    }

    @Test func configurationOfACore() {
        let report = StatsReport(cache, filter: .configuration).ofCore(cache.cores[0])
        #expect(
            TextView(drawing: .ascii).lines(report) == [
                "Core Id              1",
                "Core Device          /dev/core",
                "Exported Object      /dev/cas1-1",
                "Core Size            786432 [4KiB Blocks] / 3.00 [GiB]",
                "Dirty for            90061 [s] / 1 [d] 1 [h] 1 [m] 1 [s]",
                "Status               Active",
                "Seq cutoff threshold 1024 [KiB]",
                "Seq cutoff policy    full",
            ])
    }

    /// Name, count and percent of every row of the report's tables.
    private func rows(_ report: Report) -> [[String]] {
        report.sections.flatMap { section -> [[String]] in
            guard case .counters(_, let rows) = section else { return [] }
            return rows.map { [$0.name, String($0.count), $0.share.text] }
        }
    }

    @Test func requestRows() {
        let report = StatsReport(cache, filter: .requests).ofCache()
        #expect(
            rows(report) == [
                ["Read hits", "300", "29.9"], ["Read deferred", "2", "0.2"],
                ["Read partial misses", "1", "0.1"], ["Read full misses", "97", "9.7"],
                ["Read total", "400", "39.9"], ["Write hits", "100", "10.0"],
                ["Write deferred", "0", "0.0"], ["Write partial misses", "0", "0.0"],
                ["Write full misses", "500", "49.9"], ["Write total", "600", "59.8"],
                ["Pass-Through reads", "3", "0.3"], ["Pass-Through writes", "0", "0.0"],
                ["Serviced requests", "1000", "99.7"], ["Prefetch: readahead", "0", "0.0"],
                ["Cleaner", "7", "100.0"], ["User requests", "1003", "100.0"],
                ["Total requests", "1010", "100.0"],
            ])
    }

    /// Each counter is rounded up by itself, and totals add up what is shown.
    @Test func blockRows() {
        let report = StatsReport(cache, filter: .blocks).ofCore(cache.cores[0])
        #expect(
            rows(report) == [
                ["Reads from core", "98", "89.9"], ["Writes to core", "1", "0.9"],
                ["Total to/from core", "109", "100.0"], ["Reads from cache", "300", "33.0"],
                ["Writes to cache", "600", "65.9"], ["Total to/from cache", "910", "100.0"],
                ["Reads from exported object", "400", "40.0"],
                ["Writes to exported object", "600", "60.0"],
                ["Total to/from exported object", "1000", "100.0"],
                ["Prefetch core reads: readahead", "0", "0.0"],
                ["Prefetch cache writes: readahead", "0", "0.0"],
                ["Cleaner cache reads", "10", "1.1"], ["Cleaner core writes", "10", "9.2"],
            ])
    }

    @Test func onlyTheCacheSpeaksOfSeveralCoresAndObjects() {
        let ofCache = rows(StatsReport(cache, filter: .blocks).ofCache()).map { $0[0] }
        let ofCore = rows(StatsReport(cache, filter: .blocks).ofCore(cache.cores[0]))
        #expect(ofCache.count { $0.hasSuffix("(s)") } == 6)
        #expect(
            ofCache.map { $0.replacingOccurrences(of: "(s)", with: "") } == ofCore.map { $0[0] })
    }

    /// In a core's view clean and dirty are shares of what the core occupies.
    @Test func usageOfACore() {
        let report = StatsReport(cache, filter: .usage).ofCore(cache.cores[0])
        #expect(
            rows(report) == [
                ["Occupancy", "1000", "9.8"], ["Free", "9240", "90.2"], ["Clean", "667", "66.7"],
                ["Dirty", "333", "33.3"],
            ])
    }

    @Test func usageOfAClassHasNoFree() {
        let report = StatsReport(cache, filter: [.usage, .errors]).ofUnclassified(nil)
        #expect(rows(report).map { $0[0] } == ["Occupancy", "Clean", "Dirty"])
    }

    @Test func filtersChooseSectionsInAFixedOrder() {
        let report = StatsReport(cache, filter: .all).ofCache()
        let titles = report.sections.map { section in
            switch section {
            case .facts(let title, _), .counters(let title, _): title
            }
        }
        #expect(
            titles == [
                "conf", "Usage statistics", "Request statistics", "Block statistics",
                "Error statistics",
            ])
    }

    @Test func anIncompleteCacheShowsWhatBelongsToMissingCores() {
        var cache = cache
        cache.state = .incomplete
        cache.cores[0].state = .inactive
        let report = StatsReport(cache, filter: .usage).ofCache()
        #expect(
            rows(report).suffix(3) == [
                ["Inactive Occupancy", "1000", "9.8"], ["Inactive Clean", "667", "6.5"],
                ["Inactive Dirty", "333", "3.3"],
            ])
    }
}

@Suite struct ConsistencyTests {
    private let reports: [Report] = {
        let cache = CacheSnapshot.sample()
        let builder = StatsReport(cache)
        return [
            builder.ofCache(), builder.ofCore(cache.cores[0]), builder.ofUnclassified(nil),
            builder.ofUnclassified(cache.cores[0]),
        ]
    }()

    /// Rows of the drawn tables as CSV columns would name them.
    private func drawn(_ report: Report) -> [String: String] {
        var values: [String: String] = [:]
        for line in TextView(drawing: .ascii).lines(report) where line.hasPrefix("|") {
            let cells = line.split(separator: "|").map {
                $0.trimmingCharacters(in: .whitespaces)
            }
            guard cells[1] != "Count" else { continue }
            values["\(cells[0]) [\(cells[3])]"] = cells[1]
            values["\(cells[0]) [%]"] = cells[2]
        }
        return values
    }

    @Test func tablesAndCSVHaveTheSameNumbers() throws {
        for report in reports {
            let lines = CSVView.lines([report]).map { $0.components(separatedBy: ",") }
            #expect(lines.count == 2 && lines[0].count == lines[1].count)
            let csv = Dictionary(uniqueKeysWithValues: zip(lines[0], lines[1]))
            let drawn = drawn(report)
            #expect(drawn.count > 60)
            for (name, value) in drawn { #expect(csv[name] == value, "\(name)") }
        }
    }

    private struct Counter: Decodable {
        var count: UInt64
        var percent: Double
        var unit: String
    }

    private struct Document: Decodable {
        var usage: [String: Counter]
        var requests: [String: Counter]
        var blocks: [String: Counter]
        var errors: [String: Counter]?
    }

    @Test func tablesAndJSONHaveTheSameNumbers() throws {
        for report in reports {
            let text = JSONView.value(report).text
            let json = try JSONDecoder().decode(Document.self, from: Data(text.utf8))
            let groups = [json.usage, json.requests, json.blocks, json.errors ?? [:]]
            var seen = 0
            let drawn = drawn(report)
            for (name, counter) in groups.joined() {
                #expect(drawn["\(name) [\(counter.unit)]"] == String(counter.count))
                #expect(drawn["\(name) [%]"] == String(format: "%.1f", counter.percent))
                seen += 2
            }
            #expect(seen == drawn.count)
        }
    }

    @Test func firstCSVColumnsAreTheConfiguration() {
        let names = CSVView.columns(reports[0]).map(\.name)
        #expect(
            names.prefix(23) == [
                "Cache Id", "Cache Size [4KiB Blocks]", "Cache Size [GiB]", "Cache Device",
                "Exported Object", "Core Devices", "Inactive Core Devices", "Write Policy",
                "Cleaning Policy", "Promotion Policy", "Prefetch Policy", "Durability",
                "Cache line size [KiB]",
                "Metadata Memory Footprint [MiB]", "Dirty for [s]", "Dirty for", "Status",
                "Occupancy [4KiB Blocks]", "Occupancy [%]", "Free [4KiB Blocks]", "Free [%]",
                "Clean [4KiB Blocks]", "Clean [%]",
            ])
    }

    @Test func jsonTextIsEscaped() throws {
        let text = JSONText.object([("a\"\\\n\u{1}é", .array([.null, .bool(true), .number(5)]))])
            .text
        let back = try JSONDecoder().decode(
            [String: [Int?]].self,
            from: Data(
                text.replacingOccurrences(of: "true", with: "1").utf8))
        #expect(back == ["a\"\\\n\u{1}é": [nil, 1, 5]])
    }
}
