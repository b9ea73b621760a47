import CacheEngine
import CacheFormat
import Glibc
import Uring

/// The world of one worker's engine: a ring, the devices, the requests, the other workers.
struct WorkerBackend<Front: RequestFront & ~Copyable>: TurnBackend, ~Copyable {
    var devices: DeviceRing
    var front: Front
    private let number: Int
    private let mailboxes: [Mailbox<WorkerMessage>]
    private let board: ReleaseBoard
    private var cleaning: BufferArena
    private let shared: SharedCache
    private let journal: Journal
    private let tables: WorkerTables
    private var completionNext = 0
    private var completionCount = 0
    private var isMailboxArmed = false
    private var messages: [WorkerMessage] = []
    private var stopping: Reply?
    private var settling: Reply?
    /// Whether the loop asked for requests when it last asked for events.
    private var acceptsRequests = true
    /// A command was refused that no completion will make possible.
    private var mustTurnAgain = false
    /// The last turn made no system call.
    private var skippedSubmit = false
    private var wakeCount: UInt64 = 0

    init(
        devices: consuming DeviceRing, front: consuming Front, worker: WorkerIdentity,
        cleaning: consuming BufferArena, tables: consuming WorkerTables, shared: SharedCache
    ) {
        self.shared = shared
        journal = shared.journal
        self.tables = tables
        self.devices = devices
        self.front = front
        self.cleaning = cleaning
        number = worker.number
        mailboxes = worker.mailboxes
        board = worker.board
    }

    /// A control thread asked for the worker's end, and nothing is under way here.
    var shouldEnd: Bool { stopping != nil && devices.isIdle && messages.isEmpty }

    /// What the worker did up to now in so many turns.
    func activity(turns: UInt64) -> WorkerActivity {
        var activity = WorkerActivity()
        activity.turns = turns
        activity.systemCalls = devices.ring.enterCount + wakeCount
        activity.cacheTransfers = devices.counts.cacheTransfers
        activity.coreTransfers = devices.counts.coreTransfers
        return activity
    }

    /// Answers the stop. The last thing a worker does.
    mutating func reportEnd() {
        stopping?.set(0)
        stopping = nil
    }
}

/// Who a worker is among the workers of its cache.
struct WorkerIdentity: Sendable {
    let number: Int
    let mailboxes: [Mailbox<WorkerMessage>]
    let board: ReleaseBoard
}

/// What a worker looks things up in.
struct WorkerTables: ~Copyable {
    /// Room for every transfer, and for a ublk queue's tags besides.
    static let completionMax = 16384
    fileprivate let cores = CoreTable()
    /// Where the data of each slot's request is, for the journal's checksums.
    fileprivate let data: UnsafeMutablePointer<UnsafeMutableRawPointer?>
    /// Completions taken from the ring and not yet looked at.
    fileprivate let completions: UnsafeMutablePointer<Completion>
    /// Where the ring puts the mailbox's event count.
    fileprivate let eventCount: UnsafeMutablePointer<UInt64>

    init(slotCount: Int) {
        data = .allocate(capacity: slotCount)
        data.initialize(repeating: nil, count: slotCount)
        completions = .allocate(capacity: Self.completionMax)
        eventCount = .allocate(capacity: 1)
        eventCount.initialize(to: 0)
    }

    deinit {
        cores.deallocate()
        data.deallocate()
        completions.deallocate()
        eventCount.deallocate()
    }

    /// For as long as the tables are there.
    var dataChecksum: DataChecksum {
        DataChecksum(context: UnsafeMutableRawPointer(data)) {
            context, slot, offset, byteCount, seed in
            let addresses = context.assumingMemoryBound(to: UnsafeMutableRawPointer?.self)
            guard let data = addresses[Int(slot)] else { return DataChecksum.unknown }
            return UInt64(
                CacheFormat.checksum(
                    UnsafeRawBufferPointer(start: data + Int(offset), count: Int(byteCount)),
                    continuing: seed))
        }
    }
}

/// What a worker knows of each core, by core id.
private struct CoreTable {
    static let count = SharedCache.coreCountMax
    /// Registered file; 0 (the cache's) for none.
    let files: UnsafeMutablePointer<UInt32>
    let inFlight: UnsafeMutablePointer<UInt32>
    let canDiscardByCommand: UnsafeMutablePointer<Bool>
    /// Unmanaged, so that looking costs nothing.
    let flushes: UnsafeMutablePointer<Unmanaged<Reply>?>

    init() {
        files = .allocate(capacity: Self.count)
        files.initialize(repeating: 0, count: Self.count)
        inFlight = .allocate(capacity: Self.count)
        inFlight.initialize(repeating: 0, count: Self.count)
        canDiscardByCommand = .allocate(capacity: Self.count)
        canDiscardByCommand.initialize(repeating: false, count: Self.count)
        flushes = .allocate(capacity: Self.count)
        flushes.initialize(repeating: nil, count: Self.count)
    }

    func deallocate() {
        files.deallocate()
        inFlight.deallocate()
        canDiscardByCommand.deallocate()
        flushes.deallocate()
    }
}

// MARK: - Events

extension WorkerBackend where Front: ~Copyable {
    mutating func nextEvent(acceptsRequests: Bool) -> TurnEvent? {
        self.acceptsRequests = acceptsRequests
        while completionNext < completionCount {
            let completion = tables.completions[completionNext]
            let (userData, result) = (completion.userData, completion.result)
            completionNext += 1
            if let event = completed(userData, result) { return event }
        }
        if let set = board.take(to: number) { return .setReleased(set) }
        while let message = messages.popLast() {
            if let event = handle(message) { return event }
        }
        if acceptsRequests, let (request, origin) = front.nextRequest(&devices, shared) {
            return .request(request, origin: origin)
        }
        return nil
    }

    private mutating func completed(_ userData: UInt64, _ result: Int32) -> TurnEvent? {
        switch CompletionOwner(rawValue: userData >> 56) {
        case .transfer:
            guard let end = devices.ended(userData: userData, result: result) else { return nil }
            if end.isCore { tables.cores.inFlight[Int(end.core)] -= 1 }
            if end.slot != .max { front.transferEnded(slot: end.slot) }
            return .completion(end.token, result: end.result)
        case .mailbox:
            isMailboxArmed = false
            openMailbox()
            return nil
        case .front:
            front.completed(userData: userData, result: result, &devices)
            return nil
        case nil: preconditionFailure("a completion that is nobody's")
        }
    }

    /// Messages are handled in the order they were sent: the list is kept with the oldest last.
    mutating func openMailbox() {
        guard let arrived = mailboxes[number].drain() else { return }
        messages.insert(contentsOf: arrived.reversed(), at: 0)
    }

    mutating func accepted(origin: UInt64, slot: UInt32) {
        tables.data[Int(slot)] = front.accepted(origin: origin, slot: slot)
    }

    mutating func mayStart(_ request: Request, origin: UInt64) -> Bool {
        front.mayStart(request, origin: origin, &devices, shared)
    }

    mutating func flushRefused(core: UInt16) { flushEnded(core, -EBUSY) }

    private func flushEnded(_ core: UInt16, _ result: Int32) {
        guard let reply = tables.cores.flushes[Int(core)] else {
            preconditionFailure("a flush nobody began has ended")
        }
        tables.cores.flushes[Int(core)] = nil
        reply.takeRetainedValue().set(result)
    }
}

// MARK: - Messages

extension WorkerBackend where Front: ~Copyable {
    private mutating func handle(_ message: WorkerMessage) -> TurnEvent? {
        switch message {
        case .attachCore(let core, let descriptor, let isBlockDevice, let reply):
            reply.set(attachCore(core, descriptor, isBlockDevice))
        case .detachCore(let core, let reply):
            reply.set(detachCore(core))
        case .attachQueue(let setup, let reply):
            front.attach(setup, reply, &devices)
        case .detachQueue(let device, let reply):
            front.detach(device: device, reply, &devices)
        case .beginFlush(let core, let reply):
            precondition(
                tables.cores.flushes[Int(core)] == nil, "a core is flushed twice at a time")
            tables.cores.flushes[Int(core)] = Unmanaged.passRetained(reply)
            return .beginFlush(core: core)
        case .cancelFlush(let core):
            return .cancelFlush(core: core)
        case .journal:
            return .setReleased(Engine.journalSet)
        case .settle(let reply):
            precondition(settling == nil, "asked to settle twice at a time")
            settling = reply
            return .beginSettling
        case .stop(let reply):
            stopping = reply
        }
        return nil
    }

    private mutating func attachCore(
        _ core: UInt16, _ descriptor: Int32, _ isBlockDevice: Bool
    ) -> Int32 {
        precondition(tables.cores.files[Int(core)] == 0, "a core is attached twice")
        guard let file = devices.ring.freeFile(from: WorkerFile.first) else { return -ENFILE }
        let result = devices.ring.setFile(file, descriptor: descriptor)
        guard result == 0 else { return result }
        tables.cores.files[Int(core)] = file
        tables.cores.canDiscardByCommand[Int(core)] = isBlockDevice
        return 0
    }

    private mutating func detachCore(_ core: UInt16) -> Int32 {
        guard tables.cores.inFlight[Int(core)] == 0 else { return -EBUSY }
        guard tables.cores.files[Int(core)] != 0 else { return 0 }
        let result = devices.ring.setFile(tables.cores.files[Int(core)], descriptor: -1)
        tables.cores.files[Int(core)] = 0
        return result
    }
}

// MARK: - Commands

extension WorkerBackend where Front: ~Copyable {
    mutating func prepare(_ command: UnsafePointer<Command>) -> Bool {
        switch command.pointee.kind {
        case .readCache, .writeCache, .flushCache, .readCore, .writeCore, .flushCore, .discardCore:
            return prepareTransfer(command)
        case .answer:
            answer(
                slot: command.pointee.slot, result: command.pointee.result,
                keepsBuffer: command.pointee.keepsBuffer)
            return true
        case .releaseSlot:
            front.release(slot: command.pointee.slot, &devices)
            return true
        case .wakeWorker:
            return wake(
                Int(command.pointee.slot),
                set: UInt32(truncatingIfNeeded: command.pointee.deviceOffset))
        case .flushEnded:
            flushEnded(command.pointee.core, command.pointee.result)
            return true
        case .writesSettled:
            settling?.set(0)
            settling = nil
            return true
        }
    }

    mutating func answer(slot: UInt32, result: Int32, keepsBuffer: Bool) {
        front.answer(slot: slot, result: result, keepsBuffer: keepsBuffer, &devices)
    }

    private mutating func prepareTransfer(_ command: UnsafePointer<Command>) -> Bool {
        var transfer = Transfer()
        transfer.core = command.pointee.core
        transfer.token = command.pointee.token
        transfer.deviceOffset = command.pointee.deviceOffset
        transfer.byteCount = UInt64(command.pointee.byteCount)
        let isCore: Bool
        switch command.pointee.kind {
        case .readCache: (transfer.operation, isCore) = (.read, false)
        case .writeCache: (transfer.operation, isCore) = (.write, false)
        case .flushCache: (transfer.operation, isCore) = (.flush, false)
        case .readCore: (transfer.operation, isCore) = (.read, true)
        case .writeCore: (transfer.operation, isCore) = (.write, true)
        case .flushCore: (transfer.operation, isCore) = (.flush, true)
        case .discardCore:
            let byCommand = tables.cores.canDiscardByCommand[Int(command.pointee.core)]
            (transfer.operation, isCore) = (byCommand ? .discard : .punchHole, true)
            transfer.byteCount = command.pointee.discardByteCount
        case .answer, .releaseSlot, .wakeWorker, .flushEnded, .writesSettled:
            preconditionFailure("not a transfer")
        }
        if isCore {
            transfer.file = tables.cores.files[Int(command.pointee.core)]
            precondition(transfer.file != 0, "a transfer of a core that is not attached")
        }
        return start(&transfer, command, isCore: isCore)
    }

    private mutating func start(
        _ transfer: inout Transfer, _ command: UnsafePointer<Command>, isCore: Bool
    ) -> Bool {
        if transfer.operation == .read || transfer.operation == .write {
            transfer.isDurable = command.pointee.forceUnitAccess
            locate(&transfer, command)
        }
        guard devices.start(transfer) else { return false }
        if isCore { tables.cores.inFlight[Int(command.pointee.core)] += 1 }
        if transfer.slot != .max { front.transferStarted(slot: transfer.slot) }
        return true
    }

    @inline(__always) private func locate(
        _ transfer: inout Transfer, _ command: UnsafePointer<Command>
    ) {
        let buffer = command.pointee.buffer
        let offset = command.pointee.bufferOffset
        if buffer.isCleaning {
            transfer.address = cleaning.address(buffer.index) + Int(offset)
        } else if buffer.isMetadata {
            transfer.address = journal.address(metadata: buffer.index) + Int(offset)
        } else {
            transfer.slot = buffer.index
            front.locate(&transfer, offset: offset, isFilled: command.pointee.isFilled)
        }
    }

    /// False if the other worker has not yet read what it was sent before.
    private mutating func wake(_ other: Int, set: UInt32) -> Bool {
        let isPosted = board.post(set, from: number, to: other)
        if mailboxes[other].ring() { wakeCount &+= 1 }
        if !isPosted { mustTurnAgain = true }
        return isPosted
    }
}

// MARK: - The turn's system call

extension WorkerBackend where Front: ~Copyable {
    mutating func submit(mayWait: Bool) {
        if !isMailboxArmed {
            devices.ring.makeRoom(1)
            isMailboxArmed = devices.ring.prepareLongRead(
                descriptor: mailboxes[number].eventDescriptor,
                into: UnsafeMutableRawPointer(tables.eventCount), byteCount: 8,
                userData: CompletionOwner.mailbox.tag)
        }
        let isBacklog = completionNext < completionCount
        let hasRequests = acceptsRequests && front.hasRequests
        let sleeps =
            mayWait && !isBacklog && messages.isEmpty && !hasRequests && !mustTurnAgain
            && !shouldEnd
        mustTurnAgain = false
        // The next turn has requests to prepare: it will make the system call for both.
        skippedSubmit =
            hasRequests && !sleeps && !skippedSubmit && devices.ring.preparedCount == 0
        if skippedSubmit { return }
        devices.submit(waits: sleeps)
        if !isBacklog { collect() }
    }

    private mutating func collect() {
        completionNext = 0
        completionCount = devices.ring.drain(
            into: tables.completions, capacity: WorkerTables.completionMax)
    }
}
