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

    private func serve(_ control: ControlDevice, _ backend: some Target) throws {
        let server =
            options.recovers
            ? try DeviceServer(
                control: control, backend: backend, recovering: UInt32(options.number),
                plan: options.threads.plan)
            : try DeviceServer(
                control: control, backend: backend, wish: try wish(control, backend),
                plan: options.threads.plan)
        RunFile.write(server.info.id, options.arguments())
        report("ok \(server.info.id)")
        if options.readyFd == nil { try printDevice(control, server.info.id) }
        server.waitUntilStopped()
        RunFile.remove(server.info.id)
    }

    private func wish(_ control: ControlDevice, _ backend: some Target) throws -> DeviceInfo {
        let kernel = try control.features()
        let mode = options.data.mode ?? .best(kernel: kernel, seesData: backend.seesData)
        var wanted = options.recovery.features.union(mode.features)
        wanted.insert(.commandIoctlEncode)
        let missing = wanted.subtracting(kernel)
        guard missing.isEmpty else {
            throw Failure(
                "this kernel's ublk lacks \(missing.text); 'ublk features' tells what it has")
        }
        return DeviceInfo(
            id: options.number < 0 ? nil : UInt32(options.number), queueCount: options.queues,
            queueDepth: options.depth, requestBytesMax: options.requestBytesMax, features: wanted)
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

    private func openFile() throws -> BackingFile {
        guard let path = options.path else { throw Failure("\(options.type) needs a file") }
        return try BackingFile(
            path, requestBytesMax: options.requestBytesMax, isDirect: !options.buffered)
    }
}
