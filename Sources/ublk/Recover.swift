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
        let info = try control.info(device: options.number)
        let id = options.number
        guard info.features.contains(.userRecovery) else {
            throw Failure("device \(id) was made without recovery (-r 1)")
        }
        guard info.state != .live else {
            throw Failure("device \(id) has a server: nothing to do")
        }
        var added: DeviceOptions
        if let record = DeviceRecord.read(id) {
            added = try DeviceOptions.parse(record.arguments)
        } else if let words = options.words {
            added = try DeviceOptions.parse(words)
        } else {
            throw Failure(
                "nothing is known of device \(id) in \(DeviceRecord.directory): tell what it is "
                    + "made from with -t, and -f FILE")
        }
        added.number = Int(id)
        added.recovers = true
        added.readyFd = nil
        added.foreground = false
        let server = try startServer(added)
        print(try ListedDevice(control, server).text(withQueues: false))
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
