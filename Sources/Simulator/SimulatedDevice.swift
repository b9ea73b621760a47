import CacheEngine

/// A block device of the simulator: a stamp a sector, what is there now and what would be left
/// after a power cut.
final class SimulatedDevice {
    let name: String
    private(set) var current: [UInt64]
    private(set) var durable: [UInt64]
    private var volatileSectors = Set<Int>()

    init(name: String, sectorCount: Int) {
        self.name = name
        current = [UInt64](repeating: 0, count: sectorCount)
        durable = current
    }

    func read(_ sector: Int) -> UInt64 { current[sector] }

    func write(_ sector: Int, _ stamp: UInt64, durably: Bool) {
        current[sector] = stamp
        if durably {
            durable[sector] = stamp
            volatileSectors.remove(sector)
        } else {
            volatileSectors.insert(sector)
        }
    }

    /// What was written and not flushed; taken when a flush begins, made durable when it ends.
    var unflushed: [Int] { Array(volatileSectors) }

    func makeDurable(_ sectors: [Int]) {
        for sector in sectors {
            durable[sector] = current[sector]
            volatileSectors.remove(sector)
        }
    }
}

/// An I/O on its way to a device. Its sectors take effect in pieces, at any time before its end.
final class SimulatedTransfer {
    let command: Command
    let worker: Int
    let buffer: SimulatedBuffer?
    /// Sectors that have not taken effect, as indices from the transfer's start.
    var pending: [Range<Int>]
    var unflushed: [Int] = []
    var willFail = false
    /// The request it works for, if it is one's.
    let client: ClientRequest?

    init(
        _ command: Command, worker: Int, buffer: SimulatedBuffer?, client: ClientRequest? = nil
    ) {
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
    init(sectorCount: Int) { stamps = [UInt64](repeating: .max, count: sectorCount) }
}
