import CacheFormat

/// One thing the owner of the journal's I/O has to do next.
enum JournalAction {
    case rest
    case writeBlock(UInt64, BlockFacts, isConfirmation: Bool)
    case writePage(Int)
    case flush
    /// Pages that a flush has made durable are to be let go.
    case settlePages
    /// A copy of this set's page is to be made, into this place.
    case copyPage(UInt32, Int)
}

/// What a journal block tells besides its records.
struct BlockFacts {
    var tail: UInt64
    var trustedThrough: UInt64
    var durableThrough: UInt64
}

/// What the owner does, and what follows when it ended. All of it with the lock held.
///
/// Commit: its blocks are written, then the cache device is flushed: one flush. If some of its
/// records have no checksum that recovery could compare, its data is flushed before its last block
/// is written, and that block says so: two flushes.
extension Journal {
    /// The next thing to do, noted as begun.
    func nextAction() -> JournalAction {
        if state.pointee.phase == .idle, pages(in: .flushing) != nil { return .settlePages }
        if let block = blockToWrite() { return begin(block: block) }
        if let index = pageToWrite() {
            state.pointee.pages[index].phase = .writing
            state.pointee.inFlight += 1
            return .writePage(index)
        }
        if let action = checkpointAction() { return action }
        switch state.pointee.phase {
        case .writing where state.pointee.firstUnwritten > state.pointee.sealedThrough:
            return beginFlush()
        case .confirming where state.pointee.confirmingBlock == 0:
            beginConfirmation()
        case .idle:
            if let action = beginCommit() { return action }
            if state.pointee.wantsConfirmation { beginConfirmation() }
        default: break
        }
        return blockToWrite().map(begin(block:)) ?? .rest
    }

    private func pages(in phase: PageWrite.Phase) -> Int? {
        if state.pointee.pagesInUse == 0 { return phase == .free ? 0 : nil }
        return (0..<Self.pageBuffers).first { state.pointee.pages[$0].phase == phase }
    }
}

// MARK: - Blocks

extension Journal {
    private func bit(of block: UInt64) -> UInt64 { 1 << UInt64(Self.buffer(of: block)) }

    /// A sealed block that nobody writes yet.
    private func blockToWrite() -> UInt64? {
        let busy = state.pointee.writingBuffers | state.pointee.writtenBuffers
        if state.pointee.isFailing, state.pointee.phase == .idle {
            let block = state.pointee.confirmingBlock
            return block != 0 && busy & bit(of: block) == 0 ? block : nil
        }
        var block = state.pointee.firstUnwritten
        while block < state.pointee.openBlock {
            let isHeld =
                block == state.pointee.sealedThrough
                && (state.pointee.phase == .flushingData || state.pointee.isToBeRetried)
            if busy & bit(of: block) == 0, !isHeld, !isForNextCommit(block) { return block }
            block += 1
        }
        return nil
    }

    /// Sealed for a commit whose process died before it began, or for a confirmation that failed:
    /// the next one has something to say in it, and takes no other place.
    private func isForNextCommit(_ block: UInt64) -> Bool {
        state.pointee.openRecords == 0 && block == state.pointee.openBlock - 1
            && block != state.pointee.confirmingBlock
            && (state.pointee.phase == .idle || block > state.pointee.sealedThrough)
    }

    private func begin(block: UInt64) -> JournalAction {
        state.pointee.writingBuffers |= bit(of: block)
        state.pointee.inFlight += 1
        let tellsOwn =
            state.pointee.isDataFirst && state.pointee.phase == .writing
            && block == state.pointee.sealedThrough
        let buffer = Self.buffer(of: block)
        state.pointee.toldTail[buffer] = state.pointee.tail
        state.pointee.toldCommit[buffer] =
            tellsOwn ? state.pointee.sealedCommit : state.pointee.durableCommit
        let facts = BlockFacts(
            tail: state.pointee.tail,
            trustedThrough: tellsOwn ? block : state.pointee.committedBlock,
            durableThrough: state.pointee.committedBlock)
        return .writeBlock(
            block, facts, isConfirmation: block == state.pointee.confirmingBlock)
    }

    func blockWritten(buffer: Int, isWell: Bool) {
        let place = UInt64(1) << UInt64(buffer)
        precondition(state.pointee.writingBuffers & place != 0, "a block ended that was not begun")
        state.pointee.writingBuffers &= ~place
        state.pointee.inFlight -= 1
        let isConfirmation =
            state.pointee.confirmingBlock != 0
            && Self.buffer(of: state.pointee.confirmingBlock) == buffer
        guard isWell else {
            state.pointee.isFailing = true
            state.pointee.hasNews = true
            if isConfirmation { state.pointee.confirmingBlock = 0 }
            if state.pointee.phase == .writing || state.pointee.phase == .confirming {
                commitFailed()
            }
            if state.pointee.phase == .idle { giveUpConfirmation() }
            return
        }
        state.pointee.blocksWritten += 1
        state.pointee.writtenBuffers |= place
        state.pointee.writtenCommit = max(
            state.pointee.writtenCommit, state.pointee.toldCommit[buffer])
        state.pointee.writtenTail = max(state.pointee.writtenTail, state.pointee.toldTail[buffer])
        while state.pointee.firstUnwritten < state.pointee.openBlock,
            state.pointee.writtenBuffers & bit(of: state.pointee.firstUnwritten) != 0
        {
            state.pointee.writtenBuffers &= ~bit(of: state.pointee.firstUnwritten)
            inOrder()
            state.pointee.firstUnwritten += 1
        }
        if isConfirmation { confirmed(buffer) }
        state.pointee.hasNews = true
    }
}

// MARK: - Commits

extension Journal {
    private func beginCommit() -> JournalAction? {
        guard state.pointee.wanted > max(state.pointee.committed, state.pointee.failed) else {
            return nil
        }
        if state.pointee.isToBeRetried { return retryCommit() }
        let tellsTail =
            state.pointee.tail > state.pointee.durableTail && isShort
        // Overwritten or not, without a record there is nothing recovery could doubt.
        // (What is needed is not forgotten here: if there is no room, overwriting goes on relying
        // on it.)
        let isDataFirst =
            state.pointee.needsDataFirst && state.pointee.uncommittedRecords > 0
        let needsBlock =
            state.pointee.openRecords > 0 || tellsTail && !lastSealedIsUntold
        let hasRoom = canSealOpenBlock(leaving: tellsTail ? 0 : 2)
        if needsBlock, !hasRoom {
            state.pointee.isStarved = true
            return nil
        }
        // Without room for it, its confirmation says that the data is there.
        let tellsData = isDataFirst && hasRoom && !lastSealedIsUntold
        // Commit after commit without a record may leave no time for a confirmation by itself.
        let confirms =
            state.pointee.wantsConfirmation && !lastSealedIsUntold
            && state.pointee.durableCommit > state.pointee.confirmed
        if needsBlock || tellsData || confirms && canSealOpenBlock(leaving: 3) {
            sealOpenBlock()
        }
        state.pointee.sealedThrough = state.pointee.openBlock - 1
        state.pointee.isDataFirst = isDataFirst
        state.pointee.isOverwritten = false
        state.pointee.sealedRecords = state.pointee.uncommittedRecords
        state.pointee.sealedCommit = state.pointee.openCommit
        // From here on it is under way, whoever goes on with it.
        inOrder()
        state.pointee.phase = .writing
        inOrder()
        openCommitBehindSealed()
        return startWriting()
    }

    /// Whether the last sealed block is not on its way to the device yet: it can still be given
    /// something to say.
    private var lastSealedIsUntold: Bool {
        let last = state.pointee.openBlock - 1
        let busy = state.pointee.writingBuffers | state.pointee.writtenBuffers
        return last >= state.pointee.firstUnwritten && last != state.pointee.confirmingBlock
            && busy & bit(of: last) == 0
    }

    /// What was to be minded is the sealed commit's now.
    func openCommitBehindSealed() {
        state.pointee.needsDataFirst = false
        state.pointee.uncommittedRecords = 0
        inOrder()
        openNextCommit()
    }

    func openNextCommit() {
        let next = state.pointee.openCommit + 1
        // A stamp of 0 means that there is no record.
        state.pointee.openCommit = next & 0xffff == 0 ? next + 1 : next
        updateWindow()
    }

    /// The failed one again, with the blocks it has.
    private func retryCommit() -> JournalAction {
        state.pointee.phase = .writing
        inOrder()
        state.pointee.isToBeRetried = false
        return startWriting()
    }

    private func startWriting() -> JournalAction {
        for index in 0..<Self.pageBuffers where state.pointee.pages[index].phase == .failed {
            state.pointee.pages[index].phase = .waiting
        }
        let isLastUnwritten = state.pointee.firstUnwritten <= state.pointee.sealedThrough
        guard state.pointee.isDataFirst, isLastUnwritten else { return nextAction() }
        state.pointee.phase = .flushingData
        state.pointee.inFlight += 1
        state.pointee.flushes += 1
        return .flush
    }

    private func beginFlush() -> JournalAction {
        state.pointee.phase = .flushing
        state.pointee.inFlight += 1
        state.pointee.flushes += 1
        state.pointee.flushedCommit = state.pointee.writtenCommit
        state.pointee.flushedTail = state.pointee.writtenTail
        for index in 0..<Self.pageBuffers where state.pointee.pages[index].phase == .written {
            state.pointee.pages[index].phase = .flushing
        }
        return .flush
    }

    func flushed(isWell: Bool) {
        state.pointee.inFlight -= 1
        guard isWell else {
            state.pointee.isFailing = true
            commitFailed()
            giveUpConfirmation()
            return
        }
        guard state.pointee.phase == .flushing else {
            precondition(state.pointee.phase == .flushingData, "a flush ended that nobody began")
            state.pointee.phase = .writing
            return
        }
        let hadRecords = state.pointee.sealedRecords > 0
        state.pointee.committedBlock = state.pointee.sealedThrough
        // What a block says must not be less than what is noted that it says.
        inOrder()
        state.pointee.durableCommit = state.pointee.sealedCommit
        state.pointee.durableTail = max(
            state.pointee.durableTail, state.pointee.flushedTail)
        state.pointee.confirmed = max(state.pointee.confirmed, state.pointee.flushedCommit)
        let wasConfirmed = state.pointee.confirmed == state.pointee.committed
        // Recovery must not compare the data, and no block says so yet.
        if hadRecords, state.pointee.isOverwritten || state.pointee.isDataFirst,
            state.pointee.confirmed < state.pointee.sealedCommit
        {
            state.pointee.phase = .confirming
            return
        }
        if !hadRecords, wasConfirmed { state.pointee.confirmed = state.pointee.sealedCommit }
        commitEnded()
    }

    private func commitEnded() {
        state.pointee.committed = state.pointee.sealedCommit
        state.pointee.isFailing = false
        inOrder()
        state.pointee.phase = .idle
        if state.pointee.confirmed == state.pointee.committed {
            state.pointee.wantsConfirmation = false
        }
        state.pointee.hasNews = true
        updateWindow()
    }

    /// Whoever waits for it asks again, and gets an error: it is tried once for each who asks.
    private func giveUpConfirmation() {
        state.pointee.wantsConfirmation = false
        // One that is on its way may still come to something: it takes no other place.
        let block = state.pointee.confirmingBlock
        if block != 0, state.pointee.writingBuffers & bit(of: block) == 0 {
            state.pointee.confirmingBlock = 0
        }
    }

    /// Whoever waits for it, or for the one behind it, gets an error.
    private func commitFailed() {
        state.pointee.isToBeRetried = true
        inOrder()
        state.pointee.phase = .idle
        inOrder()
        state.pointee.failed = state.pointee.openCommit
        openNextCommit()
        state.pointee.hasNews = true
        for index in 0..<Self.pageBuffers where state.pointee.pages[index].phase == .flushing {
            state.pointee.pages[index].phase = .written
        }
    }

    /// A block of its own says that what is committed is durable with its data.
    private func beginConfirmation() {
        guard state.pointee.confirmingBlock == 0 else { return }
        guard state.pointee.durableCommit > state.pointee.confirmed else {
            state.pointee.wantsConfirmation = false
            return
        }
        // One that failed before, perhaps.
        let last = state.pointee.openBlock - 1
        if last > state.pointee.sealedThrough, last >= state.pointee.firstUnwritten,
            (state.pointee.writingBuffers | state.pointee.writtenBuffers) & bit(of: last) == 0
        {
            state.pointee.confirmingBlock = last
            return
        }
        guard canSealOpenBlock(leaving: state.pointee.phase == .confirming ? 1 : 3) else {
            state.pointee.isStarved = true
            return
        }
        state.pointee.confirmingBlock = state.pointee.openBlock
        inOrder()
        sealOpenBlock()
    }

    private func confirmed(_ buffer: Int) {
        state.pointee.confirmingBlock = 0
        state.pointee.wantsConfirmation = false
        state.pointee.confirmed = max(
            state.pointee.confirmed, state.pointee.toldCommit[buffer])
        state.pointee.durableTail = max(
            state.pointee.durableTail, state.pointee.toldTail[buffer])
        updateWindow()
        // It may have been on its way since before that commit.
        if state.pointee.phase == .confirming,
            state.pointee.confirmed >= state.pointee.sealedCommit
        {
            commitEnded()
        }
    }
}

// MARK: - Checkpoint

extension Journal {
    private func pageToWrite() -> Int? {
        guard state.pointee.pagesInUse > 0, !state.pointee.isFailing else { return nil }
        return (0..<Self.pageBuffers).first {
            state.pointee.pages[$0].phase == .waiting
                && state.pointee.pages[$0].commit <= state.pointee.committed
        }
    }

    /// Makes room while more than five eighths of the places are needed.
    private func checkpointAction() -> JournalAction? {
        // Before, they wait for the commit of somebody's FLUSH, which costs nothing more.
        if isShort, !state.pointee.isFailing,
            state.pointee.tail > state.pointee.durableTail || hasWaitingPages
        {
            state.pointee.wanted = max(state.pointee.wanted, state.pointee.openCommit)
        }
        let used = state.pointee.openBlock - state.pointee.tail
        guard used > blockCount / 8 * 5 else { return nil }
        let set = state.pointee.listFirst
        if set != JournalState.noSet, !listed(set).pageIsBeingWritten,
            let place = pages(in: .free)
        {
            takeFirstListed(set, place)
            return .copyPage(set, place)
        }
        return nil
    }

    /// Pages that a commit would bring further.
    private var hasWaitingPages: Bool {
        guard state.pointee.pagesInUse > 0 else { return false }
        return (0..<Self.pageBuffers).contains {
            let phase = state.pointee.pages[$0].phase
            return phase == .waiting || phase == .written || phase == .failed
        }
    }

    private func takeFirstListed(_ set: UInt32, _ place: Int) {
        let listed = listed(set)
        state.pointee.listFirst = listed.nextListed
        if state.pointee.listFirst == JournalState.noSet {
            state.pointee.listLast = JournalState.noSet
        }
        listed.pageIsBeingWritten = true
        // Until it is copied it waits for a commit that never comes.
        state.pointee.pages[place] = PageWrite(
            phase: .waiting, isOlder: listed.isOlder, set: set,
            firstBlock: listed.listedBlock, commit: .max)
        listed.isOlder = false
        state.pointee.pagesInUse += 1
    }

    /// The set has its first record since its page was copied. Both locks are held.
    func list(_ set: UInt32) {
        listAtLast(set, firstBlock: state.pointee.openBlock)
        if state.pointee.openBlock - state.pointee.tail > blockCount / 8 * 5 { callAttention() }
    }

    func listAtLast(_ set: UInt32, firstBlock: UInt64) {
        let listed = listed(set)
        listed.listedBlock = firstBlock
        listed.nextListed = JournalState.noSet
        if state.pointee.listLast == JournalState.noSet {
            state.pointee.listFirst = set
        } else {
            self.listed(state.pointee.listLast).nextListed = set
        }
        state.pointee.listLast = set
    }

    func pageWritten(_ index: Int, isWell: Bool) {
        precondition(state.pointee.pages[index].phase == .writing)
        state.pointee.inFlight -= 1
        state.pointee.pages[index].phase = isWell ? .written : .failed
        if isWell {
            state.pointee.pagesWritten += 1
        } else {
            state.pointee.isFailing = true
            state.pointee.hasNews = true
        }
    }

    func release(page index: Int) {
        if state.pointee.pages[index].isOlder { state.pointee.olderSets -= 1 }
        listed(state.pointee.pages[index].set).pageIsBeingWritten = false
        state.pointee.pages[index] = PageWrite()
        state.pointee.pagesInUse -= 1
    }

    func advanceTail() {
        if state.pointee.mayHaveOlderSets || state.pointee.olderSets > 0 { return }
        var tail = state.pointee.openBlock
        if state.pointee.listFirst != JournalState.noSet {
            tail = min(tail, listed(state.pointee.listFirst).listedBlock)
        }
        for index in 0..<Self.pageBuffers where state.pointee.pages[index].phase != .free {
            tail = min(tail, state.pointee.pages[index].firstBlock)
        }
        precondition(tail >= state.pointee.tail, "the journal's tail went back")
        state.pointee.tail = tail
    }

    func listed(_ set: UInt32) -> ListedSet {
        ListedSet(sidecars + Int(set) * SetSidecar.byteCount)
    }
}
