public import CacheFormat

/// Finds out, after a power cut, which lines are dirty: from the set pages on the device and the
/// journal behind them. The caller reads; this decides.
///
/// Steps, in this order: `choosePage` for every set; `scan` for every place of the journal;
/// `planReplay`; `replay` for each block of the plan; `finish`.
///
/// Nothing is believed for being there: every way in which what is read could be older than what
/// was promised is told from what a power cut may leave, and reported as damage.
/// - A journal block after which nothing follows may be torn; then its sectors are whole, of the
///   old and of the new block. A sector that is not whole was damaged. What a later block said
///   may be needed although nothing leads to it: a confirmation is durable at once.
/// - A page that was being written may be torn; then the journal still has the record that follows
///   the other copy. If the record is not there, the copy that is left is too old.
/// - Records of a set are numbered: none may be missing.
/// Recovery only reads and computes; done again, also after some of its results were written, it
/// comes to the same.
public struct Recovery: ~Copyable {
    private let geometry: Geometry
    private let session: UInt64
    private let epoch: UInt64
    private let pages: UnsafeMutableRawPointer

    private enum SetFlag {
        /// One copy of its page is not as it should be; the other one may be too old.
        static let isSuspect: UInt8 = 1
        /// Records were applied: the page in memory is newer than the device's.
        static let isReplayed: UInt8 = 2
        static let isDamaged: UInt8 = 4
        static let isEmptied: UInt8 = 8
    }
    private var flags: [UInt8]
    /// By place: the sequence of the session's block there, 0 for none.
    private var sequences: [UInt64]
    /// By place, of what was damaged: the newest block of the session that a sector tells of.
    private var damagedPlaces: [UInt64: UInt64] = [:]
    private var newest: UInt64 = 0
    private var impossibleBlock: UInt64?
    private var tail: UInt64 = 1
    private var trustedThrough: UInt64 = 0
    private var durableThrough: UInt64 = 0
    public private(set) var report = RecoveryReport()

    /// `pages`: memory for `setCount` pages, which it fills.
    public init(
        geometry: Geometry, epoch: UInt64, session: UInt64, pages: UnsafeMutableRawPointer
    ) {
        self.geometry = geometry
        self.epoch = epoch
        self.session = session
        self.pages = pages
        flags = [UInt8](repeating: 0, count: Int(geometry.setCount))
        sequences = [UInt64](repeating: 0, count: Int(geometry.journalBlockCount))
    }

    private func page(_ set: UInt64) -> SetPageView {
        SetPageView(base: pages + Int(set) * SetPageLayout.byteCount)
    }
}

/// What recovery found.
public struct RecoveryReport: Equatable, Sendable {
    public var journalBlocks: UInt64 = 0
    public var journalRecords: UInt64 = 0
    /// Records whose data had not reached the device: nobody had been promised it.
    public var recordsDropped: UInt64 = 0
    /// Records whose data was read and compared.
    public var recordsCompared: UInt64 = 0
    public var dirtyLines: UInt64 = 0
    public var dirtyBytes: UInt64 = 0
    public var cleanLinesDropped: UInt64 = 0
    /// Sets whose pages must be written before the journal may go on.
    public var replayedSets: UInt64 = 0
    /// Sets of which nothing can be said.
    public var damagedSets: [UInt64] = []
    /// Places of the journal that hold nothing that was ever written: to be emptied when this
    /// journal is void, or they are damage of the next one, too.
    public var damagedJournalPlaces: [UInt64] = []
    /// Pages and journal are whole, but together do not say what the stop had noted: something
    /// that was written is not there.
    public var isNotAsStopped = false
}

/// Why the journal cannot be replayed.
public enum JournalDamage: Error, Equatable, Sendable {
    /// This block was durable and is not there any more.
    case missing(block: UInt64)
    /// What is at the place of this block is nothing that was ever written.
    case unreadable(block: UInt64)
    /// A block that is whole says something that cannot be.
    case impossible(block: UInt64)
}

// MARK: - Pages

extension Recovery {
    /// Takes the newer of the two copies of a set's page.
    public mutating func choosePage(
        set: UInt64, _ slot0: UnsafeMutableRawPointer, _ slot1: UnsafeMutableRawPointer
    ) {
        let copies = [SetPageView(base: slot0), SetPageView(base: slot1)]
        let contents = copies.map { $0.validate(set: set, epoch: epoch) }
        var chosen: Int?
        for slot in 0...1 {
            guard case .valid(let sequence) = contents[slot] else { continue }
            // Sequence numbers and slots go together: anything else was not written by this cache.
            guard Int(sequence & 1) == slot, hasPlausibleStates(copies[slot]) else {
                flags[Int(set)] |= SetFlag.isSuspect
                continue
            }
            if let other = chosen, copies[other].sequence > sequence { continue }
            chosen = slot
        }
        guard let chosen else {
            flags[Int(set)] |= SetFlag.isDamaged
            page(set).makeEmpty(set: set, epoch: epoch)
            return
        }
        page(set).base.copyMemory(from: copies[chosen].base, byteCount: SetPageLayout.byteCount)
        // Formatting has written both.
        if case .valid = contents[1 - chosen] { return }
        flags[Int(set)] |= SetFlag.isSuspect
    }

    private func hasPlausibleStates(_ page: SetPageView) -> Bool {
        (0..<SetPageLayout.ways).allSatisfy {
            let state = page.state($0)
            return state.rawValue >> 32 == 0 && state.dirty & ~state.valid == 0
        }
    }
}

// MARK: - The journal

extension Recovery {
    /// Looks at what is at a place of the journal, 0 to `journalBlockCount` - 1.
    public mutating func scan(place: UInt64, _ block: JournalBlockView) {
        switch block.validate() {
        case .damaged: damagedPlaces[place] = block.newestTold(session: session) ?? .max
        case .torn: break
        case .whole(let session, let sequence):
            guard session == self.session, sequence > 0,
                sequence % geometry.journalBlockCount == place
            else { return }
            sequences[Int(place)] = sequence
            trustedThrough = max(trustedThrough, block.trustedThrough)
            durableThrough = max(durableThrough, block.durableThrough)
            if block.tail == 0 { impossibleBlock = sequence }
            newest = max(newest, sequence)
            // A block may be told a later one than those behind it: it is true whoever tells it.
            tail = max(tail, block.tail)
        }
    }

    /// The blocks to `replay`, in this order.
    public func planReplay() throws(JournalDamage) -> Range<UInt64> {
        if let impossibleBlock { throw .impossible(block: impossibleBlock) }
        guard tail <= newest + 1, newest + 1 - tail <= geometry.journalBlockCount else {
            throw .impossible(block: newest)
        }
        var end = tail
        while end <= newest, sequences[Int(end % geometry.journalBlockCount)] == end { end += 1 }
        if end <= durableThrough { throw .missing(block: end) }
        if let block = damagedBlock(from: end) { throw .unreadable(block: block) }
        return tail..<end
    }

    /// Where the journal is damaged and loss is accepted, instead of `planReplay`: all blocks that
    /// are left, in order, but for those behind one that never was durable. A set of which a
    /// record in between is missing turns out damaged; one whose last record is missing is as it
    /// was before that, which nobody can tell.
    public func blocksLeft() -> [Range<UInt64>] {
        let places = geometry.journalBlockCount
        guard tail <= newest, newest + 1 - tail <= places else { return [] }
        var left: [Range<UInt64>] = []
        for block in tail...newest {
            let place = block % places
            guard sequences[Int(place)] == block else {
                if block > durableThrough, damagedPlaces[place] == nil { break }
                continue
            }
            if let last = left.last, last.upperBound == block {
                left[left.count - 1] = last.lowerBound..<block + 1
            } else {
                left.append(block..<block + 1)
            }
        }
        return left
    }

    /// A damaged block that may have said something behind those before `end`.
    private func damagedBlock(from end: UInt64) -> UInt64? {
        let places = geometry.journalBlockCount
        let lost = damagedPlaces.filter { $0.value >= end }
        return lost.map { place, told in
            told == .max ? end + (place + places - end % places) % places : told
        }.min()
    }

    /// Applies a block's records. `dataChecksum` reads those granules of the line at an offset of
    /// the cache device and gives their CRC-32C, in order; nil if they cannot be read.
    public mutating func replay(
        _ block: JournalBlockView,
        dataChecksum: (_ deviceOffset: UInt64, _ granules: UInt16) -> UInt32?
    ) throws(JournalDamage) {
        report.journalBlocks += 1
        for index in 0..<block.recordCount {
            guard let record = block.record(at: index, setCount: geometry.setCount) else {
                throw .impossible(block: block.sequence)
            }
            apply(record, isDoubtful: block.sequence > trustedThrough, dataChecksum)
        }
    }

    private mutating func apply(
        _ record: JournalRecord, isDoubtful: Bool,
        _ dataChecksum: (_ deviceOffset: UInt64, _ granules: UInt16) -> UInt32?
    ) {
        let page = page(UInt64(record.set))
        let distance = Int32(bitPattern: record.number &- page.recordNumber)
        // The page has it already.
        guard distance > 0, flags[Int(record.set)] & SetFlag.isDamaged == 0 else { return }
        guard distance == 1 else {
            flags[Int(record.set)] |= SetFlag.isDamaged
            return
        }
        report.journalRecords += 1
        flags[Int(record.set)] |= SetFlag.isReplayed
        page.recordNumber = record.number
        var isThere = true
        if isDoubtful, record.granules != 0 {
            report.recordsCompared += 1
            let offset = geometry.cacheOffset(set: record.set, way: Int(record.way))
            isThere =
                record.checksum != nil && dataChecksum(offset, record.granules) == record.checksum
            if !isThere { report.recordsDropped += 1 }
        }
        let way = Int(record.way)
        let before = page.identity(way) == record.identity ? page.state(way).dirty : 0
        let dirty =
            record.dirty & ~record.granules & before | (isThere ? record.granules : 0)
        page.setState(way, LineState(rawValue: 0))
        page.setIdentity(way, record.identity)
        page.setState(way, LineState(valid: dirty, dirty: dirty, recorded: true))
    }
}

// MARK: - The end

extension Recovery {
    /// Drops what is clean, and tells what is left. Of damaged sets nothing is.
    ///
    /// With the digest that a stop left, a page that is torn is told from one that is too old by
    /// what all of them say together: a stop writes pages without records behind them.
    public mutating func finish(dirtyDigest: UInt64? = nil) {
        for set in 0..<geometry.setCount { dropClean(page(set)) }
        let isAsStopped = dirtyDigest == digest
        if isAsStopped {
            // The copy that is torn is written again, or the next recovery would wonder.
            for set in flags.indices where flags[set] & SetFlag.isSuspect != 0 {
                flags[set] = flags[set] & ~SetFlag.isSuspect | SetFlag.isReplayed
            }
        }
        for set in 0..<geometry.setCount { judge(set) }
        report.damagedJournalPlaces = damagedPlaces.keys.sorted()
        report.isNotAsStopped =
            dirtyDigest != nil && !isAsStopped && report.damagedSets.isEmpty
    }

    private mutating func judge(_ set: UInt64) {
        let isSuspect = flags[Int(set)] & SetFlag.isSuspect != 0
        let isReplayed = flags[Int(set)] & SetFlag.isReplayed != 0
        if isSuspect, !isReplayed { flags[Int(set)] |= SetFlag.isDamaged }
        if flags[Int(set)] & SetFlag.isDamaged != 0 {
            report.damagedSets.append(set)
        } else if isReplayed {
            report.replayedSets += 1
        }
    }

    private var digest: UInt64 {
        var digest = DirtyDigest()
        for set in 0..<geometry.setCount { digest.add(set: set, page(set)) }
        return digest.value
    }

    /// After `finish`: makes empty sets of the damaged ones. What they had is lost.
    public mutating func emptyDamagedSets() {
        for set in report.damagedSets {
            // Newer than what is left of it; written twice, for neither copy may be whole.
            let sequence = page(set).sequence
            page(set).makeEmpty(set: set, epoch: epoch)
            page(set).setSequence(sequence, checksum: 0)
            flags[Int(set)] = SetFlag.isReplayed | SetFlag.isEmptied
        }
    }

    /// Whether both copies of the set's page must be written.
    public func isEmptied(_ set: UInt64) -> Bool { flags[Int(set)] & SetFlag.isEmptied != 0 }

    private mutating func dropClean(_ page: SetPageView) {
        for way in 0..<SetPageLayout.ways {
            let state = page.state(way)
            if state.isEmpty { continue }
            page.setState(
                way, LineState(valid: state.dirty, dirty: state.dirty, recorded: true))
            guard state.dirty != 0 else {
                report.cleanLinesDropped += 1
                continue
            }
            report.dirtyLines += 1
            report.dirtyBytes +=
                UInt64(state.dirty.nonzeroBitCount) * UInt64(geometry.granuleBytes)
        }
    }

    /// Whether the set's page must be written before the journal may begin anew.
    public func isReplayed(_ set: UInt64) -> Bool {
        flags[Int(set)] & SetFlag.isReplayed != 0 && flags[Int(set)] & SetFlag.isDamaged == 0
    }
}
