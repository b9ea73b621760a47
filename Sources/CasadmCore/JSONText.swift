/// A JSON value whose members keep their order.
indirect enum JSONText: Equatable {
    case string(String)
    /// A number, already as text.
    case number(String)
    case bool(Bool)
    case null
    case array([JSONText])
    case object([(String, JSONText)])

    static func number(_ value: some BinaryInteger) -> JSONText { .number(String(value)) }

    static func optional(_ value: (some BinaryInteger)?) -> JSONText {
        value.map { .number(String($0)) } ?? .null
    }

    static func == (left: JSONText, right: JSONText) -> Bool { left.text == right.text }

    /// Indented by two spaces a level.
    var text: String { text(indent: "") }

    private func text(indent: String) -> String {
        switch self {
        case .string(let value): return Self.quoted(value)
        case .number(let value): return value
        case .bool(let value): return value ? "true" : "false"
        case .null: return "null"
        case .array(let items):
            return Self.block("[", items.map { $0.text(indent: indent + "  ") }, "]", indent)
        case .object(let members):
            let items = members.map { name, value in
                "\(Self.quoted(name)): \(value.text(indent: indent + "  "))"
            }
            return Self.block("{", items, "}", indent)
        }
    }

    private static func block(
        _ open: String, _ items: [String], _ close: String, _ indent: String
    ) -> String {
        guard !items.isEmpty else { return open + close }
        let inner = items.map { "\(indent)  \($0)" }.joined(separator: ",\n")
        return "\(open)\n\(inner)\n\(indent)\(close)"
    }

    private static func quoted(_ string: String) -> String {
        var result = "\""
        for scalar in string.unicodeScalars {
            switch scalar {
            case "\"": result += "\\\""
            case "\\": result += "\\\\"
            case "\n": result += "\\n"
            case "\t": result += "\\t"
            case _ where scalar.value < 0x20:
                let digits = String(scalar.value, radix: 16)
                result += "\\u" + String(repeating: "0", count: 4 - digits.count) + digits
            default: result.unicodeScalars.append(scalar)
            }
        }
        return result + "\""
    }
}

/// Reports as JSON: the names are those of the tables.
enum JSONView {
    private static let sectionNames = [
        "conf": "conf", "Usage statistics": "usage", "Inactive usage statistics": "inactiveUsage",
        "Request statistics": "requests", "Block statistics": "blocks",
        "Error statistics": "errors",
    ]

    static func value(_ report: Report) -> JSONText {
        .object(
            report.sections.map { section in
                switch section {
                case .facts(let title, let facts):
                    (sectionNames[title] ?? title, self.facts(facts))
                case .counters(let title, let rows):
                    (sectionNames[title] ?? title, counters(rows))
                }
            })
    }

    private static func facts(_ facts: [Fact]) -> JSONText {
        .object(
            facts.flatMap { fact in
                fact.values.map { value in
                    (
                        value.unit.map { "\(fact.name) [\($0)]" } ?? fact.name,
                        value.isNumber ? JSONText.number(value.text) : .string(value.text)
                    )
                }
            })
    }

    private static func counters(_ rows: [CounterRow]) -> JSONText {
        .object(
            rows.map { row in
                (
                    row.name,
                    .object([
                        ("count", .number(row.count)), ("percent", .number(row.share.text)),
                        ("unit", .string(row.unit.rawValue)),
                    ])
                )
            })
    }
}
