import CacheFormat
import Synchronization

/// The journal's I/O, done by whichever worker's engine has something to gain first: the *owner*,
/// until nothing is under way. Everybody else only asks and waits.
///
/// Rule 5 of the design: a set page is written when the journal is durable up to it, and a place of
/// the journal is used again when durable pages include all that it said (`Journal`).
extension Engine {
    /// In `setReleased` and `wakeWorker`: not a set, but the journal.
    public static var journalSet: UInt32 { .max }

    private static var flushSlot: UInt32 { UInt32(Journal.blockBuffers + Journal.pageBuffers) }

    @inline(__always) var ownsJournal: Bool {
        journal.state.pointee.owner == Int32(worker)
    }

    @inline(__always) mutating func continueJournal() {
        if journal.state.pointee.attention.load(ordering: .relaxed) != 0 { runJournal() }
    }

    /// Does all that can be done now, unless another worker does.
    @inline(never) private mutating func runJournal() {
        guard takeJournal() else { return }
        repeat {
            var isDone = false
            while !isDone {
                let action = journal.locked {
                    journal.state.pointee.attention.store(0, ordering: .relaxed)
                    return journal.nextAction()
                }
                isDone = carryOut(action)
            }
            tellWaiters()
        } while !leaveJournal()
    }

    private func takeJournal() -> Bool {
        journal.locked {
            let owner = journal.state.pointee.owner
            guard owner == Journal.workerNone || owner == Int32(worker) else { return false }
            journal.state.pointee.owner = Int32(worker)
            return true
        }
    }

    /// False if something came up in between.
    private func leaveJournal() -> Bool {
        journal.locked {
            if journal.state.pointee.attention.load(ordering: .relaxed) != 0 { return false }
            if journal.state.pointee.inFlight == 0 {
                journal.state.pointee.owner = Journal.workerNone
            }
            return true
        }
    }

    /// True if there was nothing to do.
    private mutating func carryOut(_ action: JournalAction) -> Bool {
        switch action {
        case .rest: return true
        case .writeBlock(let block, let facts, let isConfirmation):
            journal.block(block).seal(
                tail: facts.tail, trustedThrough: facts.trustedThrough,
                durableThrough: facts.durableThrough)
            emitMetadata(
                UInt32(Journal.buffer(of: block)), at: geometry.journalOffset(sequence: block),
                durably: isConfirmation)
        case .writePage(let index):
            let page = journal.pageCopy(index)
            let set = UInt64(journal.state.pointee.pages[index].set)
            emitMetadata(
                UInt32(Journal.blockBuffers + index),
                at: geometry.setPageOffset(set: set, slot: Int(page.sequence & 1)), durably: false)
        case .flush:
            let command = commands.append(.flushCache)
            command.pointee.token = Token(
                .journal, slot: Self.flushSlot, generation: 1, isCore: false)
        case .settlePages: settlePages()
        case .copyPage(let set, let index): copyPage(set, index)
        }
        return false
    }

    private mutating func emitMetadata(_ buffer: UInt32, at offset: UInt64, durably: Bool) {
        let command = commands.append(.writeCache)
        command.pointee.buffer = .metadata(buffer)
        command.pointee.byteCount = UInt32(Geometry.blockBytes)
        command.pointee.deviceOffset = offset
        command.pointee.forceUnitAccess = durably
        command.pointee.token = Token(.journal, slot: buffer, generation: 1, isCore: false)
    }

    mutating func journalTransferEnded(_ token: Token, _ result: Int32) {
        precondition(ownsJournal, "a completion of the journal's for another worker")
        let slot = Int(token.slot)
        journal.locked {
            if slot < Journal.blockBuffers {
                journal.blockWritten(buffer: slot, isWell: result >= 0)
            } else if slot < Int(Self.flushSlot) {
                journal.pageWritten(slot - Journal.blockBuffers, isWell: result >= 0)
            } else {
                journal.flushed(isWell: result >= 0)
            }
        }
        runJournal()
    }
}

// MARK: - Pages

extension Engine {
    /// The set's page as the device is to have it, of this moment.
    private func copyPage(_ set: UInt32, _ index: Int) {
        let access = SetAccess(shared, set, counters)
        let copy = journal.pageCopy(index)
        access.sidecar.lock()
        copy.base.copyMemory(from: access.page.base, byteCount: SetPageLayout.byteCount)
        // Records made from now on are not in the copy: they list the set again.
        access.sidecar.isListed = false
        let commit = access.sidecar.lastCommit
        access.sidecar.unlock()
        copy.seal(sequence: copy.sequence + 1)
        journal.locked { journal.state.pointee.pages[index].commit = commit }
    }

    /// Pages that a flush has made durable: what the journal says of them is not needed any more.
    private func settlePages() {
        for index in 0..<Journal.pageBuffers {
            let write = journal.state.pointee.pages[index]
            guard write.phase == .flushing else { continue }
            let access = SetAccess(shared, write.set, counters)
            access.sidecar.lock()
            // Only now: a process that dies before writes the same slot again.
            let copy = journal.pageCopy(index)
            access.page.settle(
                sequence: copy.sequence, checksum: copy.checksum,
                firstBlock: access.sidecar.isListed ? access.sidecar.listed.listedBlock : 0)
            access.sidecar.unlock()
            journal.locked { journal.release(page: index) }
        }
        journal.locked { journal.advanceTail() }
    }
}

// MARK: - Waiting

extension Engine {
    /// Puts the part aside until the journal goes on, which has noted that this worker waits.
    /// The set's lock is held.
    mutating func parkForJournal(_ index: UInt32, _ access: SetAccess) {
        park(index, access)
        parts[index].pointee.waitsForJournal = true
    }

    /// The request is answered when everything written up to now is durable.
    mutating func awaitCommit(_ slot: UInt32) {
        requests[slot].pointee.awaitedCommit = journal.joinCommit(worker: worker)
        requests[slot].pointee.nextAwaiting = noSlot
        if awaitingLast == noSlot {
            awaitingFirst = slot
        } else {
            requests[awaitingLast].pointee.nextAwaiting = slot
        }
        awaitingLast = slot
    }

    private mutating func tellWaiters() {
        let waiters = journal.locked { () -> UInt64 in
            guard journal.state.pointee.hasNews else { return 0 }
            journal.state.pointee.hasNews = false
            // Control threads, behind the workers, ask again by themselves.
            let waiters = journal.state.pointee.waiters & (1 << UInt64(shared.workerCount) - 1)
            journal.state.pointee.waiters = 0
            return waiters
        }
        wake(waiters, set: Self.journalSet)
    }

    /// A commit ended, or there is room again: whoever waited here looks again.
    mutating func journalAdvanced() {
        var slot = awaitingFirst
        awaitingFirst = noSlot
        awaitingLast = noSlot
        var keptFirst = noSlot
        var keptLast = noSlot
        while slot != noSlot {
            let next = requests[slot].pointee.nextAwaiting
            requests[slot].pointee.nextAwaiting = noSlot
            let outcome = journal.locked {
                let outcome = journal.outcome(requests[slot].pointee.awaitedCommit)
                if outcome == .pending { journal.wait(worker) }
                return outcome
            }
            if outcome == .pending {
                if keptLast == noSlot {
                    keptFirst = slot
                } else {
                    requests[keptLast].pointee.nextAwaiting = slot
                }
                keptLast = slot
            } else {
                commitEnded(slot, outcome)
            }
            slot = next
        }
        precondition(awaitingFirst == noSlot, "the end of a commit began another wait")
        awaitingFirst = keptFirst
        awaitingLast = keptLast
        retryParked { $0.pointee.waitsForJournal }
        cleaner.resumeWaitingFlushes()
    }

    private mutating func commitEnded(_ slot: UInt32, _ outcome: CommitOutcome) {
        let request = requests[slot]
        if outcome == .failed {
            counters.add(.cacheWriteErrors, request.pointee.request.core)
            if request.pointee.result == 0 { request.pointee.result = -5 }  // EIO
        }
        if request.pointee.request.operation == .flush {
            flushOfCacheEnded(slot, isWell: outcome == .done)
        } else {
            answer(slot)
        }
    }
}
