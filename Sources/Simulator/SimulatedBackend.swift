import CacheEngine
import CacheFormat

/// The world as one worker's turn loop sees it.
struct SimulatedBackend: TurnBackend, ~Copyable {
    let world: World
    let worker: Int
    let clients: SlotClients
    /// The worker sleeps in its system call until something arrives for it.
    private(set) var isAsleep = false
    /// Room left in the "ring" this turn, so that commands have to be carried over.
    var room = 1
    /// The process dies in this turn: nothing it has prepared will ever be submitted.
    var isDying = false

    init(world: World, worker: Int, clients: SlotClients) {
        self.world = world
        self.clients = clients
        self.worker = worker
    }

    mutating func nextEvent(acceptsRequests: Bool) -> TurnEvent? {
        if !world.inboxes[worker].isEmpty {
            let index = world.random.below(world.inboxes[worker].count)
            return world.inboxes[worker].remove(at: index)
        }
        guard acceptsRequests, !world.requests[worker].isEmpty else { return nil }
        let client = world.requests[worker].removeFirst()
        world.underWay[client.origin] = client
        return .request(client.request, origin: client.origin)
    }

    mutating func accepted(origin: UInt64, slot: UInt32) {
        guard let client = world.underWay[origin] else {
            preconditionFailure("the loop names a request it was not given")
        }
        if clients.slots[slot] != nil, !isDying { world.fail("a slot was given out twice") }
        clients.slots[slot] = client
        client.slot = slot
        client.flushesBefore = isDying ? 0 : world.shared.journalActivity.flushes
    }

    mutating func prepare(_ prepared: UnsafePointer<Command>) -> Bool {
        if isDying { return true }
        let command = prepared.pointee
        guard room > 0 else { return false }
        room -= 1
        switch command.kind {
        case .answer:
            answer(slot: command.slot, result: command.result, keepsBuffer: command.keepsBuffer)
        case .releaseSlot: forget(command.slot)
        case .wakeWorker:
            world.inboxes[Int(command.slot)].append(.setReleased(UInt32(command.deviceOffset)))
        case .flushEnded:
            world.flushesEnded[command.core] = command.result
        case .writesSettled: world.settling.remove(worker)
        default:
            let client = command.buffer.isRequest ? clients.slots[command.buffer.index] : nil
            let transfer = SimulatedTransfer(
                command, worker: worker, buffer: buffer(command.buffer), client: client,
                metadata: command.buffer.isMetadata
                    ? world.shared.journal.address(metadata: command.buffer.index) : nil)
            if command.kind == .writeCache, transfer.metadata == nil {
                world.writeBegins(command)
                if let client { world.checkDirectWrites(command, client) }
            }
            world.begin(transfer)
        }
        return true
    }

    mutating func answer(slot: UInt32, result: Int32, keepsBuffer: Bool) {
        if isDying { return }
        guard let client = clients.slots[slot] else {
            world.fail("an answer for nobody")
            return
        }
        world.answered(client, result: result)
        if !keepsBuffer {
            forget(slot)
        } else if client.request.operation == .read {
            client.buffer.giveToUser()
        }
    }

    /// The engine no longer uses the buffer: whatever still reads it reads rubbish.
    private mutating func forget(_ slot: UInt32) {
        guard let client = clients.slots.removeValue(forKey: slot) else {
            world.fail("a slot was released that nobody has")
            return
        }
        for index in client.buffer.stamps.indices { client.buffer.stamps[index] = .max }
    }

    private func buffer(_ name: BufferName) -> SimulatedBuffer? {
        if name == .none || name.isMetadata { return nil }
        if name.isCleaning { return world.cleaningBuffers[worker][Int(name.index)] }
        guard let client = clients.slots[name.index] else {
            world.fail("a transfer names the buffer of a request that is gone")
            return nil
        }
        return client.buffer
    }

    mutating func submit(mayWait: Bool) {
        room = 1 + world.random.below(24)
        isAsleep = mayWait
    }

    /// False if the worker sleeps and nothing has arrived: the kernel would not run it.
    var isRunnable: Bool {
        !isAsleep || !world.inboxes[worker].isEmpty || !world.requests[worker].isEmpty
    }

    mutating func flushRefused(core: UInt16) { world.flushesEnded[core] = -16 }
}

/// The request that has each engine slot of a worker.
final class SlotClients {
    var slots: [UInt32: ClientRequest] = [:]

    /// For as long as this lives. A sector's content is its stamp, as eight bytes.
    var dataChecksum: DataChecksum {
        DataChecksum(context: Unmanaged.passUnretained(self).toOpaque()) {
            context, slot, offset, byteCount, seed in
            let clients = Unmanaged<SlotClients>.fromOpaque(context).takeUnretainedValue()
            guard let client = clients.slots[slot] else {
                preconditionFailure("the checksum of a buffer that nobody has")
            }
            if client.isElsewhere { return DataChecksum.unknown }
            let first = Int(offset / 512)
            return client.buffer.stamps[first..<first + Int(byteCount / 512)]
                .withUnsafeBytes { UInt64(checksum($0, continuing: seed)) }
        }
    }
}
