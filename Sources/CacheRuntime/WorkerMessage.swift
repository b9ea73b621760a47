/// What a control thread asks of a worker. Each is answered once through its `Reply`.
enum WorkerMessage: Sendable {
    /// From now on transfers of core `core` go to this open device.
    case attachCore(core: UInt16, descriptor: Int32, isBlockDevice: Bool, Reply)
    /// -EBUSY while transfers of the core are under way.
    case detachCore(core: UInt16, Reply)
    /// Serve a queue of an exported device; answered when all its tags were fetched.
    case attachQueue(QueueSetup, Reply)
    /// Answered when every tag of the stopped device came back and nothing of it is held.
    case detachQueue(device: UInt32, Reply)
    /// Answered when the flush ended.
    case beginFlush(core: UInt16, Reply)
    case cancelFlush(core: UInt16)
    /// A control thread wants something of the journal.
    case journal
    /// Answered when no write-back write is under way; none may begin meanwhile.
    case settle(Reply)
    /// Answered when the worker has ended; nothing may be attached.
    case stop(Reply)
}

/// One queue of an exported device, for the worker that will serve it.
struct QueueSetup: Sendable {
    /// The number in /dev/ublkb*N*.
    let device: UInt32
    /// The engine's core id.
    let core: UInt16
    /// The open /dev/ublkc*N*.
    let descriptor: Int32
    let queue: UInt16
    let depth: UInt16
    let requestBytesMax: UInt32
    let movement: DataMovement
}
