import ArgumentParser
import CSpawn
import Glibc
import Ublk

/// What a device is made from; the same words on the command line and for its server.
struct DeviceOptions: ParsableArguments {
    @Option(name: [.customShort("t"), .customLong("type")], help: "null, loop or volatile.")
    var type: String

    @Option(
        name: [.customShort("n"), .customLong("number")], help: "Device id; -1: the next free.")
    var number = -1

    @Option(name: [.customShort("q"), .customLong("queues")], help: "Hardware queues.")
    var queues: UInt16 = 1

    @Option(name: [.customShort("d"), .customLong("depth")], help: "Requests a queue.")
    var depth: UInt16 = 128

    @Option(
        name: [.customShort("f"), .customLong("file")],
        help: "loop, volatile: file or block device.")
    var file: String?

    @Option(
        name: [
            .customLong("max_io_buf_bytes"), .customLong("max-io-buf-bytes"),
            .customLong("io-buf-bytes"),
        ], help: "Longest request.")
    var longest = ByteCount(524288)

    @Option(
        name: [.customLong("logical_block_size"), .customLong("logical-block-size")],
        help: "Bytes, 512 to 4096. Default: what the file asks for.")
    var logicalBlockBytes: UInt32?

    @Option(
        name: [.customLong("physical_block_size"), .customLong("physical-block-size")],
        help: "Bytes. Default: what the file tells.")
    var physicalBlockBytes: UInt32?

    @Flag(
        name: [.customLong("read_only"), .customLong("read-only")], help: "Refuses to be written.")
    var readOnly = false

    @Flag(
        name: [.customLong("no_auto_part_scan"), .customLong("no-auto-part-scan")],
        help: "Do not look for partitions.")
    var skipsPartitionScan = false

    @Flag(
        name: [.customLong("buffered_io"), .customLong("buffered-io")],
        help: "loop: through the page cache, not past it.")
    var buffered = false

    @OptionGroup(title: "Data mode (the best this kernel has, if none is named)")
    var data: DataOptions

    @OptionGroup(title: "Threads")
    var threads: ThreadOptions

    @OptionGroup(title: "What happens when the server dies")
    var recovery: RecoveryOptions

    @OptionGroup(title: "Volatile: a disk for tests, which loses what was not flushed")
    var volatile: VolatileOptions

    @Flag(help: "Serve in this process.")
    var foreground = false

    @Argument(help: "The file, as an alternative to -f.")
    var files: [String] = []

    @OptionGroup(title: "Names that stay")
    var names: NameOptions

    @Flag(help: "Print nothing when the device is there.")
    var quiet = false

    // Of kublk and rublk; here it is always so, or makes no difference.
    @Flag(name: .customLong("no_ublk_fixed_fd"), help: .hidden)
    var noFixedFd = false
    @Flag(name: .customLong("rotate_auto_buf"), help: .hidden)
    var rotatesPlaces = false
    @Flag(name: [.customShort("g"), .customLong("get_data")], help: .hidden)
    var getsDataLate = false
    @Flag(help: .hidden)
    var mlock = false
    @Option(name: .customLong("debug_mask"), help: .hidden)
    var debugMask: String?

    @Option(help: .hidden)
    var readyFd: Int32?

    @Flag(help: .hidden)
    var recovers = false

    var path: String? { file ?? files.first }

    mutating func validate() throws {
        guard ["null", "loop", "volatile"].contains(type) else {
            throw ValidationError(
                "Unknown target type '\(type)'; null, loop and volatile are there.")
        }
        if type != "null", path == nil { throw ValidationError("\(type) needs a file: -f FILE.") }
        if type == "volatile", let mode = data.mode, mode != .copy, mode != .userCopy {
            throw ValidationError("A volatile disk has to see its data: --copy or -u.")
        }
        if type == "volatile", readOnly || logicalBlockBytes != nil || physicalBlockBytes != nil {
            throw ValidationError("A volatile disk can be written, in blocks of 512 bytes.")
        }
        if type == "volatile", recovery.features.contains(.userRecovery) {
            throw ValidationError("A volatile disk cannot be recovered: its memory is gone.")
        }
        guard (1...4096).contains(depth) else { throw ValidationError("Depth is 1 to 4096.") }
        for size in [logicalBlockBytes, physicalBlockBytes].compactMap({ $0 }) {
            guard size.nonzeroBitCount == 1, size >= 512 else {
                throw ValidationError("A block size is a power of two from 512.")
            }
        }
        guard logicalBlockBytes ?? 512 <= 4096 else {
            throw ValidationError("The logical block size is 512 to 4096.")
        }
        guard queues >= 1 else { throw ValidationError("At least one queue.") }
        guard longest.value >= 4096, longest.value <= 32 << 20,
            longest.value.isMultiple(of: 4096)
        else { throw ValidationError("The longest request is 4096 bytes to 32 MiB, in pages.") }
    }

    var requestBytesMax: UInt32 { UInt32(longest.value) }

    /// The words after `ublk add` that make the same device.
    func arguments() -> [String] {
        var words = ["-t", type, "-q", "\(queues)", "-d", "\(depth)"]
        if number >= 0 { words += ["-n", "\(number)"] }
        words += ["--max_io_buf_bytes", "\(requestBytesMax)"]
        if let path { words += ["-f", absolute(path)] }
        words += data.arguments() + threads.arguments() + recovery.arguments()
        words += names.arguments()
        if buffered { words.append("--buffered_io") }
        if readOnly { words.append("--read_only") }
        if skipsPartitionScan { words.append("--no_auto_part_scan") }
        if let logicalBlockBytes { words += ["--logical_block_size", "\(logicalBlockBytes)"] }
        if let physicalBlockBytes { words += ["--physical_block_size", "\(physicalBlockBytes)"] }
        if type == "volatile" { words += volatile.arguments() }
        return words
    }

    /// The same name from everywhere. Links stay links: they may lead elsewhere at the next start.
    private func absolute(_ path: String) -> String {
        guard !path.hasPrefix("/"), let directory = getcwd(nil, 0) else { return path }
        defer { free(directory) }
        return String(cString: directory) + "/" + path
    }
}

struct Add: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Make a device; returns when it can be used.")

    @OptionGroup var options: DeviceOptions

    func run() throws {
        if options.foreground {
            try ServerProcess(options).run()
        } else {
            let id = try startServer(options)
            guard !options.quiet else { return }
            print(try ListedDevice(try openControl(), id).text(withQueues: false))
        }
    }
}

/// Starts the device's server process and waits until the device is usable; returns its id.
func startServer(_ options: DeviceOptions) throws -> UInt32 {
    _ = try openControl()
    var ends: [Int32] = [-1, -1]
    guard cspawn_pipe(&ends) == 0 else { throw Failure("making a pipe failed") }
    var server: pid_t = 0
    var words = ["ublk", "add", "--foreground", "--ready-fd", "\(CSPAWN_READY_DESCRIPTOR)"]
    words += options.arguments() + (options.recovers ? ["--recovers"] : [])
    let argv = words.map { strdup($0) } + [nil]
    defer { argv.forEach { free($0) } }
    let code = cspawn_server(&server, "/proc/self/exe", argv, environ, -1, ends[1])
    close(ends[1])
    defer { close(ends[0]) }
    guard code == 0 else {
        throw Failure("starting the server failed: \(String(cString: strerror(code)))")
    }
    let answer = readAll(ends[0])
    if answer.hasPrefix("ok "), let id = UInt32(answer.dropFirst(3)) { return id }
    if answer.isEmpty { throw Failure("the server ended before the device was ready") }
    throw Failure(answer)
}

private func readAll(_ descriptor: Int32) -> String {
    var bytes: [UInt8] = []
    var chunk = [UInt8](repeating: 0, count: 512)
    while true {
        let count = read(descriptor, &chunk, chunk.count)
        if count < 0, errno == EINTR { continue }
        guard count > 0 else { return String(decoding: bytes, as: UTF8.self) }
        bytes += chunk[0..<count]
    }
}
