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

    /// Starts the thread, which serves a little later: see `awaitReady`.
    init<Front: RequestFront & ~Copyable>(
        _ setup: WorkerSetup, cpu: UInt32?, makeFront: @escaping @Sendable () -> Front?
    ) throws(CacheError) {
        identity = setup.identity
        let ready = try Reply()
        self.ready = ready
        thread = try NativeThread(name: "cas worker \(setup.identity.number)", cpu: cpu) {
            guard let front = makeFront() else { return ready.set(-ENOMEM) }
            setup.serve(front: front, ready)
        }
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

/// What a worker is made of: everything here may be handed from thread to thread.
struct WorkerSetup: Sendable {
    let identity: WorkerIdentity
    let shared: SharedCache
    let limits: EngineLimits
    let cacheDescriptor: Int32
    /// Transfers on their way at a time.
    var transferMax = 4096
    /// Gets what the worker did, at its end.
    var report: WorkerReport?

    /// The life of a worker thread.
    func serve<Front: RequestFront & ~Copyable>(front: consuming Front, _ ready: Reply) {
        do throws(RingError) {
            var loop = try makeLoop(front: front)
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

    /// The ring belongs to the thread that makes it.
    private func makeLoop<Front: RequestFront & ~Copyable>(
        front: consuming Front
    ) throws(RingError) -> TurnLoop<WorkerBackend<Front>> {
        // Room for every transfer, and for a ublk queue's tags besides.
        let completionMax: UInt32 = 16384
        var ring = try Ring(entries: 2048, completions: completionMax)
        try ring.registerFiles(count: WorkerFile.count)
        let result = ring.setFile(WorkerFile.cache, descriptor: cacheDescriptor)
        guard result == 0 else { throw RingError(step: "register a file", errno: -result) }
        guard
            let cleaning = BufferArena(
                bufferBytes: limits.cleaningBatchBytes, count: limits.cleaningBatches)
        else { throw RingError(step: "get memory", errno: ENOMEM) }
        let data = DataTable(slotCount: limits.requestSlots)
        var backend = WorkerBackend(
            devices: DeviceRing(ring: ring, capacity: transferMax), front: front, worker: identity,
            cleaning: cleaning, completionCapacity: Int(completionMax), journal: shared.journal,
            data: data)
        backend.openMailbox()
        return TurnLoop(
            engine: Engine(
                shared: shared, worker: identity.number, limits: limits,
                dataChecksum: data.checksum),
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
