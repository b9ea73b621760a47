import Glibc
import Testing
import Uring

@testable import Ublk

/// Lists of results, as the driver reads them.
@Suite struct BatchCommandsTests {
    /// struct ublk_elem_header: tag, place, result.
    private static func element(_ tag: UInt16, _ place: UInt16, _ result: Int32) -> UInt64 {
        UInt64(tag) | UInt64(place) << 16 | UInt64(UInt32(bitPattern: result)) << 32
    }

    /// The words at the address of the list that goes next, and the command's low word.
    private static func next(
        _ batch: inout BatchCommands, words: Int
    ) throws -> (words: [UInt64], low: UInt64) {
        let next = batch.next(queue: 3)
        let list = try #require(next)
        let address = try #require(UnsafePointer<UInt64>(bitPattern: UInt(list.address)))
        return ((0..<words).map { address[$0] }, list.low)
    }

    @Test func anElementCarriesWhatTheModeNeeds() throws {
        var copied = BatchCommands(.copy, depth: 8)
        defer { copied.deallocate() }
        copied.add(tag: 5, result: 4096, data: .memory(0x7000))
        copied.add(tag: 2, result: -EIO, data: .memory(0x8000))
        let copy = try Self.next(&copied, words: 4)
        #expect(
            copy.words == [
                Self.element(5, 0, 4096), 0x7000, Self.element(2, 0, -EIO), 0x8000,
            ])
        // q_id, UBLK_BATCH_F_HAS_BUF_ADDR, two elements of 16 bytes.
        #expect(copy.low == 3 | 2 << 16 | 2 << 32 | 16 << 48)

        for (mode, flags) in [
            (.userCopy, 0), (.zeroCopy, 0), (.automatic(fallsBack: false), 0),
            (.automatic(fallsBack: true), 4),
        ] as [(DataMode, UInt64)] {
            var batch = BatchCommands(mode, depth: 8)
            defer { batch.deallocate() }
            let isPlaced = mode != .userCopy && mode != .zeroCopy
            batch.add(
                tag: 7, result: 512, data: isPlaced ? .place(9, fallsBack: flags != 0) : .none)
            let list = try Self.next(&batch, words: 1)
            #expect(list.words == [Self.element(7, isPlaced ? 9 : 0, 512)])
            #expect(list.low == 3 | flags << 16 | 1 << 32 | 8 << 48)
        }
    }

    /// What comes while one list is with the driver goes with the next.
    @Test func oneListAtATime() throws {
        var batch = BatchCommands(.userCopy, depth: 4)
        defer { batch.deallocate() }
        #expect(batch.isEmpty && batch.next(queue: 3) == nil)
        batch.add(tag: 0, result: 1, data: .none)
        batch.add(tag: 1, result: 1, data: .none)
        _ = try Self.next(&batch, words: 2)
        batch.add(tag: 2, result: 1, data: .none)
        #expect(batch.next(queue: 3) == nil && !batch.isEmpty)
        #expect(batch.ended(16) == 0)
        let second = try Self.next(&batch, words: 1)
        #expect(second.words == [Self.element(2, 0, 1)])
        #expect(batch.ended(8) == 0 && batch.isEmpty && batch.next(queue: 3) == nil)
    }

    @Test func whatWasNotTakenGoesAgainBeforeWhatCameLater() throws {
        var batch = BatchCommands(.copy, depth: 4)
        defer { batch.deallocate() }
        for tag in UInt16(0)..<3 { batch.add(tag: tag, result: 1, data: .memory(4096)) }
        _ = try Self.next(&batch, words: 6)
        batch.add(tag: 3, result: 1, data: .memory(4096))
        #expect(batch.ended(-EAGAIN) == 0)
        #expect(try Self.next(&batch, words: 6).low >> 32 & 0xffff == 3)
        #expect(batch.ended(16) == 0)
        let rest = try Self.next(&batch, words: 2)
        #expect(rest.words[0] == Self.element(1, 0, 1) && rest.low >> 32 & 0xffff == 2)
        // The driver refuses one: the others go on.
        #expect(batch.ended(-EBUSY) == EBUSY)
        #expect(try Self.next(&batch, words: 1).words == [Self.element(2, 0, 1)])
        #expect(batch.ended(0) == EIO)
        #expect(try Self.next(&batch, words: 1).words == [Self.element(3, 0, 1)])
        #expect(batch.ended(16) == 0 && batch.isEmpty)
    }

    @Test func moreResultsThanTagsTrap() async {
        await #expect(processExitsWith: .failure) {
            var batch = BatchCommands(.copy, depth: 2)
            for _ in 0..<3 { batch.add(tag: 0, result: 1, data: .memory(4096)) }
        }
        await #expect(processExitsWith: .failure) {
            var batch = BatchCommands(.copy, depth: 2)
            batch.add(tag: 0, result: 1, data: .memory(4096))
            _ = batch.next(queue: 0)
            _ = batch.ended(32)
        }
    }
}

@Suite(.needsRing) struct BatchEncodingTests {
    @Test func aFetchOfManyIsTheKernelsCommand() async {
        await #expect(processExitsWith: .success) {
            var queue = try Queue(descriptor: try scratchFile(), number: 5, depth: 64)
            var ring = try Ring(entries: 8, completions: 16)
            let entries = try SubmissionEntries()
            let isQueued = queue.prepareFetches(&ring, userData: 7 << 32)
            #expect(isQueued && queue.fetching == 1)
            let entry = entries[0]
            #expect(entry.opcode == 46 && entry.commandOperation == 0xc010_7527)
            #expect(entry.flags == 1 << 5)  // IOSQE_BUFFER_SELECT
            #expect(entry.commandFlags == 1 << 1)  // IORING_URING_CMD_MULTISHOT
            #expect(entry.bufferPlace == 0 && entry.userData == 7 << 32)
            #expect(entry.payload == [5 | 2 << 48, 0])
            queue.fetchesEnded()
            #expect(queue.isDrained)
        }
    }

    @Test func aListIsNamedByItsAddress() async {
        await #expect(processExitsWith: .success) {
            let queue = try Queue(descriptor: try scratchFile(), number: 0, depth: 64)
            var ring = try Ring(entries: 8, completions: 16)
            let entries = try SubmissionEntries()
            _ = queue.prepareTags(&ring, (0x1234_5678_9000, 64 << 32 | 8 << 48), userData: 1)
            _ = queue.prepareCommits(&ring, (0x1234_5678_a000, 2 << 32 | 8 << 48), userData: 2)
            #expect((0..<2).map { entries[$0].commandOperation } == [0xc010_7525, 0xc010_7526])
            #expect((0..<2).map { entries[$0].address } == [0x1234_5678_9000, 0x1234_5678_a000])
            #expect(entries[1].payload == [2 << 32 | 8 << 48, 0])
        }
    }
}

/// As long as the descriptors of six queues.
private func scratchFile() throws -> Int32 {
    var path = Array("/tmp/ublk-cas-batch-XXXXXX".utf8CString)
    let descriptor = mkstemp(&path)
    try #require(descriptor >= 0)
    unlink(path)
    try #require(ftruncate(descriptor, 6 * 4096 * 24) == 0)
    return descriptor
}

@Suite struct BatchSharesTests {
    @Test(
        arguments: [
            (1, 1, [[0]]), (4, 2, [[0], [1], [0], [1]]), (3, 2, [[0], [1], [0]]),
            (1, 3, [[0, 1, 2]]), (2, 3, [[0, 2], [1]]),
        ] as [(UInt16, UInt16, [[UInt16]])])
    func everyQueueHasAThreadWithAllOfItsTags(
        threads: UInt16, queues: UInt16, expected: [[UInt16]]
    ) throws {
        let plan = ThreadPlan(threadCount: threads)
        let shares = try #require(plan.sharesOfBatches(queueCount: queues, queueDepth: 4))
        #expect(shares.map { $0.map(\.queue) } == expected)
        #expect(shares.joined().allSatisfy { $0.tags == [0, 1, 2, 3] })
        for queue in 0..<queues {
            // One thread tells the driver of them.
            let telling = shares.joined().filter { $0.queue == queue && $0.preparesTags }
            #expect(telling.count == 1)
        }
    }

    /// A ring has no place for more, in its buffer table and for completions.
    @Test func aThreadIsNotGivenMoreThanItCanServe() throws {
        let info = DeviceInfo(
            id: 0, queueCount: 5, queueDepth: 4096, requestBytesMax: 4096, features: .batchIO)
        let two = try DeviceServer.shares(ThreadPlan(threadCount: 2), info)
        #expect(two.map { $0.count } == [3, 2])
        #expect(
            throws: UblkError(
                "giving 20480 requests to one thread (16384 at most)", errno: EINVAL)
        ) { try DeviceServer.shares(ThreadPlan(threadCount: 1), info) }
    }

    @Test func noTagOfABatchBelongsToAThread() {
        let plan = ThreadPlan(threadCount: 2, spreadsEveryQueue: true)
        #expect(plan.sharesOfBatches(queueCount: 2, queueDepth: 4) == nil)
    }
}

@Suite struct EndingTests {
    /// A thread that waits for whatever may come is woken, once and for all.
    @Test func theEndWakesWhoeverListens() throws {
        let ending = try Ending()
        var poll = pollfd(fd: ending.reading, events: Int16(POLLIN), revents: 0)
        #expect(Glibc.poll(&poll, 1, 0) == 0 && !ending.hasBegun)
        ending.begin()
        ending.begin()
        #expect(Glibc.poll(&poll, 1, 0) == 1 && ending.hasBegun)
        var byte: UInt8 = 0
        #expect(read(ending.reading, &byte, 1) == 0)
    }
}
