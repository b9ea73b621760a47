import SystemFiles

/// Who uses a block device: filesystems mounted from it, swap, and devices built on it.
package enum DeviceUse {
    /// A use of `device` (its node's name in /dev) that keeps it from being removed.
    package struct Use: Equatable, Sendable {
        package let device: String
        /// "mounted on /mnt", "swap", "used by dm-0".
        package let purpose: String
    }

    /// The uses of the disk named `disk` ("ublkb0") and of its partitions.
    package static func uses(ofDisk disk: String) -> [Use] {
        let names =
            [disk] + (namesInDirectory("/sys/block/\(disk)") ?? []).filter { $0.hasPrefix(disk) }
        // This process lives in a mount namespace of its own: what users mount is in the first's.
        let tables = ["/proc/1/mountinfo", "/proc/self/mountinfo"].compactMap(readText)
        let swaps = readText("/proc/swaps") ?? ""
        var uses: [Use] = []
        for name in names.sorted() {
            if let number = readText("/sys/class/block/\(name)/dev") {
                var points: [String] = []
                for table in tables {
                    for point in mountPoints(ofDevice: number, in: table)
                    where !points.contains(point) { points.append(point) }
                }
                uses += points.map { Use(device: name, purpose: "mounted on \($0)") }
            }
            if isSwap("/dev/\(name)", swaps) { uses.append(Use(device: name, purpose: "swap")) }
            for holder in (namesInDirectory("/sys/class/block/\(name)/holders") ?? []).sorted() {
                uses.append(Use(device: name, purpose: "used by \(holder)"))
            }
        }
        return uses
    }

    /// Where the device with this number ("259:0") is mounted, by the text of a mountinfo file.
    package static func mountPoints(ofDevice number: String, in mountInfo: String) -> [String] {
        mountInfo.split(separator: "\n").compactMap { line in
            let fields = line.split(separator: " ")
            guard fields.count > 4, fields[2] == number else { return nil }
            return unescaped(fields[4])
        }
    }

    /// Space, tab, newline and backslash are written as a backslash and three octal digits.
    private static func unescaped(_ field: Substring) -> String {
        var bytes: [UInt8] = []
        var rest = Array(field.utf8)[...]
        while let byte = rest.first {
            if byte == UInt8(ascii: "\\"), rest.count >= 4,
                let value = UInt8(
                    String(decoding: rest.dropFirst().prefix(3), as: UTF8.self), radix: 8)
            {
                bytes.append(value)
                rest = rest.dropFirst(4)
            } else {
                bytes.append(byte)
                rest = rest.dropFirst()
            }
        }
        return String(decoding: bytes, as: UTF8.self)
    }

    private static func isSwap(_ path: String, _ table: String) -> Bool {
        table.split(separator: "\n").contains {
            $0.hasPrefix("\(path) ") || $0.hasPrefix("\(path)\t")
        }
    }
}
