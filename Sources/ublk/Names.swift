import ArgumentParser
import Glibc
import Ublk

/// Names that a device has at every boot, unlike its number.
struct NameOptions: ParsableArguments {
    @Option(help: "For /dev/disk/by-id/ublk-SERIAL.")
    var serial: String?

    @Option(help: "For /dev/disk/by-id/ublk-UUID.")
    var uuid: String?

    @Option(help: .hidden)
    var name: String?

    mutating func validate() throws {
        if let serial {
            guard (1...64).contains(serial.utf8.count), serial.allSatisfy(Self.isPlain) else {
                throw ValidationError(
                    "A serial is 1 to 64 letters, digits, dots, dashes and underscores.")
            }
        }
        if let uuid {
            let parts = uuid.split(separator: "-", omittingEmptySubsequences: false)
            guard parts.map(\.count) == [8, 4, 4, 4, 12],
                parts.joined().allSatisfy({ $0.isASCII && $0.isHexDigit })
            else {
                throw ValidationError(
                    "A uuid is as in 123e4567-e89b-12d3-a456-426614174000.")
            }
        }
    }

    private static func isPlain(_ character: Character) -> Bool {
        character.isASCII
            && (character.isLetter || character.isNumber || "._-".contains(character))
    }

    func arguments() -> [String] {
        [("--serial", serial), ("--uuid", uuid), ("--name", name)].flatMap { option, value in
            value.map { [option, $0] } ?? []
        }
    }

    /// Throws if another device has one of them: a link would lead to one or the other.
    func refuseTaken(_ control: ControlDevice) throws {
        for id in deviceIDs() {
            guard let info = try? control.info(device: id), let record = DeviceRecord.read(info)
            else { continue }
            if let serial, record.serial == serial {
                throw Failure("device \(id) has the serial '\(serial)' already")
            }
            if let uuid, record.uuid?.lowercased() == uuid.lowercased() {
                throw Failure("device \(id) has the uuid \(uuid) already")
            }
        }
    }
}

/// What udev's rule asks when a device appears (Packaging/60-ublk.rules).
struct UdevNames: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "udev-names", abstract: "Print a device's names as udev reads them.",
        shouldDisplay: false)

    @Argument(help: "The kernel's name: ublkb0, or a partition, ublkb0p1.")
    var device: String

    func run() throws {
        let digits = device.dropFirst("ublkb".count).prefix(while: \.isNumber)
        guard device.hasPrefix("ublkb"), let id = UInt32(digits) else {
            throw Failure("'\(device)' is no ublk device")
        }
        guard access(DeviceRecord.path(id), F_OK) == 0,
            let record = DeviceRecord.read(try openControl().info(device: id))
        else { return }
        let names = [record.serial, record.uuid?.lowercased()].compactMap { $0 }
        guard let first = names.first else { return }
        print("ID_SERIAL=\(first)")
        print("UBLK_LINKS=\(names.map { "ublk-" + $0 }.joined(separator: " "))")
    }
}
