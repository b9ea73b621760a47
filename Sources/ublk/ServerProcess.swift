import CLinux
import Glibc
import Ublk

/// The process that serves one device, until somebody stops the device.
struct ServerProcess {
    private let options: DeviceOptions

    init(_ options: DeviceOptions) { self.options = options }

    func run() throws {
        signal(SIGPIPE, SIG_IGN)
        do {
            let control = try openControl()
            let refusals = ServerHygiene.apply()
            if options.readyFd == nil { refusals.forEach(complain) }
            switch options.type {
            case "null":
                try serve(control, NullTarget(maxSectors: options.requestBytesMax / 512))
            case "volatile": try serve(control, try volatileDisk(try openFile()))
            default:
                let file = try openFile()
                try serve(
                    control,
                    FileTarget(
                        descriptor: file.descriptor, isBlockDevice: file.isBlockDevice,
                        parameters: file.parameters))
            }
        } catch {
            report("\(error)")
            throw error
        }
    }

    private func serve<Backend: Target>(_ control: ControlDevice, _ backend: Backend) throws {
        let wish = DeviceInfo(
            id: options.number < 0 ? nil : UInt32(options.number), queueCount: options.queues,
            queueDepth: options.depth, requestBytesMax: options.requestBytesMax,
            features: options.features)
        let missing = options.features.subtracting(try control.features())
        guard missing.isEmpty else {
            throw Failure(
                "this kernel's ublk lacks \(names(missing)); 'ublk features' tells what it has")
        }
        let server = try DeviceServer(
            control: control, backend: backend, wish: wish, recovers: options.recovers)
        RunFile.write(server.info.id, options.arguments())
        report("ok \(server.info.id)")
        if options.readyFd == nil { try printDevice(control, server.info.id) }
        server.waitUntilStopped()
        RunFile.remove(server.info.id)
    }

    private func names(_ features: Features) -> String {
        (0..<64).filter { features.rawValue & 1 << UInt64($0) != 0 }
            .map { Features.name(bit: $0) }.joined(separator: ", ")
    }

    /// Tells whoever started this process, once.
    private func report(_ text: String) {
        guard let descriptor = options.readyFd else { return }
        let bytes = Array(text.utf8)
        _ = write(descriptor, bytes, bytes.count)
        close(descriptor)
    }

    private func volatileDisk(_ file: BackingFile) throws -> VolatileTarget {
        guard file.parameters.logicalBlockBytes == 512 else {
            throw Failure("\(options.path ?? "") has no sectors of 512 bytes: a volatile disk does")
        }
        return VolatileTarget(
            descriptor: file.descriptor, parameters: file.parameters,
            behaviour: options.volatile.behaviour)
    }

    /// What a target is made over.
    private struct BackingFile {
        let descriptor: Int32
        let isBlockDevice: Bool
        let parameters: DeviceParameters
    }

    private func openFile() throws -> BackingFile {
        guard let path = options.path else { throw Failure("\(options.type) needs a file") }
        var status = stat()
        guard stat(path, &status) == 0 else { throw Failure("\(path): \(reason(errno))") }
        let isBlockDevice = status.st_mode & S_IFMT == S_IFBLK
        let opened = ucas_open_device(path, 1, isBlockDevice ? 1 : 0)
        guard opened >= 0 else { throw Failure("opening \(path) failed: \(reason(-opened))") }
        var limits = ucas_block_limits()
        var bytes = UInt64(status.st_size)
        var parameters = DeviceParameters(
            sectorCount: 0, maxSectors: options.requestBytesMax / 512)
        if isBlockDevice {
            let result = ucas_block_limits(opened, &limits)
            guard result == 0 else { throw Failure("\(path): \(reason(-result))") }
            bytes = limits.bytes
            parameters.logicalBlockBytes = limits.logical_block_bytes
            parameters.physicalBlockBytes = limits.physical_block_bytes
            if limits.is_rotational != 0 { parameters.attributes.insert(.rotational) }
        }
        let block = UInt64(parameters.logicalBlockBytes)
        parameters.sectorCount = bytes / block * block / 512
        guard parameters.sectorCount > 0 else { throw Failure("\(path) is empty") }
        parameters.attributes.formUnion([.volatileCache, .forceUnitAccess])
        parameters.discard = DeviceParameters.Discard(
            granularityBytes: max(4096, parameters.logicalBlockBytes),
            maxSectors: UInt32(clamping: min(parameters.sectorCount, 1 << 30)))
        parameters.discard?.maxWriteZeroesSectors = UInt32(
            clamping: min(parameters.sectorCount, 1 << 30))
        return BackingFile(
            descriptor: opened, isBlockDevice: isBlockDevice, parameters: parameters)
    }

    private func reason(_ code: Int32) -> String { String(cString: strerror(code)) }
}

/// What is needed to start a device's server again: its command line, a word a line.
enum RunFile {
    static let directory = "/run/ublk-cas-devices"

    static func path(_ id: UInt32) -> String { "\(directory)/\(id)" }

    static func write(_ id: UInt32, _ words: [String]) {
        mkdir(directory, 0o700)
        guard let file = fopen(path(id), "w") else { return }
        fputs(words.joined(separator: "\n") + "\n", file)
        fclose(file)
    }

    static func read(_ id: UInt32) -> [String]? {
        guard let file = fopen(path(id), "r") else { return nil }
        defer { fclose(file) }
        var words: [String] = []
        var line: UnsafeMutablePointer<CChar>?
        var capacity = 0
        defer { free(line) }
        while getline(&line, &capacity, file) > 0, let line {
            words.append(String(String(cString: line).dropLast()))
        }
        return words
    }

    static func remove(_ id: UInt32) { unlink(path(id)) }
}
