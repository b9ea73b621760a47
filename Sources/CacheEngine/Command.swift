/// What a user asks of one exported device, as the ublk descriptor gives it.
public struct Request: Equatable, Sendable {
    public enum Operation: UInt8, Sendable {
        case read, write, flush, discard
    }

    public var operation: Operation
    /// Forces the write to stable storage before it is answered (REQ_FUA).
    public var forceUnitAccess: Bool
    /// Open CAS core id, 0 to 4095.
    public var core: UInt16
    /// In 512-byte sectors; 0 for a flush.
    public var sectorCount: UInt32
    public var startSector: UInt64

    public init(
        _ operation: Operation, core: UInt16, startSector: UInt64 = 0, sectorCount: UInt32 = 0,
        forceUnitAccess: Bool = false
    ) {
        self.operation = operation
        self.core = core
        self.startSector = startSector
        self.sectorCount = sectorCount
        self.forceUnitAccess = forceUnitAccess
    }
}

/// One thing the engine wants done.
///
/// Commands are data: the engine never calls a device. The one who runs the engine takes commands
/// in order, carries them out, and for those with a token reports back with `complete`.
public struct Command: Equatable, Sendable {
    public enum Kind: UInt8, Sendable {
        /// Device I/O; each is completed once with its token and the bytes moved or -errno.
        case readCache, writeCache, flushCache
        case readCore, writeCore, flushCore, discardCore
        /// Answer the request in `slot` with `result` (0 or -errno). Not completed back.
        /// With `keepsBuffer` slot and buffer stay in use, the buffer's content unchanged, until
        /// `releaseSlot`; without, the engine is through with both.
        case answer
        /// An answered request's slot and buffer are no longer used. Not completed back.
        case releaseSlot
        /// Tell worker `worker` that something in set `deviceOffset` was released
        /// (its `setReleased` is to be called). Not completed back.
        case wakeWorker
        /// A flush of core `core` begun with `beginFlush` ended with `result`. Not completed back.
        case flushEnded
        /// No write-back write is under way (`beginSettling`). Not completed back.
        case writesSettled
    }

    public var kind: Kind
    /// Writes only: the data must be durable when the command completes.
    public var forceUnitAccess = false
    /// `answer` only.
    public var keepsBuffer = false
    public var core: UInt16 = 0
    /// Where the bytes are: in a request's buffer or in a cleaning buffer.
    public var buffer = BufferName.none
    /// Bytes from the start of that buffer.
    public var bufferOffset: UInt32 = 0
    public var byteCount: UInt32 = 0
    public var result: Int32 = 0
    /// Bytes from the start of the device; a set number for `wakeWorker`.
    public var deviceOffset: UInt64 = 0
    /// `discardCore` may be longer than a buffer can: its length in bytes.
    public var discardByteCount: UInt64 = 0
    public var token = Token(rawValue: 0)
    /// `answer`, `releaseSlot`: the request's slot. `wakeWorker`: the worker.
    public var slot: UInt32 = 0

    @inlinable public init(_ kind: Kind) { self.kind = kind }

    /// With it the engine is through with the slot.
    @inlinable public var endsSlot: Bool {
        kind == .answer ? !keepsBuffer : kind == .releaseSlot
    }
}

/// A buffer the runner of the engine owns and the engine only names.
public struct BufferName: Equatable, Sendable {
    /// Top bit: a cleaning buffer; the rest: its number, or the request slot's.
    public let rawValue: UInt32

    public static let none = BufferName(rawValue: .max)
    public static func request(_ slot: UInt32) -> BufferName { BufferName(rawValue: slot) }
    public static func cleaning(_ index: UInt32) -> BufferName {
        BufferName(rawValue: index | 0x8000_0000)
    }
    public var isCleaning: Bool { rawValue & 0x8000_0000 != 0 }
    public var index: UInt32 { rawValue & 0x7fff_ffff }

    @inlinable public init(rawValue: UInt32) { self.rawValue = rawValue }
}

/// Names the operation a completion belongs to: exactly what goes into `user_data`.
///
/// Uses the low 56 bits; the top 8 are the runner's.
public struct Token: Equatable, Sendable {
    public let rawValue: UInt64
    @inlinable public init(rawValue: UInt64) { self.rawValue = rawValue }
}
