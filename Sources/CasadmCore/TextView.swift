/// Characters tables and trees are drawn with.
struct DrawingSet: Sendable, Equatable {
    /// Left, fill, crossing and right of a rule.
    struct Rule: Sendable, Equatable {
        var left: Character
        var fill: Character
        var cross: Character
        var right: Character
    }

    var top: Rule
    var afterHeader: Rule
    var inner: Rule
    var bottom: Rule
    var outerBar: Character
    var innerBar: Character
    var lastLeaf: Character
    var leaf: Character

    static let unicode = DrawingSet(
        top: Rule(left: "╔", fill: "═", cross: "╤", right: "╗"),
        afterHeader: Rule(left: "╠", fill: "═", cross: "╪", right: "╣"),
        inner: Rule(left: "╟", fill: "─", cross: "┼", right: "╢"),
        bottom: Rule(left: "╚", fill: "═", cross: "╧", right: "╝"),
        outerBar: "║", innerBar: "│", lastLeaf: "└", leaf: "├")

    static let ascii = DrawingSet(
        top: Rule(left: "+", fill: "=", cross: "+", right: "+"),
        afterHeader: Rule(left: "+", fill: "=", cross: "+", right: "+"),
        inner: Rule(left: "+", fill: "-", cross: "+", right: "+"),
        bottom: Rule(left: "+", fill: "=", cross: "+", right: "+"),
        outerBar: "|", innerBar: "|", lastLeaf: "+", leaf: "+")

    /// By the language of the session, as Open CAS chooses.
    static func forSession(_ environment: [String: String]) -> DrawingSet {
        let language = environment["LC_ALL"] ?? environment["LANG"] ?? ""
        let isUnicode = language.lowercased().contains("utf-8")
        return isUnicode && environment["TERM"] != "dumb" ? .unicode : .ascii
    }
}

/// Writes a report as text for people.
struct TextView {
    var drawing: DrawingSet

    func lines(_ report: Report) -> [String] {
        var lines: [String] = []
        for section in report.sections {
            if !lines.isEmpty { lines.append("") }
            switch section {
            case .facts(_, let facts): lines += self.lines(facts)
            case .counters(let title, let rows): lines += counterLines(title, rows)
            }
        }
        return lines
    }

    /// A table of plain cells under a header.
    func table(header: [String], rows: [[String]]) -> [String] {
        table(header, rows.map { (cells: $0, startsGroup: false) })
    }

    private func lines(_ facts: [Fact]) -> [String] {
        let width = facts.map(\.name.count).max() ?? 0
        return facts.map { fact in
            let values = fact.values.map { value in
                value.unit.map { "\(value.text) [\($0)]" } ?? value.text
            }
            return fact.name.padded(to: width) + " " + values.joined(separator: " / ")
        }
    }

    private func counterLines(_ title: String, _ rows: [CounterRow]) -> [String] {
        table(
            [title, "Count", "%", "[Units]"],
            rows.enumerated().map { index, row in
                (
                    cells: [row.name, String(row.count), row.share.text, "[\(row.unit.rawValue)]"],
                    startsGroup: row.startsGroup && index > 0
                )
            })
    }

    private func table(
        _ header: [String], _ rows: [(cells: [String], startsGroup: Bool)]
    ) -> [String] {
        let widths = header.indices.map { column in
            ([header] + rows.map(\.cells)).map { Self.bare($0[column]).count }.max() ?? 0
        }
        var lines = [rule(drawing.top, widths)]
        let titles = header.enumerated().map { column, title in
            column == 0 ? title.padded(to: widths[0]) : Self.centred(title, widths[column])
        }
        lines.append(bars(titles))
        lines.append(rule(drawing.afterHeader, widths))
        for row in rows {
            if row.startsGroup { lines.append(rule(drawing.inner, widths)) }
            lines.append(
                bars(
                    row.cells.enumerated().map { column, cell in
                        Self.isNumber(cell)
                            ? cell.aligned(to: widths[column])
                            : Self.bare(cell).padded(to: widths[column])
                    }))
        }
        lines.append(rule(drawing.bottom, widths))
        return lines
    }

    private func rule(_ rule: DrawingSet.Rule, _ widths: [Int]) -> String {
        let parts = widths.map { String(repeating: rule.fill, count: $0 + 2) }
        return "\(rule.left)\(parts.joined(separator: String(rule.cross)))\(rule.right)"
    }

    private func bars(_ cells: [String]) -> String {
        let inner = cells.joined(separator: " \(drawing.innerBar) ")
        return "\(drawing.outerBar) \(inner) \(drawing.outerBar)"
    }

    /// The brackets of a unit count for the centring, but are not shown.
    private static func centred(_ title: String, _ width: Int) -> String {
        let left = String(repeating: " ", count: Swift.max(0, (width - title.count) / 2))
        return (left + bare(title)).padded(to: width)
    }

    private static func bare(_ cell: String) -> String {
        cell.hasPrefix("[") && cell.hasSuffix("]") ? String(cell.dropFirst().dropLast()) : cell
    }

    private static func isNumber(_ cell: String) -> Bool {
        !cell.isEmpty && cell.first != "." && cell.count { $0 == "." } < 2
            && cell.utf8.allSatisfy { (48...57).contains($0) || $0 == UInt8(ascii: ".") }
    }
}
