/// SplitMix64 (Steele, Lea, Flood 2014): small, fast, and the same on every machine.
package struct SeededRandom: RandomNumberGenerator {
    private var state: UInt64

    package init(seed: UInt64) { state = seed }

    package mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var z = state
        z = (z ^ z >> 30) &* 0xBF58_476D_1CE4_E5B9
        z = (z ^ z >> 27) &* 0x94D0_49BB_1331_11EB
        return z ^ z >> 31
    }

    /// 0 to `count` - 1. The bias is below 2⁻³².
    package mutating func below(_ count: Int) -> Int {
        precondition(count > 0 && count < 1 << 32)
        return Int(((next() >> 32) &* UInt64(count)) >> 32)
    }

    /// True `percent` times out of a hundred.
    package mutating func chance(_ percent: Int) -> Bool { below(100) < percent }
}
