import CLinux
import Glibc
import Ublk

/// The process that serves one device, until somebody stops the device.
struct ServerProcess {
    private let options: DeviceOptions

    init(_ options: DeviceOptions) { self.options = options }

    func run() throws {
        signal(SIGPIPE, SIG_IGN)
        if options.readyFd != nil {
            // The end of a session, or a shutdown that has not unmounted yet, is no reason to end:
            // the server goes with its device.
            for number in [SIGTERM, SIGHUP, SIGINT] { signal(number, SIG_IGN) }
        }
        // It was started as /proc/self/exe, and would be called so.
        _ = ucas_name_thread("ublk")
        do {
            let control = try openControl()
            switch options.type {
            case "null":
                let null = NullTarget(maxSectors: options.requestBytesMax / 512)
                try serve(control, NullTarget(parameters: try withOptions(null.parameters)))
            case "volatile": try serve(control, try volatileDisk(try openFile()))
            default:
                let file = try openFile()
                try serve(
                    control,
                    FileTarget(
                        descriptor: file.descriptor, isBlockDevice: file.isBlockDevice,
                        parameters: try withOptions(file.parameters)))
            }
        } catch {
            report("\(error)")
            throw error
        }
    }

    private func serve(_ control: ControlDevice, _ backend: some Target) throws {
        // After the file was opened: its filesystem may be one that this process gives up.
        let refusals = ServerHygiene.apply()
        if options.readyFd == nil { refusals.forEach(complain) }
        let server = try start(control, backend)
        try announce(server, control)
        server.waitUntilStopped()
        // One that waits for its next server is still to be known.
        let id = server.info.id
        let state = try? control.info(device: id).state
        if state == nil || state == .dead { DeviceRecord.remove(id, server: getpid()) }
    }

    private func start(
        _ control: ControlDevice, _ backend: some Target
    ) throws -> DeviceServer {
        var plan = options.threads.plan
        plan.forcesFallback = options.data.automaticFallback
        guard !options.recovers else {
            let server = try DeviceServer(
                control: control, backend: backend, recovering: UInt32(options.number), plan: plan)
            record(server.info, server.threads)
            return server
        }
        try options.names.refuseTaken(control)
        var made: UInt32?
        do {
            return try DeviceServer(
                control: control, backend: backend, wish: try wish(control, backend), plan: plan
            ) { info, threads in
                made = info.id
                record(info, threads)
            }
        } catch {
            if let made { DeviceRecord.remove(made, server: getpid()) }
            throw error
        }
    }

    /// Without a record the device works, but can neither be recovered nor get its links.
    private func record(_ info: DeviceInfo, _ threads: [ServingThread]) {
        let record = DeviceRecord(
            tag: info.serverFlags, server: getpid(), arguments: options.arguments(),
            threads: threads.map { DeviceRecord.Thread(id: $0.id, queues: $0.queues) },
            name: options.names.name, serial: options.names.serial, uuid: options.names.uuid)
        if let failure = record.write(info.id) { complain(failure) }
    }

    private func announce(_ server: DeviceServer, _ control: ControlDevice) throws {
        report("ok \(server.info.id)")
        guard options.readyFd == nil else { return }
        print(try ListedDevice(control, server.info.id).text(withQueues: false))
    }

    /// What the options say beside the file.
    private func withOptions(_ parameters: DeviceParameters) throws -> DeviceParameters {
        var parameters = parameters
        if let logical = options.logicalBlockBytes {
            guard logical >= parameters.logicalBlockBytes else {
                throw Failure(
                    "\(options.path ?? "") is read and written in blocks of "
                        + "\(parameters.logicalBlockBytes) bytes: smaller ones cannot be had")
            }
            parameters.logicalBlockBytes = logical
            let perBlock = UInt64(logical / 512)
            parameters.sectorCount = parameters.sectorCount / perBlock * perBlock
        }
        if let physical = options.physicalBlockBytes { parameters.physicalBlockBytes = physical }
        if options.readOnly { parameters.attributes.insert(.readOnly) }
        return parameters
    }

    private func wish(_ control: ControlDevice, _ backend: some Target) throws -> DeviceInfo {
        let kernel = try control.features()
        // A null device gives what is in its buffers: without any it would be what was in the
        // kernel's memory.
        let seesData = backend.seesData || options.type == "null"
        let mode = options.data.mode ?? .best(kernel: kernel, seesData: seesData)
        var wanted = options.recovery.features.union(mode.features)
        wanted.insert(.commandIoctlEncode)
        if options.threads.inBatches { wanted.insert(.batchIO) }
        if options.skipsPartitionScan { wanted.insert(.noAutoPartitionScan) }
        // Costs nothing, and lets the server be replaced in peace. Of a device in batches Linux 7.3
        // fails the requests that come while it is quiesced.
        if wanted.contains(.userRecovery), !wanted.contains(.batchIO) {
            wanted.formUnion(kernel.intersection(.quiesce))
        }
        let missing = wanted.subtracting(kernel)
        guard missing.isEmpty else {
            throw Failure(
                "this kernel's ublk lacks \(missing.text); 'ublk features' tells what it has")
        }
        var wish = DeviceInfo(
            id: options.number < 0 ? nil : UInt32(options.number), queueCount: options.queues,
            queueDepth: options.depth, requestBytesMax: options.requestBytesMax, features: wanted)
        wish.serverFlags = UInt64.random(in: 1 ... .max)
        return wish
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
            path, requestBytesMax: options.requestBytesMax, isDirect: !options.buffered,
            isReadOnly: options.readOnly, waitsForLastServer: options.recovers)
    }
}
