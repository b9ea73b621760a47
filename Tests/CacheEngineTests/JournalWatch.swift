import CacheFormat

@testable import CacheEngine

/// Follows what of the metadata is durable, and judges each write of it by rule 5 of the design: a
/// set page is written when the journal is durable up to it, and a place of the journal is used
/// again when durable pages include all that it said.
final class JournalWatch {
    /// What a power cut would leave of metadata at least, by offset.
    private(set) var durable: [UInt64: [UInt8]] = [:]
    /// What there was when the flush under way began.
    private var atFlush: [UInt64: [UInt8]] = [:]
    private(set) var violations: [String] = []
    private(set) var blocksWritten: UInt64 = 0
    private(set) var pagesWritten = 0
    /// The records of each block that was begun.
    private var records: [UInt64: [JournalRecord]] = [:]

    func began(_ command: Command, _ bench: Bench) {
        if command.kind == .flushCache { atFlush = bench.metadata }
        guard command.buffer.isMetadata else { return }
        let base = bench.shared.journal.address(metadata: command.buffer.index)
        if command.deviceOffset < bench.geometry.setPagesOffset {
            beganBlock(JournalBlockView(base: base), bench)
        } else {
            beganPage(SetPageView(base: base), command.deviceOffset, bench)
        }
    }

    func ended(_ command: Command, _ bench: Bench, isWell: Bool) {
        guard isWell else { return }
        if command.kind == .flushCache {
            durable.merge(atFlush) { $1 }
        } else if command.buffer.isMetadata, command.forceUnitAccess {
            durable[command.deviceOffset] = bench.metadata[command.deviceOffset]
        }
    }

    private func beganBlock(_ block: JournalBlockView, _ bench: Bench) {
        blocksWritten += 1
        let sequence = block.sequence
        records[sequence] = (0..<block.recordCount).compactMap {
            block.record(at: $0, setCount: bench.geometry.setCount)
        }
        let places = bench.geometry.journalBlockCount
        let durableTail = durableBlocks(bench).map(\.tail).max() ?? 1
        if sequence > places, durableTail <= sequence - places {
            violations.append(
                "block \(sequence) overwrites one that a power cut now would need: "
                    + "the durable tail is \(durableTail)")
        }
        for old in 1..<max(block.tail, 1) {
            for record in records[old] ?? [] where !isInDurablePage(record, bench) {
                violations.append(
                    "block \(sequence) tells the tail \(block.tail), but record "
                        + "\(record.number) of set \(record.set) is in block \(old) only")
            }
        }
    }

    private func beganPage(_ page: SetPageView, _ offset: UInt64, _ bench: Bench) {
        pagesWritten += 1
        let geometry = bench.geometry
        let set = (offset - geometry.setPagesOffset) / 4096 % geometry.setCount
        let slot = (offset - geometry.setPagesOffset) / 4096 / geometry.setCount
        if page.sequence & 1 != slot { violations.append("page \(page.sequence) in slot \(slot)") }
        if page.validate(set: set, epoch: Bench.epoch) != .valid(sequence: page.sequence) {
            violations.append("the page of set \(set) is not valid")
        }
        if let newest = newestPage(set, bench), newest.sequence & 1 == slot,
            newest.sequence != page.sequence
        {
            violations.append("page \(page.sequence) of set \(set) overwrites the newest")
        }
        let inPages = newestPage(set, bench)?.number ?? 0
        let inBlocks = durableBlocks(bench).flatMap(\.records).filter { $0.set == set }
            .map(\.number).max()
        if page.recordNumber > max(inPages, inBlocks ?? 0) {
            violations.append(
                "the page of set \(set) includes record \(page.recordNumber), which is not "
                    + "durable")
        }
    }

    private func isInDurablePage(_ record: JournalRecord, _ bench: Bench) -> Bool {
        (newestPage(UInt64(record.set), bench)?.number ?? 0) >= record.number
    }
}

// MARK: - What is durable

extension JournalWatch {
    private struct Block {
        var tail: UInt64
        var records: [JournalRecord]
    }

    private func durableBlocks(_ bench: Bench) -> [Block] {
        durable.compactMap { offset, bytes in
            guard offset < bench.geometry.setPagesOffset else { return nil }
            var copy = bytes
            return copy.withUnsafeMutableBytes { memory -> Block? in
                guard let base = memory.baseAddress else { return nil }
                let view = JournalBlockView(base: base)
                return Block(
                    tail: view.tail,
                    records: (0..<view.recordCount).compactMap {
                        view.record(at: $0, setCount: bench.geometry.setCount)
                    })
            }
        }
    }

    private func newestPage(_ set: UInt64, _ bench: Bench) -> (sequence: UInt64, number: UInt32)? {
        (0...1).compactMap { slot -> (sequence: UInt64, number: UInt32)? in
            let offset = bench.geometry.setPageOffset(set: set, slot: slot)
            guard var bytes = durable[offset] else { return nil }
            return bytes.withUnsafeMutableBytes { memory in
                memory.baseAddress.map {
                    let page = SetPageView(base: $0)
                    return (page.sequence, page.recordNumber)
                }
            }
        }.max { $0.sequence < $1.sequence }
    }
}
