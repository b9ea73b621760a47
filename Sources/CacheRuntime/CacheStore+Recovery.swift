package import CacheEngine
import CacheFormat

/// Loading a cache that was not stopped: after a power cut, or when its memory image is gone.
///
/// Nothing of the device's old state is given up before the new one is durable: recovered pages
/// go to the slots of the older copies, and the journal is void only when the superblock names
/// a new session (`markInUse`). Until then recovery may be interrupted and done again.
extension CacheStore {
    /// Fills `pages` with what counts and makes it durable. The caller then adopts the pages and
    /// marks the cache in use.
    ///
    /// With `acceptsLoss` sets that cannot be read are made empty, and a journal that cannot be
    /// read is left out; without, both are refused with a message that names them.
    package func recover(
        into pages: UnsafeMutableRawPointer, acceptsLoss: Bool
    ) throws(CacheError) -> RecoveryReport {
        precondition(superblock.state != .cleanlyStopped, "recovery of a cache that needs none")
        // What is read from the device's own cache must not be lost by the next power cut.
        try medium.flush()
        var recovery = Recovery(
            geometry: geometry, epoch: superblock.epoch, session: superblock.session, pages: pages)
        try choosePages(&recovery)
        try replayJournal(&recovery, acceptsLoss: acceptsLoss)
        recovery.finish(
            dirtyDigest: superblock.state == .stopping ? superblock.dirtyDigest : nil)
        let damaged = recovery.report.damagedSets
        if !damaged.isEmpty {
            guard acceptsLoss else { throw damagedSets(damaged) }
            recovery.emptyDamagedSets()
        }
        try writeRecovered(recovery, pages)
        return recovery.report
    }

    private func choosePages(_ recovery: inout Recovery) throws(CacheError) {
        let piece = (0...1).map { _ in AlignedBytes(count: Int(Self.setsPerPiece) * 4096) }
        for first in stride(from: 0, to: geometry.setCount, by: Int(Self.setsPerPiece)) {
            let count = Int(min(Self.setsPerPiece, geometry.setCount - first))
            for slot in 0...1 {
                try medium.read(
                    into: UnsafeMutableRawBufferPointer(
                        rebasing: piece[slot].bytes[0..<count * 4096]),
                    at: geometry.setPageOffset(set: first, slot: slot))
            }
            for index in 0..<count {
                recovery.choosePage(
                    set: first + UInt64(index), address(piece[0], index), address(piece[1], index))
            }
        }
    }

    private func replayJournal(
        _ recovery: inout Recovery, acceptsLoss: Bool
    ) throws(CacheError) {
        let count = Int(Self.setsPerPiece)
        let piece = AlignedBytes(count: count * 4096)
        for first in stride(from: 0, to: geometry.journalBlockCount, by: count) {
            let blocks = Int(min(UInt64(count), geometry.journalBlockCount - first))
            try medium.read(
                into: UnsafeMutableRawBufferPointer(rebasing: piece.bytes[0..<blocks * 4096]),
                at: geometry.journalOffset(sequence: first))
            for index in 0..<blocks {
                recovery.scan(
                    place: first + UInt64(index),
                    JournalBlockView(base: address(piece, index)))
            }
        }
        let line = AlignedBytes(count: Int(geometry.lineBytes))
        do throws(JournalDamage) {
            for block in try recovery.planReplay() {
                guard readBlock(block, piece) else { throw .unreadable(block: block) }
                try recovery.replay(JournalBlockView(base: address(piece, 0))) {
                    offset, granules in dataChecksum(line, offset, granules)
                }
            }
        } catch {
            guard acceptsLoss else { throw damagedJournal(error) }
        }
    }

    private func readBlock(_ block: UInt64, _ piece: AlignedBytes) -> Bool {
        do throws(CacheError) {
            try medium.read(
                into: UnsafeMutableRawBufferPointer(rebasing: piece.bytes[0..<4096]),
                at: geometry.journalOffset(sequence: block))
        } catch {
            return false
        }
        return JournalBlockView(base: address(piece, 0)).validate()
            == .whole(session: superblock.session, sequence: block)
    }

    /// Nil if the line cannot be read.
    private func dataChecksum(
        _ line: AlignedBytes, _ offset: UInt64, _ granules: UInt16
    ) -> UInt32? {
        do throws(CacheError) {
            try medium.read(into: line.bytes, at: offset)
        } catch {
            return nil
        }
        let bytes = Int(geometry.granuleBytes)
        var crc: UInt32 = 0
        for granule in 0..<Int(geometry.granulesPerLine)
        where granules & 1 << UInt16(granule) != 0 {
            let range = granule * bytes..<(granule + 1) * bytes
            crc = checksum(
                UnsafeRawBufferPointer(rebasing: line.readOnly[range]), continuing: crc)
        }
        return crc
    }

    private func writeRecovered(
        _ recovery: borrowing Recovery, _ pages: UnsafeMutableRawPointer
    ) throws(CacheError) {
        let piece = AlignedBytes(count: 4096)
        for set in 0..<geometry.setCount where recovery.isReplayed(set) {
            let page = SetPageView(base: pages + Int(set) * SetPageLayout.byteCount)
            for _ in 0..<(recovery.isEmptied(set) ? 2 : 1) {
                let sequence = page.sequence + 1
                page.seal(sequence: sequence)
                address(piece, 0).copyMemory(from: page.base, byteCount: 4096)
                try medium.write(
                    piece.readOnly, at: geometry.setPageOffset(set: set, slot: Int(sequence & 1)))
            }
        }
        try medium.flush()
    }
}

// MARK: - What cannot be recovered

extension CacheStore {
    private func damagedSets(_ sets: [UInt64]) -> CacheError {
        let named = sets.prefix(8).map(describe).joined(separator: "; ")
        let more = sets.count > 8 ? "; and \(sets.count - 8) more" : ""
        return CacheError(
            .damaged,
            "Metadata is damaged: \(sets.count) of \(geometry.setCount) set pages on "
                + "'\(medium.path)' cannot be read, or the newest copy of them is missing: "
                + "\(named)\(more). Each may have had up to \(SetPageLayout.ways) dirty lines of "
                + "the cores named. Load with --force-partial to start the rest of the cache "
                + "without them: their dirty data are lost then.")
    }

    /// A set, and the places of each core that belong to it.
    private func describe(_ set: UInt64) -> String {
        let extentKiB = UInt64(Geometry.extentBytes >> 10)
        let places = configuration.cores.prefix(4).map { core in
            let offset = UInt64(core.coreOffset) % geometry.setCount
            let first = (set + geometry.setCount - offset) % geometry.setCount
            return "core \(core.id) \(extentKiB) KiB at \(first * extentKiB) KiB and every "
                + "\(geometry.setCount * extentKiB) KiB behind"
        }
        return "set \(set)" + (places.isEmpty ? "" : " (\(places.joined(separator: ", ")))")
    }

    private func damagedJournal(_ damage: JournalDamage) -> CacheError {
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
                + "older content.")
    }
}
