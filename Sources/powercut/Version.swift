/// When something was written: in which round, and by which step of it. Greater is later.
struct Version: Hashable, Comparable, CustomStringConvertible {
    let rawValue: UInt64

    /// Before the first round.
    static let never = Version(rawValue: 0)

    init(rawValue: UInt64) { self.rawValue = rawValue }

    init(round: UInt32, step: UInt32) { rawValue = UInt64(round) << 32 | UInt64(step) }

    var round: UInt32 { UInt32(rawValue >> 32) }
    var step: UInt32 { UInt32(truncatingIfNeeded: rawValue) }

    var description: String { self == .never ? "never" : "round \(round) step \(step)" }

    static func < (a: Version, b: Version) -> Bool { a.rawValue < b.rawValue }
}

/// Who writes: a stream of one run. Its steps and contents follow from these numbers alone.
struct Writer: Hashable {
    let seed: UInt64
    let stream: UInt64

    init(seed: UInt64, name: String) {
        self.seed = seed
        // FNV-1a.
        stream = name.utf8.reduce(0xCBF2_9CE4_8422_2325) { ($0 ^ UInt64($1)) &* 0x100_0000_01B3 }
    }

    /// The random numbers that decide the step.
    func random(_ version: Version) -> StepRandom {
        StepRandom(state: mixed(mixed(seed ^ mixed(stream)) ^ version.rawValue))
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014): the same on every machine.
struct StepRandom {
    var state: UInt64

    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        return mixed(state)
    }

    /// 0 to `count` - 1.
    mutating func below(_ count: Int) -> Int { Int(next() % UInt64(count)) }
}

/// A number in which every bit depends on every bit of the other.
func mixed(_ value: UInt64) -> UInt64 {
    var z = value
    z = (z ^ z >> 30) &* 0xBF58_476D_1CE4_E5B9
    z = (z ^ z >> 27) &* 0x94D0_49BB_1331_11EB
    return z ^ z >> 31
}
