import CacheFormat

/// What a control thread does with all lines of a core, beside the workers, one set at a time.
extension SharedCache {
    /// Drops the lines, dirty ones too: the caller has flushed or was told to lose them.
    ///
    /// No request of the core may be in the engine. The configuration may forget the core only
    /// after a commit (`requestCommit`).
    public func dropLines(core: UInt16) -> SweepOutcome {
        sweep(core) { way, access in
            guard access.sidecar.uses[way].isIdle else { return .again }
            if access.needsRecord(way, .max) {
                let room = reserveOne()
                guard room == .done else { return room }
            }
            access.invalidate(way, .max)
            access.release(way)
            return .done
        }
    }

    /// All lines, although for some of them the answer is not `done`.
    private func sweep(
        _ core: UInt16, _ step: (_ way: Int, SetAccess) -> SweepOutcome
    ) -> SweepOutcome {
        var outcome = SweepOutcome.done
        for set in 0..<UInt32(geometry.setCount) {
            let access = SetAccess(self, set, counters: workerCount)
            access.sidecar.lock()
            for way in 0..<SetPageLayout.ways where access.holds(way, core: core) {
                outcome = max(outcome, step(way, access))
            }
            access.sidecar.unlock()
        }
        return outcome
    }

    private func reserveOne() -> SweepOutcome {
        switch journal.reserve(1, worker: workerCount) {
        case .reserved: .done
        case .full: .again
        case .failing: .journalFails
        }
    }
}

/// How far a sweep over the lines of a core came.
public enum SweepOutcome: Int, Comparable, Sendable {
    case done
    /// A line was in use, or the journal has no room now: a worker has to take a turn, and then it
    /// is to be done again.
    case again
    /// There is no room, and the journal cannot be written.
    case journalFails

    public static func < (one: SweepOutcome, other: SweepOutcome) -> Bool {
        one.rawValue < other.rawValue
    }
}
