import CacheEngine
import Glibc
import Ublk
import Uring

/// Tells whose completion it is: the top byte of a completion's user data.
enum CompletionOwner: UInt64 {
    case transfer = 1
    case mailbox = 2
    /// The request front's own, for example a ublk tag.
    case front = 3

    var tag: UInt64 { rawValue << 56 }
}

/// A worker's ring and the device I/O on its way in it.
///
/// What the engine asked for ends with all of its bytes moved or with an error: a short transfer
/// goes on where it stopped, and what the kernel had no room for is tried again.
struct DeviceRing: ~Copyable {
    /// How often one transfer is tried again when the kernel says "not now".
    private static let attemptMax: UInt16 = 1024

    var ring: Ring
    private let transfers: UnsafeMutablePointer<Transfer>
    private let free: UnsafeMutablePointer<UInt32>
    private var freeCount: Int
    private let capacity: Int
    private(set) var counts = TransferCounts()
    /// How often the ring was handed over at the end of a turn.
    private(set) var submitCount: UInt64 = 0

    init(ring: consuming Ring, capacity: Int) {
        precondition(capacity > 0 && capacity < 1 << 24)
        self.ring = ring
        self.capacity = capacity
        transfers = .allocate(capacity: capacity)
        transfers.initialize(repeating: Transfer(), count: capacity)
        free = .allocate(capacity: capacity)
        for index in 0..<capacity { free[index] = UInt32(capacity - 1 - index) }
        freeCount = capacity
    }

    deinit {
        transfers.deallocate()
        free.deallocate()
    }

    var isIdle: Bool { freeCount == capacity }

    /// The turn's system call.
    mutating func submit(waits: Bool) {
        ring.submit(waitFor: waits ? 1 : 0)
        submitCount += 1
    }
}

/// What a worker's devices did that the engine does not count.
struct TransferCounts: Equatable {
    var cacheTransfers: UInt64 = 0
    var coreTransfers: UInt64 = 0
    var shortTransfers: UInt64 = 0
    var retries: UInt64 = 0
}

/// One read, write, flush or discard of a device.
struct Transfer {
    enum Operation: UInt8 { case read, write, flush, discard, punchHole }

    var operation = Operation.flush
    /// Writes only: durable when completed.
    var isDurable = false
    var attempts: UInt16 = 0
    var core: UInt16 = 0
    /// Registered file.
    var file: UInt32 = 0
    /// The request slot whose buffer it uses, or `.max`.
    var slot = UInt32.max
    var generation: UInt32 = 0
    /// Where the bytes are; nil if they are in a place of the ring's buffer table.
    var address: UnsafeMutableRawPointer?
    /// That place, and the first byte in it.
    var place: UInt16 = 0
    var placeStart: UInt32 = 0
    /// Reads: the request that is given what was read before the transfer has ended.
    var out: RequestBytes?
    var deviceOffset: UInt64 = 0
    var byteCount: UInt64 = 0
    var done: UInt64 = 0
    var token = Token(rawValue: 0)

    /// Where the bytes are that have not been moved yet.
    var rest: UnsafeMutableRawPointer {
        guard let address else { preconditionFailure("a transfer without a buffer") }
        return address + Int(done)
    }
    var startInPlace: UInt32 { placeStart + UInt32(truncatingIfNeeded: done) }
}

/// How a transfer ended: 0 or -errno.
struct TransferEnd {
    let token: Token
    let result: Int32
    let core: UInt16
    let slot: UInt32
    let isCore: Bool
}

extension DeviceRing {
    /// False if there is no room now.
    mutating func start(_ transfer: Transfer) -> Bool {
        guard freeCount > 0 else { return false }
        let index = free[freeCount - 1]
        let generation = transfers[Int(index)].generation
        transfers[Int(index)] = transfer
        transfers[Int(index)].generation = generation
        freeCount -= 1
        if transfer.file == WorkerFile.cache {
            counts.cacheTransfers &+= 1
        } else {
            counts.coreTransfers &+= 1
        }
        queue(index)
        return true
    }

    /// Puts what is left of the transfer into the ring.
    private mutating func queue(_ index: UInt32) {
        ring.makeRoom(1)
        let isQueued = prepare(transfers + Int(index), index)
        precondition(isQueued, "no room in the ring that was just made")
    }

    private mutating func prepare(
        _ transfer: UnsafeMutablePointer<Transfer>, _ index: UInt32
    ) -> Bool {
        let userData =
            CompletionOwner.transfer.tag | UInt64(transfer.pointee.generation & 0xffffff) << 32
            | UInt64(index)
        let offset = transfer.pointee.deviceOffset + transfer.pointee.done
        let left = transfer.pointee.byteCount - transfer.pointee.done
        let file = transfer.pointee.file
        switch transfer.pointee.operation {
        case .read where transfer.pointee.address == nil:
            return ring.prepareRead(
                file: file, place: transfer.pointee.place, start: transfer.pointee.startInPlace,
                byteCount: UInt32(left), offset: offset, userData: userData)
        case .write where transfer.pointee.address == nil:
            return ring.prepareWrite(
                file: file, place: transfer.pointee.place, start: transfer.pointee.startInPlace,
                byteCount: UInt32(left), offset: offset, isDurable: transfer.pointee.isDurable,
                userData: userData)
        case .read:
            return ring.prepareRead(
                file: file, into: transfer.pointee.rest, byteCount: UInt32(left), offset: offset,
                userData: userData)
        case .write:
            return ring.prepareWrite(
                file: file, from: transfer.pointee.rest, byteCount: UInt32(left), offset: offset,
                isDurable: transfer.pointee.isDurable, userData: userData)
        case .flush:
            return ring.prepareFlush(file: file, userData: userData)
        case .discard:
            return ring.prepareDiscard(
                file: file, offset: offset, byteCount: left, userData: userData)
        case .punchHole:
            return ring.preparePunchHole(
                file: file, offset: offset, byteCount: left, userData: userData)
        }
    }

    /// Takes the completion of a transfer; nil if the transfer goes on.
    mutating func ended(userData: UInt64, result: Int32) -> TransferEnd? {
        let index = UInt32(truncatingIfNeeded: userData)
        precondition(index < capacity)
        let transfer = transfers + Int(index)
        precondition(
            UInt64(transfer.pointee.generation & 0xffffff) == userData >> 32 & 0xffffff,
            "a completion for a transfer that has ended")
        switch verdict(transfer, result) {
        case .ended(let final):
            return end(index, final == 0 ? moveOut(transfer) : final)
        case .goesOn:
            queue(index)
            return nil
        }
    }

    private func moveOut(_ transfer: UnsafeMutablePointer<Transfer>) -> Int32 {
        guard let out = transfer.pointee.out, let address = transfer.pointee.address else {
            return 0
        }
        return out.give(from: address, count: Int(transfer.pointee.byteCount))
    }

    private enum Verdict {
        case ended(Int32)
        case goesOn
    }

    private mutating func verdict(
        _ transfer: UnsafeMutablePointer<Transfer>, _ result: Int32
    ) -> Verdict {
        if result == -EAGAIN || result == -EINTR {
            transfer.pointee.attempts += 1
            counts.retries += 1
            return transfer.pointee.attempts < Self.attemptMax ? .goesOn : .ended(-EIO)
        }
        switch transfer.pointee.operation {
        case .flush: return .ended(min(result, 0))
        case .discard:
            // Kernels before 6.12 have no discard command; a hole does the same.
            guard result == -EOPNOTSUPP || result == -EINVAL else { return .ended(min(result, 0)) }
            transfer.pointee.operation = .punchHole
            return .goesOn
        case .punchHole: return .ended(min(result, 0))
        case .read, .write:
            guard result > 0 else { return .ended(result == 0 ? -EIO : result) }
            transfer.pointee.done += UInt64(result)
            if transfer.pointee.done == transfer.pointee.byteCount { return .ended(0) }
            precondition(transfer.pointee.done < transfer.pointee.byteCount)
            counts.shortTransfers += 1
            // What is left must still be whole sectors.
            return transfer.pointee.done % 512 == 0 ? .goesOn : .ended(-EIO)
        }
    }

    private mutating func end(_ index: UInt32, _ result: Int32) -> TransferEnd {
        let transfer = transfers + Int(index)
        transfer.pointee.generation &+= 1
        free[freeCount] = index
        freeCount += 1
        return TransferEnd(
            token: transfer.pointee.token, result: result, core: transfer.pointee.core,
            slot: transfer.pointee.slot, isCore: transfer.pointee.file != WorkerFile.cache)
    }
}

/// Places in a worker's table of registered files.
enum WorkerFile {
    static let cache: UInt32 = 0
    static let first: UInt32 = 1
    static let count: UInt32 = 1024
}
