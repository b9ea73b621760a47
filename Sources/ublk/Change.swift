import ArgumentParser
import CLinux
import Glibc
import Ublk

// Commands that change a device that is there.

struct Stop: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Stop a device: its block device goes, and its server ends.")

    @Option(name: [.customShort("n"), .customLong("number")], help: "Device id.")
    var number: UInt32

    @Flag(help: "Only if nobody has it open.")
    var safe = false

    @Flag(help: "Also the exported device of a cache.")
    var force = false

    func run() throws {
        let control = try openControl()
        if !force { try refuseExported(number, "stop") }
        if safe {
            try stopUnlessInUse(control)
        } else {
            try control.stop(device: number)
        }
    }

    private func stopUnlessInUse(_ control: ControlDevice) throws {
        let kernel = try control.features()
        guard kernel.contains(.safeStop) else {
            throw Failure("this kernel's ublk cannot stop a device only if it is not in use")
        }
        try unlessBusy("/dev/ublkb\(number) is in use: it was not stopped") {
            try control.tryStop(device: number)
        }
    }
}

struct Quiesce: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Let a device's server end; requests wait for the next one (recover).")

    @Option(name: [.customShort("n"), .customLong("number")], help: "Device id.")
    var number: UInt32

    @Option(help: "Seconds to wait for requests under way.")
    var timeout: UInt64 = 10

    mutating func validate() throws {
        guard (1...25).contains(timeout) else {
            throw ValidationError("The timeout is 1 to 25 seconds.")
        }
    }

    func run() throws {
        let control = try openControl()
        try refuseExported(number, "quiesce", canBeForced: false)
        let info = try control.info(device: number)
        guard info.features.contains(.quiesce) else {
            throw Failure(
                "device \(number) cannot be quiesced: it was made without recovery (-r 1), in "
                    + "batches (-b), or by a kernel before 6.16")
        }
        guard info.state == .live else { throw Failure("device \(number) has no server") }
        // The kernel refuses new requests from then on.
        try unlessBusy(
            "device \(number) still serves requests after \(timeout) s, and takes no new ones: try "
                + "again, or delete it"
        ) {
            try control.quiesce(device: number, milliseconds: timeout * 1000)
        }
        try awaitEnd(control)
    }

    /// The server gives back what it has begun, and ends.
    private func awaitEnd(_ control: ControlDevice) throws {
        for attempt in 1...timeout * 10 {
            if try control.info(device: number).state != .live { return }
            usleep(100_000)
            // The driver tells the server through the tags that it holds. If all of them were being
            // served nobody heard of it; those that were given back since can be told now.
            if attempt.isMultiple(of: 5) {
                try? control.quiesce(device: number, milliseconds: 1000)
            }
        }
        throw Failure(
            "the server of device \(number) has not ended in \(timeout) s; requests wait: delete "
                + "the device, or kill the server and recover")
    }
}

/// Does `step`; where the kernel says that something is busy, `sentence` says it better.
private func unlessBusy(_ sentence: String, _ step: () throws -> Void) throws {
    do {
        try step()
    } catch let error as UblkError where error.errno == EBUSY {
        throw Failure(sentence)
    }
}

struct UpdateSize: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "update_size", abstract: "Give a device another size while it is in use.",
        aliases: ["update-size"])

    @Option(name: [.customShort("n"), .customLong("number")], help: "Device id.")
    var number: UInt32

    @Option(name: [.customShort("s"), .customLong("size")], help: "Bytes.")
    var bytes: ByteCount

    func run() throws {
        let control = try openControl()
        let size = bytes.value
        try refuseExported(number, "resize", canBeForced: false)
        guard try control.features().contains(.updateSize) else {
            throw Failure("this kernel's ublk cannot change a device's size (Linux 6.16 can)")
        }
        let block = try control.basicParameters(device: number).blockBytes
        guard size > 0, size.isMultiple(of: UInt64(block)) else {
            throw Failure("\(size) bytes are not whole blocks of \(block)")
        }
        // Some kernels crash otherwise.
        guard try control.info(device: number).state == .live else {
            throw Failure("device \(number) has no server")
        }
        if let file = try fileBytes(control), file < size {
            throw Failure(
                "the file behind device \(number) has \(file) bytes only: make it larger first")
        }
        try control.updateSize(device: number, sectorCount: size / 512)
    }

    /// Nil where there is no file, or nothing is known of it.
    private func fileBytes(_ control: ControlDevice) throws -> UInt64? {
        guard let record = DeviceRecord.read(try control.info(device: number)),
            let path = try DeviceOptions.parse(record.arguments).path
        else { return nil }
        let file = open(path, O_RDONLY | O_CLOEXEC)
        guard file >= 0 else { return nil }
        defer { close(file) }
        let end = lseek(file, 0, SEEK_END)
        return end < 0 ? nil : UInt64(end)
    }
}

struct SetAffinity: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "set_affinity", abstract: "Put the threads of a queue on certain CPUs.",
        aliases: ["set-affinity"])

    @Option(name: [.customShort("n"), .customLong("number")], help: "Device id.")
    var number: UInt32

    @Option(name: [.customShort("q"), .customLong("queue")], help: "Queue.")
    var queue: UInt16

    @Option(help: "CPUs, as in 0,2-5. Default: all whose requests come to the queue.")
    var cpuset: String?

    func run() throws {
        let control = try openControl()
        let info = try control.info(device: number)
        guard queue < info.queueCount else {
            throw Failure("device \(number) has queues 0 to \(info.queueCount - 1)")
        }
        guard let record = DeviceRecord.read(info), record.server == info.serverPID else {
            throw Failure("nothing is known of the threads of device \(number)")
        }
        let cpus = try wanted(control)
        for thread in record.threads where thread.queues.contains(queue) {
            let result = ucas_run_on(thread.id, cpus, UInt32(cpus.count))
            guard result == 0 else {
                let list = cpus.map { "\($0)" }.joined(separator: ",")
                throw Failure(
                    "putting thread \(thread.id) on CPUs \(list) failed: "
                        + String(cString: strerror(-result)))
            }
        }
    }

    private func wanted(_ control: ControlDevice) throws -> [UInt32] {
        guard let cpuset else {
            return try control.affinity(device: number, queue: queue).map { UInt32($0) }
        }
        guard let cpus = parseCPUs(cpuset) else {
            throw Failure("'\(cpuset)' is no list of CPUs; one is 0,2-5")
        }
        return cpus
    }
}

/// CPUs as users write them: "0,2-5". Nil if it is not that.
func parseCPUs(_ text: String) -> [UInt32]? {
    var cpus: [UInt32] = []
    for part in text.split(separator: ",", omittingEmptySubsequences: false) {
        let ends = part.split(separator: "-", omittingEmptySubsequences: false)
        guard ends.count <= 2, let first = UInt32(ends[0]), let last = UInt32(ends[ends.count - 1]),
            first <= last, last < 8192
        else { return nil }
        cpus += first...last
    }
    return cpus
}
