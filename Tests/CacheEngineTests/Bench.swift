import CacheFormat
import Testing

@testable import CacheEngine

/// Engines over one small cache in memory, with the test as the devices: it takes the commands, and
/// carries each out when it likes.
///
/// A sector's content is a number. Commands are told as short texts: `writeCache w3:0+8 b16` moves
/// 8 sectors from sector 16 of the request's buffer to sector 0 of way 3; `readCore 24+8 c0` from
/// sector 24 of the core to the start of a cleaning buffer.
final class Bench {
    let geometry: Geometry
    let shared: SharedCache
    let pages: UnsafeMutableRawPointer
    var cacheDevice: [Int]
    var coreDevices: [UInt16: [Int]] = [:]
    private var workers: [BenchWorker] = []

    init(
        _ mode: EngineMode, setCount: UInt64 = 1, lineBytes: UInt32 = 4096, workerCount: Int = 1,
        canDiscard: Bool = true, limits: EngineLimits = EngineLimits()
    ) throws {
        let geometry = try #require(
            Geometry(lineBytes: lineBytes, setCount: setCount, journalBlockCount: 1))
        self.geometry = geometry
        let byteCount = Int(setCount) * SetPageLayout.byteCount
        pages = .allocate(byteCount: byteCount, alignment: 4096)
        pages.initializeMemory(as: UInt8.self, repeating: 0, count: byteCount)
        shared = SharedCache(geometry: geometry, pages: pages, workerCount: workerCount)
        shared.mode = mode
        cacheDevice = [Int](repeating: -1, count: Int(geometry.requiredBytes / 512))
        addCore(1, canDiscard: canDiscard)
        workers = (0..<workerCount).map {
            BenchWorker(engine: Engine(shared: shared, worker: $0, limits: limits))
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
    /// By request slot, or cleaning buffer.
    var buffers: [BufferName.Key: [Int]] = [:]
    /// By request slot; the content is the buffer's at the answer.
    var answers: [UInt32: (result: Int32, content: [Int])] = [:]

    init(engine: consuming Engine) { self.engine = engine }
}

extension BufferName {
    typealias Key = UInt32
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
        default: worker.open.append(command)
        }
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
        case .flushCore, .flushCache: return "\(command.kind)\(core)"
        case .answer: return "answer \(command.result)" + (command.keepsBuffer ? " keeps" : "")
        case .releaseSlot: return "releaseSlot"
        case .wakeWorker: return "wakeWorker \(command.slot) set \(command.deviceOffset)"
        case .flushEnded: return "flushEnded\(core) \(command.result)"
        case .writesSettled: return "writesSettled"
        }
    }
}

// MARK: - What is in the cache

extension Bench {
    func way(_ line: UInt64, core: UInt16 = 1) -> Int? {
        let set = UInt32(geometry.set(ofCoreLine: line, coreOffset: 0))
        return SetAccess(shared, set, counters: 0).search(
            Identity(core: core, line: line, ioClass: 0),
            fingerprint: SetPageView.fingerprint(core: core, line: line))
    }

    /// Nil if the line is absent.
    func state(_ line: UInt64, core: UInt16 = 1) -> LineState? {
        guard let way = way(line, core: core) else { return nil }
        return shared.pageView(UInt32(geometry.set(ofCoreLine: line, coreOffset: 0))).state(way)
    }

    func sum(_ counter: Counter) -> UInt64 { shared.sum(counter, core: 1) }

    /// Everything ended, nothing is held, and the set table is in order.
    func expectQuiet(sourceLocation: SourceLocation = #_sourceLocation) {
        for worker in workers {
            #expect(worker.open.map(text) == [], sourceLocation: sourceLocation)
            let isQuiet = worker.engine.isQuiescent && !worker.engine.hasMoreToDo
            #expect(isQuiet, "something is under way", sourceLocation: sourceLocation)
        }
        shared.checkInvariants(quiescent: true)
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
