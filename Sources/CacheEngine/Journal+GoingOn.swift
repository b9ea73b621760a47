import CacheFormat
import Synchronization

/// Going on with the journal of a process that died between any two stores.
///
/// What it had under way is begun again: blocks whose end it did not see are written again, with
/// the same content; pages are copied again; a commit is done again, and since nobody knows what
/// was being overwritten, it is confirmed before anybody is promised anything.
extension Journal {
    /// Before any worker runs.
    func goOn(_ pages: UnsafeMutableRawPointer) {
        state.pointee.lock.store(0, ordering: .relaxed)
        finishSealing()
        finishChange(pages)
        finishCommitStep()
        state.pointee.writingBuffers = 0
        state.pointee.writtenBuffers = 0
        state.pointee.reserved = 0
        state.pointee.wantsConfirmation = false
        state.pointee.owner = Self.workerNone
        state.pointee.inFlight = 0
        state.pointee.isFailing = false
        state.pointee.isStarved = false
        state.pointee.hasNews = false
        state.pointee.waiters = 0
        forgetPages()
        // Commits may have been asked for that nobody waits for any more.
        state.pointee.wanted = state.pointee.openCommit
        updateWindow()
        callAttention()
    }

    /// The new open block may not have been begun.
    private func finishSealing() {
        let open = state.pointee.openBlock
        let view = block(open)
        if view.session != state.pointee.session || view.sequence != open
            || view.recordCount == 0
        {
            view.begin(session: state.pointee.session, sequence: open)
        }
        state.pointee.openRecords = view.recordCount
        // The last one may not have been counted.
        if state.pointee.openRecords > 0, state.pointee.uncommittedRecords == 0 {
            state.pointee.uncommittedRecords = 1
        }
    }

    /// Commits that had begun begin again. Their blocks are used again, and no others: otherwise
    /// deaths in a row would use up the journal.
    private func finishCommitStep() {
        if state.pointee.phase != .idle {
            state.pointee.isToBeRetried = true
            if state.pointee.openCommit <= state.pointee.sealedCommit { openCommitBehindSealed() }
        } else if state.pointee.openCommit <= state.pointee.failed {
            openNextCommit()
        }
        if state.pointee.isToBeRetried { state.pointee.isOverwritten = true }
        inOrder()
        state.pointee.phase = .idle
        let confirming = state.pointee.confirmingBlock
        if confirming < state.pointee.firstUnwritten || confirming >= state.pointee.openBlock {
            state.pointee.confirmingBlock = 0
        }
    }

    /// A record that was made, and the way it is about: the one may be there without the other.
    private func finishChange(_ pages: UnsafeMutableRawPointer) {
        let changing = state.pointee.changingSet
        // Only when all of it is done: this process may die, too.
        defer {
            inOrder()
            state.pointee.changingSet = 0
        }
        guard changing > 0, state.pointee.openRecords > 0,
            let record = block(state.pointee.openBlock)
                .record(at: state.pointee.openRecords - 1, setCount: .max),
            record.set == changing - 1
        else { return }
        let page = SetPageView(
            base: pages + Int(record.set) * SetPageLayout.byteCount)
        guard record.number == page.recordNumber || record.number == page.recordNumber &+ 1 else {
            return
        }
        page.recordNumber = record.number
        if page.firstBlock == 0 { page.firstBlock = state.pointee.openBlock }
        var next = page.state(Int(record.way))
        // What is dirty no more is on the core, or discarded: nobody knows which.
        next.valid = next.valid & ~(next.recorded & ~record.dirty) | record.dirty
        next.dirty = next.dirty & ~next.recorded | record.dirty
        next.recorded = record.dirty
        next.commitStamp = UInt16(truncatingIfNeeded: state.pointee.openCommit)
        page.setState(Int(record.way), next)
    }

    /// Sets are listed again when they are adopted.
    private func forgetPages() {
        for index in 0..<Self.pageBuffers { state.pointee.pages[index] = PageWrite() }
        state.pointee.pagesInUse = 0
        state.pointee.listFirst = JournalState.noSet
        state.pointee.listLast = JournalState.noSet
        state.pointee.olderSets = 0
        state.pointee.mayHaveOlderSets = true
    }

    /// A set is adopted that has records which no durable page includes. Both locks are held.
    func listAgain(_ set: UInt32, firstBlock: UInt64) {
        listAtLast(set, firstBlock: firstBlock)
        listed(set).isOlder = true
        state.pointee.olderSets += 1
    }

    /// Every set has been adopted. True for whoever notes it first.
    func allAdopted() -> Bool {
        locked {
            guard state.pointee.mayHaveOlderSets else { return false }
            state.pointee.mayHaveOlderSets = false
            advanceTail()
            callAttention()
            return true
        }
    }
}
