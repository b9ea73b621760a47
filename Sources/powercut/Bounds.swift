/// The oldest version that each sector of an area, or each slot, may still have after a cut:
///
/// - what an earlier check has seen, for what was read once does not go back;
/// - what was promised since.
struct AreaBounds {
    private(set) var oldest: [Version]
    private let writer: Writer

    /// - Parameter seen: of each sector; what was never checked was never written.
    init(writer: Writer, seen: [Version]) {
        self.writer = writer
        oldest = seen
    }

    mutating func apply(_ steps: [Version]) {
        for version in steps {
            let step = AreaStep(writer, version, sectorCount: oldest.count)
            guard step.writes else { continue }
            for sector in step.sectors { oldest[sector] = max(oldest[sector], version) }
        }
    }

    /// The version that the sector has, or why it may not be there.
    func judge(_ content: SectorContent, sector: Int) -> Result<Version, Complaint> {
        let version: Version
        switch content {
        case .zeroes: version = .never
        case .version(let written): version = written
        case .foreign(let what): return .failure(Complaint(what))
        }
        guard version >= oldest[sector] else {
            return .failure(Complaint("\(version), but \(oldest[sector]) was durable"))
        }
        if version != .never {
            let step = AreaStep(writer, version, sectorCount: oldest.count)
            guard step.writes, step.sectors.contains(sector) else {
                return .failure(Complaint("\(version), which was not written there"))
            }
        }
        return .success(version)
    }
}

/// A slot's file, or that there is none, since when.
struct SlotState: Equatable {
    var version: Version
    var isAbsent: Bool

    static let initial = SlotState(version: .never, isAbsent: true)
}

struct SlotBounds {
    private(set) var oldest: [SlotState]
    private let writer: Writer
    private let promises: [UInt32: UInt32]
    /// Rounds from this one on have not begun.
    private let endRound: UInt32
    /// A line may have been lost on its way, with the step after it under way.
    private static let unreportedSteps: UInt32 = 4

    init(writer: Writer, seen: [SlotState], promises: [UInt32: UInt32], endRound: UInt32) {
        self.writer = writer
        self.promises = promises
        self.endRound = endRound
        oldest = seen
        for round in promises.keys.sorted() {
            for step in 0..<(promises[round] ?? 0) {
                let version = Version(round: round, step: step + 1)
                let done = SlotStep(writer, version, slotCount: oldest.count)
                guard version > oldest[done.slot].version else { continue }
                oldest[done.slot] = SlotState(
                    version: version, isAbsent: done.sectorCount == nil)
            }
        }
    }

    /// Nil if the file may be missing.
    func judgeAbsence(slot: Int) -> Complaint? {
        let bound = oldest[slot]
        guard !bound.isAbsent, !mayHaveBeenRemoved(slot, since: bound.version) else { return nil }
        return Complaint("no file, but that of \(bound.version) was durable")
    }

    private func mayHaveBeenRemoved(_ slot: Int, since bound: Version) -> Bool {
        for round in bound.round..<max(endRound, bound.round) {
            let first = round == bound.round ? bound.step + 1 : 1
            let last = (promises[round] ?? 0) + Self.unreportedSteps
            for step in first..<max(first, last + 1) {
                let version = Version(round: round, step: step)
                let done = SlotStep(writer, version, slotCount: oldest.count)
                if done.slot == slot, done.sectorCount == nil { return true }
            }
        }
        return false
    }

    /// Nil if a whole file of this version and length may be there.
    func judge(_ version: Version, sectorCount: Int, slot: Int) -> Complaint? {
        guard version >= oldest[slot].version else {
            return Complaint("file of \(version), but \(oldest[slot].version) was durable")
        }
        let step = SlotStep(writer, version, slotCount: oldest.count)
        guard step.slot == slot, step.sectorCount == sectorCount else {
            return Complaint("\(sectorCount) sectors of \(version), which were not written")
        }
        return nil
    }
}
