import CLinux
import Glibc
import Uring

/// What the kernel knows of a device.
public struct DeviceInfo: Equatable, Sendable {
    public enum State: UInt16, Sendable { case dead = 0, live = 1, quiesced = 2, failIO = 3 }

    public var id: UInt32
    public var queueCount: UInt16
    public var queueDepth: UInt16
    /// The longest request in bytes.
    public var requestBytesMax: UInt32
    public var features: Features
    public var state = State.dead
    /// The server's process, or -1.
    public var serverPID: Int32 = -1
    /// 64 bits the kernel keeps for the server, also beyond its death.
    public var serverFlags: UInt64 = 0

    /// A device to be added; `id` nil lets the kernel choose.
    public init(
        id: UInt32?, queueCount: UInt16, queueDepth: UInt16, requestBytesMax: UInt32,
        features: Features
    ) {
        self.id = id ?? .max
        self.queueCount = queueCount
        self.queueDepth = queueDepth
        self.requestBytesMax = requestBytesMax
        self.features = features
    }

    fileprivate init(_ raw: ucas_ublk_device_info) {
        id = raw.device
        queueCount = raw.queue_count
        queueDepth = raw.queue_depth
        requestBytesMax = raw.request_bytes_max
        features = Features(rawValue: raw.flags)
        state = State(rawValue: raw.state) ?? .dead
        serverPID = raw.server_pid
        serverFlags = raw.server_flags
    }

    fileprivate var raw: ucas_ublk_device_info {
        var raw = ucas_ublk_device_info()
        raw.queue_count = queueCount
        raw.queue_depth = queueDepth
        raw.request_bytes_max = requestBytesMax
        raw.device = id
        raw.server_pid = -1
        raw.flags = features.rawValue
        raw.server_flags = serverFlags
        return raw
    }
}

/// /dev/ublk-control: makes, starts, stops and deletes devices.
///
/// Calls block, and each gives up after its deadline: a kernel that hangs in one (it happens) must
/// not hang the caller silently. Never call `start` or `endRecovery` on a thread that serves a
/// queue: the kernel waits in them for requests that thread would have to answer.
public struct ControlDevice: Sendable {
    private let descriptor: Int32

    public static let path = "/dev/ublk-control"

    /// What to do where it is missing.
    public static let missingAdvice =
        "This kernel offers no ublk: '\(path)' is missing. Load the driver with "
        + "'modprobe ublk_drv'; if there is no such module, boot a kernel of version 6.5 or newer "
        + "that has it (on Debian 12: apt install linux-image-6.12-amd64)."

    /// Opens the control device for the life of the process.
    public init() throws(UblkError) {
        let opened = open(Self.path, O_RDWR | O_CLOEXEC)
        guard opened >= 0 else { throw UblkError("opening \(Self.path)", errno: Glibc.errno) }
        descriptor = opened
    }

    /// Commands with their ioctl-encoded numbers.
    private enum Operation: UInt32 {
        case queueAffinity = 0x8020_7501
        case info = 0x8020_7502
        case add = 0xc020_7504
        case delete = 0xc020_7505
        case start = 0xc020_7506
        case stop = 0xc020_7507
        case setParameters = 0xc020_7508
        case getParameters = 0x8020_7509
        case startRecovery = 0xc020_7510
        case endRecovery = 0xc020_7511
        case features = 0x8020_7513
        case deleteAsync = 0x8020_7514
        case updateSize = 0xc020_7515
        case quiesce = 0xc020_7516
        case tryStop = 0xc020_7517
    }

    private func run(
        _ operation: Operation, _ step: String, device: UInt32, address: UInt64 = 0,
        length: UInt16 = 0, data: UInt64 = 0, seconds: Int = 30
    ) throws(UblkError) {
        var command = ucas_ublk_control_command()
        command.device = device
        command.queue = 0xffff
        command.length = length
        command.address = address
        command.data = data
        let result = withUnsafeBytes(of: &command) {
            ControlRing.run(
                descriptor: descriptor, operation: operation.rawValue, payload: $0,
                seconds: seconds)
        }
        guard result >= 0 else { throw UblkError(step, errno: -result) }
    }
}

// MARK: - Commands

extension ControlDevice {
    /// Needs kernel 6.5.
    public func features() throws(UblkError) -> Features {
        let memory = CommandMemory(byteCount: 8)
        try run(
            .features, "asking for the features of ublk", device: .max, address: memory.address,
            length: 8)
        return Features(rawValue: memory.load(UInt64.self))
    }

    /// Makes the device and its /dev/ublkc*N*. Returns what it was really made with.
    public func add(_ wish: DeviceInfo) throws(UblkError) -> DeviceInfo {
        let memory = CommandMemory(byteCount: 64)
        memory.store(wish.raw)
        try run(
            .add, "adding the ublk device", device: wish.id, address: memory.address, length: 64)
        return DeviceInfo(memory.load(ucas_ublk_device_info.self))
    }

    public func setParameters(_ parameters: DeviceParameters, device: UInt32) throws(UblkError) {
        let memory = CommandMemory(byteCount: MemoryLayout<ucas_ublk_parameters>.size)
        memory.store(parameters.encoded)
        try run(
            .setParameters, "setting the parameters of ublk device \(device)", device: device,
            address: memory.address, length: UInt16(memory.byteCount))
    }

    /// What was really set: its `types` tell which groups the kernel took.
    public func parameterTypes(device: UInt32) throws(UblkError) -> UInt32 {
        try readParameters(device: device).types
    }

    private func readParameters(device: UInt32) throws(UblkError) -> ucas_ublk_parameters {
        let memory = CommandMemory(byteCount: MemoryLayout<ucas_ublk_parameters>.size)
        var parameters = ucas_ublk_parameters()
        parameters.length = UInt32(memory.byteCount)
        memory.store(parameters)
        try run(
            .getParameters, "reading the parameters of ublk device \(device)", device: device,
            address: memory.address, length: UInt16(memory.byteCount))
        return memory.load(ucas_ublk_parameters.self)
    }

    /// The logical block size in bytes and the size in sectors.
    public func basicParameters(device: UInt32) throws(UblkError) -> (
        blockBytes: UInt32, sectorCount: UInt64
    ) {
        let basic = try readParameters(device: device).basic
        return (UInt32(1) << basic.logical_shift, basic.sectors)
    }

    /// Makes /dev/ublkb*N*. Waits until every tag of every queue was fetched.
    public func start(device: UInt32) throws(UblkError) {
        try run(
            .start, "starting ublk device \(device)", device: device, data: UInt64(getpid()))
    }

    /// Removes /dev/ublkb*N*; waits for its requests, which have to be served meanwhile.
    public func stop(device: UInt32, seconds: Int = 60) throws(UblkError) {
        try run(.stop, "stopping ublk device \(device)", device: device, seconds: seconds)
    }

    /// Stops the device only if nobody has it open (kernel 7.0).
    public func tryStop(device: UInt32) throws(UblkError) {
        try run(.tryStop, "stopping ublk device \(device)", device: device, seconds: 60)
    }

    /// Forgets the device. Waits until nobody holds /dev/ublkc*N* any more.
    public func delete(
        device: UInt32, async: Bool = false, seconds: Int = 60
    ) throws(UblkError) {
        try run(
            async ? .deleteAsync : .delete, "deleting ublk device \(device)", device: device,
            seconds: seconds)
    }

    public func info(device: UInt32) throws(UblkError) -> DeviceInfo {
        let memory = CommandMemory(byteCount: 64)
        try run(
            .info, "asking about ublk device \(device)", device: device, address: memory.address,
            length: 64)
        return DeviceInfo(memory.load(ucas_ublk_device_info.self))
    }

    /// The CPUs whose requests come to a queue.
    public func affinity(device: UInt32, queue: UInt16) throws(UblkError) -> [Int] {
        let memory = CommandMemory(byteCount: 1024)
        try run(
            .queueAffinity, "asking for the CPUs of queue \(queue) of ublk device \(device)",
            device: device, address: memory.address, length: 1024, data: UInt64(queue))
        return (0..<8192).filter { memory.byte($0 / 8) & 1 << UInt8($0 % 8) != 0 }
    }

    public func startRecovery(device: UInt32) throws(UblkError) {
        try run(.startRecovery, "beginning the recovery of ublk device \(device)", device: device)
    }

    public func endRecovery(device: UInt32) throws(UblkError) {
        try run(
            .endRecovery, "ending the recovery of ublk device \(device)", device: device,
            data: UInt64(getpid()))
    }

    /// Only for a live device: some kernels crash otherwise.
    public func updateSize(device: UInt32, sectorCount: UInt64) throws(UblkError) {
        try run(
            .updateSize, "resizing ublk device \(device)", device: device, data: sectorCount)
    }

    public func quiesce(device: UInt32, milliseconds: UInt64) throws(UblkError) {
        try run(
            .quiesce, "quiescing ublk device \(device)", device: device, data: milliseconds)
    }

    /// Opens /dev/ublkc*N*; udev may still be at it, so it is tried for three seconds.
    public static func openQueueDevice(_ device: UInt32) throws(UblkError) -> Int32 {
        let path = "/dev/ublkc\(device)"
        var code: Int32 = 0
        for _ in 0..<300 {
            let opened = open(path, O_RDWR | O_CLOEXEC)
            if opened >= 0 { return opened }
            code = Glibc.errno
            guard [ENOENT, EACCES, EBUSY].contains(code) else { break }
            usleep(10_000)
        }
        throw UblkError("opening \(path)", errno: code)
    }
}

/// Memory the kernel may still write to after a command timed out: then it is never freed.
private final class CommandMemory {
    let byteCount: Int
    private let base: UnsafeMutableRawPointer

    init(byteCount: Int) {
        self.byteCount = byteCount
        base = .allocate(byteCount: byteCount, alignment: 64)
        base.initializeMemory(as: UInt8.self, repeating: 0, count: byteCount)
    }

    // Small and rare: leaking it is the price of safety after a timeout.
    var address: UInt64 { UInt64(UInt(bitPattern: base)) }

    func load<T: BitwiseCopyable>(_: T.Type) -> T { base.loadUnaligned(as: T.self) }
    func byte(_ index: Int) -> UInt8 { base.load(fromByteOffset: index, as: UInt8.self) }
    func store<T: BitwiseCopyable>(_ value: T) { base.storeBytes(of: value, as: T.self) }
}
