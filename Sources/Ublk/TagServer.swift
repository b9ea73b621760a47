import Glibc
import Uring

/// Serves some tags of one device with one thread and one ring, until the device stops
/// or is quiesced.
///
/// Each tag has a slot, and at most one step under way. What the driver is told is always the whole
/// request or an error: a short transfer goes on where it stopped.
struct TagServer: ~Copyable {
    /// Whose completion it is.
    enum Owner: UInt64 {
        // Of a tag, which the lower half names.
        case queue, file, register, unregister
        // Of a queue, whose place in `queues` it is.
        case fetches, commits
        case ending
    }

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
    /// The driver is given places that no table has (see `DeviceServer.Plan`).
    private let forcesFallback: Bool
    var ring: Ring
    var queues: Table<Queue>
    /// One for each of `queues`, where tags are fetched and given back many at a time; else none.
    var batches: Table<BatchCommands>
    var slots: Table<Slot>
    /// Whether the tags of each of `queues` are for this thread to tell the driver of.
    private let preparesTags: [Bool]
    private let bufferOwner: TagBuffers
    private let buffers: UnsafeMutableRawPointer?
    private let bufferBytes: Int
    private let queueDepth: Int
    /// Why the driver did not take a command, if it did not.
    private(set) var refusal: Int32 = 0
    /// Told by the driver through a tag; shared by the device's threads.
    private let ending: Ending
    /// What was taken from the ring.
    private let completions = UnsafeMutablePointer<Completion>.allocate(capacity: completionMax)
    private static var completionMax: Int { 256 }
    /// Where what is read from `ending` would go.
    private let endingByte = UnsafeMutableRawPointer.allocate(byteCount: 1, alignment: 1)
    let target: TargetCalls

    /// What one ring can serve: places of its buffer table, and completions.
    static var tagsMax: Int { 16384 }
    static var targetFile: UInt32 { 0 }

    init(
        target: TargetCalls, deviceDescriptor: Int32, info: DeviceInfo, shares: [TagShare],
        buffers: TagBuffers, ending: Ending, forcesFallback: Bool = false
    ) throws(UblkError) {
        let ring = try Self.makeRing(target, info, shares)
        self.init(
            target, ring, try Self.queues(deviceDescriptor, info, shares), info, shares, buffers,
            ending, forcesFallback: forcesFallback)
    }

    private init(
        _ target: TargetCalls, _ ring: consuming Ring, _ queues: [Queue], _ info: DeviceInfo,
        _ shares: [TagShare], _ buffers: TagBuffers, _ ending: Ending, forcesFallback: Bool
    ) {
        self.target = target
        self.ending = ending
        self.forcesFallback = forcesFallback
        self.ring = ring
        self.queues = Table(queues)
        let mode = DataMode(info.features)
        self.mode = mode
        batches = Table(
            info.features.contains(.batchIO)
                ? shares.map { _ in BatchCommands(mode, depth: info.queueDepth) } : [])
        slots = Table(
            shares.enumerated().flatMap { place, share in
                share.tags.map { Slot(queue: UInt16(place), tag: $0) }
            })
        preparesTags = shares.map(\.preparesTags)
        bufferOwner = buffers
        self.buffers = buffers.base
        bufferBytes = buffers.byteCount
        queueDepth = buffers.queueDepth
    }

    private static func queues(
        _ deviceDescriptor: Int32, _ info: DeviceInfo, _ shares: [TagShare]
    ) throws(UblkError) -> [Queue] {
        var queues: [Queue] = []
        for share in shares {
            do throws(UblkError) {
                queues.append(
                    try Queue(
                        descriptor: deviceDescriptor, number: share.queue,
                        depth: info.queueDepth))
            } catch {
                for queue in queues { queue.unmap() }
                throw error
            }
        }
        return queues
    }

    private static func makeRing(
        _ target: TargetCalls, _ info: DeviceInfo, _ shares: [TagShare]
    ) throws(UblkError) -> Ring {
        let tagCount = shares.reduce(0) { $0 + $1.tags.count }
        do throws(RingError) {
            // A turn that prepares more hands over in between. Completions all have room: a tag has
            // a chain of three, or its command.
            let entries = UInt32(min(tagCount * 2, 8192))
            var ring = try Ring(
                entries: max(entries, 8), completions: max(UInt32(tagCount) * 4, 16))
            try ring.registerFiles(count: 1)
            if let descriptor = target.descriptor {
                let result = ring.setFile(targetFile, descriptor: descriptor)
                guard result == 0 else { throw RingError(step: "register files", errno: -result) }
            }
            if !DataMode(info.features).hasBuffers {
                try ring.registerBuffers(count: UInt32(tagCount))
            }
            if info.features.contains(.batchIO) {
                try ring.provideBuffers(
                    count: BatchCommands.bufferCount, byteCount: BatchCommands.tagsInBuffer * 2)
            }
            return ring
        } catch {
            throw UblkError("setting up a ring (\(error.step))", errno: error.errno)
        }
    }

    deinit {
        for place in queues.indices { queues[place].unmap() }
        for place in batches.indices { batches[place].deallocate() }
        completions.deallocate()
        endingByte.deallocate()
    }

    /// Fetches every tag; the device can be started when all threads have. Throws if the driver
    /// does not take one: then the device would never start.
    mutating func fetchAll() throws(UblkError) {
        if batches.isEmpty {
            for slot in slots.indices { fetch(UInt32(slot)) }
        } else {
            prepareTags()
            for place in queues.indices where refusal == 0 { fetchMany(UInt32(place)) }
        }
        listenForEnd()
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
            // A list of results is taken within the call that hands it over: its end is no reason
            // to return from there.
            let lists = giveBackMany()
            let wasDone = isDone
            let wanted = lists + (wasDone ? 0 : 1)
            if lists > 0 {
                // Of a list that is taken in part the rest has to go again, though nothing comes.
                ring.submit(waitFor: wanted, secondsMax: 1)
            } else {
                ring.submit(waitFor: wanted)
            }
            takeCompletions()
            // A request may have been on its way to us beside the end: looked for once more.
            if wasDone, isDone, hasNoResults { break }
        }
        // The last results.
        while ring.preparedCount > 0 { ring.submit(waitFor: 0) }
    }

    /// Nothing is being served, and nothing will come.
    private var isDone: Bool {
        var isFetching = false
        for place in queues.indices {
            if queues[place].serving > 0 { return false }
            isFetching = isFetching || queues[place].fetching > 0
        }
        // In batches every thread has a command that fetches, which ends by itself.
        return !isFetching || ending.hasFailed || batches.isEmpty && ending.hasBegun
    }

    private var hasNoResults: Bool {
        for place in batches.indices where !batches[place].isEmpty { return false }
        return true
    }

    /// Another thread's hearing of the end wakes this one. It has nothing to do then but to look.
    private mutating func listenForEnd() {
        ring.makeRoom(1)
        mustFit(
            ring.prepareLongRead(
                descriptor: ending.reading, into: endingByte, byteCount: 1,
                userData: userData(.ending, 0)))
    }

    private mutating func takeCompletions() {
        var count = 0
        repeat {
            count = ring.drain(into: completions, capacity: Self.completionMax)
            for index in 0..<count { handle(completions[index]) }
        } while count == Self.completionMax
    }

    private mutating func handle(_ end: Completion) {
        let (slot, result) = (UInt32(truncatingIfNeeded: end.userData), end.result)
        switch Owner(rawValue: end.userData >> 32) {
        case .queue: commandEnded(slot, result)
        case .file: fileStepEnded(slot, result)
        case .register, .unregister: chainPartEnded(slot, min(result, 0))
        case .fetches: requestsCame(slot, end)
        case .commits: resultsTaken(slot, result)
        case .ending: break
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

    func mustFit(_ isQueued: Bool) {
        precondition(isQueued, "no room in the ring that was just made")
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
        let state = slots[Int(slot)]
        let number = Int(queues[Int(state.queue)].number) * queueDepth + Int(state.tag)
        return buffers + number * bufferBytes
    }

    /// What fetch and commit tell the driver.
    private func data(_ slot: UInt32) -> TagData {
        switch mode {
        case .copy: .memory(UInt64(UInt(bitPattern: buffer(slot))))
        case .userCopy, .zeroCopy: .none
        case .automatic(let fallsBack):
            .place(forcesFallback ? .max : UInt16(slot), fallsBack: fallsBack)
        }
    }

    private mutating func fetch(_ slot: UInt32) {
        let (queue, tag) = (Int(slots[Int(slot)].queue), slots[Int(slot)].tag)
        ring.makeRoom(1)
        mustFit(
            queues[queue].prepareFetch(
                &ring, tag: tag, data: data(slot), userData: userData(.queue, slot)))
    }

    /// Gives the tag back with all of its bytes, or -errno.
    mutating func finish(_ slot: UInt32, _ result: Int32) {
        let (queue, tag) = (Int(slots[Int(slot)].queue), slots[Int(slot)].tag)
        let answer = result == 0 ? Int32(slots[Int(slot)].byteCount) : result
        guard batches.isEmpty else {
            queues[queue].resultCame()
            batches[queue].add(tag: tag, result: answer, data: data(slot))
            return
        }
        ring.makeRoom(1)
        mustFit(
            queues[queue].prepareCommit(
                &ring, tag: tag, result: answer, data: data(slot), userData: userData(.queue, slot))
        )
    }
}

// MARK: - Many at a time

extension TagServer {
    /// Tells the driver of the tags of the queues that are this thread's to prepare, and waits
    /// until it knows.
    private mutating func prepareTags() {
        for place in queues.indices where preparesTags[place] {
            for slot in slots.indices where Int(slots[slot].queue) == place {
                batches[place].add(tag: slots[slot].tag, result: 0, data: data(UInt32(slot)))
            }
            guard let list = batches[place].next(queue: queues[place].number) else { continue }
            mustFit(
                queues[place].prepareTags(
                    &ring, list, userData: userData(.commits, UInt32(place))))
            ring.submit(waitFor: 1)
            let count = ring.drain(into: completions, capacity: 1)
            precondition(count == 1, "the driver has not answered")
            refusal = batches[place].prepared(completions[0].result)
            guard refusal == 0 else { return }
        }
    }

    private mutating func fetchMany(_ place: UInt32) {
        ring.makeRoom(1)
        mustFit(
            queues[Int(place)].prepareFetches(&ring, userData: userData(.fetches, place)))
    }

    /// What came from the driver for the fetches of a queue: tags, or their end.
    private mutating func requestsCame(_ place: UInt32, _ end: Completion) {
        if let buffer = end.buffer {
            let tags = ring.providedBuffer(buffer)
            let count = Int(max(end.result, 0)) / 2
            precondition(count <= BatchCommands.tagsInBuffer, "more tags than a buffer holds")
            queues[Int(place)].requestsCame(count)
            for index in 0..<count {
                begin(slot(of: tags.load(fromByteOffset: index * 2, as: UInt16.self), place))
            }
            ring.giveBack(buffer)
        }
        guard !end.isFollowed else { return }
        queues[Int(place)].fetchesEnded()
        switch end.result {
        case -ENODEV: ending.begin()
        // No provided buffer was left; they are given back by now.
        case 0..., -ENOBUFS, -EAGAIN, -EINTR, -ENOMEM: fetchMany(place)
        default:
            // Nobody would serve the queue: better no server than one that does not answer.
            refusal = -end.result
            ending.fail()
        }
    }

    /// Every tag of the thread's queues has a slot.
    private func slot(of tag: UInt16, _ place: UInt32) -> UInt32 {
        precondition(tag < queueDepth, "a tag that the queue does not have")
        return place * UInt32(queueDepth) + UInt32(tag)
    }

    /// Hands the driver the results that are there; how many lists of them.
    private mutating func giveBackMany() -> UInt32 {
        var count: UInt32 = 0
        for place in batches.indices {
            guard let list = batches[place].next(queue: queues[place].number) else { continue }
            ring.makeRoom(1)
            mustFit(
                queues[place].prepareCommits(
                    &ring, list, userData: userData(.commits, UInt32(place))))
            count += 1
        }
        return count
    }

    private mutating func resultsTaken(_ place: UInt32, _ result: Int32) {
        let code = batches[Int(place)].ended(result)
        if code != 0 { refusal = code }
    }
}
