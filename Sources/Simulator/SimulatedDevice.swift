import CacheEngine

/// A block device of the simulator: a stamp a sector, what is there now and what would be left
/// after a power cut.
final class SimulatedDevice {
    let name: String
    private(set) var current: [UInt64]
    private(set) var durable: [UInt64]
    private var volatileSectors = Set<Int>()
    /// The device's first sectors hold bytes, not stamps.
    let metadata: (current: SectorBytes, durable: SectorBytes)

    init(name: String, sectorCount: Int, metadataSectors: Int = 0) {
        self.name = name
        current = [UInt64](repeating: 0, count: sectorCount)
        durable = current
        metadata = (SectorBytes(count: metadataSectors), SectorBytes(count: metadataSectors))
    }

    func read(_ sector: Int) -> UInt64 { current[sector] }

    func write(_ sector: Int, _ stamp: UInt64, durably: Bool) {
        current[sector] = stamp
        written(sector, durably: durably)
    }

    func write(metadata sector: Int, _ bytes: UnsafeRawPointer, durably: Bool) {
        metadata.current.address(sector).copyMemory(from: bytes, byteCount: 512)
        written(sector, durably: durably)
    }

    private func written(_ sector: Int, durably: Bool) {
        if durably { makeDurable([sector]) } else { volatileSectors.insert(sector) }
    }

    /// What was written and not flushed; taken when a flush begins, made durable when it ends.
    var unflushed: [Int] { Array(volatileSectors) }

    func isUnflushed(_ sector: Int) -> Bool { volatileSectors.contains(sector) }

    func makeDurable(_ sectors: [Int]) {
        for sector in sectors {
            if sector < metadata.durable.count {
                metadata.durable.address(sector).copyMemory(
                    from: metadata.current.address(sector), byteCount: 512)
            }
            durable[sector] = current[sector]
            volatileSectors.remove(sector)
        }
    }

    /// The power is gone and back: what was not durable is as before.
    func cutPower() {
        for sector in volatileSectors {
            current[sector] = durable[sector]
            if sector < metadata.durable.count {
                metadata.current.address(sector).copyMemory(
                    from: metadata.durable.address(sector), byteCount: 512)
            }
        }
        volatileSectors = []
    }
}

/// Sectors of 512 bytes, as bytes.
final class SectorBytes {
    let count: Int
    private let base: UnsafeMutableRawPointer

    init(count: Int) {
        self.count = count
        base = .allocate(byteCount: max(count, 1) * 512, alignment: 4096)
        base.initializeMemory(as: UInt8.self, repeating: 0, count: max(count, 1) * 512)
    }

    deinit { base.deallocate() }

    func address(_ sector: Int) -> UnsafeMutableRawPointer {
        precondition(sector < count)
        return base + sector * 512
    }
}

/// An I/O on its way to a device. Its sectors take effect in pieces, at any time before its end.
final class SimulatedTransfer {
    let command: Command
    let worker: Int
    let buffer: SimulatedBuffer?
    /// Where the bytes are, of journal blocks and set pages.
    let metadata: UnsafeMutableRawPointer?
    /// Sectors that have not taken effect, as indices from the transfer's start.
    var pending: [Range<Int>]
    var unflushed: [Int] = []
    var willFail = false
    /// The request it works for, if it is one's.
    let client: ClientRequest?

    init(
        _ command: Command, worker: Int, buffer: SimulatedBuffer?, client: ClientRequest? = nil,
        metadata: UnsafeMutableRawPointer? = nil
    ) {
        self.metadata = metadata
        self.client = client
        self.command = command
        self.worker = worker
        self.buffer = buffer
        let count =
            command.kind == .discardCore
            ? Int(command.discardByteCount / 512) : Int(command.byteCount / 512)
        pending = count > 0 ? [0..<count] : []
    }
}

/// A buffer of stamps, one a sector.
final class SimulatedBuffer {
    var stamps: [UInt64]
    /// Read for the cache to be filled with it: not in memory that the user has.
    var isOurs: [Bool]

    init(sectorCount: Int) {
        stamps = [UInt64](repeating: .max, count: sectorCount)
        isOurs = [Bool](repeating: false, count: sectorCount)
    }

    /// The read is answered: its user may use what it got for something else.
    func giveToUser() {
        for index in stamps.indices where !isOurs[index] { stamps[index] = .max }
    }
}
