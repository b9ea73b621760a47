import CacheRuntime
import Histogram
import Synchronization

/// What a row of `bench runtime` measured.
struct RuntimeResult {
    private let name: String
    private let workerCount: Int
    private let operations: UInt64
    private let seconds: Double
    private let activity: WorkerActivity
    private let latencies: Histogram<UInt64>

    init(row: RuntimeRow, activity: [WorkerActivity], progress: [LoadProgress]) {
        name = row.rawValue
        workerCount = progress.count
        operations = progress.reduce(0) { $0 + $1.answered.load(ordering: .acquiring) }
        let start = progress.map { $0.startTime.load(ordering: .acquiring) }.min() ?? 0
        let end = progress.map { $0.endTime.load(ordering: .acquiring) }.max() ?? 0
        seconds = Double(end - start) / 1e9
        self.activity = activity.reduce(into: WorkerActivity()) { sum, worker in
            sum.turns += worker.turns
            sum.systemCalls += worker.systemCalls
            sum.cacheTransfers += worker.cacheTransfers
            sum.coreTransfers += worker.coreTransfers
        }
        var latencies = Histogram<UInt64>(
            highestTrackableValue: UInt64(UInt32.max), numberOfSignificantValueDigits: .three)
        for worker in progress {
            for nanoseconds in worker.latencies { _ = latencies.record(UInt64(nanoseconds)) }
        }
        self.latencies = latencies
    }

    private func perOperation(_ count: UInt64) -> String {
        decimal(Double(count) / Double(operations), places: 3)
    }

    private func microseconds(_ percentile: Double) -> String {
        decimal(Double(latencies.valueAtPercentile(percentile)) / 1000, places: 1)
    }

    private static let columns = [
        ("row", -14), ("workers", 7), ("ops/s", 9), ("turns/op", 9), ("calls/op", 9),
        ("cache I/O/op", 13), ("core I/O/op", 12), ("p50 µs", 9), ("p99 µs", 9), ("p99.9 µs", 9),
    ]

    private var values: [String] {
        [
            name, "\(workerCount)", "\(Int(Double(operations) / seconds))",
            perOperation(activity.turns), perOperation(activity.systemCalls),
            perOperation(activity.cacheTransfers), perOperation(activity.coreTransfers),
            microseconds(50), microseconds(99), microseconds(99.9),
        ]
    }

    static var heading: String { line(columns.map(\.0)) }
    var aligned: String { Self.line(values) }
    var plain: String { values.joined(separator: " ") }

    /// Negative widths are aligned to the left.
    private static func line(_ cells: [String]) -> String {
        zip(cells, columns.map(\.1)).map { cell, width in
            let padding = String(repeating: " ", count: max(0, abs(width) - cell.count))
            return width < 0 ? cell + padding : padding + cell
        }.joined(separator: " ")
    }
}

/// A number that is not negative, with so many digits after the point.
func decimal(_ value: Double, places: Int) -> String {
    let digits = String(Int((value * pow10(places)).rounded()))
    let padded = String(repeating: "0", count: max(0, places + 1 - digits.count)) + digits
    return padded.dropLast(places) + "." + padded.suffix(places)
}

private func pow10(_ places: Int) -> Double {
    (0..<places).reduce(1) { power, _ in power * 10 }
}
