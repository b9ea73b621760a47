import CacheFormat
import Testing

@testable import CacheEngine

/// Engines over one small cache in memory, with the test as the devices: it takes the commands, and
/// carries each out when it likes.
///
/// A sector's content is a number. Commands are told as short texts: `writeCache w3:0+8 b16` moves
/// 8 sectors from sector 16 of the request's buffer to sector 0 of way 3; `readCore 24+8 c0` from
/// sector 24 of the core to the start of a cleaning buffer; `journal 5` writes journal block 5, and
/// `page s2` the page of set 2.
final class Bench {
    let geometry: Geometry
    let shared: SharedCache
    let pages: UnsafeMutableRawPointer
    var cacheDevice: [Int]
    /// Journal blocks and set pages as the device has them, by offset.
    var metadata: [UInt64: [UInt8]] = [:]
    /// Sees the commands for the cache device come and go.
    var watch: JournalWatch?
    var coreDevices: [UInt16: [Int]] = [:]
    private var workers: [BenchWorker] = []

    static let epoch: UInt64 = 77

    init(
        _ mode: EngineMode, setCount: UInt64 = 1, lineBytes: UInt32 = 4096, workerCount: Int = 1,
        canDiscard: Bool = true, limits: EngineLimits = EngineLimits(),
        journalBlockCount: UInt64 = 64, hasChecksums: Bool = true
    ) throws {
        let geometry = try #require(
            Geometry(
                lineBytes: lineBytes, setCount: setCount, journalBlockCount: journalBlockCount))
        self.geometry = geometry
        let byteCount = Int(setCount) * SetPageLayout.byteCount
        pages = .allocate(byteCount: byteCount, alignment: 4096)
        pages.initializeMemory(as: UInt8.self, repeating: 0, count: byteCount)
        for set in 0..<setCount {
            let page = SetPageView(base: pages + Int(set) * SetPageLayout.byteCount)
            page.makeEmpty(set: set, epoch: Self.epoch)
            page.seal(sequence: 1)
        }
        shared = SharedCache(geometry: geometry, pages: pages, workerCount: workerCount)
        shared.mode = mode
        cacheDevice = [Int](repeating: -1, count: Int(geometry.requiredBytes / 512))
        addCore(1, canDiscard: canDiscard)
        // A new cache: there is nothing to adopt.
        _ = shared.finishAdoption()
        workers = (0..<workerCount).map {
            let buffers = BenchBuffers()
            return BenchWorker(
                engine: Engine(
                    shared: shared, worker: $0, limits: limits,
                    dataChecksum: hasChecksums ? buffers.checksum : nil),
                buffers: buffers)
        }
    }

    deinit {
        shared.deallocate()
        pages.deallocate()
    }

    func addCore(_ id: UInt16, sectorCount: Int = 1 << 16, canDiscard: Bool = true) {
        shared.addCore(
            id, coreOffset: 0, sectorCount: UInt64(sectorCount), canDiscard: canDiscard)
        coreDevices[id] = [Int](repeating: 0, count: sectorCount)
    }

    /// What core 1 holds.
    var core: [Int] { coreDevices[1] ?? [] }

    func worker(_ index: Int) -> BenchWorker { workers[index] }
}

/// One worker's engine, and what became of its commands.
final class BenchWorker {
    var engine: Engine
    /// Taken and not carried out.
    var open: [Command] = []
    private let memory: BenchBuffers
    /// By request slot, or cleaning buffer.
    var buffers: [UInt32: [Int]] {
        get { memory.content }
        set { memory.content = newValue }
    }
    /// By request slot; the content is the buffer's at the answer.
    var answers: [UInt32: (result: Int32, content: [Int])] = [:]

    init(engine: consuming Engine, buffers: BenchBuffers) {
        self.engine = engine
        memory = buffers
    }
}

/// The buffers of one worker, where its engine's checksums find them.
final class BenchBuffers {
    var content: [UInt32: [Int]] = [:]

    var checksum: DataChecksum {
        DataChecksum(
            context: Unmanaged.passUnretained(self).toOpaque(), function: checksumOfBuffer)
    }

    /// Of sectors by their contents.
    static func checksum(_ sectors: ArraySlice<Int>, _ seed: UInt32 = 0) -> UInt32 {
        sectors.withUnsafeBytes { CacheFormat.checksum($0, continuing: seed) }
    }
}

private func checksumOfBuffer(
    _ context: UnsafeMutableRawPointer, _ slot: UInt32, _ offset: UInt32, _ byteCount: UInt32,
    _ seed: UInt32
) -> UInt64 {
    let buffers = Unmanaged<BenchBuffers>.fromOpaque(context).takeUnretainedValue()
    guard let content = buffers.content[slot] else { return 0 }
    let first = Int(offset / 512)
    return UInt64(BenchBuffers.checksum(content[first..<first + Int(byteCount / 512)], seed))
}

// MARK: - Requests

extension Bench {
    /// Nil if the engine says "not now".
    @discardableResult
    func submit(_ request: Request, content: Int = -1, worker: Int = 0) -> UInt32? {
        let worker = workers[worker]
        guard let slot = worker.engine.submit(request) else { return nil }
        worker.answers[slot] = nil
        worker.buffers[slot] = [Int](repeating: content, count: Int(request.sectorCount))
        return slot
    }

    @discardableResult
    func write(
        _ sector: UInt64, _ count: UInt32, _ content: Int, core: UInt16 = 1,
        durable: Bool = false, worker: Int = 0
    ) throws -> UInt32 {
        let request = Request(
            .write, core: core, startSector: sector, sectorCount: count,
            forceUnitAccess: durable)
        return try #require(submit(request, content: content, worker: worker))
    }

    @discardableResult
    func read(
        _ sector: UInt64, _ count: UInt32, core: UInt16 = 1, worker: Int = 0
    ) throws -> UInt32 {
        let request = Request(.read, core: core, startSector: sector, sectorCount: count)
        return try #require(submit(request, worker: worker))
    }

    @discardableResult
    func flush(core: UInt16 = 1, worker: Int = 0) throws -> UInt32 {
        try #require(submit(Request(.flush, core: core), worker: worker))
    }

    @discardableResult
    func discard(_ sector: UInt64, _ count: UInt32, worker: Int = 0) throws -> UInt32 {
        let request = Request(.discard, core: 1, startSector: sector, sectorCount: count)
        return try #require(submit(request, worker: worker))
    }

    func result(_ slot: UInt32, worker: Int = 0) -> Int32? {
        workers[worker].answers[slot]?.result
    }

    /// What the request's buffer held when it was answered.
    func content(_ slot: UInt32, worker: Int = 0) -> [Int]? {
        workers[worker].answers[slot]?.content
    }
}

// MARK: - Commands

extension Bench {
    /// Takes every command there is.
    @discardableResult
    func take(worker index: Int = 0) -> [String] {
        let worker = workers[index]
        var texts: [String] = []
        while let command = worker.engine.nextCommand()?.pointee {
            worker.engine.commandTaken()
            texts.append(text(command))
            note(command, worker)
        }
        return texts
    }

    private func note(_ command: Command, _ worker: BenchWorker) {
        switch command.kind {
        case .answer:
            let content = worker.buffers[command.slot] ?? []
            worker.answers[command.slot] = (command.result, content)
            if !command.keepsBuffer { worker.buffers[command.slot] = nil }
        case .releaseSlot: worker.buffers[command.slot] = nil
        case .wakeWorker, .flushEnded, .writesSettled: break
        default:
            worker.open.append(command)
            watch?.began(command, self)
        }
    }

    /// Whether there is an open command whose text begins so.
    func open(_ prefix: String) -> Bool {
        workers[0].open.contains { text($0).hasPrefix(prefix) }
    }

    /// Carries out the first open command whose text begins so (or lets it fail), and takes what
    /// follows.
    @discardableResult
    func finish(_ prefix: String, error: Int32? = nil, worker index: Int = 0) -> [String] {
        let worker = workers[index]
        guard let place = worker.open.firstIndex(where: { text($0).hasPrefix(prefix) }) else {
            Issue.record("no open command is '\(prefix)': \(worker.open.map(text))")
            return []
        }
        let command = worker.open.remove(at: place)
        if error == nil { carryOut(command, worker) }
        watch?.ended(command, self, isWell: error == nil)
        return complete(command.token, error ?? Int32(command.byteCount), worker)
            + take(worker: index)
    }

    /// Carries out every open command without taking what follows, as many completions in one turn.
    func completeOpen(worker index: Int = 0) {
        let worker = workers[index]
        let commands = worker.open
        worker.open = []
        for command in commands {
            carryOut(command, worker)
            _ = complete(command.token, Int32(command.byteCount), worker)
        }
    }

    /// Carries out everything until nothing is left to do; all commands on the way.
    @discardableResult
    func finishAll(worker index: Int = 0) -> [String] {
        var texts = take(worker: index)
        for _ in 0..<100_000 {
            if let next = workers[index].open.first {
                texts += finish(text(next), worker: index)
            } else if workers[index].engine.hasMoreToDo {
                texts += take(worker: index)
            } else {
                return texts
            }
        }
        Issue.record("there is no end to it")
        return texts
    }

    /// As a turn does: a hit that succeeded is answered at once, everything else by a command.
    private func complete(_ token: Token, _ result: Int32, _ worker: BenchWorker) -> [String] {
        guard let slot = worker.engine.completeHit(token, result: result) else {
            worker.engine.complete(token, result: result)
            return []
        }
        worker.answers[slot] = (0, worker.buffers[slot] ?? [])
        worker.buffers[slot] = nil
        return ["answer 0"]
    }

    private func carryOut(_ command: Command, _ worker: BenchWorker) {
        let device = Int(command.deviceOffset / 512)
        let buffer = Int(command.bufferOffset / 512)
        let key = command.buffer.rawValue
        if command.buffer.isMetadata {
            metadata[command.deviceOffset] = metadataBytes(command)
            return
        }
        if command.kind == .discardCore {
            for sector in device..<device + Int(command.discardByteCount / 512) {
                coreDevices[command.core]?[sector] = 0
            }
            return
        }
        for sector in 0..<Int(command.byteCount / 512) {
            let place = buffer + sector
            switch command.kind {
            case .readCache: set(worker, key, place, cacheDevice[device + sector])
            case .readCore:
                set(worker, key, place, coreDevices[command.core]?[device + sector] ?? -1)
            case .writeCache: cacheDevice[device + sector] = worker.buffers[key]?[place] ?? -1
            case .writeCore:
                coreDevices[command.core]?[device + sector] = worker.buffers[key]?[place] ?? -1
            default: Issue.record("\(text(command)) moves no bytes")
            }
        }
    }

    private func set(_ worker: BenchWorker, _ key: UInt32, _ place: Int, _ content: Int) {
        if key & 0x8000_0000 != 0, worker.buffers[key] == nil {
            worker.buffers[key] = [Int](repeating: -1, count: 1024)
        }
        worker.buffers[key]?[place] = content
    }

    func text(_ command: Command) -> String {
        let core = command.core == 1 ? "" : "[\(command.core)]"
        let count = command.byteCount / 512
        let isCleaning = command.buffer.isCleaning
        let buffer = (isCleaning ? "c" : "b") + String(command.bufferOffset / 512)
        let durably = command.forceUnitAccess ? " FUA" : ""
        if command.buffer.isMetadata { return metadataText(command) + durably }
        switch command.kind {
        case .readCache, .writeCache:
            let place = command.deviceOffset - geometry.dataOffset
            let line = place / UInt64(geometry.lineBytes)
            let sector = place % UInt64(geometry.lineBytes) / 512
            let set = geometry.setCount > 1 ? "s\(line / 224)" : ""
            return "\(command.kind) \(set)w\(line % 224):\(sector)+\(count) \(buffer)\(durably)"
        case .readCore, .writeCore:
            return "\(command.kind)\(core) \(command.deviceOffset / 512)+\(count) \(buffer)"
                + durably
        case .discardCore:
            return "discardCore\(core) \(command.deviceOffset / 512)"
                + "+\(command.discardByteCount / 512)"
        case .flushCore: return "flushCore\(core)"
        case .flushCache: return "flushCache"
        case .answer: return "answer \(command.result)" + (command.keepsBuffer ? " keeps" : "")
        case .releaseSlot: return "releaseSlot"
        case .wakeWorker:
            let isJournal = command.deviceOffset == UInt64(Engine.journalSet)
            let what = isJournal ? "journal" : "set \(command.deviceOffset)"
            return "wakeWorker \(command.slot) \(what)"
        case .flushEnded: return "flushEnded\(core) \(command.result)"
        case .writesSettled: return "writesSettled"
        }
    }
}

// MARK: - Metadata

extension Bench {
    private func metadataBytes(_ command: Command) -> [UInt8] {
        let base = shared.journal.address(metadata: command.buffer.index)
        return Array(UnsafeRawBufferPointer(start: base, count: Int(command.byteCount)))
    }

    private func metadataText(_ command: Command) -> String {
        guard command.deviceOffset >= geometry.setPagesOffset else {
            let base = shared.journal.address(metadata: command.buffer.index)
            return "journal \(JournalBlockView(base: base).sequence)"
        }
        let page = (command.deviceOffset - geometry.setPagesOffset) / 4096
        return "page s\(page % geometry.setCount)"
    }
}

extension Bench {
    /// The records of a journal block that was written.
    func records(_ block: UInt64) -> [JournalRecord] {
        withJournal(block) { view in
            (0..<view.recordCount).compactMap {
                view.record(at: $0, setCount: geometry.setCount)
            }
        } ?? []
    }

    /// What a journal block tells of others, if it was written.
    func facts(_ block: UInt64) -> JournalFacts? {
        withJournal(block) {
            JournalFacts(
                tail: $0.tail, trustedThrough: $0.trustedThrough,
                durableThrough: $0.durableThrough)
        }
    }

    private func withJournal<Result>(
        _ block: UInt64, _ body: (JournalBlockView) -> Result
    ) -> Result? {
        guard var bytes = metadata[geometry.journalOffset(sequence: block)] else { return nil }
        return bytes.withUnsafeMutableBytes { memory -> Result? in
            guard let base = memory.baseAddress else { return nil }
            let view = JournalBlockView(base: base)
            guard view.validate() == .whole(session: 1, sequence: block) else { return nil }
            return body(view)
        }
    }
}

struct JournalFacts: Equatable {
    var tail: UInt64
    var trustedThrough: UInt64
    var durableThrough: UInt64
}

// MARK: - What is in the cache

extension Bench {
    func way(_ line: UInt64, core: UInt16 = 1) -> Int? {
        let set = UInt32(geometry.set(ofCoreLine: line, coreOffset: 0))
        return SetAccess(shared, set, counters: 0).search(
            Identity(core: core, line: line, ioClass: 0),
            fingerprint: SetPageView.fingerprint(core: core, line: line))
    }

    /// What is valid and what is dirty; nil if the line is absent.
    func state(_ line: UInt64, core: UInt16 = 1) -> LineState? {
        wholeState(line, core: core).map { LineState(valid: $0.valid, dirty: $0.dirty) }
    }

    /// With what the journal has recorded of it.
    func wholeState(_ line: UInt64, core: UInt16 = 1) -> LineState? {
        guard let way = way(line, core: core) else { return nil }
        return shared.pageView(UInt32(geometry.set(ofCoreLine: line, coreOffset: 0))).state(way)
    }

    func sum(_ counter: Counter) -> UInt64 { shared.sum(counter, core: 1) }

    /// Everything ended, nothing is held, and the set table is in order.
    func expectQuiet(sourceLocation: SourceLocation = #_sourceLocation) {
        var allQuiet = true
        for worker in workers {
            #expect(worker.open.map(text) == [], sourceLocation: sourceLocation)
            let isQuiet = worker.engine.isQuiescent && !worker.engine.hasMoreToDo
            #expect(isQuiet, "something is under way", sourceLocation: sourceLocation)
            allQuiet = allQuiet && isQuiet
        }
        shared.checkInvariants(quiescent: allQuiet)
        guard allQuiet else { return }
        let reserved = shared.journal.locked { shared.journal.state.pointee.reserved }
        #expect(reserved == 0, "reserved for nothing", sourceLocation: sourceLocation)
        for set in 0..<UInt32(geometry.setCount) {
            let page = shared.pageView(set)
            let unrecorded = (0..<SetPageLayout.ways).filter {
                page.state($0).dirty != page.state($0).recorded
            }
            #expect(unrecorded == [], "not recorded", sourceLocation: sourceLocation)
        }
    }

    /// Fills the set with lines 1000 and up, each clean; every sector holds its line's number.
    func fillSet(count: Int = 224) throws {
        let mode = shared.mode
        shared.mode = .writeThrough
        defer { shared.mode = mode }
        for index in 0..<count {
            let line = 1000 + index
            try write(UInt64(line) * 8, 8, line)
            finishAll()
        }
    }
}
