internal import Glibc

/// Recognises what is on a device by the marks that filesystems, partition tables and volume
/// formats leave at fixed places.
///
/// It errs on the side of seeing something: the user can answer with `--force`.
package enum ContentSignature {
    /// A mark: `bytes` at `offset` from the start of the device.
    private struct Mark {
        let name: String
        let offset: Int
        let bytes: [UInt8]

        init(_ name: String, _ offset: Int, _ bytes: [UInt8]) {
            self.name = name
            self.offset = offset
            self.bytes = bytes
        }

        init(_ name: String, _ offset: Int, _ text: String) {
            self.init(name, offset, Array(text.utf8))
        }
    }

    /// The part of a device that holds every mark.
    package static let byteCount = 512 * 1024

    private static let marks: [Mark] =
        [
            Mark("ext2/ext3/ext4 filesystem", 0x438, [0x53, 0xef]),
            Mark("xfs filesystem", 0, "XFSB"),
            Mark("btrfs filesystem", 0x10040, "_BHRfS_M"),
            Mark("f2fs filesystem", 0x400, [0x10, 0x20, 0xf5, 0xf2]),
            Mark("jfs filesystem", 0x8000, "JFS1"),
            Mark("reiserfs filesystem", 0x10034, "ReIsEr"),
            Mark("ntfs filesystem", 3, "NTFS    "),
            Mark("exfat filesystem", 3, "EXFAT   "),
            Mark("fat filesystem", 54, "FAT1"),
            Mark("fat filesystem", 82, "FAT32"),
            Mark("iso9660 filesystem", 0x8001, "CD001"),
            Mark("squashfs filesystem", 0, "hsqs"),
            Mark("LUKS volume", 0, [0x4c, 0x55, 0x4b, 0x53, 0xba, 0xbe]),
            Mark("dm-integrity volume", 0, "integrt"),
            Mark("Ceph volume", 0, "bluestore block device"),
            Mark("bcachefs filesystem", 4120, bcachefsMark),
            Mark("bcache device", 4120, bcacheMark),
            Mark("Linux RAID member", 0, raidMark),
            Mark("Linux RAID member", 4096, raidMark),
            Mark("Open CAS cache", 4, [0xa6, 0x1c, 0x7e, 0x18]),
            Mark("partition table", 512, "EFI PART"),
            Mark("partition table", 4096, "EFI PART"),
        ] + swapMarks + volumeManagerMarks + zfsMarks

    private static let bcacheMark: [UInt8] = [
        0xc6, 0x85, 0x73, 0xf6, 0x4e, 0x1a, 0x45, 0xca,
        0x82, 0x65, 0xf5, 0x7f, 0x48, 0xba, 0x6d, 0x81,
    ]
    private static let bcachefsMark: [UInt8] = [
        0xc6, 0x85, 0x73, 0xf6, 0x66, 0xce, 0x90, 0xa9,
        0xd9, 0x6a, 0x60, 0xcf, 0x80, 0x3d, 0xf7, 0xef,
    ]
    private static let raidMark: [UInt8] = [0xfc, 0x4e, 0x2b, 0xa9]

    /// At the end of the first page, whatever size a page has.
    private static let swapMarks = [4096, 8192, 16384, 32768, 65536].flatMap { page in
        [
            Mark("swap space", page - 10, "SWAPSPACE2"),
            Mark("swap space", page - 10, "SWAP-SPACE"),
        ]
    }

    /// In any of the first four sectors.
    private static let volumeManagerMarks = (0..<4).map { Mark("LVM volume", $0 * 512, "LABELONE") }

    /// The first uberblocks of the first label, at each size a block may have.
    private static let zfsMarks = (0..<128).map {
        Mark("ZFS volume", 128 * 1024 + $0 * 1024, [0x0c, 0xb1, 0xba, 0x00])
    }

    /// What the first `byteCount` bytes of a device look like; nil for nothing known.
    package static func recognise(_ start: UnsafeRawBufferPointer) -> String? {
        for mark in marks where mark.offset + mark.bytes.count <= start.count {
            let place = UnsafeRawBufferPointer(
                rebasing: start[mark.offset..<mark.offset + mark.bytes.count])
            if place.elementsEqual(mark.bytes) { return mark.name }
        }
        return hasPartitions(start) ? "partition table" : nil
    }

    /// A master boot record counts if one of its four entries names a partition.
    private static func hasPartitions(_ start: UnsafeRawBufferPointer) -> Bool {
        guard start.count >= 512, start[510] == 0x55, start[511] == 0xaa else { return false }
        return (0..<4).contains { entry in
            let base = 446 + entry * 16
            let hasType = start[base + 4] != 0
            let isFlagValid = start[base] & 0x7f == 0
            let length = (12..<16).contains { start[base + $0] != 0 }
            return hasType && isFlagValid && length
        }
    }

    /// Looks at an open device.
    package static func find(on device: DeviceFile) throws(CacheError) -> String? {
        let count = Int(min(UInt64(byteCount), device.limits.bytes / 4096 * 4096))
        guard count > 0 else { return nil }
        let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: count, alignment: 4096)
        defer { buffer.deallocate() }
        try device.read(into: buffer, at: 0)
        return recognise(UnsafeRawBufferPointer(buffer))
    }
}
