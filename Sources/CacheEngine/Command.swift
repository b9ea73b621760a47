/// What a user asks of one exported device, as the ublk descriptor gives it.
///
/// Two words, so that taking over a request is two stores.
public struct Request: Equatable, Sendable {
    public enum Operation: UInt8, Sendable {
        case read, write, flush, discard
    }

    /// | bits | |
    /// | --- | --- |
    /// | 0-1 | operation |
    /// | 8 | FUA |
    /// | 16-27 | core |
    /// | 32-63 | sector count |
    @usableFromInline var word: UInt64
    public var startSector: UInt64

    @inlinable public init(
        _ operation: Operation, core: UInt16, startSector: UInt64 = 0, sectorCount: UInt32 = 0,
        forceUnitAccess: Bool = false
    ) {
        precondition(core < 4096, "core ids have 12 bits")
        word =
            UInt64(operation.rawValue) | (forceUnitAccess ? 1 << 8 : 0) | UInt64(core) << 16
            | UInt64(sectorCount) << 32
        self.startSector = startSector
    }

    @inlinable public var operation: Operation {
        switch word & 3 {
        case 0: .read
        case 1: .write
        case 2: .flush
        default: .discard
        }
    }

    /// Forces the write to stable storage before it is answered (REQ_FUA).
    @inlinable public var forceUnitAccess: Bool {
        get { word & 1 << 8 != 0 }
        set { word = newValue ? word | 1 << 8 : word & ~(1 << 8) }
    }

    /// Open CAS core id, 0 to 4095.
    @inlinable public var core: UInt16 { UInt16(truncatingIfNeeded: word &>> 16 & 0xfff) }

    /// In 512-byte sectors; 0 for a flush.
    @inlinable public var sectorCount: UInt32 {
        get { UInt32(truncatingIfNeeded: word &>> 32) }
        set { word = word & 0xffff_ffff | UInt64(newValue) << 32 }
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
        /// Tell worker `slot` that something in set `deviceOffset` was released, or, with
        /// `Engine.journalSet` for a set, that the journal went on (its `setReleased` is to be
        /// called). Not completed back.
        case wakeWorker
        /// A flush of core `core` begun with `beginFlush` ended with `result`. Not completed back.
        case flushEnded
        /// No write-back write is under way (`beginSettling`). Not completed back.
        case writesSettled
    }

    public let kind: Kind
    /// By kind: what never occurs together shares a field, which halves the queue.
    @usableFromInline var flag = false
    public var core: UInt16 = 0
    /// Where the bytes are: in a request's buffer, a cleaning buffer, or the journal's memory.
    public var buffer = BufferName.none
    /// Bytes from the start of that buffer.
    public var bufferOffset: UInt32 = 0
    /// Reads and writes: bytes. `discardCore`: 512-byte sectors.
    @usableFromInline var length: UInt32 = 0
    /// Bytes from the start of the device; a set number for `wakeWorker`.
    public var deviceOffset: UInt64 = 0
    public var token = Token(rawValue: 0)

    @inlinable public init(_ kind: Kind) { self.kind = kind }

    @inline(__always)
    init(
        _ kind: Kind, flag: Bool, core: UInt16, buffer: BufferName, length: UInt32,
        deviceOffset: UInt64, token: Token
    ) {
        self.kind = kind
        self.flag = flag
        self.core = core
        self.buffer = buffer
        self.length = length
        self.deviceOffset = deviceOffset
        self.token = token
    }

    /// Writes only: the data must be durable when the command completes.
    @inlinable public var forceUnitAccess: Bool {
        get { kind != .answer && kind != .readCore && flag }
        set { flag = newValue }
    }
    /// `readCore` only: some of its bytes are written to the cache after the answer, as they are
    /// then. So they must not go to memory that the user has.
    @inlinable public var isFilled: Bool {
        get { kind == .readCore && flag }
        set { flag = newValue }
    }
    /// `answer` only.
    @inlinable public var keepsBuffer: Bool {
        get { kind == .answer && flag }
        set { flag = newValue }
    }
    /// Reads and writes.
    @inlinable public var byteCount: UInt32 {
        get { kind == .discardCore ? 0 : length }
        set { length = newValue }
    }
    /// `discardCore`, which may be longer than a buffer can be.
    @inlinable public var discardByteCount: UInt64 {
        get { UInt64(length) * 512 }
        set { length = UInt32(newValue / 512) }
    }
    /// `answer`, `flushEnded`: 0 or -errno.
    @inlinable public var result: Int32 {
        get { Int32(bitPattern: bufferOffset) }
        set { bufferOffset = UInt32(bitPattern: newValue) }
    }
    /// `answer`, `releaseSlot`: the request's slot. `wakeWorker`: the worker.
    @inlinable public var slot: UInt32 {
        get { buffer.rawValue }
        set { buffer = BufferName(rawValue: newValue) }
    }

    /// With it the engine is through with the slot.
    @inlinable public var endsSlot: Bool {
        guard kind.rawValue >= Kind.answer.rawValue else { return false }
        return kind == .answer ? !flag : kind == .releaseSlot
    }
}

/// A buffer the runner of the engine owns and the engine only names.
public struct BufferName: Equatable, Sendable {
    /// Top bit: not a request's. Then the next one: metadata (else cleaning). The rest: its number,
    /// or the request slot's.
    public let rawValue: UInt32

    public static let none = BufferName(rawValue: .max)
    @inlinable public static func request(_ slot: UInt32) -> BufferName {
        BufferName(rawValue: slot)
    }
    @inlinable public static func cleaning(_ index: UInt32) -> BufferName {
        BufferName(rawValue: index | 0x8000_0000)
    }
    /// Journal blocks and set pages, see `Journal.address`.
    @inlinable public static func metadata(_ index: UInt32) -> BufferName {
        BufferName(rawValue: index | 0xC000_0000)
    }
    @inlinable public var isRequest: Bool { rawValue & 0x8000_0000 == 0 }
    @inlinable public var isCleaning: Bool { rawValue >> 30 == 2 }
    @inlinable public var isMetadata: Bool { rawValue >> 30 == 3 && self != .none }
    @inlinable public var index: UInt32 { rawValue & 0x3fff_ffff }

    @inlinable public init(rawValue: UInt32) { self.rawValue = rawValue }
}

/// Names the operation a completion belongs to: exactly what goes into `user_data`.
///
/// Uses the low 56 bits; the top 8 are the runner's.
public struct Token: Equatable, Sendable {
    public let rawValue: UInt64
    @inlinable public init(rawValue: UInt64) { self.rawValue = rawValue }
}
