import CacheFormat

@testable import CacheEngine

/// The metadata of a cache device as a power cut left them, written down by a test.
final class RecoveryImage {
    static let epoch: UInt64 = 77
    static let session: UInt64 = 5
    static let setCount: UInt64 = 3
    static let places: UInt64 = 16
    let geometry: Geometry
    private let base: UnsafeMutableRawPointer
    private let pages: UnsafeMutableRawPointer
    /// The checksum of the data of each line, by offset; nil if it cannot be read.
    var data: [UInt64: UInt32] = [:]

    /// As formatted.
    init?() {
        guard
            let geometry = Geometry(
                lineBytes: 4096, setCount: Self.setCount, journalBlockCount: Self.places)
        else { return nil }
        self.geometry = geometry
        base = .allocate(byteCount: Int(geometry.dataOffset), alignment: 4096)
        base.initializeMemory(as: UInt8.self, repeating: 0, count: Int(geometry.dataOffset))
        pages = .allocate(byteCount: Int(Self.setCount) * 4096, alignment: 4096)
        for place in 0..<Self.places {
            let view = JournalBlockView(base: base + Int(geometry.journalOffset(sequence: place)))
            view.begin(session: 0, sequence: 0)
            view.seal(tail: 0, trustedThrough: 0, durableThrough: 0)
        }
        for set in 0..<Self.setCount {
            for sequence in UInt64(0)...1 { page(set, sequence, number: 0, [:]) }
        }
    }

    deinit {
        base.deallocate()
        pages.deallocate()
    }

    struct Line {
        var line: UInt64
        var dirty: UInt16
        var valid: UInt16 = 0xff
    }

    /// Writes a page to the slot of its sequence, or another.
    func page(
        _ set: UInt64, _ sequence: UInt64, number: UInt32, _ lines: [Int: Line], slot: Int? = nil
    ) {
        let view = SetPageView(base: slotBase(set, slot ?? Int(sequence & 1)))
        view.makeEmpty(set: set, epoch: Self.epoch)
        for (way, line) in lines {
            view.setIdentity(way, Identity(core: 1, line: line.line, ioClass: 0))
            view.setState(
                way,
                LineState(valid: line.valid | line.dirty, dirty: line.dirty, recorded: true))
        }
        view.recordNumber = number
        view.seal(sequence: sequence)
    }

    func slotBase(_ set: UInt64, _ slot: Int) -> UnsafeMutableRawPointer {
        base + Int(geometry.setPageOffset(set: set, slot: slot))
    }

    /// What a block says of others.
    struct Facts {
        var tail: UInt64 = 1
        var trusted: UInt64 = 0
        var durable: UInt64 = 0
        var session = RecoveryImage.session
    }

    func block(_ sequence: UInt64, _ facts: Facts = Facts(), _ records: [JournalRecord] = []) {
        let view = journal(sequence)
        view.begin(session: facts.session, sequence: sequence)
        for record in records { view.append(record) }
        view.seal(
            tail: facts.tail, trustedThrough: facts.trusted, durableThrough: facts.durable)
    }

    func journal(_ sequence: UInt64) -> JournalBlockView {
        JournalBlockView(base: base + Int(geometry.journalOffset(sequence: sequence)))
    }

    /// A record of set 0 unless said otherwise; with a checksum that its data has.
    func record(
        _ number: UInt32, set: UInt32 = 0, way: UInt8 = 0, line: UInt64 = 7, dirty: UInt16,
        granules: UInt16? = nil, checksum: UInt32? = 4711
    ) -> JournalRecord {
        JournalRecord(
            set: set, way: way, identity: Identity(core: 1, line: line, ioClass: 0), dirty: dirty,
            granules: granules ?? dirty, checksum: checksum, number: number)
    }

    func dataOffset(set: UInt32 = 0, way: Int = 0) -> UInt64 {
        geometry.cacheOffset(set: set, way: way)
    }

    // MARK: - Recovery

    struct Outcome: Equatable {
        var damage: JournalDamage?
        /// Dirty lines, such as `s0w3 line 7 f`.
        var dirty: [String] = []
        var valid: [String] = []
        var damagedSets: [UInt64] = []
        var replayed: [UInt64] = []
        var report: RecoveryReport?
    }

    /// As the product does it. With `stores` the recovered pages are written, as many of their
    /// sectors as said.
    func recover(digest: UInt64? = nil, storedSectors: Int = 0) -> Outcome {
        var recovery = Recovery(
            geometry: geometry, epoch: Self.epoch, session: Self.session, pages: pages)
        for set in 0..<Self.setCount {
            recovery.choosePage(set: set, slotBase(set, 0), slotBase(set, 1))
        }
        for place in 0..<Self.places { recovery.scan(place: place, journal(place)) }
        var outcome = Outcome()
        do throws(JournalDamage) {
            for block in try recovery.planReplay() {
                try recovery.replay(journal(block)) { offset, _ in data[offset] }
            }
        } catch {
            outcome.damage = error
        }
        recovery.finish(dirtyDigest: digest)
        outcome.report = recovery.report
        outcome.damagedSets = recovery.report.damagedSets
        outcome.replayed = (0..<Self.setCount).filter { recovery.isReplayed($0) }
        for set in 0..<Self.setCount { describe(set, &outcome) }
        if storedSectors > 0 { store(outcome.replayed, storedSectors) }
        return outcome
    }

    /// What a load replays that accepts the loss of damaged blocks.
    func blocksLeft() -> [Range<UInt64>] {
        var recovery = Recovery(
            geometry: geometry, epoch: Self.epoch, session: Self.session, pages: pages)
        for place in 0..<Self.places { recovery.scan(place: place, journal(place)) }
        return recovery.blocksLeft()
    }

    private func page(_ set: UInt64) -> SetPageView {
        SetPageView(base: pages + Int(set) * SetPageLayout.byteCount)
    }

    private func describe(_ set: UInt64, _ outcome: inout Outcome) {
        for way in 0..<SetPageLayout.ways {
            let state = page(set).state(way)
            let line = "s\(set)w\(way) line \(page(set).identity(way).line) "
            if state.dirty != 0 { outcome.dirty.append(line + String(state.dirty, radix: 16)) }
            if state.valid != 0 { outcome.valid.append(line + String(state.valid, radix: 16)) }
        }
    }

    private func store(_ sets: [UInt64], _ sectors: Int) {
        for set in sets {
            let sequence = page(set).sequence + 1
            page(set).seal(sequence: sequence)
            slotBase(set, Int(sequence & 1)).copyMemory(
                from: page(set).base, byteCount: sectors * 512)
        }
    }

    /// The digest a stop would leave of these pages.
    func digest() -> UInt64 {
        var digest = DirtyDigest()
        let copy = UnsafeMutableRawPointer.allocate(byteCount: 4096, alignment: 4096)
        defer { copy.deallocate() }
        for set in 0..<Self.setCount {
            let newest = (0...1).map { SetPageView(base: slotBase(set, $0)) }.filter {
                if case .valid = $0.validate(set: set, epoch: Self.epoch) { true } else { false }
            }.max { $0.sequence < $1.sequence }
            guard let newest else { continue }
            copy.copyMemory(from: newest.base, byteCount: 4096)
            let view = SetPageView(base: copy)
            for way in 0..<SetPageLayout.ways {
                let state = view.state(way)
                view.setState(
                    way, LineState(valid: state.valid, dirty: state.dirty, recorded: true))
            }
            digest.add(set: set, view)
        }
        return digest.value
    }
}
