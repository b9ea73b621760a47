// What an engine is made with, besides its cache.

/// Who tells the CRC-32C of bytes of a request's buffer: the engine sees no data.
public struct DataChecksum {
    /// What the function tells of data that is not in this process's memory.
    public static let unknown: UInt64 = .max
    /// (context, slot of the request, offset, byte count, seed) to the CRC continued from the seed,
    /// or `unknown`.
    public typealias Function =
        @convention(c) (UnsafeMutableRawPointer, UInt32, UInt32, UInt32, UInt32) -> UInt64
    let context: UnsafeMutableRawPointer
    let function: Function

    /// `context` must be valid as long as the engine is.
    public init(context: UnsafeMutableRawPointer, function: @escaping Function) {
        self.context = context
        self.function = function
    }
}

/// How much one worker's engine may have under way.
public struct EngineLimits: Sendable {
    /// Requests, those included whose data is still being put into the cache after the answer.
    public var requestSlots = 512
    /// Pieces of requests, one an extent.
    public var partSlots = 2048
    /// Batches of dirty lines being copied to cores.
    public var cleaningBatches = 4
    /// Bytes of a cleaning buffer, a multiple of the largest line.
    public var cleaningBatchBytes = 512 * 1024

    public init() {}
}

/// What an engine needs that has nothing to do with its cache. Made ahead by who has the time: it
/// takes some hundred page faults.
public struct EnginePools: ~Copyable {
    let limits: EngineLimits
    let requests: SlotPool<RequestSlot>
    let parts: SlotPool<Part>
    let settlingUses: [UInt32]

    public init(_ limits: EngineLimits) {
        self.limits = limits
        requests = SlotPool(capacity: limits.requestSlots, initial: RequestSlot())
        parts = SlotPool(capacity: limits.partSlots, initial: Part())
        settlingUses = [UInt32](repeating: 0, count: limits.requestSlots)
    }
}
