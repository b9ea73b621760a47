/// Decimal fractions without floating point, whose rounding would depend on the value's size.
enum Decimals {
    /// `value / divisor`, rounded half up to one or two decimals.
    static func rounded(_ value: UInt64, per divisor: UInt64, decimals: Int) -> String {
        let scale: UInt64 = decimals == 1 ? 10 : 100
        let (whole, rest) = value.quotientAndRemainder(dividingBy: divisor)
        let product = rest.multipliedFullWidth(by: scale)
        let (quotient, remainder) = divisor.dividingFullWidth(product)
        let fraction = quotient + (remainder >= divisor - remainder ? 1 : 0)
        let digits = String(fraction % scale)
        let zeros = String(repeating: "0", count: decimals - digits.count)
        return "\(whole + fraction / scale).\(zeros)\(digits)"
    }

    /// A part of one, 0.0 to 1.0, as percent with one decimal: "12.3".
    static func percent(_ part: Double) -> String {
        let tenths = UInt64((min(max(part, 0), 1) * 1000).rounded())
        return "\(tenths / 10).\(tenths % 10)"
    }
}
