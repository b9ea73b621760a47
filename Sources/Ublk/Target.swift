/// What stands behind a plain device: turns each request into one step.
///
/// Called on queue threads, several at a time. `step` answers from immutable data; a target that
/// keeps something guards it itself.
public protocol Target: Sendable {
    var parameters: DeviceParameters { get }
    /// An open file the server reads and writes for `Step.read` and the like; nil if none is used.
    var descriptor: Int32? { get }
    func step(_ request: IODescriptor) -> Step
    /// Whether `serve` is ever asked for: then the data mode cannot be one without copies.
    var seesData: Bool { get }
    /// Does what `Step.inMemory` stands for: takes a write's data, or gives a read's. `data` is as
    /// long as the request. 0 or -errno.
    func serve(_ request: IODescriptor, _ data: UnsafeMutableRawBufferPointer) -> Int32
}

extension Target {
    public var descriptor: Int32? { nil }
    public var seesData: Bool { false }

    public func serve(_ request: IODescriptor, _ data: UnsafeMutableRawBufferPointer) -> Int32 {
        -95  // EOPNOTSUPP
    }
}

/// A target as the threads that serve call it. Their loop knows no target: if it were generic, it
/// would be compiled for none in particular, and look up whatever it touches.
struct TargetCalls: Sendable {
    let descriptor: Int32?
    let step: @Sendable (IODescriptor) -> Step
    let serve: @Sendable (IODescriptor, UnsafeMutableRawBufferPointer) -> Int32

    init(_ target: some Target) {
        descriptor = target.descriptor
        step = { target.step($0) }
        serve = { target.serve($0, $1) }
    }
}

/// What a request needs.
public enum Step: Equatable, Sendable {
    /// Nothing more: 0 or -errno (for reads and writes the server adds the length). What is read
    /// then is undefined; in other modes than copy it may be old contents of the kernel's memory.
    case done(Int32)
    /// `Target.serve` does it, on the queue's thread, which waits for it.
    case inMemory
    /// Bytes of the target's file.
    case read(offset: UInt64)
    case write(offset: UInt64, durable: Bool)
    case flush
    case punchHole(offset: UInt64, byteCount: UInt64)
    case discard(offset: UInt64, byteCount: UInt64)
    /// Zeroes, with the space staying allocated.
    case zeroRange(offset: UInt64, byteCount: UInt64)
}

/// Answers everything at once and keeps nothing: what the driver and the rings cost. To be served
/// in copy mode, unless that is what is measured: see `Step.done`.
public struct NullTarget: Target {
    public let parameters: DeviceParameters

    public init(sectorCount: UInt64 = 250 << 21, maxSectors: UInt32) {
        var parameters = DeviceParameters(sectorCount: sectorCount, maxSectors: maxSectors)
        parameters.discard = DeviceParameters.Discard(
            granularityBytes: 4096, maxSectors: UInt32(clamping: sectorCount))
        self.parameters = parameters
    }

    public init(parameters: DeviceParameters) { self.parameters = parameters }

    public func step(_ request: IODescriptor) -> Step {
        request.operation == nil ? .done(-95) : .done(0)  // EOPNOTSUPP
    }
}

/// A file or block device, opened by the caller.
public struct FileTarget: Target {
    public let parameters: DeviceParameters
    public let descriptor: Int32?
    private let isBlockDevice: Bool

    public init(descriptor: Int32, isBlockDevice: Bool, parameters: DeviceParameters) {
        self.descriptor = descriptor
        self.isBlockDevice = isBlockDevice
        self.parameters = parameters
    }

    public func step(_ request: IODescriptor) -> Step {
        let offset = request.startSector * 512
        let byteCount = UInt64(request.sectorCount) * 512
        switch request.operation {
        case .read: return .read(offset: offset)
        case .write: return .write(offset: offset, durable: request.forceUnitAccess)
        case .flush: return .flush
        case .discard:
            return isBlockDevice
                ? .discard(offset: offset, byteCount: byteCount)
                : .punchHole(offset: offset, byteCount: byteCount)
        case .writeZeroes:
            return request.noUnmap
                ? .zeroRange(offset: offset, byteCount: byteCount)
                : .punchHole(offset: offset, byteCount: byteCount)
        case .writeSame, nil: return .done(-95)
        }
    }
}
