import Glibc
import Uring

/// Serves one queue of one device with one thread and one ring, until the device stops.
///
/// Each tag has a buffer and at most one step under way. What the driver is told is always the
/// whole request or an error: a short transfer goes on where it stopped.
struct QueueServer<Backend: Target>: ~Copyable {
    private enum Owner: UInt64 { case queue, file, copy }

    private struct TagState {
        var step = Step.done(0)
        var request = IODescriptor(operationAndFlags: 0, sectorCount: 0, startSector: 0)
        var byteCount: UInt32 = 0
        var done: UInt32 = 0
        var isWrite = false
        var isRead = false
    }

    private let backend: Backend
    private var ring: Ring
    private var queue: Queue
    private let usesUserCopy: Bool
    private let buffers: UnsafeMutableRawPointer
    private let bufferBytes: Int
    private var tags: [TagState]
    /// Tags whose next command found the ring full.
    private var backlog: [UInt16] = []

    private static var queueFile: UInt32 { 0 }
    private static var targetFile: UInt32 { 1 }

    init(
        backend: Backend, deviceDescriptor: Int32, number: UInt16, info: DeviceInfo
    ) throws(UblkError) {
        let queue = try Queue(
            descriptor: deviceDescriptor, file: Self.queueFile, number: number,
            depth: info.queueDepth)
        do throws(UblkError) {
            let ring = try Self.makeRing(backend, deviceDescriptor, number, depth: info.queueDepth)
            self.init(backend: backend, ring: ring, queue: queue, info: info)
        } catch {
            queue.unmap()
            throw error
        }
    }

    private init(backend: Backend, ring: consuming Ring, queue: Queue, info: DeviceInfo) {
        self.backend = backend
        self.ring = ring
        self.queue = queue
        usesUserCopy = info.features.contains(.userCopy)
        bufferBytes = Int(info.requestBytesMax)
        tags = Array(repeating: TagState(), count: Int(info.queueDepth))
        buffers = .allocate(byteCount: bufferBytes * Int(info.queueDepth), alignment: 4096)
    }

    private static func makeRing(
        _ backend: Backend, _ deviceDescriptor: Int32, _ number: UInt16, depth: UInt16
    ) throws(UblkError) -> Ring {
        do throws(RingError) {
            var ring = try Ring(entries: UInt32(depth) * 2, completions: UInt32(depth) * 4)
            try ring.registerFiles(count: 2)
            var result = ring.setFile(queueFile, descriptor: deviceDescriptor)
            if result == 0, let descriptor = backend.descriptor {
                result = ring.setFile(targetFile, descriptor: descriptor)
            }
            guard result == 0 else { throw RingError(step: "register files", errno: -result) }
            return ring
        } catch {
            throw UblkError("setting up the ring of queue \(number)", errno: error.errno)
        }
    }

    deinit {
        queue.unmap()
        buffers.deallocate()
    }

    /// Fetches every tag; the device can be started when all queues have.
    mutating func fetchAll() {
        for tag in 0..<queue.depth { fetch(tag) }
        ring.submit(waitFor: 0)
    }

    /// Serves until the device has stopped and every tag came back.
    mutating func serve() {
        let capacity = 256
        let ends = UnsafeMutablePointer<(userData: UInt64, result: Int32)>.allocate(
            capacity: capacity)
        defer { ends.deallocate() }
        while !queue.isDrained || !backlog.isEmpty {
            ring.submit(waitFor: 1)
            var count = 0
            repeat {
                count = ring.drain(into: ends, capacity: capacity)
                for index in 0..<count { handle(ends[index].userData, ends[index].result) }
            } while count == capacity
            retryBacklog()
        }
    }

    private func buffer(_ tag: UInt16) -> UnsafeMutableRawPointer {
        buffers + Int(tag) * bufferBytes
    }

    private func address(_ tag: UInt16) -> UInt64 {
        usesUserCopy ? 0 : UInt64(UInt(bitPattern: buffer(tag)))
    }

    private mutating func fetch(_ tag: UInt16) {
        if !queue.prepareFetch(
            &ring, tag: tag, address: address(tag), userData: userData(.queue, tag))
        {
            ring.submit(waitFor: 0)
            let isQueued = queue.prepareFetch(
                &ring, tag: tag, address: address(tag), userData: userData(.queue, tag))
            precondition(isQueued, "a tag would be lost: the ring stays full")
        }
    }

    private func userData(_ owner: Owner, _ tag: UInt16) -> UInt64 {
        owner.rawValue << 32 | UInt64(tag)
    }

    private mutating func retryBacklog() {
        let tried = backlog
        backlog = []
        for tag in tried { run(tag) }
    }
}

// MARK: - A request's way

extension QueueServer {
    private mutating func handle(_ userData: UInt64, _ result: Int32) {
        let tag = UInt16(truncatingIfNeeded: userData)
        switch Owner(rawValue: userData >> 32) {
        case .queue:
            if queue.completed(result: result) == .request { begin(tag) }
        case .file: fileStepEnded(tag, result)
        case .copy: copyEnded(tag, result)
        case nil: preconditionFailure("a completion that is nobody's")
        }
    }

    private mutating func begin(_ tag: UInt16) {
        let request = queue.descriptor(tag: tag)
        var state = TagState()
        state.step = backend.step(request)
        state.request = request
        state.isRead = request.operation == .read
        state.isWrite = request.operation == .write
        state.byteCount = state.isRead || state.isWrite ? request.sectorCount * 512 : 0
        tags[Int(tag)] = state
        // In user copy a write's bytes have to be fetched first.
        if usesUserCopy, state.isWrite { copy(tag) } else { run(tag) }
    }

    /// Does the step, or what is left of it.
    private mutating func run(_ tag: UInt16) {
        let state = tags[Int(tag)]
        let data = userData(.file, tag)
        let file = Self.targetFile
        let left = state.byteCount - state.done
        let at = buffer(tag) + Int(state.done)
        let isQueued: Bool
        switch state.step {
        case .done(let result):
            finish(tag, result)
            return
        case .inMemory:
            serveInMemory(tag)
            return
        case .read(let offset):
            isQueued = ring.prepareRead(
                file: file, into: at, byteCount: left, offset: offset + UInt64(state.done),
                userData: data)
        case .write(let offset, let durable):
            isQueued = ring.prepareWrite(
                file: file, from: at, byteCount: left, offset: offset + UInt64(state.done),
                isDurable: durable, userData: data)
        case .flush: isQueued = ring.prepareFlush(file: file, userData: data)
        case .punchHole(let offset, let byteCount):
            isQueued = ring.preparePunchHole(
                file: file, offset: offset, byteCount: byteCount, userData: data)
        case .discard(let offset, let byteCount):
            isQueued = ring.prepareDiscard(
                file: file, offset: offset, byteCount: byteCount, userData: data)
        case .zeroRange(let offset, let byteCount):
            isQueued = ring.prepareZeroRange(
                file: file, offset: offset, byteCount: byteCount, userData: data)
        }
        if !isQueued { backlog.append(tag) }
    }

    private mutating func serveInMemory(_ tag: UInt16) {
        let state = tags[Int(tag)]
        let data = UnsafeMutableRawBufferPointer(start: buffer(tag), count: Int(state.byteCount))
        let result = backend.serve(state.request, data)
        if result == 0 { transferred(tag) } else { finish(tag, result) }
    }

    private mutating func fileStepEnded(_ tag: UInt16, _ result: Int32) {
        if result == -EAGAIN || result == -EINTR {
            run(tag)
            return
        }
        switch tags[Int(tag)].step {
        case .read, .write:
            guard result > 0 else {
                finish(tag, result == 0 ? -EIO : result)
                return
            }
            tags[Int(tag)].done += UInt32(result)
            if tags[Int(tag)].done < tags[Int(tag)].byteCount { run(tag) } else { transferred(tag) }
        case .discard(let offset, let byteCount) where result == -EOPNOTSUPP || result == -EINVAL:
            // Kernels before 6.12 have no discard command for rings.
            tags[Int(tag)].step = .punchHole(offset: offset, byteCount: byteCount)
            run(tag)
        default: finish(tag, min(result, 0))
        }
    }

    private mutating func transferred(_ tag: UInt16) {
        if usesUserCopy, tags[Int(tag)].isRead {
            tags[Int(tag)].done = 0
            copy(tag)
        } else {
            finish(tag, 0)
        }
    }

    /// User copy: moves the request's bytes between the buffer and the driver.
    private mutating func copy(_ tag: UInt16) {
        let state = tags[Int(tag)]
        let position = Queue.userCopyOffset(queue: queue.number, tag: tag, byte: state.done)
        let at = buffer(tag) + Int(state.done)
        let left = state.byteCount - state.done
        let data = userData(.copy, tag)
        let isQueued =
            state.isWrite
            ? ring.prepareRead(
                file: Self.queueFile, into: at, byteCount: left, offset: position, userData: data)
            : ring.prepareWrite(
                file: Self.queueFile, from: at, byteCount: left, offset: position,
                isDurable: false, userData: data)
        guard !isQueued else { return }
        ring.submit(waitFor: 0)
        copy(tag)
    }

    private mutating func copyEnded(_ tag: UInt16, _ result: Int32) {
        if result == -EAGAIN || result == -EINTR {
            copy(tag)
            return
        }
        guard result > 0 else {
            finish(tag, result == 0 ? -EIO : result)
            return
        }
        tags[Int(tag)].done += UInt32(result)
        guard tags[Int(tag)].done == tags[Int(tag)].byteCount else {
            copy(tag)
            return
        }
        if tags[Int(tag)].isWrite {
            tags[Int(tag)].done = 0
            run(tag)
        } else {
            finish(tag, 0)
        }
    }

    private mutating func finish(_ tag: UInt16, _ result: Int32) {
        let state = tags[Int(tag)]
        let answer = result == 0 ? Int32(state.byteCount) : result
        let data = userData(.queue, tag)
        if queue.prepareCommit(
            &ring, tag: tag, result: answer, address: address(tag), userData: data)
        {
            return
        }
        tags[Int(tag)].step = .done(result)
        backlog.append(tag)
    }
}
