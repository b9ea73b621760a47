import ControlProtocol
import Glibc
import SystemFiles

/// Checks and names of device nodes.
enum Devices {
    /// The path as a server with another working directory needs it, once the device looks usable.
    /// Its name stays as given: a by-id path is to stay one.
    static func checked(_ path: String, fileSystemTable: String = "/etc/fstab")
        throws(Failure) -> String
    {
        let absolute = absolutePath(path)
        var status = stat()
        guard stat(absolute, &status) == 0 else { throw Failure("Device \(path) not found.") }
        let type = status.st_mode & S_IFMT
        guard type == S_IFBLK || type == S_IFREG else {
            throw Failure("Path \(path) does not describe a block device")
        }
        if isListed(path, in: readText(fileSystemTable) ?? "") {
            throw Failure("Device entry present in fstab, please remove it.")
        }
        return absolute
    }

    /// The node's own name, without symbolic links; nil where the path leads nowhere.
    static func resolved(_ path: String) -> String? {
        guard let pointer = realpath(path, nil) else { return nil }
        defer { free(pointer) }
        return String(cString: pointer)
    }

    static func absolutePath(_ path: String) -> String {
        guard !path.hasPrefix("/"), let directory = resolved(".") else { return path }
        return directory == "/" ? "/\(path)" : "\(directory)/\(path)"
    }

    private static func isListed(_ path: String, in table: String) -> Bool {
        table.split(separator: "\n").contains { line in
            line.split(whereSeparator: { $0 == " " || $0 == "\t" }).first.map(String.init) == path
        }
    }
}

/// Who uses an exported device as a filesystem.
struct Mounts {
    /// A line of `/proc/self/mountinfo`: the device's numbers and where it is mounted.
    private let entries: [(device: String, point: String)]
    private let diskPath: (String) -> String?

    /// Of this process.
    static func current() -> Mounts {
        Mounts(table: readText("/proc/self/mountinfo") ?? "") { device in
            Devices.resolved("/sys/dev/block/\(device)")
        }
    }

    /// `diskPath` tells the place in sysfs of a device given as "major:minor".
    init(table: String, diskPath: @escaping (String) -> String?) {
        entries = table.split(separator: "\n").compactMap { line in
            let fields = line.split(separator: " ")
            guard fields.count > 4 else { return nil }
            return (String(fields[2]), Self.unescaped(fields[4]))
        }
        self.diskPath = diskPath
    }

    /// Mounts of a disk such as "ublkb0" or of its partitions, as "/dev/ublkb0p1 on /mnt".
    func lines(disk: String) -> [String] {
        entries.compactMap { device, point in
            guard let path = diskPath(device) else { return nil }
            let parts = path.split(separator: "/")
            guard parts.contains(Substring(disk)), let name = parts.last else { return nil }
            return "/dev/\(name) on \(point)"
        }
    }

    /// Mounts of a core's exported device.
    func lines(of core: CoreSnapshot) -> [String] {
        guard core.state == .active,
            let node = Devices.resolved(core.exportedDevice) ?? core.ublkDevice,
            let disk = node.split(separator: "/").last
        else { return [] }
        return lines(disk: String(disk))
    }

    /// The kernel writes blanks in names as three octal digits.
    private static func unescaped(_ field: Substring) -> String {
        var bytes: [UInt8] = []
        var rest = Array(field.utf8)[...]
        while let byte = rest.popFirst() {
            let digits = rest.prefix(3)
            if byte == UInt8(ascii: "\\"), digits.count == 3,
                let value = UInt8(String(decoding: digits, as: UTF8.self), radix: 8)
            {
                bytes.append(value)
                rest = rest.dropFirst(3)
            } else {
                bytes.append(byte)
            }
        }
        return String(decoding: bytes, as: UTF8.self)
    }
}
