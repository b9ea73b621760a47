/// Writes reports for scripts: one line of column names, one line of values for each report.
enum CSVView {
    static func lines(_ reports: [Report]) -> [String] {
        guard let first = reports.first else { return [] }
        return ([columns(first).map(\.name)] + reports.map { columns($0).map(\.value) }).map(line)
    }

    static func line(_ cells: [String]) -> String {
        cells.map { $0.contains(",") ? "\"\($0)\"" : $0 }.joined(separator: ",")
    }

    static func columns(_ report: Report) -> [(name: String, value: String)] {
        report.sections.flatMap { section -> [(name: String, value: String)] in
            switch section {
            case .facts(_, let facts):
                facts.flatMap { fact in
                    fact.values.map { value in
                        (
                            name: value.unit.map { "\(fact.name) [\($0)]" } ?? fact.name,
                            value: value.text
                        )
                    }
                }
            case .counters(_, let rows):
                rows.flatMap { row in
                    [
                        (name: "\(row.name) [\(row.unit.rawValue)]", value: String(row.count)),
                        (name: "\(row.name) [%]", value: row.share.text),
                    ]
                }
            }
        }
    }
}
