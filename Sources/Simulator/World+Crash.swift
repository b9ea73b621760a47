import CacheEngine
import CacheFormat

/// The death of the process at any moment between two steps: what it had in memory is gone, but for
/// the set pages; of its I/O under way any part lands. Then another process attaches to the pages,
/// and the kernel sends again whatever was not answered.
extension Simulation {
    /// More of them find little, and all that is under way begins anew each time.
    private static var crashesMax: Int { 100 }

    func maybeCrash() {
        let chance = world.scenario.crashesPerHundredThousand
        // Not before something new was asked for: otherwise long requests might never end.
        guard chance > 0, crashes < Self.crashesMax, made > madeBeforeCrash else { return }
        if world.random.below(100_000) < chance { isCrashDue = true }
        // Mostly when somebody has something to do.
        guard isCrashDue, !world.inboxes.allSatisfy(\.isEmpty) || world.random.chance(1) else {
            return
        }
        isCrashDue = false
        madeBeforeCrash = made
        let stores = [8, 32, 64, 512][world.random.below(4)]
        crash(afterStores: world.random.chance(70) ? UInt64(world.random.below(stores)) : nil)
    }

    /// Operations of control threads end with their process: a flush, a mode change that had not
    /// come to its end, the removal of a core before it is forgotten.
    /// With `stores`, after so many stores of a turn.
    func crash(afterStores stores: UInt64?) {
        crashes += 1
        if let stores, MemoryImageTrap.works {
            // One that something has happened to stores more than one that looks around.
            let busy = workers.indices.filter { !world.inboxes[$0].isEmpty }
            diedInTurn = workers[busy.randomElement(using: &world.random) ?? 0]
                .die(afterStores: stores, world.imageTrap)
        }
        world.crash()
        workers = []
        world.attachAgain()
        startWorkers()
        flushing = []
        modeChange = nil
        durabilityChange = nil
        removing?.isPaused = false
        removing = nil
    }
}

extension World {
    /// The process is gone.
    fileprivate func crash() {
        _ = tick()
        for transfer in transfers { landPartly(transfer) }
        transfers = []
        for worker in inboxes.indices { inboxes[worker] = [] }
        settling = []
        flushesEnded = [:]
        for buffers in cleaningBuffers {
            for buffer in buffers { buffer.clear() }
        }
        sendAgain()
    }

    /// The device may have taken any of it, but all of that before the next process gets it.
    private func landPartly(_ transfer: SimulatedTransfer) {
        while !transfer.pending.isEmpty, random.chance(60) { takePiece(of: transfer) }
        let isFlush = transfer.command.kind == .flushCache || transfer.command.kind == .flushCore
        if isFlush, random.chance(50) {
            device(of: transfer.command).makeDurable(transfer.unflushed)
        }
    }

    /// What was not answered goes to the new process's workers, in any order.
    private func sendAgain() {
        for origin in underWay.keys.sorted() {
            guard let client = underWay[origin] else { continue }
            client.slot = nil
            if client.request.operation == .read { client.buffer.clear() }
            let worker = random.below(scenario.workerCount)
            requests[worker].insert(client, at: random.below(requests[worker].count + 1))
        }
        underWay = [:]
    }

    private func takeOver() -> SharedCache {
        SharedCache(
            geometry: geometry, pages: pages, workerCount: scenario.workerCount,
            journal: .goingOn(journalMemory))
    }

    private var pageBytes: UnsafeRawBufferPointer {
        UnsafeRawBufferPointer(start: pages, count: scenario.setCount * SetPageLayout.byteCount)
    }

    /// A process that dies while it takes the image over: the next one begins with what it left.
    /// Returns the pages that it would have had.
    private func dieGoingOn() -> [UInt8] {
        var taken: [UInt8] = []
        _ = imageTrap.run(untilStores: 0) {
            takeOver().deallocate()
            taken = Array(pageBytes)
        }
        let stores = UInt64(random.below([4, 12, 40][random.below(3)]))
        _ = imageTrap.run(untilStores: stores) { takeOver().deallocate() }
        return taken
    }

    /// A new process over the same pages.
    fileprivate func attachAgain() {
        let mode = shared.mode
        durability = shared.durability
        shared.deallocate()
        let expected = MemoryImageTrap.works && random.chance(40) ? dieGoingOn() : nil
        shared = takeOver()
        if let expected, !expected.elementsEqual(pageBytes) {
            fail("a death while the image was taken over is seen in its pages")
        }
        // A change may have been saved, and not come to more.
        shared.mode = scenario.modeSwitchPerMille > 0 && random.chance(30) ? randomMode : mode
        shared.durability = durability
        for core in cores where core.isAttached {
            addToCache(core)
            shared.keepCounters(core: core.id, blockCount: 0)
            if core.isAbsent { shared.setHasDevice(core.id, false) }
        }
    }
}

extension SimulatedBuffer {
    func clear() {
        for index in stamps.indices { stamps[index] = .max }
    }
}
