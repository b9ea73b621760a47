package import CacheEngine
package import CacheFormat

/// Set pages on their way between the memory image and the cache device.
extension CacheStore {
    /// Sets read or written at a time: a mebibyte of pages.
    static let setsPerPiece: UInt64 = 256

    /// Reads the newest page of every set into `pages` (`setCount` pages of 4096 bytes).
    ///
    /// Only after a clean stop: then every set has a page, and together they must be those of
    /// the stop. Older copies that are damaged are written again: later nobody could tell that they
    /// were the older ones.
    package func loadSetPages(into pages: UnsafeMutableRawPointer) throws(CacheError) {
        precondition(superblock.state == .cleanlyStopped, "set pages of a cache in use")
        var digest = SetPageDigest()
        var suspects: [UInt64] = []
        var unreadable = UnreadableBlocks()
        try readSetPages(&unreadable) { set, copies, unreadable throws(CacheError) in
            let (newest, isSuspect) = try newest(set, copies, unreadable)
            if isSuspect { suspects.append(set) }
            let page = SetPageView(base: pages + Int(set) * 4096)
            page.base.copyMemory(from: newest.base, byteCount: 4096)
            digest.add(set: set, page)
        }
        guard digest.value == superblock.setPageDigest else {
            throw damaged(
                suspects.first, "they are not all of the same stop; a newer page of a set was lost",
                unreadable)
        }
        writeOlderCopies(of: suspects, pages)
    }

    /// With the newest content: which of two copies counts does not change by that. Where it fails,
    /// a later recovery may miss it.
    private func writeOlderCopies(of sets: [UInt64], _ pages: UnsafeMutableRawPointer) {
        guard !sets.isEmpty else { return }
        let block = AlignedBytes(count: SetPageLayout.byteCount)
        let copy = SetPageView(base: block.address(0))
        for set in sets {
            let newest = SetPageView(base: pages + Int(set) * SetPageLayout.byteCount)
            copy.base.copyMemory(from: newest.base, byteCount: SetPageLayout.byteCount)
            copy.seal(sequence: newest.sequence - 1)
            try? medium.write(
                block.readOnly,
                at: geometry.setPageOffset(set: set, slot: Int(copy.sequence & 1)))
        }
        try? medium.flush()
    }

    func address(_ piece: AlignedBytes, _ index: Int) -> UnsafeMutableRawPointer {
        piece.address(index * 4096)
    }

    /// Reads both copies of every set's page, in order; zeros where one cannot be read.
    func readSetPages(
        _ unreadable: inout UnreadableBlocks,
        _ body: (
            _ set: UInt64, _ copies: [SetPageView], _ unreadable: UnreadableBlocks
        ) throws(CacheError) -> Void
    ) throws(CacheError) {
        let pieces = (0...1).map { _ in AlignedBytes(count: Int(Self.setsPerPiece) * 4096) }
        for first in stride(from: 0, to: geometry.setCount, by: Int(Self.setsPerPiece)) {
            let count = Int(min(Self.setsPerPiece, geometry.setCount - first))
            for slot in 0...1 {
                readBlocks(
                    into: UnsafeMutableRawBufferPointer(
                        rebasing: pieces[slot].bytes[0..<count * 4096]),
                    at: geometry.setPageOffset(set: first, slot: slot), &unreadable)
            }
            for index in 0..<count {
                try body(
                    first + UInt64(index), pieces.map { SetPageView(base: address($0, index)) },
                    unreadable)
            }
        }
    }

    /// The newer copy; suspect if the other one is not whole.
    private func newest(
        _ set: UInt64, _ copies: [SetPageView], _ unreadable: UnreadableBlocks
    ) throws(CacheError) -> (page: SetPageView, isSuspect: Bool) {
        let contents = copies.map { $0.validate(set: set, epoch: superblock.epoch) }
        switch (contents[0], contents[1]) {
        case (.valid(let first), .valid(let second)):
            return (copies[first >= second ? 0 : 1], false)
        // Formatting has written both, the second one with sequence 1.
        case (.valid(let first), _) where first > 0: return (copies[0], true)
        case (_, .valid): return (copies[1], true)
        default: throw damaged(set, "the newest copy of its page is not whole", unreadable)
        }
    }

    private func damaged(
        _ set: UInt64?, _ reason: String, _ unreadable: UnreadableBlocks
    ) -> CacheError {
        let place = set.map { "of \(describe($0)) " } ?? ""
        return CacheError(
            .damaged,
            "Metadata checksum is not correct. Metadata is damaged: the set pages \(place)on "
                + "'\(medium.path)' cannot be used: \(reason). A set may have had up to "
                + "\(SetPageLayout.ways) dirty lines. Load with --force-partial to start the rest "
                + "of the cache: what of it was dirty and cannot be read is lost then, and some "
                + "sectors may go back to older content."
                + unreadable.advice)
    }

    /// Writes every page that differs from its newest copy on the device to its other slot, and
    /// makes all of it durable. No worker may be running, and `markStopping` came before.
    package func storeSetPages(_ shared: SharedCache) throws(CacheError) -> SetPageDigest {
        var digest = SetPageDigest()
        var stored: [(set: UInt64, checksum: UInt32)] = []
        // Copies: if the process dies now, another one goes on with the pages in memory.
        let sealed = AlignedBytes(count: Int(Self.setsPerPiece) * 4096)
        for first in stride(from: 0, to: geometry.setCount, by: Int(Self.setsPerPiece)) {
            let end = min(first + Self.setsPerPiece, geometry.setCount)
            var targets: [(set: UInt64, slot: Int)] = []
            for set in first..<end {
                let number = UInt32(set)
                let page = SetPageView(base: address(sealed, Int(set - first)))
                page.base.copyMemory(from: shared.pageView(number).base, byteCount: 4096)
                if shared.isChanged(number) {
                    page.seal(sequence: page.sequence + 1)
                    targets.append((set, Int(page.sequence & 1)))
                }
                digest.add(set: set, page)
            }
            for slot in 0...1 {
                try store(targets.filter { $0.slot == slot }.map(\.set), slot, sealed, first)
            }
            stored += targets.map { target in
                let page = SetPageView(base: address(sealed, Int(target.set - first)))
                return (target.set, page.checksum)
            }
        }
        try medium.flush()
        for (set, checksum) in stored { shared.noteStored(UInt32(set), checksum: checksum) }
        return digest
    }

    /// Runs of neighbouring sets become one write.
    func store(
        _ sets: [UInt64], _ slot: Int, _ sealed: AlignedBytes, _ first: UInt64
    ) throws(CacheError) {
        var start = 0
        while start < sets.count {
            var end = start
            while end < sets.count, sets[end] == sets[start] + UInt64(end - start) {
                end += 1
            }
            let place = Int(sets[start] - first) * 4096
            let byteCount = (end - start) * 4096
            try medium.write(
                UnsafeRawBufferPointer(rebasing: sealed.readOnly[place..<place + byteCount]),
                at: geometry.setPageOffset(set: sets[start], slot: slot))
            start = end
        }
    }
}
