import ArgumentParser
import Glibc
import Ublk

struct Recover: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Start a new server for a device whose server is gone.",
        discussion: """
            What the device is made from is known from when it was added. Where that is lost, -t \
            and the file tell it.
            """)

    @OptionGroup var options: RecoverOptions

    func run() throws {
        let control = try openControl()
        try Self.recover(options.number, words: options.words, control)
        print(try ListedDevice(control, options.number).text(withQueues: false))
    }

    /// Starts the new server. `words` tell what the device is made from where that is not known.
    static func recover(_ id: UInt32, words: [String]?, _ control: ControlDevice) throws {
        let info = try awaitDeath(id, control)
        guard info.features.contains(.userRecovery) else {
            throw Failure("device \(id) was made without recovery (-r 1)")
        }
        guard info.state != .dead else {
            throw Failure("device \(id) was stopped: it can only be deleted, and made anew")
        }
        try refuseExported(id, "recover", canBeForced: false)
        guard let known = DeviceRecord.read(info)?.arguments ?? words else {
            throw Failure(
                "nothing is known of device \(id) in \(DeviceRecord.directory): tell what it is "
                    + "made from with -t, and -f FILE")
        }
        var added = try DeviceOptions.parse(known)
        added.number = Int(id)
        added.recovers = true
        added.readyFd = nil
        added.foreground = false
        _ = try startServer(added)
    }

    /// The kernel needs some time to notice a death: before 6.15 up to 30 s.
    private static func awaitDeath(_ id: UInt32, _ control: ControlDevice) throws -> DeviceInfo {
        for _ in 0..<400 {
            let info = try control.info(device: id)
            if info.state != .live { return info }
            guard info.serverPID > 0, kill(info.serverPID, 0) != 0, errno == ESRCH else { break }
            usleep(100_000)
        }
        throw Failure("device \(id) has a server: nothing to do")
    }
}

struct RecoverOptions: ParsableArguments {
    @Option(name: [.customShort("n"), .customLong("number")], help: "Device id.")
    var number: UInt32

    @Option(name: [.customShort("t"), .customLong("type")], help: "As with add.")
    var type: String?

    @Option(name: [.customShort("f"), .customLong("file")], help: "As with add.")
    var file: String?

    @Argument(help: "The file, as an alternative to -f.")
    var files: [String] = []

    var words: [String]? {
        type.map { type in
            ["-t", type] + ((file ?? files.first).map { ["-f", $0] } ?? [])
        }
    }
}
