/// What each step does. It follows from the writer and the step's version alone, so that whoever
/// checks knows it without having been told.

/// A step on an area: numbered sectors, written again and again.
struct AreaStep: Equatable {
    enum Kind { case write, durableWrite, read }

    let kind: Kind
    /// Sectors, counted from the area's start.
    let sectors: Range<Int>
    /// A FLUSH follows.
    let flushes: Bool

    init(_ writer: Writer, _ version: Version, sectorCount: Int) {
        var random = writer.random(version)
        switch random.below(100) {
        case 0..<17: kind = .read
        case 17..<25: kind = .durableWrite
        default: kind = .write
        }
        let isHot = random.below(3) == 0
        let count = Self.count(&random)
        // Whole pages mostly, as filesystems write, and some sectors anywhere.
        let alignment = count.isMultiple(of: 8) ? 8 : 1
        let places = ((isHot ? max(sectorCount / 16, 128) : sectorCount) - count) / alignment + 1
        let first = random.below(places) * alignment
        sectors = first..<first + count
        flushes = version.step.isMultiple(of: 32) || random.below(12) == 0
    }

    private static func count(_ random: inout StepRandom) -> Int {
        switch random.below(20) {
        case 0..<11: 8
        case 11..<14: 1 + random.below(7)
        case 14..<18: 8 * (2 + random.below(6))
        default: 128
        }
    }

    var writes: Bool { kind != .read }
}

/// A step on files that are replaced as a whole, or removed.
struct SlotStep: Equatable {
    let slot: Int
    /// Sectors of the new file; nil: the file is removed.
    let sectorCount: Int?

    init(_ writer: Writer, _ version: Version, slotCount: Int) {
        var random = writer.random(version)
        slot = random.below(slotCount)
        sectorCount = random.below(5) == 0 ? nil : 1 + random.below(64)
    }
}

/// A step on a log: records are appended.
struct LogStep: Equatable {
    /// One sector each.
    let recordCount: Int
    let flushes: Bool

    init(_ writer: Writer, _ version: Version) {
        var random = writer.random(version)
        recordCount = 1 + random.below(16)
        flushes = random.below(2) == 0
    }
}
