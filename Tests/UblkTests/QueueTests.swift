import Glibc
import Testing
import Uring

@testable import Ublk

@Suite struct DescriptorTests {
    private static func descriptor(_ operationAndFlags: UInt32) -> IODescriptor {
        IODescriptor(operationAndFlags: operationAndFlags, sectorCount: 8, startSector: 1 << 40)
    }

    @Test(
        arguments: [
            (0, .read), (1, .write), (2, .flush), (3, .discard), (4, .writeSame), (5, .writeZeroes),
            (6, nil), (13, nil), (255, nil),
        ] as [(UInt32, IODescriptor.Operation?)])
    func theOperationIsTheLowestByte(code: UInt32, operation: IODescriptor.Operation?) {
        #expect(Self.descriptor(code).operation == operation)
        #expect(Self.descriptor(code | 0xffff_ff00).operation == operation)
    }

    @Test func flagsAreBitsOfTheWholeWord() {
        #expect(Self.descriptor(1 | 1 << 13).forceUnitAccess)
        #expect(!Self.descriptor(1 | ~(1 << 13) & 0xffff_ff00).forceUnitAccess)
        #expect(Self.descriptor(5 | 1 << 15).noUnmap)
        #expect(!Self.descriptor(5 | ~(1 << 15) & 0xffff_ff00).noUnmap)
    }

    @Test func aFlushHasNoRange() {
        let flush = IODescriptor(operationAndFlags: 2, sectorCount: .max, startSector: .max)
        #expect(flush.sectorCount == 0 && flush.startSector == 0)
        let read = Self.descriptor(0)
        #expect(read.sectorCount == 8 && read.startSector == 1 << 40)
    }

    /// UBLKSRV_IO_BUF_OFFSET, 25 bits of byte, 16 of tag, then the queue.
    @Test func theBytesOfARequestHaveAPlaceOfTheirOwn() {
        #expect(Queue.userCopyOffset(queue: 0, tag: 0, byte: 0) == 0x8000_0000)
        #expect(Queue.userCopyOffset(queue: 0, tag: 0, byte: 4096) == 0x8000_1000)
        #expect(Queue.userCopyOffset(queue: 0, tag: 1, byte: 0) == 0x8200_0000)
        #expect(Queue.userCopyOffset(queue: 1, tag: 0, byte: 0) == 0x200_8000_0000)
        #expect(
            Queue.userCopyOffset(queue: 63, tag: 4095, byte: (1 << 25) - 1)
                == 0x8000_0000 + (63 << 41 | 4095 << 25 | 0x1ff_ffff))
    }

    @Test func aByteThatBelongsToTheNextTagTraps() async {
        await #expect(processExitsWith: .failure) {
            _ = Queue.userCopyOffset(queue: 0, tag: 0, byte: 1 << 25)
        }
    }
}

/// A file that lies as /dev/ublkc*N* does: the descriptors of each queue 4096 × 24 bytes on.
private final class FakeQueueDevice {
    let descriptor: Int32
    static let queueBytes = 4096 * 24

    init(queueCount: Int) throws {
        var path = Array("/tmp/ublk-cas-queue-XXXXXX".utf8CString)
        descriptor = mkstemp(&path)
        try #require(descriptor >= 0)
        unlink(path)
        try #require(ftruncate(descriptor, off_t(queueCount * Self.queueBytes)) == 0)
    }

    deinit { close(descriptor) }

    func put(queue: Int, tag: Int, operation: UInt32, sectors: UInt32, start: UInt64) {
        var bytes = [UInt8](repeating: 0xcc, count: 24)
        bytes.withUnsafeMutableBytes {
            $0.storeBytes(of: operation, toByteOffset: 0, as: UInt32.self)
            $0.storeBytes(of: sectors, toByteOffset: 4, as: UInt32.self)
            $0.storeBytes(of: start, toByteOffset: 8, as: UInt64.self)
        }
        let written = pwrite(
            descriptor, bytes, 24, off_t(queue * Self.queueBytes + tag * 24))
        precondition(written == 24)
    }
}

@Suite(.needsRing) struct QueueTests {
    @Test func eachQueueAndTagHasItsDescriptor() throws {
        let device = try FakeQueueDevice(queueCount: 3)
        for queue in 0..<3 {
            for tag in [0, 1, 170, 171, 255] {
                device.put(
                    queue: queue, tag: tag, operation: 1 | 1 << 13, sectors: UInt32(tag + 1),
                    start: UInt64(queue) << 33 | UInt64(tag))
            }
        }
        for number in UInt16(0)..<3 {
            let queue = try Queue(
                descriptor: device.descriptor, number: number, depth: 256)
            defer { queue.unmap() }
            #expect(queue.number == number && queue.depth == 256)
            for tag in [0, 1, 170, 171, 255] as [UInt16] {
                #expect(
                    queue.descriptor(tag: tag)
                        == IODescriptor(
                            operationAndFlags: 1 | 1 << 13, sectorCount: UInt32(tag) + 1,
                            startSector: UInt64(number) << 33 | UInt64(tag)))
            }
        }
    }

    /// The kernel writes a descriptor anew as soon as its tag is given back.
    @Test func aDescriptorIsACopyOfWhatIsThereNow() throws {
        let device = try FakeQueueDevice(queueCount: 1)
        let queue = try Queue(descriptor: device.descriptor, number: 0, depth: 8)
        defer { queue.unmap() }
        device.put(queue: 0, tag: 2, operation: 0, sectors: 8, start: 100)
        let first = queue.descriptor(tag: 2)
        device.put(queue: 0, tag: 2, operation: 1, sectors: 16, start: 200)
        #expect(first.operation == .read && first.startSector == 100)
        #expect(queue.descriptor(tag: 2).operation == .write)
        #expect(queue.descriptor(tag: 2).startSector == 200)
    }

    @Test func whatCannotBeMappedIsAnError() {
        do throws(UblkError) {
            _ = try Queue(descriptor: -1, number: 3, depth: 8)
            Issue.record("mapped")
        } catch {
            #expect(error == UblkError("mapping the descriptors of queue 3", errno: EBADF))
        }
    }

    @Test func aTagBehindTheDepthTraps() async {
        await #expect(processExitsWith: .failure) {
            let device = try FakeQueueDevice(queueCount: 1)
            let queue = try Queue(descriptor: device.descriptor, number: 0, depth: 8)
            _ = queue.descriptor(tag: 8)
        }
    }

    /// Fetched, served, given back, and at last aborted: the count on either side.
    @Test func tagsAreCountedOnEitherSide() throws {
        let device = try FakeQueueDevice(queueCount: 1)
        var queue = try Queue(descriptor: device.descriptor, number: 0, depth: 4)
        defer { queue.unmap() }
        var ring = try Ring(entries: 8, completions: 16)
        #expect(queue.isDrained)
        for tag in UInt16(0)..<4 {
            let isQueued = queue.prepareFetch(
                &ring, tag: tag, data: .memory(4096), userData: UInt64(tag))
            #expect(isQueued)
        }
        #expect(queue.fetching == 4 && queue.serving == 0 && !queue.isDrained)
        #expect(queue.completed(result: 0) == .request)
        #expect(queue.completed(result: 0) == .request)
        #expect(queue.fetching == 2 && queue.serving == 2)
        let isQueued = queue.prepareCommit(
            &ring, tag: 0, result: 4096, data: .memory(4096), userData: 0)
        #expect(isQueued && queue.fetching == 3 && queue.serving == 1)
        for _ in 0..<3 { #expect(queue.completed(result: -ENODEV) == .aborted) }
        #expect(queue.fetching == 0 && !queue.isDrained)
        _ = queue.prepareCommit(&ring, tag: 1, result: -EIO, data: .memory(4096), userData: 1)
        #expect(queue.completed(result: -ENODEV) == .aborted)
        #expect(queue.isDrained)
    }

    @Test func aCommandThatIsNotTakenIsNoEndOfTheDevice() throws {
        let device = try FakeQueueDevice(queueCount: 1)
        var queue = try Queue(descriptor: device.descriptor, number: 0, depth: 4)
        defer { queue.unmap() }
        var ring = try Ring(entries: 8, completions: 16)
        for tag in UInt16(0)..<2 {
            _ = queue.prepareFetch(&ring, tag: tag, data: .none, userData: 0)
        }
        #expect(queue.completed(result: -EINVAL) == .refused(EINVAL))
        #expect(queue.completed(result: -ENODEV) == .aborted)
        #expect(queue.isDrained)
    }

    @Test func aFullRingTakesNeitherFetchNorCommitAndNothingIsCounted() throws {
        let device = try FakeQueueDevice(queueCount: 1)
        var queue = try Queue(descriptor: device.descriptor, number: 0, depth: 4)
        defer { queue.unmap() }
        var ring = try Ring(entries: 1, completions: 2)
        _ = queue.prepareFetch(&ring, tag: 0, data: .memory(4096), userData: 0)
        let isFetchQueued = queue.prepareFetch(&ring, tag: 1, data: .memory(4096), userData: 1)
        #expect(!isFetchQueued && queue.fetching == 1)
        _ = queue.completed(result: 0)
        let isCommitQueued = queue.prepareCommit(
            &ring, tag: 0, result: 0, data: .memory(4096), userData: 0)
        #expect(!isCommitQueued && queue.fetching == 0 && queue.serving == 1)
    }

    @Test func whatWasNotSentCannotEnd() async {
        await #expect(processExitsWith: .failure) {
            let device = try FakeQueueDevice(queueCount: 1)
            var queue = try Queue(descriptor: device.descriptor, number: 0, depth: 4)
            _ = queue.completed(result: 0)
        }
        await #expect(processExitsWith: .failure) {
            let device = try FakeQueueDevice(queueCount: 1)
            var queue = try Queue(descriptor: device.descriptor, number: 0, depth: 4)
            var ring = try Ring(entries: 8, completions: 16)
            _ = queue.prepareCommit(&ring, tag: 0, result: 0, data: .none, userData: 0)
        }
    }
}

/// What is written into the rings' entries, read from the memory the kernel reads it from.
@Suite(.needsRing) struct CommandEncodingTests {
    @Test func aFetchIsTheKernelsCommand() async {
        await #expect(processExitsWith: .success) {
            let device = try FakeQueueDevice(queueCount: 6)
            var queue = try Queue(descriptor: device.descriptor, number: 5, depth: 64)
            var ring = try Ring(entries: 8, completions: 16)
            let entries = try SubmissionEntries()
            _ = queue.prepareFetch(
                &ring, tag: 63, data: .memory(0x1234_5678_9abc_d000),
                userData: 0xfeed_0000_0000_0001)
            let entry = entries[0]
            #expect(entry.opcode == 46)  // IORING_OP_URING_CMD
            #expect(entry.flags == 0 && entry.descriptor == device.descriptor)
            #expect(entry.commandOperation == 0xc010_7520)
            #expect(entry.userData == 0xfeed_0000_0000_0001)
            // q_id, tag, result, addr
            #expect(entry.payload == [5 | 63 << 16, 0x1234_5678_9abc_d000])
            #expect(entry.address == 0)
        }
    }

    /// The driver finds the place in the entry, and the flag beside it; the payload has no address.
    @Test func automaticRegistrationNamesAPlace() async {
        await #expect(processExitsWith: .success) {
            let device = try FakeQueueDevice(queueCount: 1)
            var queue = try Queue(descriptor: device.descriptor, number: 0, depth: 64)
            var ring = try Ring(entries: 8, completions: 16)
            let entries = try SubmissionEntries()
            _ = queue.prepareFetch(
                &ring, tag: 1, data: .place(4095, fallsBack: false), userData: 0)
            _ = queue.completed(result: 0)
            _ = queue.prepareCommit(
                &ring, tag: 1, result: 512, data: .place(7, fallsBack: true), userData: 0)
            #expect(entries[0].payload == [1 << 16, 0] && entries[0].address == 4095)
            #expect(entries[1].payload == [1 << 16 | 512 << 32, 0])
            #expect(entries[1].address == 7 | 1 << 16)
        }
    }

    /// Registered, used and taken out again, each when the one before has ended.
    @Test func aRegistrationIsTheKernelsCommand() async {
        await #expect(processExitsWith: .success) {
            let device = try FakeQueueDevice(queueCount: 4)
            let queue = try Queue(descriptor: device.descriptor, number: 3, depth: 64)
            var ring = try Ring(entries: 8, completions: 16)
            let entries = try SubmissionEntries()
            _ = queue.prepareRegister(&ring, tag: 9, place: 200, userData: 5)
            ring.linkLast()
            _ = ring.prepareWrite(
                file: 1, place: 200, start: 4096, byteCount: 512, offset: 1 << 40,
                isDurable: true, userData: 6)
            ring.linkLast()
            _ = queue.prepareUnregister(&ring, tag: 9, place: 200, userData: 7)
            #expect(entries[0].commandOperation == 0xc010_7523)
            #expect(entries[2].commandOperation == 0xc010_7524)
            for command in [entries[0], entries[2]] {
                #expect(command.opcode == 46 && command.payload == [3 | 9 << 16, 200])
            }
            #expect(entries[0].flags == 1 << 3 && entries[2].flags == 0)
            #expect(entries[1].opcode == 5)  // IORING_OP_WRITE_FIXED
            #expect(entries[1].flags == 1 | 1 << 3 && entries[1].descriptor == 1)
            #expect(entries[1].address == 4096 && entries[1].bufferPlace == 200)
            #expect((0..<3).map { entries[$0].userData } == [5, 6, 7])
        }
    }

    @Test func aCommitCarriesItsResult() async {
        await #expect(processExitsWith: .success) {
            let device = try FakeQueueDevice(queueCount: 1)
            var queue = try Queue(descriptor: device.descriptor, number: 0, depth: 64)
            var ring = try Ring(entries: 8, completions: 16)
            let entries = try SubmissionEntries()
            for tag in UInt16(0)..<2 {
                _ = queue.prepareFetch(&ring, tag: tag, data: .none, userData: 1)
                _ = queue.completed(result: 0)
            }
            _ = queue.prepareCommit(
                &ring, tag: 1, result: 524_288, data: .memory(4096), userData: 2)
            _ = queue.prepareCommit(&ring, tag: 0, result: -EIO, data: .none, userData: 3)
            #expect(entries[2].opcode == 46 && entries[2].commandOperation == 0xc010_7521)
            #expect(entries[2].payload == [1 << 16 | 524_288 << 32, 4096])
            #expect(entries[2].userData == 2)
            #expect(entries[3].payload == [0xffff_fffb << 32, 0])
        }
    }

    /// In copy mode each tag has a buffer of its own; in user copy the kernel is given none. What
    /// the device was really made with decides.
    @Test func aServerGivesBuffersOnlyInCopyMode() async {
        await #expect(processExitsWith: .success) {
            let addresses = try fetchedAddresses([.commandIoctlEncode])
            #expect(addresses.count == 16)
            let sorted = addresses.sorted()
            #expect(sorted[0] != 0 && sorted.allSatisfy { $0.isMultiple(of: 4096) })
            #expect(zip(sorted, sorted.dropFirst()).allSatisfy { $1 - $0 >= 65536 })
        }
        await #expect(processExitsWith: .success) {
            let addresses = try fetchedAddresses([.commandIoctlEncode, .userCopy])
            #expect(addresses == [UInt64](repeating: 0, count: 16))
        }
    }

    /// A driver that takes no command at all: that is told before anybody waits for the device.
    @Test func aServerWhoseFetchesAreRefusedSaysSo() throws {
        let device = try FakeQueueDevice(queueCount: 1)
        var server = try server(device, depth: 32, [])
        #expect(throws: UblkError("fetching the tags of queue 0", errno: EOPNOTSUPP)) {
            try server.fetchAll()
        }
        server.serve()
    }
}

private func server(
    _ device: FakeQueueDevice, depth: UInt16, _ features: Features
) throws(UblkError) -> TagServer {
    let info = DeviceInfo(
        id: 0, queueCount: 1, queueDepth: depth, requestBytesMax: 65536, features: features)
    return try TagServer(
        target: TargetCalls(NullTarget(maxSectors: 128)), deviceDescriptor: device.descriptor,
        info: info, shares: [TagShare(queue: 0, tags: Array(0..<depth))],
        buffers: try TagBuffers(info), ending: try Ending())
}

/// The buffers that a server of one queue of 16 tags gives to its device.
private func fetchedAddresses(_ features: Features) throws -> [UInt64] {
    let device = try FakeQueueDevice(queueCount: 1)
    var server = try server(device, depth: 16, features)
    let entries = try SubmissionEntries()
    try? server.fetchAll()
    let fetches = (0..<16).map { entries[$0] }
    #expect(fetches.allSatisfy { $0.commandOperation == 0xc010_7520 })
    #expect(fetches.map { UInt16(truncatingIfNeeded: $0.payload[0] >> 16) } == Array(0..<16))
    return fetches.map { $0.payload[1] }
}
