import CacheEngine
import Glibc
import Synchronization
import Uring

/// A worker thread of a cache, as control threads see it.
final class Worker: Sendable {
    private let identity: WorkerIdentity
    private let thread: NativeThread

    private var mailbox: Mailbox<WorkerMessage> { identity.mailboxes[identity.number] }

    private let ready: Reply
    private let handover: Handover

    /// Starts the thread. It makes what it needs that has nothing to do with a cache, and waits.
    init<Front: RequestFront & ~Copyable>(
        _ identity: WorkerIdentity, limits: EngineLimits, cpu: UInt32?, placeMax: UInt32 = 0,
        makeFront: @escaping @Sendable () -> Front?
    ) throws(CacheError) {
        self.identity = identity
        let ready = try Reply()
        let handover = try Handover()
        self.ready = ready
        self.handover = handover
        thread = try NativeThread(name: "cas worker \(identity.number)", cpu: cpu) {
            do throws(RingError) {
                guard let front = makeFront() else { return ready.set(-ENOMEM) }
                let tools = try WorkerTools(limits, placeMax: placeMax)
                guard let setup = handover.wait() else { return ready.set(-ECANCELED) }
                setup.serve(front: front, tools, ready)
            } catch {
                ready.set(-error.errno)
            }
        }
    }

    /// Gives it the cache it is to serve.
    func begin(_ setup: WorkerSetup) { handover.give(setup) }

    /// Ends a thread that was given none.
    func dismiss() {
        handover.give(nil)
        thread.join()
    }

    /// Returns when the thread serves; if it cannot, it has ended.
    func awaitReady() throws(CacheError) {
        let result = ready.wait()
        guard result == 0 else {
            thread.join()
            throw CacheError(
                .kernel, "Starting worker \(identity.number) failed: \(errorText(-result)).")
        }
    }

    func post(_ message: WorkerMessage) { mailbox.post(message) }

    /// Sends a message and waits for its reply: 0 or -errno.
    func ask(_ message: (Reply) -> WorkerMessage) throws(CacheError) -> Int32 {
        let reply = try Reply()
        post(message(reply))
        return reply.wait()
    }

    /// Ends the thread. No queue may be attached any more.
    func stop() throws(CacheError) {
        _ = try ask { .stop($0) }
        thread.join()
    }
}

/// A worker thread waits here for its cache.
private final class Handover: Sendable {
    private let setup = Mutex<WorkerSetup?>(nil)
    private let given: Reply

    init() throws(CacheError) { given = try Reply() }

    func give(_ new: WorkerSetup?) {
        setup.withLock { $0 = new }
        given.set(0)
    }

    func wait() -> WorkerSetup? {
        _ = given.wait()
        return setup.withLock { $0 }
    }
}

/// What a worker thread makes for itself before it knows its cache. The ring belongs to the thread
/// that makes it.
struct WorkerTools: ~Copyable {
    /// Transfers on their way at a time.
    private static let transferMax = 4096
    var devices: DeviceRing
    let cleaning: BufferArena
    let tables: WorkerTables
    let pools: EnginePools

    /// `placeMax`: places for requests' pages in the ring's buffer table.
    init(_ limits: EngineLimits, placeMax: UInt32) throws(RingError) {
        var ring = try Ring(entries: 2048, completions: UInt32(WorkerTables.completionMax))
        try ring.registerFiles(count: WorkerFile.count)
        if placeMax > 0 { try ring.registerBuffers(count: placeMax) }
        guard
            let cleaning = BufferArena(
                bufferBytes: limits.cleaningBatchBytes, count: limits.cleaningBatches)
        else { throw RingError(step: "get memory", errno: ENOMEM) }
        devices = DeviceRing(ring: ring, capacity: Self.transferMax)
        self.cleaning = cleaning
        tables = WorkerTables(slotCount: limits.requestSlots)
        pools = EnginePools(limits)
    }
}

/// What a worker is made of: everything here may be handed from thread to thread.
struct WorkerSetup: Sendable {
    let identity: WorkerIdentity
    let shared: SharedCache
    let cacheDescriptor: Int32
    /// Gets what the worker did, at its end.
    var report: WorkerReport?

    /// The life of a worker thread.
    func serve<Front: RequestFront & ~Copyable>(
        front: consuming Front, _ tools: consuming WorkerTools, _ ready: Reply
    ) {
        do throws(RingError) {
            var loop = try makeLoop(front: front, tools)
            ready.set(0)
            var turns: UInt64 = 0
            while !(loop.backend.shouldEnd && loop.isQuiescent) {
                loop.turn(mayWait: true)
                turns &+= 1
            }
            report?.set(loop.backend.activity(turns: turns))
            loop.backend.reportEnd()
        } catch {
            ready.set(-error.errno)
        }
    }

    private func makeLoop<Front: RequestFront & ~Copyable>(
        front: consuming Front, _ tools: consuming WorkerTools
    ) throws(RingError) -> TurnLoop<WorkerBackend<Front>> {
        let result = tools.devices.ring.setFile(WorkerFile.cache, descriptor: cacheDescriptor)
        guard result == 0 else { throw RingError(step: "register a file", errno: -result) }
        let pools = tools.pools
        let dataChecksum = tools.tables.dataChecksum
        var backend = WorkerBackend(
            devices: tools.devices, front: front, worker: identity, cleaning: tools.cleaning,
            tables: tools.tables, shared: shared)
        backend.openMailbox()
        return TurnLoop(
            engine: Engine(
                shared: shared, worker: identity.number, pools: pools, dataChecksum: dataChecksum),
            backend: backend)
    }
}

/// What a worker did in its life.
package struct WorkerActivity: Equatable, Sendable {
    package var turns: UInt64 = 0
    /// Calls that hand the ring over or wait, and those that wake other workers.
    package var systemCalls: UInt64 = 0
    /// Reads, writes, flushes and discards that the engine asked for.
    package var cacheTransfers: UInt64 = 0
    package var coreTransfers: UInt64 = 0

    package init() {}
}

/// A place for what a worker did, filled when it ends.
final class WorkerReport: Sendable {
    private let activity = Mutex(WorkerActivity())

    func set(_ new: WorkerActivity) { activity.withLock { $0 = new } }
    var value: WorkerActivity { activity.withLock { $0 } }
}
