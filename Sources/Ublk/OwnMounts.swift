import CLinux
import Glibc
import SystemFiles

/// A mount namespace without the filesystems that may lie on a ublk device.
///
/// A new namespace has a copy of every mount. One of a filesystem on our own device would keep that
/// mounted after its users have unmounted it, and could make this process write it back at its own
/// end: to a device that nobody serves any more. Servers start while their devices are mounted
/// (after a crash, for an upgrade), so such copies are taken away.
enum OwnMounts {
    /// 0 or -errno.
    static func make() -> Int32 {
        let result = ucas_own_mounts()
        guard result == 0 else { return result }
        // Those inside others first.
        for line in (readText("/proc/self/mountinfo") ?? "").split(separator: "\n").reversed() {
            guard let mount = Mount(line), mount.devices.contains(where: { isOurs($0) }) else {
                continue
            }
            _ = ucas_detach_mount(mount.point)
        }
        return 0
    }

    /// A line of mountinfo.
    struct Mount {
        let point: String
        /// "major:minor"; a filesystem of several devices names one of them as its source.
        let devices: [String]

        init?(_ line: Substring) {
            let fields = line.split(separator: " ")
            guard fields.count > 8, let dash = fields.firstIndex(of: "-"), dash + 2 < fields.count
            else { return nil }
            point = Mount.unescaped(fields[4])
            var devices = [String(fields[2])]
            var status = stat()
            if stat(Mount.unescaped(fields[dash + 2]), &status) == 0,
                status.st_mode & S_IFMT == S_IFBLK
            {
                let number = UInt64(status.st_rdev)
                devices.append("\(ucas_device_major(number)):\(ucas_device_minor(number))")
            }
            self.devices = devices
        }

        /// Space, tab, newline and backslash are written as a backslash and three octal digits.
        static func unescaped(_ field: Substring) -> String {
            var bytes: [UInt8] = []
            var rest = Array(field.utf8)[...]
            while let byte = rest.first {
                let digits = String(decoding: rest.dropFirst().prefix(3), as: UTF8.self)
                if byte == UInt8(ascii: "\\"), let value = UInt8(digits, radix: 8) {
                    bytes.append(value)
                    rest = rest.dropFirst(4)
                } else {
                    bytes.append(byte)
                    rest = rest.dropFirst()
                }
            }
            return String(decoding: bytes, as: UTF8.self)
        }
    }

    /// Whether the device is a ublk device, a loop device (its file may lie on one), a partition of
    /// such or built on such.
    private static func isOurs(_ device: String, depth: Int = 0) -> Bool {
        guard depth < 8, let path = resolved("/sys/dev/block/\(device)") else { return false }
        let parts = path.split(separator: "/")
        if parts.suffix(2).contains(where: { $0.hasPrefix("ublkb") || $0.hasPrefix("loop") }) {
            return true
        }
        let disk = access("\(path)/partition", F_OK) == 0 ? "\(path)/.." : path
        return (namesInDirectory("\(disk)/slaves") ?? []).contains { slave in
            readText("\(disk)/slaves/\(slave)/dev").map { isOurs($0, depth: depth + 1) } ?? false
        }
    }

    private static func resolved(_ path: String) -> String? {
        guard let found = realpath(path, nil) else { return nil }
        defer { free(found) }
        return String(cString: found)
    }
}
