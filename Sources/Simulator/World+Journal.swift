import CacheEngine
import CacheFormat

/// What the engine relies on of its journal is on the device, durably: looked at whenever that
/// changes, so that nothing needs to be lost by it before it is noticed.
extension World {
    /// The engine's belief when it was last looked at, and the last block of each commit.
    struct JournalWatch {
        var last: JournalReliance?
        var blocks: [UInt64: UInt64] = [:]
        /// Records that somebody was promised and that recovery would compare with their data, the
        /// last ones of their ways.
        var compared: [JournalRecord] = []
    }

    /// To be called whenever something happened that may change what the engine relies on.
    func checkJournal() {
        let now = shared.journalReliance
        guard scenario.journalBlocks <= 64, now != watch.last else { return }
        watch.last = now
        watch.blocks = watch.blocks.filter { $0.key >= now.confirmedCommit }
        // A process may have died when it had noted the block, and not yet whose last one it is.
        if watch.blocks[now.commit] == nil { watch.blocks[now.commit] = now.block }
        let told = durablyTold()
        if now.tail > told.tail {
            fail("places before block \(now.tail) are used again, the device says \(told.tail)")
        }
        if let block = watch.blocks[now.confirmedCommit] {
            for (sequence, records) in told.records
            where sequence > told.trusted && sequence <= block && !records.isEmpty {
                fail("block \(sequence) is taken for confirmed, the device says \(told.trusted)")
            }
        }
        watch.compared = []
        guard let block = watch.blocks[now.answeredCommit] else { return }
        let compared = told.records.filter { $0.sequence > told.trusted && $0.sequence <= block }
        watch.compared = compared.flatMap(\.records).filter { record in
            record.checksum != nil && record.granules != 0
                && !told.records.contains { $0.records.contains { $0.isLater(than: record) } }
        }
        for record in watch.compared where isLastAnswered(record) { checkData(of: record) }
    }

    /// Nobody may touch the data of such a record.
    func writeBegins(_ command: Command) {
        guard !watch.compared.isEmpty else { return }
        // What was confirmed in this very turn is free.
        checkJournal()
        let first = Int(command.deviceOffset / 512)
        let range = first..<first + Int(command.byteCount) / 512
        for record in watch.compared
        where isLastAnswered(record) && sectors(of: record).contains(where: range.contains) {
            fail("\(record) is being overwritten, and recovery would compare it")
        }
    }

    /// Whether nothing was recorded of its way since: a later record, which may not be durable yet,
    /// may say that it counts no more.
    private func isLastAnswered(_ record: JournalRecord) -> Bool {
        let page = SetPageView(base: pages + Int(record.set) * SetPageLayout.byteCount)
        let stamp = page.state(Int(record.way)).commitStamp
        let answered = UInt16(truncatingIfNeeded: shared.journalReliance.answeredCommit)
        return Int16(bitPattern: stamp &- answered) <= 0
    }

    private func sectors(of record: JournalRecord) -> [Int] {
        let first = Int(geometry.cacheOffset(set: record.set, way: Int(record.way)) / 512)
        return (0..<16).filter { record.granules & 1 << UInt16($0) != 0 }.map { first + $0 }
    }

    private func checkData(of record: JournalRecord) {
        let offset = geometry.cacheOffset(set: record.set, way: Int(record.way))
        let found = dataChecksum(offset, record.granules) { cacheDevice.durable[$0] }
        let isChanged = sectors(of: record).contains(where: cacheDevice.isUnflushed)
        if found != record.checksum || isChanged {
            fail("\(record) was promised, and recovery would find other data")
        }
    }

    private struct Told {
        var tail: UInt64 = 1
        var trusted: UInt64 = 0
        /// By the block's sequence.
        var records: [(sequence: UInt64, records: [JournalRecord])] = []
    }

    private func durablyTold() -> Told {
        var told = Told()
        for place in 0..<geometry.journalBlockCount {
            let offset = Geometry.journalOffset + place * UInt64(Geometry.blockBytes)
            let view = JournalBlockView(
                base: cacheDevice.metadata.durable.address(Int(offset / 512)))
            guard case .whole(let owner, let sequence) = view.validate(), owner == session
            else { continue }
            told.tail = max(told.tail, view.tail)
            told.trusted = max(told.trusted, view.trustedThrough)
            let records = (0..<view.recordCount).compactMap {
                view.record(at: $0, setCount: geometry.setCount)
            }
            told.records.append((sequence, records))
        }
        return told
    }
}

extension JournalRecord {
    fileprivate func isLater(than other: JournalRecord) -> Bool {
        set == other.set && way == other.way && Int32(bitPattern: number &- other.number) > 0
    }
}
