import CacheEngine

/// Where a worker's requests come from and their answers go: ublk queues, or a load generator.
///
/// It owns the requests' buffers. The engine names a request by its slot from `accepted` on until
/// it was answered and its slot released.
protocol RequestFront: ~Copyable, SendableMetatype {
    /// The next request, and the front's own name for it.
    mutating func nextRequest(
        _ devices: inout DeviceRing, _ shared: SharedCache
    ) -> (request: Request, origin: UInt64)?
    /// Whether a request that was given, and could not be taken, may start now. False if it will be
    /// given again.
    mutating func mayStart(
        _ request: Request, origin: UInt64, _ devices: inout DeviceRing, _ shared: SharedCache
    ) -> Bool
    /// Returns where the request's data is; nil if it has none, or none in this process's memory.
    mutating func accepted(origin: UInt64, slot: UInt32) -> UnsafeMutableRawPointer?
    /// Tells the transfer where the slot's bytes from `offset` on are. What `isFilled` is still
    /// needed, and unchanged, after the answer.
    func locate(_ transfer: inout Transfer, offset: UInt32, isFilled: Bool)
    /// A device transfer in the slot's buffer began or ended.
    mutating func transferStarted(slot: UInt32)
    mutating func transferEnded(slot: UInt32)
    /// With `keepsBuffer` the slot's buffer is used on, its content unchanged, until `release`.
    mutating func answer(
        slot: UInt32, result: Int32, keepsBuffer: Bool, _ devices: inout DeviceRing)
    mutating func release(slot: UInt32, _ devices: inout DeviceRing)
    /// A completion that bears `CompletionOwner.front`.
    mutating func completed(userData: UInt64, result: Int32, _ devices: inout DeviceRing)
    /// Whether `nextRequest` has something to give without a further completion.
    var hasRequests: Bool { get }

    mutating func attach(_ queue: QueueSetup, _ reply: Reply, _ devices: inout DeviceRing)
    mutating func detach(device: UInt32, _ reply: Reply, _ devices: inout DeviceRing)
}

extension RequestFront where Self: ~Copyable {
    mutating func mayStart(
        _: Request, origin _: UInt64, _: inout DeviceRing, _: SharedCache
    ) -> Bool { true }
}
