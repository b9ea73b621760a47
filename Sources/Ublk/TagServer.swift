import Glibc
import Uring

/// Serves some tags of one device with one thread and one ring, until the device stops
/// or is quiesced.
///
/// Each tag has a slot, and at most one step under way. What the driver is told is always the whole
/// request or an error: a short transfer goes on where it stopped.
struct TagServer<Backend: Target>: ~Copyable {
    /// Whose completion it is.
    enum Owner: UInt64 { case queue, file, copy, register, unregister }

    /// A tag and its request.
    struct Slot {
        /// Place in `queues`.
        let queue: UInt16
        let tag: UInt16
        var step = Step.done(0)
        var request = IODescriptor(operationAndFlags: 0, sectorCount: 0, startSector: 0)
        var byteCount: UInt32 = 0
        var done: UInt32 = 0
        /// The request's pages are in the ring's buffer table.
        var isRegistered = false
        /// Zero copy: completions of the chain that are still to come, and what went wrong in it.
        var chainLeft: UInt8 = 0
        var chainFailure: Int32 = 0
        var transferred: Int32 = 0
    }

    let mode: DataMode
    var ring: Ring
    var queues: [Queue]
    var slots: [Slot]
    private let buffers: UnsafeMutableRawPointer?
    private let bufferBytes: Int
    /// Why the driver did not take a command, if it did not.
    private(set) var refusal: Int32 = 0
    /// Told by the driver through a tag; shared by the device's threads.
    private let ending: Ending
    // Last: what follows a value of unknown size is found more slowly.
    let backend: Backend

    static var deviceFile: UInt32 { 0 }
    static var targetFile: UInt32 { 1 }

    init(
        backend: Backend, deviceDescriptor: Int32, info: DeviceInfo, shares: [TagShare],
        ending: Ending
    ) throws(UblkError) {
        let count = shares.reduce(0) { $0 + $1.tags.count }
        let mode = DataMode(info.features)
        let ring = try Self.makeRing(backend, deviceDescriptor, mode, tagCount: count)
        self.init(
            backend, ring, try Self.queues(deviceDescriptor, info, shares), mode, shares, ending,
            bufferBytes: mode.hasBuffers ? Int(info.requestBytesMax) : 0)
    }

    private init(
        _ backend: Backend, _ ring: consuming Ring, _ queues: [Queue], _ mode: DataMode,
        _ shares: [TagShare], _ ending: Ending, bufferBytes: Int
    ) {
        self.backend = backend
        self.ending = ending
        self.ring = ring
        self.queues = queues
        self.mode = mode
        self.bufferBytes = bufferBytes
        slots = shares.enumerated().flatMap { place, share in
            share.tags.map { Slot(queue: UInt16(place), tag: $0) }
        }
        buffers =
            bufferBytes > 0
            ? .allocate(byteCount: bufferBytes * slots.count, alignment: 4096) : nil
    }

    private static func queues(
        _ deviceDescriptor: Int32, _ info: DeviceInfo, _ shares: [TagShare]
    ) throws(UblkError) -> [Queue] {
        var queues: [Queue] = []
        for share in shares {
            do throws(UblkError) {
                queues.append(
                    try Queue(
                        descriptor: deviceDescriptor, file: deviceFile, number: share.queue,
                        depth: info.queueDepth))
            } catch {
                for queue in queues { queue.unmap() }
                throw error
            }
        }
        return queues
    }

    private static func makeRing(
        _ backend: Backend, _ deviceDescriptor: Int32, _ mode: DataMode, tagCount: Int
    ) throws(UblkError) -> Ring {
        do throws(RingError) {
            // A turn that prepares more hands over in between. Completions all have room: a tag has
            // a chain of three, or its command.
            let entries = UInt32(min(tagCount * 2, 8192))
            var ring = try Ring(
                entries: max(entries, 8), completions: max(UInt32(tagCount) * 4, 16))
            try ring.registerFiles(count: 2)
            var result = ring.setFile(deviceFile, descriptor: deviceDescriptor)
            if result == 0, let descriptor = backend.descriptor {
                result = ring.setFile(targetFile, descriptor: descriptor)
            }
            guard result == 0 else { throw RingError(step: "register files", errno: -result) }
            if !mode.hasBuffers { try ring.registerBuffers(count: UInt32(tagCount)) }
            return ring
        } catch {
            throw UblkError("setting up a ring (\(error.step))", errno: error.errno)
        }
    }

    deinit {
        for queue in queues { queue.unmap() }
        buffers?.deallocate()
    }

    /// Fetches every tag; the device can be started when all threads have. Throws if the driver
    /// does not take one: then the device would never start.
    mutating func fetchAll() throws(UblkError) {
        for slot in slots.indices { fetch(UInt32(slot)) }
        while ring.preparedCount > 0 { ring.submit(waitFor: 0) }
        // A fetch that is not taken ends at once.
        takeCompletions()
        guard refusal == 0 else {
            throw UblkError(
                "fetching the tags of queue \(queues[0].number)", errno: refusal)
        }
    }

    /// Serves until the device stops or is quiesced, and what was being served is given back.
    ///
    /// Not until every tag has come back: of a device that is quiesced the driver aborts only those
    /// that it holds at that moment, and never again one that is fetched later. They end with the
    /// ring.
    mutating func serve() {
        while true {
            ring.submit(waitFor: isDrained ? 0 : 1)
            let wasDrained = isDrained
            takeCompletions()
            // A request may have been on its way to us beside the end: looked for once more.
            if wasDrained, isDrained { break }
        }
        // The last results.
        while ring.preparedCount > 0 { ring.submit(waitFor: 0) }
    }

    private var isDrained: Bool {
        var isFetching = false
        for queue in queues {
            if queue.serving > 0 { return false }
            isFetching = isFetching || queue.fetching > 0
        }
        return !isFetching || ending.hasBegun
    }

    private mutating func takeCompletions() {
        withUnsafeTemporaryAllocation(
            of: (userData: UInt64, result: Int32).self, capacity: 256
        ) { ends in
            guard let base = ends.baseAddress else { return }
            var count = 0
            repeat {
                count = ring.drain(into: base, capacity: ends.count)
                for index in 0..<count { handle(base[index].userData, base[index].result) }
            } while count == ends.count
        }
    }

    private mutating func handle(_ userData: UInt64, _ result: Int32) {
        let slot = UInt32(truncatingIfNeeded: userData)
        switch Owner(rawValue: userData >> 32) {
        case .queue: commandEnded(slot, result)
        case .file: fileStepEnded(slot, result)
        case .copy: copyEnded(slot, result)
        case .register, .unregister: chainPartEnded(slot, min(result, 0))
        case nil: preconditionFailure("a completion that is nobody's")
        }
    }

    private mutating func commandEnded(_ slot: UInt32, _ result: Int32) {
        switch queues[Int(slots[Int(slot)].queue)].completed(result: result) {
        case .request: begin(slot)
        case .aborted: ending.begin()
        case .refused(let code): refusal = code
        }
    }
}

// MARK: - Tags and their places

extension TagServer {
    func userData(_ owner: Owner, _ slot: UInt32) -> UInt64 {
        owner.rawValue << 32 | UInt64(slot)
    }

    /// The slot's buffer: in the modes that have them.
    func buffer(_ slot: UInt32) -> UnsafeMutableRawPointer {
        guard let buffers else { preconditionFailure("this data mode has no buffers") }
        return buffers + Int(slot) * bufferBytes
    }

    /// What fetch and commit tell the driver.
    private func data(_ slot: UInt32) -> TagData {
        switch mode {
        case .copy: .memory(UInt64(UInt(bitPattern: buffer(slot))))
        case .userCopy, .zeroCopy: .none
        case .automatic(let fallsBack): .place(UInt16(slot), fallsBack: fallsBack)
        }
    }

    private mutating func fetch(_ slot: UInt32) {
        let (queue, tag) = (Int(slots[Int(slot)].queue), slots[Int(slot)].tag)
        ring.makeRoom(1)
        let isQueued = queues[queue].prepareFetch(
            &ring, tag: tag, data: data(slot), userData: userData(.queue, slot))
        precondition(isQueued, "no room in the ring that was just made")
    }

    /// Gives the tag back with all of its bytes, or -errno.
    mutating func finish(_ slot: UInt32, _ result: Int32) {
        let (queue, tag) = (Int(slots[Int(slot)].queue), slots[Int(slot)].tag)
        let answer = result == 0 ? Int32(slots[Int(slot)].byteCount) : result
        ring.makeRoom(1)
        let isQueued = queues[queue].prepareCommit(
            &ring, tag: tag, result: answer, data: data(slot), userData: userData(.queue, slot))
        precondition(isQueued, "no room in the ring that was just made")
    }
}
