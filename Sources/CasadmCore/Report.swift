/// What is to be shown, before it is decided how: every output format is written from this, so
/// that all of them agree.
struct Report: Equatable {
    enum Section: Equatable {
        case facts(title: String, [Fact])
        case counters(title: String, [CounterRow])
    }

    var sections: [Section] = []
}

/// A named value of the configuration, with alternative forms of the same value after it.
struct Fact: Equatable {
    struct Value: Equatable {
        var text: String
        var unit: String?
        /// Whether JSON shows it as a number.
        var isNumber = false
    }

    var name: String
    var values: [Value]

    init(_ name: String, _ text: String) {
        self.init(name, [Value(text: text)])
    }

    init(_ name: String, _ number: some BinaryInteger, unit: String? = nil) {
        self.init(name, [Value(text: String(number), unit: unit, isNumber: true)])
    }

    init(_ name: String, _ values: [Value]) {
        self.name = name
        self.values = values
    }
}

/// A counter and its share of something, in a table.
struct CounterRow: Equatable {
    enum Unit: String {
        case blocks = "4KiB Blocks"
        case requests = "Requests"
    }

    var name: String
    var count: UInt64
    var share: Share
    var unit: Unit
    /// A rule is drawn above it.
    var startsGroup = false
}

/// A part of a whole, in percent with one decimal, as Open CAS rounds it.
struct Share: Equatable {
    /// Tenths of a percent.
    let tenths: UInt64

    /// Open CAS first cuts to hundredths of a percent, then rounds half up to tenths. Nothing of
    /// nothing is 0.
    init(_ part: UInt64, of whole: UInt64) {
        guard whole > 0 else {
            tenths = 0
            return
        }
        let product = part.multipliedFullWidth(by: 10_000)
        let (hundredths, _) = product.high < whole ? whole.dividingFullWidth(product) : (0, 0)
        tenths = (hundredths + 5) / 10
    }

    var text: String { "\(tenths / 10).\(tenths % 10)" }
}
