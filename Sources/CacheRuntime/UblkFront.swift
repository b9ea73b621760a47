import CacheEngine
import Glibc
import Ublk
import Uring

/// Requests from ublk: one queue of each exported device of the cache.
///
/// Copy mode: the kernel copies a write's data into the tag's buffer before the tag is delivered,
/// and a read's data out of it at the commit; from the commit on the buffer is the kernel's. So a
/// buffer that is needed beyond the answer is copied to a spare one first; if there is no spare
/// one, the answer waits until the buffer is not needed any more.
///
/// User copy mode: buffers come from the pool, and the data are moved by reading and writing
/// /dev/ublkc*N* (`RequestBytes`), before the request is offered and before its tag is committed.
///
/// Automatic mode: the kernel puts the request's pages into the ring's buffer table, and the
/// devices read and write them there: no copy. Only what is needed in memory that its user cannot
/// change goes through a buffer of the pool, by user copy: what is read from the core to fill the
/// cache, writes that go to both devices, and writes whose records should have a checksum
/// (`WriteHolding`). A request whose pages could not be registered is one of user copy mode.
struct UblkFront: RequestFront, ~Copyable {
    static let queueMax = 512

    private var pool: RequestPool
    private let queues: UnsafeMutablePointer<ServedQueue>
    private let isServed: UnsafeMutablePointer<Bool>
    private let slots: UnsafeMutablePointer<SlotUse>
    private let slotCount: Int
    private var ready = TagList()
    private var waiting = TagList()
    private var attachingCount = 0
    private var holding = WriteHolding()

    /// What the engine's slot number stands for.
    private struct SlotUse {
        var origin: UInt32 = 0
        var byteCount: UInt32 = 0
        var address: UnsafeMutableRawPointer?
        /// Until the answer the request's pages are in the ring's buffer table.
        var isRegistered = false
        /// A buffer of the pool that this slot holds.
        var buffer = RequestPool.none
        var transferCount: UInt32 = 0
        /// The answer waits for `release`.
        var isHeld = false
        var result: Int32 = 0
    }

    init?(slotCount: Int, shortBuffers: Int, longBuffers: Int, requestBytesMax: Int) {
        guard
            let pool = RequestPool(
                shortCount: shortBuffers, longCount: longBuffers, longBytes: requestBytesMax)
        else { return nil }
        self.pool = pool
        self.slotCount = slotCount
        queues = .allocate(capacity: Self.queueMax)
        isServed = .allocate(capacity: Self.queueMax)
        isServed.initialize(repeating: false, count: Self.queueMax)
        slots = .allocate(capacity: slotCount)
        slots.initialize(repeating: SlotUse(), count: slotCount)
    }

    deinit {
        for place in 0..<Self.queueMax where isServed[place] {
            (queues + place).deinitialize(count: 1)
        }
        queues.deallocate()
        isServed.deallocate()
        slots.deallocate()
    }

    var hasRequests: Bool { !ready.isEmpty || attachingCount > 0 }

    // An origin is the queue's place and the tag.

    @inline(__always) private func tag(_ origin: UInt32) -> UInt16 {
        UInt16(truncatingIfNeeded: origin)
    }

    @inline(__always) private func state(_ origin: UInt32) -> UnsafeMutablePointer<TagState> {
        queues[Int(origin >> 16)].tags + Int(tag(origin))
    }

    private func userData(_ origin: UInt32) -> UInt64 {
        CompletionOwner.front.tag | UInt64(origin)
    }

    private func bytes(_ origin: UInt32, from first: UInt32 = 0) -> RequestBytes {
        queues[Int(origin >> 16)].queue.bytes(tag: tag(origin), from: first)
    }
}

// MARK: - Requests

extension UblkFront {
    mutating func completed(userData: UInt64, result: Int32, _ devices: inout DeviceRing) {
        let origin = UInt32(truncatingIfNeeded: userData)
        let place = Int(origin >> 16)
        switch queues[place].queue.completed(result: result) {
        case .request: arrived(origin, &devices)
        case .aborted: endIfDrained(place, &devices)
        case .refused(let code):
            queues[place].failure = -code
            endIfDrained(place, &devices)
        }
    }

    private mutating func arrived(_ origin: UInt32, _ devices: inout DeviceRing) {
        let served = queues + Int(origin >> 16)
        let descriptor = served.pointee.queue.descriptor(tag: tag(origin))
        let movement = served.pointee.setup.movement
        guard movement != .copy, descriptor.movesData else {
            makeReady(origin)
            return
        }
        if movement == .automatic, !descriptor.needsRegistration {
            state(origin).pointee.isRegistered = true
            // Whether the data of a write must be held is known when it starts.
            if descriptor.operation == .write {
                makeReady(origin)
                return
            }
        }
        if !awaitBuffer(origin, descriptor, &devices) { makeReady(origin) }
    }

    /// Gets a buffer of the pool for the request, now or later, and a write's data into it. False
    /// if the request can be offered.
    private mutating func awaitBuffer(
        _ origin: UInt32, _ descriptor: IODescriptor, _ devices: inout DeviceRing
    ) -> Bool {
        if waiting.isEmpty, let isReady = giveBuffer(origin, descriptor, &devices) {
            return !isReady
        }
        state(origin).pointee.phase = .waiting
        waiting.append(origin, queues)
        return true
    }

    private mutating func makeReady(_ origin: UInt32) {
        state(origin).pointee.phase = .ready
        ready.append(origin, queues)
    }

    mutating func nextRequest(
        _ devices: inout DeviceRing, _ shared: SharedCache
    ) -> (request: Request, origin: UInt64)? {
        if attachingCount > 0 { settleAttachments(devices.submitCount) }
        while let origin = ready.removeFirst(queues) {
            let served = queues + Int(origin >> 16)
            let descriptor = served.pointee.queue.descriptor(tag: tag(origin))
            guard let request = request(descriptor, core: served.pointee.setup.core) else {
                commit(origin, -EOPNOTSUPP, &devices)
                continue
            }
            if isUnheldWrite(request, origin), holding.holds(request, shared),
                awaitBuffer(origin, descriptor, &devices)
            {
                continue
            }
            state(origin).pointee.phase = .serving
            return (request, UInt64(origin))
        }
        return nil
    }

    private func isUnheldWrite(_ request: Request, _ origin: UInt32) -> Bool {
        request.operation == .write && state(origin).pointee.isRegistered
            && state(origin).pointee.buffer == RequestPool.none
    }

    /// The mode may have changed while it waited: what goes to both devices now has to be held.
    mutating func mayStart(
        _ request: Request, origin: UInt64, _ devices: inout DeviceRing, _ shared: SharedCache
    ) -> Bool {
        let origin = UInt32(truncatingIfNeeded: origin)
        guard isUnheldWrite(request, origin), shared.holdsWrites else { return true }
        let descriptor = queues[Int(origin >> 16)].queue.descriptor(tag: tag(origin))
        return !awaitBuffer(origin, descriptor, &devices)
    }

    /// Nil for what the device's parameters did not offer.
    private func request(_ descriptor: IODescriptor, core: UInt16) -> Request? {
        let operation: Request.Operation
        switch descriptor.operation {
        case .read: operation = .read
        case .write: operation = .write
        case .flush: return Request(.flush, core: core)
        case .discard: operation = .discard
        case .writeSame, .writeZeroes, nil: return nil
        }
        return Request(
            operation, core: core, startSector: descriptor.startSector,
            sectorCount: descriptor.sectorCount,
            forceUnitAccess: operation == .write && descriptor.forceUnitAccess)
    }

    mutating func accepted(origin: UInt64, slot: UInt32) -> UnsafeMutableRawPointer? {
        precondition(Int(slot) < slotCount)
        let origin = UInt32(truncatingIfNeeded: origin)
        let served = queues + Int(origin >> 16)
        let descriptor = served.pointee.queue.descriptor(tag: tag(origin))
        var use = SlotUse()
        use.origin = origin
        if descriptor.movesData {
            use.byteCount = descriptor.sectorCount * 512
            let tagState = state(origin).pointee
            if served.pointee.setup.movement == .copy {
                use.address = served.pointee.address(tag(origin))
            } else if tagState.buffer != RequestPool.none {
                use.address = pool.address(tagState.buffer)
            }
            // A write whose data is held is served from there.
            use.isRegistered =
                tagState.isRegistered && (descriptor.operation == .read || use.address == nil)
        }
        slots[Int(slot)] = use
        return use.address
    }

    func locate(_ transfer: inout Transfer, offset: UInt32, isFilled: Bool) {
        let use = slots + Int(transfer.slot)
        guard use.pointee.isRegistered, !isFilled else {
            guard let address = use.pointee.address else {
                preconditionFailure("a transfer in the buffer of a request without data")
            }
            transfer.address = address + Int(offset)
            // What the transfer reads is put into the request's pages, too.
            if use.pointee.isRegistered {
                transfer.out = bytes(use.pointee.origin, from: offset)
            }
            return
        }
        transfer.address = nil
        transfer.place = queues[Int(use.pointee.origin >> 16)].place(tag(use.pointee.origin))
        transfer.placeStart = offset
    }

    func transferStarted(slot: UInt32) { slots[Int(slot)].transferCount += 1 }
    func transferEnded(slot: UInt32) { slots[Int(slot)].transferCount -= 1 }
}

// MARK: - Answers

extension UblkFront {
    mutating func answer(
        slot: UInt32, result: Int32, keepsBuffer: Bool, _ devices: inout DeviceRing
    ) {
        let use = slots + Int(slot)
        let origin = use.pointee.origin
        use.pointee.result = result
        // From the commit on the pages are the user's.
        defer { if !use.pointee.isHeld { use.pointee.isRegistered = false } }
        if keepsBuffer && use.pointee.byteCount > 0 {
            let buffer = state(origin).pointee.buffer
            if buffer != RequestPool.none {
                pool.retain(buffer)
                use.pointee.buffer = buffer
            } else if !moveToSpare(use) {
                use.pointee.isHeld = true
                return
            }
        }
        finish(origin, result, &devices)
    }

    /// Copies the slot's bytes to a spare buffer that it uses from now on. False if there is none,
    /// or a transfer still uses the tag's buffer.
    private mutating func moveToSpare(_ use: UnsafeMutablePointer<SlotUse>) -> Bool {
        guard use.pointee.transferCount == 0, let source = use.pointee.address,
            let spare = pool.acquire(byteCount: Int(use.pointee.byteCount))
        else { return false }
        pool.address(spare).copyMemory(from: source, byteCount: Int(use.pointee.byteCount))
        use.pointee.address = pool.address(spare)
        use.pointee.buffer = spare
        return true
    }

    mutating func release(slot: UInt32, _ devices: inout DeviceRing) {
        let use = slots + Int(slot)
        precondition(use.pointee.transferCount == 0, "a slot is released under a transfer")
        if use.pointee.isHeld {
            use.pointee.isHeld = false
            finish(use.pointee.origin, use.pointee.result, &devices)
        }
        if use.pointee.buffer != RequestPool.none {
            let buffer = use.pointee.buffer
            use.pointee.buffer = RequestPool.none
            release(buffer: buffer, &devices)
        }
    }

    /// The request is over: moves a read's data out if that is still to be done, and commits.
    private mutating func finish(_ origin: UInt32, _ result: Int32, _ devices: inout DeviceRing) {
        let served = queues + Int(origin >> 16)
        let descriptor = served.pointee.queue.descriptor(tag: tag(origin))
        let isInBuffer =
            served.pointee.setup.movement != .copy && !state(origin).pointee.isRegistered
        var result = result
        if isInBuffer, descriptor.operation == .read, result == 0 {
            result = bytes(origin).give(
                from: pool.address(state(origin).pointee.buffer),
                count: Int(descriptor.sectorCount) * 512)
        }
        let moved = descriptor.movesData ? Int32(descriptor.sectorCount * 512) : 0
        commit(origin, result == 0 ? moved : result, &devices)
    }

    /// Gives the tag back to the kernel with all of its bytes, or -errno.
    private mutating func commit(_ origin: UInt32, _ result: Int32, _ devices: inout DeviceRing) {
        let served = queues + Int(origin >> 16)
        let buffer = state(origin).pointee.buffer
        state(origin).pointee = TagState()
        devices.ring.makeRoom(1)
        let isQueued = served.pointee.queue.prepareCommit(
            &devices.ring, tag: tag(origin), result: result,
            data: served.pointee.data(tag(origin)),
            userData: userData(origin))
        precondition(isQueued, "no room in the ring that was just made")
        if buffer != RequestPool.none { release(buffer: buffer, &devices) }
    }
}

// MARK: - User copy

extension UblkFront {
    /// Whether the request can be offered with its buffer, or its data cannot be had, which it was
    /// told; nil if there is no buffer now.
    private mutating func giveBuffer(
        _ origin: UInt32, _ descriptor: IODescriptor, _ devices: inout DeviceRing
    ) -> Bool? {
        guard let buffer = pool.acquire(byteCount: Int(descriptor.sectorCount) * 512) else {
            return nil
        }
        state(origin).pointee.buffer = buffer
        guard descriptor.operation == .write else { return true }
        let result = bytes(origin).take(
            into: pool.address(buffer), count: Int(descriptor.sectorCount) * 512)
        guard result != 0 else { return true }
        commit(origin, result, &devices)
        return false
    }

    /// Gives a buffer back, and to whoever waits for one.
    private mutating func release(buffer: UInt32, _ devices: inout DeviceRing) {
        guard pool.release(buffer) else { return }
        while !waiting.isEmpty {
            let origin = waiting.first
            let descriptor = queues[Int(origin >> 16)].queue.descriptor(tag: tag(origin))
            guard pool.hasRoom(byteCount: Int(descriptor.sectorCount) * 512) else { return }
            _ = waiting.removeFirst(queues)
            guard let isReady = giveBuffer(origin, descriptor, &devices) else {
                preconditionFailure("a buffer that was there is gone")
            }
            if isReady { makeReady(origin) }
        }
    }
}

// MARK: - Queues come and go

extension UblkFront {
    mutating func attach(_ setup: QueueSetup, _ reply: Reply, _ devices: inout DeviceRing) {
        guard let place = (0..<Self.queueMax).first(where: { !isServed[$0] }) else {
            reply.set(-ENFILE)
            return
        }
        let queue: Queue
        do throws(UblkError) {
            queue = try Queue(
                descriptor: setup.descriptor, number: setup.queue, depth: setup.depth)
        } catch {
            reply.set(-error.errno)
            return
        }
        guard let served = ServedQueue(setup, queue: queue, number: place) else {
            queue.unmap()
            reply.set(-ENOMEM)
            return
        }
        (queues + place).initialize(to: served)
        isServed[place] = true
        queues[place].attaching = reply
        queues[place].attachedAtSubmit = devices.submitCount
        attachingCount += 1
        fetchAll(place, &devices)
    }

    private mutating func fetchAll(_ place: Int, _ devices: inout DeviceRing) {
        for tag in 0..<queues[place].setup.depth {
            devices.ring.makeRoom(1)
            let isQueued = queues[place].queue.prepareFetch(
                &devices.ring, tag: tag, data: queues[place].data(tag),
                userData: userData(UInt32(place) << 16 | UInt32(tag)))
            precondition(isQueued, "no room in the ring that was just made")
        }
    }

    /// Answers attachments whose fetches the kernel has seen: a fetch it refuses ends at once.
    private mutating func settleAttachments(_ submitCount: UInt64) {
        for place in 0..<Self.queueMax where isServed[place] {
            guard let reply = queues[place].attaching,
                queues[place].attachedAtSubmit < submitCount
            else { continue }
            queues[place].attaching = nil
            attachingCount -= 1
            reply.set(queues[place].failure)
        }
    }

    mutating func detach(device: UInt32, _ reply: Reply, _ devices: inout DeviceRing) {
        let found = (0..<Self.queueMax).first {
            isServed[$0] && queues[$0].setup.device == device
        }
        guard let found else {
            reply.set(0)
            return
        }
        precondition(queues[found].detaching == nil, "a queue is detached twice")
        queues[found].detaching = reply
        endIfDrained(found, &devices)
    }

    /// The device can only be deleted when nothing here refers to it.
    private mutating func endIfDrained(_ place: Int, _ devices: inout DeviceRing) {
        guard let reply = queues[place].detaching, queues[place].queue.isDrained else { return }
        queues[place].queue.unmap()
        (queues + place).deinitialize(count: 1)
        isServed[place] = false
        reply.set(0)
    }
}
