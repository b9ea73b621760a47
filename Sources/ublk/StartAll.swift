import ArgumentParser
import Glibc
import SystemFiles
import Ublk

struct StartAll: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "start-all", abstract: "Make the devices that /etc/ublk describes.",
        discussion: """
            Each file /etc/ublk/NAME.conf describes one. A line is an option of add and its value, \
            as in "--file /srv/disk.img"; lines that begin with # are comments. A device that is \
            there already stays as it is; one that waits for a server gets one.
            """)

    @Option(help: "Where the descriptions are.")
    var directory = "/etc/ublk"

    func run() throws {
        let control = try openControl()
        var failed = false
        for name in try names() {
            do {
                let text = try DeviceDescription(path: "\(directory)/\(name).conf")
                try start(name, text, control)
            } catch {
                complain("\(name): \(DeviceOptions.message(for: error))")
                failed = true
            }
        }
        if failed { throw ExitCode(1) }
    }

    /// Names of the descriptions, in order. No directory is none.
    private func names() throws -> [String] {
        guard let entries = namesInDirectory(directory) else {
            guard errno == ENOENT else {
                throw Failure("\(directory): \(String(cString: strerror(errno)))")
            }
            return []
        }
        return entries.filter { $0.hasSuffix(".conf") && !$0.hasPrefix(".") }
            .map { String($0.dropLast(".conf".count)) }.sorted()
    }

    private func find(_ name: String, _ control: ControlDevice) -> DeviceInfo? {
        for id in deviceIDs() {
            guard let info = try? control.info(device: id) else { continue }
            if DeviceRecord.read(info)?.name == name { return info }
        }
        return nil
    }

    private func start(
        _ name: String, _ description: DeviceDescription, _ control: ControlDevice
    ) throws {
        if let info = find(name, control) {
            guard info.state == .dead else {
                if info.state != .live { try Recover.recover(info.id, words: nil, control) }
                let what = info.state == .live ? "there already" : "recovered"
                print("\(name): /dev/ublkb\(info.id), \(what)")
                return
            }
            // Its server died, and nothing can serve it any more.
            try control.delete(device: info.id)
        }
        var options = try DeviceOptions.parse(description.words)
        options.names.name = name
        print("\(name): /dev/ublkb\(try startServer(options))")
    }
}

/// A file that describes a device.
struct DeviceDescription {
    /// As on the command line of `add`.
    let words: [String]

    init(path: String) throws {
        guard let bytes = readBytes(path) else {
            throw Failure("\(path): \(String(cString: strerror(errno)))")
        }
        try self.init(text: String(decoding: bytes, as: UTF8.self))
    }

    /// The first word of a line is the option, and all that follows its value.
    init(text: String) throws {
        var words: [String] = []
        for line in text.split(whereSeparator: \.isNewline) {
            let rest = line.drop(while: \.isWhitespace)
            guard let first = rest.first, first != "#" else { continue }
            guard first == "-" else {
                throw Failure("'\(rest)' is no option: a line is as in --file /srv/disk.img")
            }
            let option = rest.prefix { !$0.isWhitespace }
            var value = rest.dropFirst(option.count).drop(while: \.isWhitespace)
            while value.last?.isWhitespace == true { value.removeLast() }
            words.append(String(option))
            if !value.isEmpty { words.append(String(value)) }
        }
        self.words = withJoinedMinusOne(words)
    }
}
