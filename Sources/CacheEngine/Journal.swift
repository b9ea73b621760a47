import CSpin
import CacheFormat
import Synchronization

/// What the journal of one cache is about to tell the cache device: records that are not written
/// yet, which of them are durable, and what that allows. Shared by all workers; in the memory
/// image, so that it outlives the process.
///
/// A *commit* makes durable all that was recorded before it, together with its data. One is under
/// way at a time. A record belongs to the commit that is open when it is made. Commits and blocks
/// are counted; a number, once given, never means anything else in this session.
///
/// Invariants, all under the journal's lock:
/// 1. `tail` ≤ every block with a record that no durable set page includes. A place is used again
///    only when a durable block says that its former block is not needed.
/// 2. *Committed* is what is durable with its data: promises may be made. *Confirmed* is what
///    recovery knows to be durable with its data, from a later block: of what is committed and not
///    confirmed recovery compares checksums, so such data must not be overwritten.
/// 3. Nobody makes a record without a reservation, and there is room for every reservation: a
///    record, once its write has ended, is never refused.
///
/// 4. A process may die between any two stores to this memory, and another one goes on with it
///    (`goOn`): wherever the meaning of a store depends on one before it, `inOrder` is between.
///
/// The order of locks: a set's lock first, then this one.
public struct Journal: @unchecked Sendable {
    static let blockBuffers = 64
    static let pageBuffers = 64
    /// Bytes of memory: the state, the blocks not written yet, copies of set pages being written.
    public static let byteCount = (1 + blockBuffers + pageBuffers) * Geometry.blockBytes
    static let workerNone: Int32 = -1

    public let base: UnsafeMutableRawPointer
    /// Places on the device.
    let blockCount: UInt64
    /// The sidecars of all sets.
    let sidecars: UnsafeMutableRawPointer

    var state: UnsafeMutablePointer<JournalState> {
        base.assumingMemoryBound(to: JournalState.self)
    }

    init(
        _ start: JournalStart, blockCount: UInt64, pages: UnsafeMutableRawPointer,
        sidecars: UnsafeMutableRawPointer
    ) {
        precondition(MemoryLayout<JournalState>.size <= Geometry.blockBytes)
        self.blockCount = blockCount
        self.sidecars = sidecars
        switch start {
        case .anew(let memory, let session):
            base = memory
            // A block of an earlier use must not look like one that this use had begun.
            memory.initializeMemory(as: UInt8.self, repeating: 0, count: Self.byteCount)
            state.initialize(to: JournalState(session: session))
            block(1).begin(session: session, sequence: 1)
        case .goingOn(let memory):
            base = memory
            goOn(pages)
        }
    }

    func block(_ sequence: UInt64) -> JournalBlockView {
        JournalBlockView(base: base + (1 + Self.buffer(of: sequence)) * Geometry.blockBytes)
    }

    static func buffer(of sequence: UInt64) -> Int { Int(sequence % UInt64(blockBuffers)) }

    func pageCopy(_ index: Int) -> SetPageView {
        SetPageView(base: base + (1 + Self.blockBuffers + index) * Geometry.blockBytes)
    }

    /// Changes when a commit begins.
    @inline(__always) public var openCommitMark: UInt16 {
        UInt16(truncatingIfNeeded: state.pointee.window.load(ordering: .relaxed))
    }

    /// Where a metadata buffer of a command is.
    public func address(metadata index: UInt32) -> UnsafeMutableRawPointer {
        precondition(index < Self.blockBuffers + Self.pageBuffers)
        return base + (1 + Int(index)) * Geometry.blockBytes
    }
}

/// How the journal of a cache begins, in memory of `Journal.byteCount` bytes, aligned to 4096.
public enum JournalStart {
    /// Empty. `session` tells its blocks from all others, which are void.
    case anew(UnsafeMutableRawPointer, session: UInt64)
    /// As a process that died has left it.
    case goingOn(UnsafeMutableRawPointer)
}

/// What the journal knows. Plain numbers, all guarded by `lock` but the two atomics.
struct JournalState: ~Copyable {
    let lock = Atomic<UInt32>(0)
    /// There may be something to do for whoever owns the journal's I/O.
    let attention = Atomic<UInt32>(0)
    /// See `CommitWindow`.
    let window = Atomic<UInt64>(CommitWindow(open: 1, confirmed: 0, committed: 0).rawValue)
    let session: UInt64

    // Blocks.
    /// The one being filled.
    var openBlock: UInt64 = 1
    var openRecords = 0
    /// Those before it are written, this one is not.
    var firstUnwritten: UInt64 = 1
    /// Of `firstUnwritten` and the 63 behind it, by buffer: being written; written.
    var writingBuffers: UInt64 = 0
    var writtenBuffers: UInt64 = 0
    /// Blocks up to here are durable with their data.
    var committedBlock: UInt64 = 0
    /// The oldest block with records that no durable page includes.
    var tail: UInt64 = 1
    /// The tail that the newest durable block tells.
    var durableTail: UInt64 = 1
    /// Records that may still be made by writes under way.
    var reserved = 0

    // Commits.
    var openCommit: UInt64 = 1
    var committed: UInt64 = 0
    var confirmed: UInt64 = 0
    /// The newest commit that failed.
    var failed: UInt64 = 0
    /// The newest commit somebody waits for.
    var wanted: UInt64 = 0
    /// Somebody waits for `confirmed` to reach `committed`.
    var wantsConfirmation = false
    /// The open commit has records without checksums, or whose data was overwritten since.
    var needsDataFirst = false

    /// Records of the open commit.
    var uncommittedRecords = 0

    // The commit under way.
    var phase = CommitPhase.idle
    var sealedCommit: UInt64 = 0
    var sealedThrough: UInt64 = 0
    var sealedRecords = 0
    /// Its data was flushed before its last block is written, which says so.
    var isDataFirst = false
    /// Data of its records was overwritten since: recovery must not compare it.
    var isOverwritten = false
    /// It failed, and is done again before any other: so failures use up no places.
    var isToBeRetried = false
    /// The block that is written, with FUA, to confirm what is committed; 0 if none is.
    var confirmingBlock: UInt64 = 0
    /// The newest commit that is durable with its data, whether or not anybody has been told.
    var durableCommit: UInt64 = 0
    // What blocks tell of tail and commits: those being written, by buffer; the newest of those
    // written; of those, what was written before the flush under way.
    var toldTail = InlineArray<64, UInt64>(repeating: 1)
    var toldCommit = InlineArray<64, UInt64>(repeating: 0)
    var writtenTail: UInt64 = 1
    var writtenCommit: UInt64 = 0
    var flushedTail: UInt64 = 1
    var flushedCommit: UInt64 = 0

    // I/O.
    /// The worker whose engine does the journal's I/O, while some is under way.
    var owner = Journal.workerNone
    var inFlight = 0
    /// A write or a flush failed since the last one that ended well: nothing is tried again but
    /// with the next commit, and who finds no room gets an error.
    var isFailing = false
    /// Something could not be done for lack of room.
    var isStarved = false
    /// Those who wait are to be told.
    var hasNews = false
    /// Workers to tell when a commit ends or room is made, a bit each.
    var waiters: UInt64 = 0
    /// The set whose page and journal are being changed together, plus one; 0 if none. If the
    /// process dies in between, the next one completes the change from the last record.
    var changingSet: UInt32 = 0

    // Sets with records that no page being written includes, in the order of the first of them.
    var listFirst = JournalState.noSet
    var listLast = JournalState.noSet
    /// Sets whose first record is older than this process: while there are any, or any set is not
    /// adopted, the list has no order and the tail stays.
    var olderSets = 0
    var mayHaveOlderSets = false
    /// Pages being written: which have a copy, are on their way, written, durable.
    var pages = InlineArray<64, PageWrite>(repeating: PageWrite())
    var pagesInUse = 0

    // Counts, for whoever wants to know.
    var blocksWritten: UInt64 = 0
    var pagesWritten: UInt64 = 0
    var flushes: UInt64 = 0
    var recordsMade: UInt64 = 0

    static let noSet = UInt32.max

    init(session: UInt64) { self.session = session }
}

enum CommitPhase: UInt8 {
    case idle
    /// The cache device is flushed before the last block is written.
    case flushingData
    /// Its blocks are being written.
    case writing
    case flushing
    /// Its data was overwritten meanwhile: a block that confirms it is being written.
    case confirming
}

/// A set page on its way to the device.
struct PageWrite {
    enum Phase: UInt8 { case free, waiting, writing, written, flushing, failed }

    var phase = Phase.free
    /// Its first record is older than this process.
    var isOlder = false
    var set: UInt32 = 0
    /// The block of the first record that it includes and the device's page does not.
    var firstBlock: UInt64 = 0
    /// The commit that has the newest record it includes.
    var commit: UInt64 = 0
}

/// Which commits are open, confirmed, committed, as differences of 16 bits: enough to judge the
/// stamp of a way without a lock.
struct CommitWindow {
    let rawValue: UInt64

    @inline(__always) init(rawValue: UInt64) { self.rawValue = rawValue }

    init(open: UInt64, confirmed: UInt64, committed: UInt64) {
        let width: (UInt64) -> UInt64 = { min(open - $0, 0xffff) }
        rawValue = open & 0xffff | width(confirmed) << 16 | width(committed) << 32
    }

    /// A stamp 65536 commits old looks new; then somebody waits for nothing, once. What is further
    /// back than can be told counts as within, too.
    @inline(__always) private func isWithin(_ stamp: UInt16, _ width: UInt64) -> Bool {
        let width = UInt16(truncatingIfNeeded: width)
        return stamp != 0
            && (UInt16(truncatingIfNeeded: rawValue) &- stamp < width || width == .max)
    }
    @inline(__always) func isUnconfirmed(_ stamp: UInt16) -> Bool {
        isWithin(stamp, rawValue >> 16)
    }
    @inline(__always) func isUncommitted(_ stamp: UInt16) -> Bool {
        isWithin(stamp, rawValue >> 32)
    }
}

// MARK: - The lock

extension Journal {
    func lock() {
        while true {
            for _ in 0..<64 {
                if state.pointee.lock.load(ordering: .relaxed) == 0,
                    state.pointee.lock.exchange(1, ordering: .acquiring) == 0
                {
                    return
                }
                ucas_pause()
            }
            ucas_yield()
        }
    }

    func unlock() { state.pointee.lock.store(0, ordering: .releasing) }

    @inline(__always) func locked<Result>(_ body: () -> Result) -> Result {
        lock()
        defer { unlock() }
        return body()
    }

    @inline(__always) var window: CommitWindow {
        CommitWindow(rawValue: state.pointee.window.load(ordering: .relaxed))
    }

    func updateWindow() {
        // If all that is not confirmed belongs to the open commit, and that flushes its data first
        // anyway, overwriting it changes nothing.
        let isFree =
            state.pointee.needsDataFirst && state.pointee.phase == .idle
            && !state.pointee.isToBeRetried
            && state.pointee.committed == state.pointee.confirmed
        let window = CommitWindow(
            open: state.pointee.openCommit,
            confirmed: isFree ? state.pointee.openCommit : state.pointee.confirmed,
            committed: state.pointee.committed)
        state.pointee.window.store(window.rawValue, ordering: .releasing)
    }

    /// What is stored before this is there when what is stored behind it is.
    @inline(__always) func inOrder() { atomicMemoryFence(ordering: .releasing) }

    func callAttention() { state.pointee.attention.store(1, ordering: .releasing) }
}

// MARK: - Room

extension Journal {
    /// Places no reservation may use, but commits and checkpoints may.
    private var slack: UInt64 { max(4, blockCount / 8) }

    /// Places that no needed block has, the open one's not counted.
    var freePlaces: UInt64 {
        blockCount - (state.pointee.openBlock - state.pointee.durableTail) - 1
    }

    /// Room must be made, and be it by a commit of its own.
    var isShort: Bool { freePlaces < max(2 * slack, blockCount / 4) }

    private var freeBuffers: UInt64 {
        UInt64(Self.blockBuffers) - (state.pointee.openBlock - state.pointee.firstUnwritten) - 1
    }

    /// Sees to it that `count` records can be made later; false if there is no room now. The
    /// worker is told when there may be.
    func reserve(_ count: Int, worker: Int) -> JournalRoom {
        locked {
            let places = freePlaces > slack ? freePlaces - slack : 0
            let room = Int(min(places, freeBuffers)) * JournalLayout.recordsMax
            guard state.pointee.reserved + count > room else {
                state.pointee.reserved += count
                return .reserved
            }
            if state.pointee.isFailing {
                // Whoever tries finds out whether the device is well again.
                want(state.pointee.openCommit)
                return .failing
            }
            state.pointee.isStarved = true
            wait(worker)
            callAttention()
            return .full
        }
    }

    /// Gives back reservations that were not needed.
    func unreserve(_ count: Int) {
        guard count > 0 else { return }
        locked { reservationEnded(count) }
    }

    func reservationEnded(_ count: Int) {
        precondition(state.pointee.reserved >= count, "a record was made without a reservation")
        state.pointee.reserved -= count
        if state.pointee.isStarved {
            state.pointee.isStarved = false
            state.pointee.hasNews = true
            callAttention()
        }
    }

    /// Whether the open block may be sealed although it is not full. The lock is held.
    ///
    /// The rest of it is lost, but every reservation must keep its room. When room is short no new
    /// reservation is given, and the last places are for a commit of the last records, which leaves
    /// two; for its confirmation, which leaves one; and for the block that tells the new tail. A
    /// confirmation without a commit can wait for more room, and leaves three.
    func canSealOpenBlock(leaving rest: UInt64) -> Bool {
        let perBlock = JournalLayout.recordsMax
        let reserved = UInt64((state.pointee.reserved + perBlock - 1) / perBlock)
        guard freeBuffers > reserved else { return false }
        if reserved > 0 { return freePlaces >= reserved + 4 }
        return freePlaces > rest
    }

    func wait(_ worker: Int) { state.pointee.waiters |= 1 << UInt64(worker) }
}

enum JournalRoom {
    case reserved, full, failing
}

// MARK: - Records

extension Journal {
    /// Adds a record; the lock is held, and a reservation is used up. Returns the stamp of its
    /// commit.
    func append(_ record: JournalRecord) -> UInt16 {
        reservationEnded(1)
        if state.pointee.openRecords == JournalLayout.recordsMax { sealOpenBlock() }
        // Before: a process that dies in between leaves a record that is protected.
        if record.granules != 0, record.checksum == nil { needDataFirst() }
        inOrder()
        block(state.pointee.openBlock).append(record)
        inOrder()
        state.pointee.openRecords += 1
        state.pointee.uncommittedRecords += 1
        state.pointee.recordsMade += 1
        return UInt16(truncatingIfNeeded: state.pointee.openCommit)
    }

    /// The open block gets no more records; it is to be written.
    func sealOpenBlock() {
        precondition(freeBuffers > 0 && freePlaces > 0, "no room for a journal block")
        state.pointee.openBlock += 1
        state.pointee.openRecords = 0
        block(state.pointee.openBlock).begin(
            session: state.pointee.session, sequence: state.pointee.openBlock)
        // Recovery reads the data of what is not committed: not too much.
        if state.pointee.openBlock - state.pointee.committedBlock > UInt64(Self.blockBuffers) {
            state.pointee.wanted = max(state.pointee.wanted, state.pointee.openCommit)
        }
        callAttention()
    }
}

// MARK: - Promises

/// How it is with a commit somebody waits for.
enum CommitOutcome {
    case pending, done, failed
}

/// What an overwriting of recorded data in place has to mind.
enum OverwriteVerdict {
    case allowed
    /// Recovery may still compare what is there with its checksum: wait for the journal.
    case mustWait
    /// As before, but the journal cannot be written.
    case failing
}

extension Journal {
    /// The commit that will make everything durable that was written up to now. The worker is
    /// told when it ends.
    func joinCommit(worker: Int) -> UInt64 {
        locked {
            let commit = state.pointee.openCommit
            want(commit)
            wait(worker)
            return commit
        }
    }

    /// The lock is held.
    func want(_ commit: UInt64) {
        state.pointee.wanted = max(state.pointee.wanted, commit)
        callAttention()
    }

    func outcome(_ commit: UInt64) -> CommitOutcome {
        if state.pointee.committed >= commit { return .done }
        return state.pointee.failed >= commit ? .failed : .pending
    }

    private func needDataFirst() {
        guard !state.pointee.needsDataFirst else { return }
        state.pointee.needsDataFirst = true
        updateWindow()
    }

    /// Data with a record of an unconfirmed commit is about to be overwritten in place.
    func mayOverwrite(worker: Int) -> OverwriteVerdict {
        locked {
            if state.pointee.committed > state.pointee.confirmed {
                state.pointee.wantsConfirmation = true
                callAttention()
                if state.pointee.isFailing { return .failing }
                wait(worker)
                return .mustWait
            }
            needDataFirst()
            if state.pointee.phase != .idle || state.pointee.isToBeRetried {
                state.pointee.isOverwritten = true
            }
            return .allowed
        }
    }
}
