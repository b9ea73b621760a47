import ArgumentParser
import Glibc
import Ublk

struct Delete: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "del", abstract: "Stop and delete a device, or all.")

    @Option(name: [.customShort("n"), .customLong("number")], help: "Device id.")
    var number: UInt32?

    @Flag(name: [.customShort("a"), .customLong("all")], help: "All devices.")
    var all = false

    @Flag(help: "Do not wait until the device is gone.")
    var async = false

    mutating func validate() throws {
        guard all != (number != nil) else { throw ValidationError("Either -n ID or -a.") }
    }

    func run() throws {
        let control = try openControl()
        var failed = false
        for id in number.map({ [$0] }) ?? deviceIDs() {
            do {
                try delete(control, id)
            } catch {
                complain("\(error)")
                failed = true
            }
        }
        if failed { throw ExitCode(1) }
    }

    /// A device whose server is gone or hangs is deleted, too: stopping may fail then.
    private func delete(_ control: ControlDevice, _ id: UInt32) throws {
        let isKnown = access("/dev/ublkc\(id)", F_OK) == 0
        guard isKnown else { throw Failure("there is no ublk device \(id)") }
        var refusal: UblkError?
        do throws(UblkError) {
            try control.stop(device: id)
        } catch {
            refusal = error
        }
        do throws(UblkError) {
            try control.delete(device: id, async: async)
        } catch {
            throw refusal ?? error
        }
        RunFile.remove(id)
    }
}

struct List: ParsableCommand {
    static let configuration = CommandConfiguration(abstract: "Show devices.")

    @Option(name: [.customShort("n"), .customLong("number")], help: "Device id.")
    var number: UInt32?

    @Flag(name: [.customShort("v"), .customLong("verbose")], help: "Show queues, too.")
    var verbose = false

    @Flag(name: [.customShort("a"), .customLong("all")], help: "All devices: the default.")
    var all = false

    func run() throws {
        let control = try openControl()
        let ids = number.map { [$0] } ?? deviceIDs()
        for id in ids {
            try printDevice(control, id)
            guard verbose else { continue }
            let info = try control.info(device: id)
            for queue in 0..<info.queueCount {
                let cpus = try control.affinity(device: id, queue: queue)
                print("\tqueue \(queue): affinity(\(cpus.map(String.init).joined(separator: " ")))")
            }
        }
    }
}

struct ShowFeatures: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "features", abstract: "Show what this kernel's ublk can do.")

    func run() throws {
        let features = try openControl().features()
        print("ublk_drv features: 0x\(String(features.rawValue, radix: 16))")
        for bit in 0..<64 where features.rawValue & 1 << UInt64(bit) != 0 {
            print("0x\(String(UInt64(1) << UInt64(bit), radix: 16)): \(Features.name(bit: bit))")
        }
    }
}

struct Recover: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Start a new server for a device whose server is gone.")

    @Option(name: [.customShort("n"), .customLong("number")], help: "Device id.")
    var number: UInt32

    @Option(name: [.customShort("t"), .customLong("type")], help: "Accepted, and not needed.")
    var type: String?

    @Argument(help: .hidden)
    var rest: [String] = []

    func run() throws {
        let control = try openControl()
        let info = try control.info(device: number)
        guard info.features.contains(.userRecovery) else {
            throw Failure("device \(number) was made without recovery (-r 1)")
        }
        guard info.state != .live else {
            throw Failure("device \(number) has a server: nothing to do")
        }
        guard let words = RunFile.read(number), words.count > 2 else {
            throw Failure("nothing is known of device \(number) in \(RunFile.directory)")
        }
        var options = try DeviceOptions.parse(Array(words.dropFirst(2)))
        options.number = Int(number)
        options.recovers = true
        options.readyFd = nil
        options.foreground = false
        try printDevice(control, try startServer(options))
    }
}
