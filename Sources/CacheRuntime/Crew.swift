import CacheEngine

/// What can be begun for a cache that goes on after a crash before its device is free.
struct Succession {
    let crew: Crew
    let devices: LeftDevices?
}

/// The worker threads of a cache, begun before the cache is known: each makes its ring and buffers
/// meanwhile. After a crash that is the time in which the last I/O of the dead process ends.
final class Crew {
    private let identities: [WorkerIdentity]
    private var waiting: [Worker] = []

    var count: Int { identities.count }

    init(_ options: CacheInstance.Options, count: Int) throws(CacheError) {
        var mailboxes: [Mailbox<WorkerMessage>] = []
        for _ in 0..<count { mailboxes.append(try Mailbox()) }
        let board = ReleaseBoard(workerCount: count)
        let limits = options.limits
        identities = (0..<count).map {
            WorkerIdentity(number: $0, mailboxes: mailboxes, board: board)
        }
        let cpus = NativeThread.allowedCPUs()
        let isCopying = options.movement == .copy
        do throws(CacheError) {
            for identity in identities {
                let worker = try Worker(
                    identity, limits: limits, cpu: cpus[identity.number % cpus.count],
                    placeMax: options.registeredRequestMax
                ) {
                    UblkFront(
                        slotCount: limits.requestSlots, shortBuffers: isCopying ? 64 : 512,
                        longBuffers: isCopying ? 8 : 128,
                        requestBytesMax: Int(ExportedLimits.requestBytesMax))
                }
                waiting.append(worker)
            }
        } catch {
            dismiss()
            throw error
        }
    }

    /// Ends the threads that have no cache yet.
    func dismiss() {
        for worker in waiting { worker.dismiss() }
        waiting = []
    }

    /// Lets all of them serve the cache. If one cannot, none does.
    func serve(_ shared: SharedCache, cacheDescriptor: Int32) throws(CacheError) -> [Worker] {
        precondition(count == shared.workerCount, "a crew for another cache")
        let begun = waiting
        waiting = []
        for (worker, identity) in zip(begun, identities) {
            worker.begin(
                WorkerSetup(identity: identity, shared: shared, cacheDescriptor: cacheDescriptor))
        }
        var serving: [Worker] = []
        var failure: CacheError?
        for worker in begun {
            do throws(CacheError) {
                try worker.awaitReady()
                serving.append(worker)
            } catch {
                failure = error
            }
        }
        guard let failure else { return serving }
        for worker in serving { try? worker.stop() }
        throw failure
    }
}
