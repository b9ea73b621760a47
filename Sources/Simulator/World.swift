import CacheEngine
import CacheFormat

/// Everything outside the engines of one simulated cache: devices, clients, messages, chance.
///
/// There is no clock: whatever may happen next happens in an order the seed chooses.
final class World {
    let scenario: Scenario
    var random: SeededRandom
    let geometry: Geometry
    var shared: SharedCache
    let pages: UnsafeMutableRawPointer
    let journalMemory: UnsafeMutableRawPointer
    private(set) lazy var imageTrap = MemoryImageTrap([
        UnsafeMutableRawBufferPointer(
            start: pages, count: scenario.setCount * SetPageLayout.byteCount),
        UnsafeMutableRawBufferPointer(start: journalMemory, count: Journal.byteCount),
    ])
    /// Names the journal blocks since the last start.
    private(set) var session: UInt64 = 1
    let cacheDevice: SimulatedDevice
    var cores: [SimulatedCore]
    var transfers: [SimulatedTransfer] = []
    /// Events delivered to a worker and not handled yet.
    var inboxes: [[TurnEvent]]
    /// Requests given to a worker and not fetched yet.
    var requests: [[ClientRequest]]
    var underWay: [UInt64: ClientRequest] = [:]
    var lastChange: Request?
    var nextOrigin: UInt64 = 1
    var nextStamp: UInt64 = 1
    var eventCount: UInt64 = 0
    var flushesEnded: [UInt16: Int32] = [:]
    /// Workers that have not yet reported the end of their write-back writes.
    var settling: Set<Int> = []
    /// What the users have been told to rely on.
    var durability: EngineDurability
    /// For a while all transfers fail that may.
    var isOutage = false
    var violation: Violation?
    var powerCuts = 0
    /// Power cuts of which only the outcome was looked at.
    var trials = 0
    var readsJudged = 0
    var writesAnswered = 0
    var recoveredRecords: UInt64 = 0
    /// What the engine was last seen to rely on.
    var watch = JournalWatch()
    /// What happened lately, for the message of a failing seed; kept only when asked for.
    let trace: EventTrace?
    let cleaningBuffers: [[SimulatedBuffer]]

    init(_ scenario: Scenario, traced: Bool) {
        self.scenario = scenario
        durability = scenario.durability
        trace = traced ? EventTrace() : nil
        random = SeededRandom(seed: scenario.seed ^ 0x5151_5151)
        guard
            let geometry = Geometry(
                lineBytes: scenario.lineBytes, setCount: UInt64(scenario.setCount),
                journalBlockCount: UInt64(scenario.journalBlocks))
        else { preconditionFailure("a scenario with an impossible geometry") }
        self.geometry = geometry
        let pageBytes = scenario.setCount * SetPageLayout.byteCount
        pages = .allocate(byteCount: pageBytes, alignment: 4096)
        pages.initializeMemory(as: UInt8.self, repeating: 0, count: pageBytes)
        journalMemory = .allocate(byteCount: Journal.byteCount, alignment: 4096)
        shared = SharedCache(
            geometry: geometry, pages: pages, workerCount: scenario.workerCount,
            journal: .anew(journalMemory, session: 1))
        shared.mode = scenario.mode
        shared.durability = scenario.durability
        cacheDevice = SimulatedDevice(
            name: "cache", sectorCount: Int(geometry.requiredBytes / 512),
            metadataSectors: Int(geometry.dataOffset / 512))
        cores = (0..<scenario.coreCount).map {
            SimulatedCore(id: UInt16($0), sectorCount: scenario.coreSectors)
        }
        inboxes = Array(repeating: [], count: scenario.workerCount)
        requests = Array(repeating: [], count: scenario.workerCount)
        let limits = scenario.limits
        cleaningBuffers = (0..<scenario.workerCount).map { _ in
            (0..<limits.cleaningBatches).map { _ in
                SimulatedBuffer(sectorCount: limits.cleaningBatchBytes / 512)
            }
        }
        format()
        for core in cores { addToCache(core) }
    }

    /// The cache begins again with the pages in memory, its journal anew.
    func restart() {
        shared.deallocate()
        session += 1
        watch = JournalWatch()
        shared = SharedCache(
            geometry: geometry, pages: pages, workerCount: scenario.workerCount,
            journal: .anew(journalMemory, session: session))
        for core in cores where core.isAttached { addToCache(core) }
    }

    deinit {
        shared.deallocate()
        pages.deallocate()
        journalMemory.deallocate()
    }

    func addToCache(_ core: SimulatedCore) {
        shared.addCore(
            core.id, coreOffset: UInt32(core.id) * 7, sectorCount: UInt64(core.sectorCount),
            canDiscard: scenario.canDiscard)
        core.isAttached = true
    }

    /// As the product's control threads do it.
    func finishAdoption() {
        if shared.finishAdoption() { wakeForJournal() }
    }

    var randomMode: EngineMode {
        [.writeBack, .writeThrough, .passThrough][random.below(3)]
    }

    func wakeForJournal() { inboxes[0].append(.setReleased(Engine.journalSet)) }

    func fail(_ text: String) {
        if violation == nil { violation = Violation(seed: scenario.seed, text: text) }
    }

    /// The moment, as a count of what has happened: only its order matters.
    func tick() -> UInt64 {
        eventCount += 1
        return eventCount
    }
}

/// A core device, its exported device's history, and whether it is in the cache.
final class SimulatedCore {
    let id: UInt16
    let sectorCount: Int
    let device: SimulatedDevice
    var history: [SectorHistory]
    var isAttached = false
    var isPaused = false
    var isAbsent = false
    /// Stamps of writes acknowledged and not yet covered by an answered FLUSH are not here.
    var requestsUnderWay = 0
    var removal = RemovalStep.cleaning

    init(id: UInt16, sectorCount: Int) {
        self.id = id
        self.sectorCount = sectorCount
        device = SimulatedDevice(name: "core \(id)", sectorCount: sectorCount)
        history = [SectorHistory](repeating: SectorHistory(), count: sectorCount)
    }
}

/// How far the removal of a core is, once it gets no more requests.
enum RemovalStep {
    case cleaning, waitingForCleaning, flushing
    case committing(UInt64)
}

/// A request as its user sees it.
final class ClientRequest {
    let origin: UInt64
    let request: Request
    let core: SimulatedCore
    let begun: UInt64
    let stamp: UInt64
    let buffer: SimulatedBuffer
    /// Its data does not pass through the cache's memory: nobody knows a checksum.
    var isElsewhere = false
    var slot: UInt32?
    /// Flushes of the cache device before the process that is to answer it took it.
    var flushesBefore: UInt64 = 0

    init(
        origin: UInt64, request: Request, core: SimulatedCore, begun: UInt64, stamp: UInt64
    ) {
        self.origin = origin
        self.request = request
        self.core = core
        self.begun = begun
        self.stamp = stamp
        buffer = SimulatedBuffer(
            sectorCount: request.operation == .discard ? 0 : Int(request.sectorCount))
        if request.operation == .write {
            for index in buffer.stamps.indices { buffer.stamps[index] = stamp }
        }
    }

    var sectors: Range<Int> {
        Int(request.startSector)..<Int(request.startSector) + Int(request.sectorCount)
    }
}
