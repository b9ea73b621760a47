package import CacheEngine
import CacheFormat

/// Loading a cache that was not stopped: after a power cut, or when its memory image is gone.
///
/// Nothing of the device's old state is given up before the new one is durable: recovered pages
/// go to the slots of the older copies, and the journal is void only when the superblock names
/// a new session (`markInUse`). Until then recovery may be interrupted and done again.
extension CacheStore {
    /// Fills `pages` with what counts; the caller then adopts them and marks the cache in use.
    /// Returns what recovery found, nil if none was needed: the cache had been stopped.
    ///
    /// With `acceptsLoss` what is damaged is left out, also after a stop.
    package func readPages(
        into pages: UnsafeMutableRawPointer, acceptsLoss: Bool
    ) throws(CacheError) -> RecoveryReport? {
        if superblock.state == .cleanlyStopped {
            do throws(CacheError) {
                try loadSetPages(into: pages)
                return nil
            } catch {
                guard acceptsLoss, error.code == .damaged else { throw error }
            }
        }
        return try recover(into: pages, acceptsLoss: acceptsLoss)
    }

    /// Fills `pages` with what counts and makes it durable.
    ///
    /// With `acceptsLoss` sets that cannot be read are made empty, and blocks of the journal that
    /// cannot are left out; without, both are refused with a message that names them.
    package func recover(
        into pages: UnsafeMutableRawPointer, acceptsLoss: Bool
    ) throws(CacheError) -> RecoveryReport {
        precondition(
            superblock.state != .cleanlyStopped || acceptsLoss,
            "recovery of a cache that needs none")
        // What is read from the device's own cache must not be lost by the next power cut.
        try medium.flush()
        var recovery = Recovery(
            geometry: geometry, epoch: superblock.epoch, session: superblock.session, pages: pages)
        var unreadable = UnreadableBlocks()
        try readSetPages(&unreadable) { set, copies, _ in
            recovery.choosePage(set: set, copies[0].base, copies[1].base)
        }
        try replayJournal(&recovery, acceptsLoss: acceptsLoss, &unreadable)
        recovery.finish(
            dirtyDigest: superblock.state == .stopping ? superblock.dirtyDigest : nil)
        let damaged = recovery.report.damagedSets
        if !damaged.isEmpty {
            guard acceptsLoss else { throw damagedSets(damaged, unreadable) }
            recovery.emptyDamagedSets()
        }
        if recovery.report.isNotAsStopped, !acceptsLoss { throw notAsStopped() }
        if acceptsLoss { try checkStillUnreadable(unreadable) }
        try writeRecovered(recovery, pages)
        return recovery.report
    }

    /// After `markInUse`, when the journal is void: what is at these places is not to be taken for
    /// damage of the new one. Where that fails, it will be.
    package func emptyJournal(places: [UInt64]) {
        guard !places.isEmpty else { return }
        let block = AlignedBytes(count: Geometry.blockBytes)
        let view = JournalBlockView(base: block.address(0))
        view.begin(session: 0, sequence: 0)
        view.seal(tail: 0, trustedThrough: 0, durableThrough: 0)
        for place in places {
            try? medium.write(block.readOnly, at: geometry.journalOffset(sequence: place))
        }
        try? medium.flush()
    }
}

// MARK: - The journal

extension CacheStore {
    private func replayJournal(
        _ recovery: inout Recovery, acceptsLoss: Bool, _ unreadable: inout UnreadableBlocks
    ) throws(CacheError) {
        let piece = AlignedBytes(count: Int(Self.setsPerPiece) * 4096)
        for first in stride(
            from: 0, to: geometry.journalBlockCount, by: Int(Self.setsPerPiece))
        {
            let count = readBlocks(from: first, to: geometry.journalBlockCount, piece, &unreadable)
            for index in 0..<count {
                recovery.scan(
                    place: first + UInt64(index),
                    JournalBlockView(base: address(piece, index)))
            }
        }
        let line = LineReader(medium, geometry)
        for blocks in try blocksToReplay(recovery, acceptsLoss: acceptsLoss, unreadable) {
            do throws(JournalDamage) {
                try replay(blocks, &recovery, piece, line, acceptsLoss: acceptsLoss, &unreadable)
            } catch {
                throw damagedJournal(error, unreadable)
            }
        }
        if let offset = line.unreadable, !acceptsLoss { throw unreadableData(offset) }
    }

    private func blocksToReplay(
        _ recovery: borrowing Recovery, acceptsLoss: Bool, _ unreadable: UnreadableBlocks
    ) throws(CacheError) -> [Range<UInt64>] {
        do throws(JournalDamage) {
            return [try recovery.planReplay()]
        } catch {
            guard acceptsLoss else { throw damagedJournal(error, unreadable) }
            return recovery.blocksLeft()
        }
    }

    private func replay(
        _ blocks: Range<UInt64>, _ recovery: inout Recovery, _ piece: AlignedBytes,
        _ line: LineReader, acceptsLoss: Bool, _ unreadable: inout UnreadableBlocks
    ) throws(JournalDamage) {
        var next = blocks.lowerBound
        while next < blocks.upperBound {
            let count = readBlocks(from: next, to: blocks.upperBound, piece, &unreadable)
            for index in 0..<count {
                let block = JournalBlockView(base: address(piece, index))
                let sequence = next + UInt64(index)
                do throws(JournalDamage) {
                    guard
                        block.validate() == .whole(session: superblock.session, sequence: sequence)
                    else { throw .unreadable(block: sequence) }
                    try recovery.replay(block) { line.checksum(at: $0, granules: $1) }
                } catch {
                    guard acceptsLoss else { throw error }
                }
            }
            next += UInt64(count)
        }
    }

    /// Reads blocks of these sequences, as many as lie in a row and fit; returns how many.
    private func readBlocks(
        from first: UInt64, to end: UInt64, _ piece: AlignedBytes,
        _ unreadable: inout UnreadableBlocks
    ) -> Int {
        let row = geometry.journalBlockCount - first % geometry.journalBlockCount
        let count = Int(min(Self.setsPerPiece, row, end - first))
        readBlocks(
            into: UnsafeMutableRawBufferPointer(rebasing: piece.bytes[0..<count * 4096]),
            at: geometry.journalOffset(sequence: first), &unreadable)
        return count
    }
}

/// Reads the data that records name, and tells whether that failed.
private final class LineReader {
    private let medium: any StoreMedium
    private let granuleBytes: Int
    private let line: AlignedBytes
    /// The first place of data that had to be compared and cannot be read.
    private(set) var unreadable: UInt64?

    init(_ medium: any StoreMedium, _ geometry: Geometry) {
        self.medium = medium
        granuleBytes = Int(geometry.granuleBytes)
        line = AlignedBytes(count: Int(geometry.lineBytes))
    }

    /// Nil if the line cannot be read.
    func checksum(at offset: UInt64, granules: UInt16) -> UInt32? {
        do throws(CacheError) {
            try medium.read(into: line.bytes, at: offset)
        } catch {
            if unreadable == nil { unreadable = offset }
            return nil
        }
        var crc: UInt32 = 0
        for granule in 0..<line.bytes.count / granuleBytes
        where granules & 1 << UInt16(granule) != 0 {
            let range = granule * granuleBytes..<(granule + 1) * granuleBytes
            crc = CacheFormat.checksum(
                UnsafeRawBufferPointer(rebasing: line.readOnly[range]), continuing: crc)
        }
        return crc
    }
}

// MARK: - What was recovered

extension CacheStore {
    /// Both copies of those that were given up: neither can be relied on.
    private func writeRecovered(
        _ recovery: borrowing Recovery, _ pages: UnsafeMutableRawPointer
    ) throws(CacheError) {
        let sealed = AlignedBytes(count: Int(Self.setsPerPiece) * 4096)
        for first in stride(from: 0, to: geometry.setCount, by: Int(Self.setsPerPiece)) {
            let sets = first..<min(first + Self.setsPerPiece, geometry.setCount)
            try write(sets.filter { recovery.isReplayed($0) }, pages, sealed, first)
            try write(sets.filter { recovery.isEmptied($0) }, pages, sealed, first)
        }
        try medium.flush()
    }

    private func write(
        _ sets: [UInt64], _ pages: UnsafeMutableRawPointer, _ sealed: AlignedBytes,
        _ first: UInt64
    ) throws(CacheError) {
        var bySlot: [[UInt64]] = [[], []]
        for set in sets {
            let page = SetPageView(base: pages + Int(set) * SetPageLayout.byteCount)
            page.seal(sequence: page.sequence + 1)
            address(sealed, Int(set - first)).copyMemory(from: page.base, byteCount: 4096)
            bySlot[Int(page.sequence & 1)].append(set)
        }
        for slot in 0...1 { try store(bySlot[slot], slot, sealed, first) }
    }
}

// MARK: - What cannot be recovered

extension CacheStore {
    private func damagedSets(
        _ sets: [UInt64], _ unreadable: UnreadableBlocks
    ) -> CacheError {
        let named = sets.prefix(8).map(describe).joined(separator: "; ")
        let more = sets.count > 8 ? "; and \(sets.count - 8) more" : ""
        return CacheError(
            .damaged,
            "Metadata is damaged: \(sets.count) of \(geometry.setCount) set pages on "
                + "'\(medium.path)' cannot be read, or the newest copy of them is missing: "
                + "\(named)\(more). Each may have had up to \(SetPageLayout.ways) dirty lines of "
                + "the cores named. Load with --force-partial to start the rest of the cache "
                + "without them: their dirty data are lost then.\(unreadable.advice)")
    }

    /// A set, and the places of each core that belong to it.
    func describe(_ set: UInt64) -> String {
        let extentKiB = UInt64(Geometry.extentBytes >> 10)
        let places = configuration.cores.prefix(4).map { core in
            let offset = UInt64(core.coreOffset) % geometry.setCount
            let first = (set + geometry.setCount - offset) % geometry.setCount
            return "core \(core.id) \(extentKiB) KiB at \(first * extentKiB) KiB and every "
                + "\(geometry.setCount * extentKiB) KiB behind"
        }
        return "set \(set)" + (places.isEmpty ? "" : " (\(places.joined(separator: ", ")))")
    }

    private func unreadableData(_ offset: UInt64) -> CacheError {
        CacheError(
            .inputOutput,
            "Reading the data at byte \(offset) of '\(medium.path)' failed: without it nobody can "
                + "tell whether it was written before the cache ended. Nothing was changed: try "
                + "again. Load with --force-partial to do without it: then what was written there "
                + "last is lost.")
    }

    private func notAsStopped() -> CacheError {
        CacheError(
            .damaged,
            "Metadata is damaged: what the set pages and the journal on '\(medium.path)' say to be "
                + "dirty is not what its stop had noted. Something that was written is not on the "
                + "device any more. Load with --force-partial to start it with what is there: then "
                + "some sectors go back to older content.")
    }

    private func damagedJournal(
        _ damage: JournalDamage, _ unreadable: UnreadableBlocks
    ) -> CacheError {
        let (block, what) =
            switch damage {
            case .missing(let block): (block, "is missing although it was written")
            case .unreadable(let block): (block, "cannot be read")
            case .impossible(let block): (block, "says what cannot be")
            }
        let offset = geometry.journalOffset(sequence: block)
        return CacheError(
            .damaged,
            "Metadata is damaged: block \(block) of the journal on '\(medium.path)' (at byte "
                + "\(offset)) \(what). What was written last before the cache ended may be lost. "
                + "Load with --force-partial to start without it: then some sectors go back to "
                + "older content, or get that of others.\(unreadable.advice)")
    }
}
