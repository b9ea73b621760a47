import CLinux
import Glibc
public import Uring

/// A request as the kernel describes it: a copy, because the kernel's own is written anew as soon
/// as the tag is given back.
public struct IODescriptor: Equatable, Sendable {
    public enum Operation: UInt8, Sendable {
        case read = 0, write = 1, flush = 2, discard = 3, writeSame = 4, writeZeroes = 5
    }

    /// Nil for an operation this library does not serve.
    public let operation: Operation?
    /// All 32 bits: the flags are tested where they are, never shifted.
    public let operationAndFlags: UInt32
    public let sectorCount: UInt32
    public let startSector: UInt64

    public var movesData: Bool { operation == .read || operation == .write }
    public var forceUnitAccess: Bool { operationAndFlags & 1 << 13 != 0 }
    /// Automatic registration with a fallback: this request's pages are not registered.
    public var needsRegistration: Bool { operationAndFlags & 1 << 17 != 0 }
    /// Write-zeroes only: the space must stay allocated.
    public var noUnmap: Bool { operationAndFlags & 1 << 15 != 0 }

    public init(operationAndFlags: UInt32, sectorCount: UInt32, startSector: UInt64) {
        operation = Operation(rawValue: UInt8(truncatingIfNeeded: operationAndFlags))
        self.operationAndFlags = operationAndFlags
        // A FLUSH has no range; the kernel leaves all ones there.
        self.sectorCount = operation == .flush ? 0 : sectorCount
        self.startSector = operation == .flush ? 0 : startSector
    }
}

/// What the driver is to do with the data of a tag's next request.
public enum TagData: Equatable, Sendable {
    /// Copy them from and to the memory at this address.
    case memory(UInt64)
    /// Nothing: user copy, and explicit zero copy.
    case none
    /// Put the pages into this place of the buffer table of the ring that fetches. `fallsBack`:
    /// where that fails, deliver the request without.
    case place(UInt16, fallsBack: Bool)

    fileprivate var commandAddress: UInt64 {
        if case .memory(let address) = self { address } else { 0 }
    }

    /// struct ublk_auto_buf_reg: index, flags (1: UBLK_AUTO_BUF_REG_FALLBACK).
    fileprivate var entryAddress: UInt64 {
        if case .place(let place, let fallsBack) = self {
            UInt64(place) | (fallsBack ? 1 << 16 : 0)
        } else {
            0
        }
    }
}

/// One hardware queue of a device: fetches requests and gives back results, on a ring that is the
/// worker's. One ring may serve queues of many devices.
///
/// All state is the number of tags on either side. Every fetch and commit of a tag must come from
/// one thread; where several threads serve a queue, each has a `Queue` for its tags. The user data
/// of commands is the caller's.
public struct Queue {
    public enum Event: Equatable, Sendable {
        /// A request came: read its descriptor.
        case request
        /// The device stops; the tag is not fetched again.
        case aborted
        /// The driver did not take the command, for this errno; the tag is not fetched again.
        case refused(Int32)
    }

    public let number: UInt16
    public let depth: UInt16
    /// /dev/ublkc*N*.
    private let descriptor: Int32
    private let descriptors: UnsafeMutableRawPointer
    private let mappedBytes: Int
    /// Tags whose command is with the kernel, and those whose request is being served.
    public private(set) var fetching = 0
    public private(set) var serving = 0

    private static let fetchOperation: UInt32 = 0xc010_7520
    private static let commitOperation: UInt32 = 0xc010_7521
    private static let registerOperation: UInt32 = 0xc010_7523
    private static let unregisterOperation: UInt32 = 0xc010_7524
    private static let prepareManyOperation: UInt32 = 0xc010_7525
    private static let commitManyOperation: UInt32 = 0xc010_7526
    private static let fetchManyOperation: UInt32 = 0xc010_7527
    private static let descriptorBytes = 24
    private static let depthMax = 4096

    /// Maps the queue's descriptors.
    public init(descriptor: Int32, number: UInt16, depth: UInt16) throws(UblkError) {
        let page = Int(getpagesize())
        let perQueue = (Self.depthMax * Self.descriptorBytes + page - 1) / page * page
        let bytes = (Int(depth) * Self.descriptorBytes + page - 1) / page * page
        guard
            let mapped = ucas_map_descriptors(
                descriptor, UInt64(Int(number) * perQueue), UInt64(bytes))
        else {
            throw UblkError("mapping the descriptors of queue \(number)", errno: Glibc.errno)
        }
        self.number = number
        self.depth = depth
        self.descriptor = descriptor
        descriptors = mapped
        mappedBytes = bytes
    }

    /// The mapping holds the device: it cannot be deleted before.
    public func unmap() { munmap(descriptors, mappedBytes) }

    /// Nothing of the queue is anywhere any more.
    public var isDrained: Bool { fetching == 0 && serving == 0 }

    public func descriptor(tag: UInt16) -> IODescriptor {
        precondition(tag < depth)
        let base = descriptors + Int(tag) * Self.descriptorBytes
        return IODescriptor(
            operationAndFlags: base.load(as: UInt32.self),
            sectorCount: base.load(fromByteOffset: 4, as: UInt32.self),
            startSector: base.load(fromByteOffset: 8, as: UInt64.self))
    }

    /// Asks for a request on the tag; false if the ring is full.
    public mutating func prepareFetch(
        _ ring: inout Ring, tag: UInt16, data: TagData, userData: UInt64
    ) -> Bool {
        guard
            ring.prepareCommand(
                descriptor: descriptor, operation: Self.fetchOperation, low: low(tag, 0),
                high: data.commandAddress, address: data.entryAddress, userData: userData)
        else { return false }
        fetching += 1
        return true
    }

    /// Gives back the result of the tag's request and asks for the next one; false if the ring is
    /// full.
    ///
    /// `result` is the whole length in bytes, or -errno: never a part (kernels differ in what they
    /// make of it, and some take it for success).
    public mutating func prepareCommit(
        _ ring: inout Ring, tag: UInt16, result: Int32, data: TagData, userData: UInt64
    ) -> Bool {
        precondition(serving > 0, "a result for a request that is not there")
        guard
            ring.prepareCommand(
                descriptor: descriptor, operation: Self.commitOperation, low: low(tag, result),
                high: data.commandAddress, address: data.entryAddress, userData: userData)
        else { return false }
        serving -= 1
        fetching += 1
        return true
    }

    /// Zero copy: puts the pages of the tag's request into `place` of the ring's buffer table.
    public func prepareRegister(
        _ ring: inout Ring, tag: UInt16, place: UInt16, userData: UInt64
    ) -> Bool {
        ring.prepareCommand(
            descriptor: descriptor, operation: Self.registerOperation, low: low(tag, 0),
            high: UInt64(place), userData: userData)
    }

    /// Takes them out again: before the commit, and after the last use.
    public func prepareUnregister(
        _ ring: inout Ring, tag: UInt16, place: UInt16, userData: UInt64
    ) -> Bool {
        ring.prepareCommand(
            descriptor: descriptor, operation: Self.unregisterOperation, low: low(tag, 0),
            high: UInt64(place), userData: userData)
    }

    private func low(_ tag: UInt16, _ result: Int32) -> UInt64 {
        UInt64(number) | UInt64(tag) << 16 | UInt64(UInt32(bitPattern: result)) << 32
    }

    /// Takes the completion of a fetch or commit.
    public mutating func completed(result: Int32) -> Event {
        precondition(fetching > 0, "a completion of a command that was not sent")
        fetching -= 1
        guard result == 0 else { return result == -ENODEV ? .aborted : .refused(-result) }
        serving += 1
        return .request
    }

    // Many at a time (UBLK_F_BATCH_IO): instead of `prepareFetch` and `prepareCommit`. No thread is
    // bound to a tag then, and `fetching` is the one command that fetches.

    /// Tells the driver what it has to know of the tags: once, before anything is fetched.
    func prepareTags(
        _ ring: inout Ring, _ list: (address: UInt64, low: UInt64), userData: UInt64
    ) -> Bool {
        prepareList(&ring, Self.prepareManyOperation, list, userData)
    }

    /// Gives back results.
    func prepareCommits(
        _ ring: inout Ring, _ list: (address: UInt64, low: UInt64), userData: UInt64
    ) -> Bool {
        prepareList(&ring, Self.commitManyOperation, list, userData)
    }

    private func prepareList(
        _ ring: inout Ring, _ operation: UInt32, _ list: (address: UInt64, low: UInt64),
        _ userData: UInt64
    ) -> Bool {
        ring.prepareCommand(
            descriptor: descriptor, operation: operation, low: list.low, high: 0,
            address: list.address, userData: userData)
    }

    /// Asks for requests, until the command ends; false if the ring is full. Each completion has
    /// the tags of some requests in a provided buffer.
    mutating func prepareFetches(_ ring: inout Ring, userData: UInt64) -> Bool {
        let tagBytes: UInt64 = 2
        guard
            ring.prepareMultishotCommand(
                descriptor: descriptor, operation: Self.fetchManyOperation,
                low: UInt64(number) | tagBytes << 48, userData: userData)
        else { return false }
        fetching += 1
        return true
    }

    mutating func fetchesEnded() {
        precondition(fetching == 1, "an end of fetches that were not asked for")
        fetching = 0
    }

    mutating func requestsCame(_ count: Int) { serving += count }

    /// The result is in a list, which will go to the driver.
    mutating func resultCame() {
        precondition(serving > 0, "a result for a request that is not there")
        serving -= 1
    }

    /// User copy: the bytes of the tag's request, from `first` on.
    public func bytes(tag: UInt16, from first: UInt32 = 0) -> RequestBytes {
        RequestBytes(
            descriptor: descriptor,
            position: Self.userCopyOffset(queue: number, tag: tag, byte: first))
    }

    /// Where a request's bytes are in /dev/ublkc*N*, for pread and pwrite (user copy).
    static func userCopyOffset(queue: UInt16, tag: UInt16, byte: UInt32) -> UInt64 {
        precondition(byte < 1 << 25)
        return 0x8000_0000 + (UInt64(queue) << 41 | UInt64(tag) << 25 | UInt64(byte))
    }
}
