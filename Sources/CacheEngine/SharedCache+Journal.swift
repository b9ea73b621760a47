public import CacheFormat

/// The journal as control threads see it.
extension SharedCache {
    /// Asks for everything recorded up to now to be made durable; `commitOutcome` tells. A worker
    /// has to take a turn for it to begin.
    public func requestCommit() -> UInt64 { journal.joinCommit(worker: workerCount) }

    /// Nil while it is under way; then whether it went well.
    public func commitOutcome(_ commit: UInt64) -> Bool? {
        switch journal.locked({ journal.outcome(commit) }) {
        case .pending: nil
        case .done: true
        case .failed: false
        }
    }

    /// What the device is to have dirty when everything is committed. No worker may be running.
    public var dirtyDigest: DirtyDigest {
        var digest = DirtyDigest()
        for set in 0..<geometry.setCount { digest.add(set: set, page(UInt32(set))) }
        return digest
    }

    /// How the journal is, for whoever looks for the reason of a standstill.
    public var journalText: String {
        let state = journal.state
        return "blocks \(state.pointee.durableTail) \(state.pointee.tail) "
            + "\(state.pointee.firstUnwritten) \(state.pointee.openBlock) "
            + "records \(state.pointee.openRecords)+\(state.pointee.reserved) "
            + "commits \(state.pointee.confirmed) \(state.pointee.committed) "
            + "\(state.pointee.openCommit) wanted \(state.pointee.wanted) "
            + "failed \(state.pointee.failed) phase \(state.pointee.phase) "
            + "owner \(state.pointee.owner) in flight \(state.pointee.inFlight) "
            + "pages \(state.pointee.pagesInUse) starved \(state.pointee.isStarved) "
            + "failing \(state.pointee.isFailing) waiters \(state.pointee.waiters) "
            + "durable \(state.pointee.committedBlock) first \(state.pointee.needsDataFirst) "
            + "confirm \(state.pointee.wantsConfirmation) \(state.pointee.confirmingBlock)"
    }

    /// What the journal takes for durable, for whoever can look at the device; with no other thread
    /// at work.
    public var journalReliance: JournalReliance {
        let state = journal.state
        return JournalReliance(
            tail: state.pointee.durableTail, commit: state.pointee.durableCommit,
            block: state.pointee.committedBlock, answeredCommit: state.pointee.committed,
            confirmedCommit: state.pointee.confirmed)
    }

    /// What the journal has written so far.
    public var journalActivity: JournalActivity {
        journal.locked {
            let state = journal.state
            return JournalActivity(
                blocks: state.pointee.blocksWritten, pages: state.pointee.pagesWritten,
                flushes: state.pointee.flushes, records: state.pointee.recordsMade)
        }
    }
}

/// What the engine believes the device to say, and acts upon.
public struct JournalReliance: Equatable, Sendable {
    /// Places of older blocks are used again.
    public var tail: UInt64
    /// The last commit that is durable, and its last block.
    public var commit: UInt64
    public var block: UInt64
    /// Whoever waited for this one has been answered.
    public var answeredCommit: UInt64
    /// Data with a record of this commit, or an older one, is overwritten in place.
    public var confirmedCommit: UInt64
}

/// Counts since the start.
public struct JournalActivity: Equatable, Sendable {
    public var blocks: UInt64
    public var pages: UInt64
    public var flushes: UInt64
    public var records: UInt64
}
