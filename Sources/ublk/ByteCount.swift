import ArgumentParser

/// Bytes on a command line: 524288, 512K, 1M, 2G.
struct ByteCount: ExpressibleByArgument, Equatable {
    let value: UInt64

    init(_ value: UInt64) { self.value = value }

    init?(argument: String) {
        let shifts: [Character: UInt64] = ["K": 10, "M": 20, "G": 30, "T": 40]
        let shift = argument.last.flatMap { shifts[Character($0.uppercased())] }
        guard let number = UInt64(shift == nil ? argument[...] : argument.dropLast()),
            number <= UInt64.max >> (shift ?? 0)
        else { return nil }
        value = number << (shift ?? 0)
    }

    var defaultValueDescription: String { "\(value)" }
}
