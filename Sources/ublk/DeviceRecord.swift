import FoundationEssentials
import Glibc
import SystemFiles
import Ublk

/// What has to be known of a device beside what the kernel keeps: who serves it, and how its server
/// is started again. One file a device, gone with the device or with the next boot.
struct DeviceRecord: Codable, Equatable {
    struct Thread: Codable, Equatable {
        /// The kernel's number of it.
        var id: Int32
        /// The queues it serves, wholly or in part.
        var queues: [UInt16]
    }

    /// Random, and with the kernel, too, as long as the device is there: a record whose tag the
    /// device has not got is of an earlier device of the same number.
    var tag: UInt64
    var server: Int32
    /// The words after `ublk add`.
    var arguments: [String]
    var threads: [Thread]
    /// What the device is called in /etc/ublk; nil: it is not from there.
    var name: String?
    /// For links that stay: see `UdevNames`.
    var serial: String?
    var uuid: String?

    static let directory = "/run/ublk-cas-devices"

    static func path(_ device: UInt32) -> String { "\(directory)/\(device).json" }

    /// Nil if nothing is known of the device, or what is there cannot be read.
    static func read(_ device: DeviceInfo) -> DeviceRecord? {
        guard let record = unchecked(device.id), record.tag == device.serverFlags else {
            return nil
        }
        return record
    }

    private static func unchecked(_ device: UInt32) -> DeviceRecord? {
        readBytes(path(device)).flatMap {
            try? JSONDecoder().decode(DeviceRecord.self, from: Data($0))
        }
    }

    /// Whole or not at all. Returns what failed: the device works without, but cannot be recovered.
    func write(_ device: UInt32) -> String? {
        mkdir(Self.directory, 0o700)
        let (path, new) = (Self.path(device), Self.path(device) + ".new")
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
        guard let bytes = try? encoder.encode(self) else { return "\(path) cannot be written" }
        guard let file = fopen(new, "we") else { return failure(new) }
        let written = fwrite(Array(bytes), 1, bytes.count, file)
        guard fclose(file) == 0, written == bytes.count, rename(new, path) == 0 else {
            return failure(new)
        }
        return nil
    }

    private func failure(_ path: String) -> String {
        "writing \(path) failed: \(String(cString: strerror(errno)))"
    }

    /// Removes the record that this server has written: the number may be another device's by now.
    static func remove(_ device: UInt32, server: Int32) {
        if unchecked(device)?.server == server { unlink(path(device)) }
    }
}
