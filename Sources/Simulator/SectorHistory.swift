/// What one sector of an exported device may hold, by the order of what its users saw.
///
/// A sector's content is a stamp, one for each write request. The rules are what users of a disk
/// rely on (a regular register): a read may return the value of any write under way meanwhile, or
/// a value that is not certain to have been overwritten before the read began. Of writes that were
/// under way at the same time either may stay, but the first read that begins after them decides.
struct SectorHistory {
    private struct Value {
        let stamp: UInt64
        let begun: UInt64
        /// When the write was answered, or its failure reported; nil while it is under way.
        var ended: UInt64?
        /// When it became certain that no read begun from then on may return it.
        var overwritten: UInt64?
        /// What overwrote it was promised to survive a power cut.
        var isDurablyOverwritten = false
    }

    private var values: [Value] = [Value(stamp: 0, begun: 0, ended: 0)]

    mutating func writeBegan(_ stamp: UInt64, at now: UInt64) {
        values.append(Value(stamp: stamp, begun: now, ended: nil))
    }

    /// A successful write overwrites all that had ended before it began. A failed one may or may
    /// not have happened, and so may a discard: they overwrite nothing.
    mutating func writeEnded(_ stamp: UInt64, at now: UInt64, certain: Bool) {
        guard let own = values.lastIndex(where: { $0.stamp == stamp && $0.ended == nil }) else {
            preconditionFailure("a write ended that never began")
        }
        values[own].ended = now
        guard certain else { return }
        let begun = values[own].begun
        for index in values.indices where index != own {
            guard let ended = values[index].ended, ended < begun else { continue }
            if values[index].overwritten == nil { values[index].overwritten = now }
        }
    }

    /// Whether a read that began at `begun` and ends now may return `stamp`; notes that it did.
    mutating func readEnded(_ stamp: UInt64, begun: UInt64, at now: UInt64) -> Bool {
        let found = values.indices.filter {
            values[$0].stamp == stamp && (values[$0].overwritten ?? .max) > begun
        }
        guard !found.isEmpty else { return false }
        // A read during a write proves nothing about what later ones see.
        guard values.allSatisfy({ ($0.ended ?? .max) < begun }) else { return true }
        for index in values.indices where values[index].stamp != stamp {
            if values[index].overwritten == nil { values[index].overwritten = now }
        }
        return true
    }

    /// The one value the sector can have, if all writes to it had ended before `moment`.
    func settled(before moment: UInt64) -> UInt64? {
        guard values.allSatisfy({ ($0.ended ?? .max) < moment }) else { return nil }
        let possible = values.filter { $0.overwritten == nil }
        return possible.count == 1 ? possible[0].stamp : nil
    }

    /// A FLUSH that began at `moment` was answered: what was certain then is durable.
    mutating func flushed(before moment: UInt64) {
        for index in values.indices where (values[index].overwritten ?? .max) < moment {
            values[index].isDurablyOverwritten = true
        }
    }

    /// A durable write was answered: what it overwrote does not come back.
    mutating func madeDurable(_ stamp: UInt64) {
        guard let own = values.first(where: { $0.stamp == stamp }) else { return }
        for index in values.indices where (values[index].ended ?? .max) < own.begun {
            values[index].isDurablyOverwritten = true
        }
    }

    /// Whether a power cut at this moment may leave this content.
    func mayBeLeft(_ stamp: UInt64) -> Bool {
        values.contains { $0.stamp == stamp && !$0.isDurablyOverwritten }
    }

    /// After a power cut the sector has this content, for good. False if it must not.
    mutating func recovered(_ stamp: UInt64, at now: UInt64) -> Bool {
        guard mayBeLeft(stamp) else { return false }
        values = [Value(stamp: stamp, begun: 0, ended: 0)]
        return true
    }

    /// Forgets values that no read that is still under way, and no power cut, could return.
    mutating func prune(oldestRead: UInt64) {
        guard values.count > 4 else { return }
        values.removeAll { $0.isDurablyOverwritten && ($0.overwritten ?? .max) < oldestRead }
    }

    /// For the message of a failing seed.
    var text: String {
        values.map { value in
            "\(value.stamp) begun \(value.begun) ended \(value.ended.map(String.init) ?? "-")"
                + (value.overwritten.map { " overwritten \($0)" } ?? "")
                + (value.isDurablyOverwritten ? " durably" : "")
        }.joined(separator: "; ")
    }
}
