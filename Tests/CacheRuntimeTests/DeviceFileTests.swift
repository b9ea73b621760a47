import CacheRuntime
import Glibc
import Testing

@Suite struct DeviceFileTests {
    @Test func aMissingDeviceIsNamed() {
        let text = message { () throws(CacheError) in
            _ = try DeviceFile(path: "/dev/nothing-here", role: .core)
        }
        #expect(text == "Device '/dev/nothing-here' not found.")
    }

    @Test func onlyBlockDevicesUnlessAllowed() throws {
        let file = TemporaryFile(byteCount: 1 << 20)
        #expect(
            code { () throws(CacheError) in _ = try DeviceFile(path: file.path, role: .cache) }
                == .notBlockDevice)
        #expect(
            code { () throws(CacheError) in
                _ = try DeviceFile(path: "/dev/null", role: .cache, allowsPlainFile: true)
            } == .notBlockDevice)
        let device = try DeviceFile(path: file.path, role: .cache, allowsPlainFile: true)
        #expect(device.limits.bytes == 1 << 20)
        #expect(device.limits.sectorCount == 2048)
    }

    @Test func aDeviceIsOpenedOnlyOnce() throws {
        let file = TemporaryFile(byteCount: 1 << 20)
        let first = try DeviceFile(path: file.path, role: .core, allowsPlainFile: true)
        let text = message { () throws(CacheError) in
            _ = try DeviceFile(path: file.path, role: .core, allowsPlainFile: true)
        }
        #expect(text?.hasPrefix("Failed to open '\(file.path)' device exclusively.") == true)
        #expect(first.identity == DeviceIdentity(path: file.path))
    }

    @Test func whatIsWrittenIsReadBack() throws {
        let file = TemporaryFile(byteCount: 1 << 20)
        let device = try DeviceFile(path: file.path, role: .core, allowsPlainFile: true)
        let bytes = UnsafeMutableRawBufferPointer.allocate(byteCount: 8192, alignment: 4096)
        defer { bytes.deallocate() }
        for index in bytes.indices { bytes[index] = UInt8(truncatingIfNeeded: index / 7) }
        try device.write(UnsafeRawBufferPointer(bytes), at: 4096)
        try device.flush()
        #expect(file.peek(8192, at: 4096) == Array(bytes))
        for index in bytes.indices { bytes[index] = 0 }
        try device.read(into: bytes, at: 4096)
        #expect(bytes[8191] == UInt8(truncatingIfNeeded: 8191 / 7))
    }

    @Test func readingPastTheEndIsAnError() throws {
        let file = TemporaryFile(byteCount: 1 << 20)
        let device = try DeviceFile(path: file.path, role: .core, allowsPlainFile: true)
        let bytes = UnsafeMutableRawBufferPointer.allocate(byteCount: 8192, alignment: 4096)
        defer { bytes.deallocate() }
        #expect(
            code { () throws(CacheError) in try device.read(into: bytes, at: (1 << 20) - 4096) }
                == .inputOutput)
    }
}

@Suite struct ContentSignatureTests {
    private func recognise(_ bytes: [UInt8], at offset: Int) -> String? {
        var device = [UInt8](repeating: 0, count: ContentSignature.byteCount)
        device.replaceSubrange(offset..<offset + bytes.count, with: bytes)
        return device.withUnsafeBytes { ContentSignature.recognise($0) }
    }

    @Test func emptyDevicesHoldNothing() {
        #expect(recognise([], at: 0) == nil)
        #expect(
            [UInt8](repeating: 0, count: 4096).withUnsafeBytes(ContentSignature.recognise) == nil)
    }

    @Test(arguments: [
        ("ext2/ext3/ext4 filesystem", 1080, [UInt8(0x53), 0xef]),
        ("xfs filesystem", 0, Array("XFSB".utf8)),
        ("btrfs filesystem", 65600, Array("_BHRfS_M".utf8)),
        ("swap space", 4086, Array("SWAPSPACE2".utf8)),
        ("LVM volume", 512, Array("LABELONE".utf8)),
        ("Linux RAID member", 4096, [0xfc, 0x4e, 0x2b, 0xa9]),
        ("ZFS volume", 132 * 1024, [0x0c, 0xb1, 0xba, 0]),
        ("LUKS volume", 0, Array("LUKS".utf8) + [0xba, 0xbe]),
        ("Open CAS cache", 4, [0xa6, 0x1c, 0x7e, 0x18]),
        ("partition table", 512, Array("EFI PART".utf8)),
    ])
    func marksAreRecognised(name: String, offset: Int, bytes: [UInt8]) {
        #expect(recognise(bytes, at: offset) == name)
    }

    @Test func aBootRecordCountsOnlyWithAPartition() {
        var record = [UInt8](repeating: 0, count: 512)
        record[510] = 0x55
        record[511] = 0xaa
        #expect(recognise(record, at: 0) == nil)
        record[446 + 4] = 0x83
        record[446 + 12] = 1
        #expect(recognise(record, at: 0) == "partition table")
    }

    @Test func aRealFilesystemIsFound() throws {
        let file = TemporaryFile(byteCount: 4 << 20)
        let make = "/sbin/mkfs.ext4"
        try #require(access(make, X_OK) == 0)
        #expect(system("\(make) -q -F \(file.path) >/dev/null 2>&1") == 0)
        let device = try DeviceFile(path: file.path, role: .cache, allowsPlainFile: true)
        #expect(try ContentSignature.find(on: device) == "ext2/ext3/ext4 filesystem")
    }
}

@Suite struct ExportedLimitsTests {
    private func stack(
        _ change: (inout DeviceLimits, inout DeviceLimits) -> Void
    ) throws(CacheError) -> ExportedLimits {
        var cache = DeviceLimits()
        var core = DeviceLimits()
        core.bytes = 1 << 30
        change(&cache, &core)
        return try ExportedLimits(cache: cache, core: core, lineBytes: 4096, coreName: "/dev/x")
    }

    @Test func sizeIsTheCores() throws {
        let limits = try stack { cache, core in cache.bytes = 1 << 20 }
        #expect(limits.sectorCount == (1 << 30) / 512)
    }

    @Test func blockSizesAreTheLargerOnes() throws {
        let limits = try stack { cache, core in
            cache.physicalBlockBytes = 4096
            core.ioMinBytes = 65536
            core.ioOptBytes = 1 << 20
        }
        #expect(limits.logicalBlockBytes == 512)
        #expect(limits.physicalBlockBytes == 4096)
        #expect(limits.ioMinBytes == 65536)
        #expect(limits.ioOptBytes == 1 << 20)
    }

    @Test func aCacheWithLargerSectorsIsRefused() {
        let text = message { () throws(CacheError) in
            _ = try stack { cache, core in cache.logicalBlockBytes = 4096 }
        }
        #expect(text?.hasPrefix("Cache device logical sector size is greater than") == true)
    }

    @Test func requestsFitTheBufferAndThePage() throws {
        #expect(try stack { $1.maxSectors = 1 << 16 }.maxSectors == 1024)
        #expect(try stack { $1.maxSectors = 255 }.maxSectors == 248)
        #expect(try stack { $1.maxSectors = 3 }.maxSectors == 8)
    }

    @Test func whatEitherDeviceAsksOfMemoryIsAskedOfUsers() throws {
        let limits = try stack { cache, core in
            cache.memoryAlignmentBytes = 4
            core.memoryAlignmentBytes = 64
            cache.needsStableData = true
        }
        #expect(limits.memoryAlignmentBytes == 64)
        #expect(limits.needsStableData)
        let plain = try stack { cache, core in
            cache.memoryAlignmentBytes = 1
            core.memoryAlignmentBytes = 1
        }
        #expect(plain.memoryAlignmentBytes == 4)
        #expect(!plain.needsStableData)
    }

    @Test func discardIsAlwaysOffered() throws {
        let without = try stack { $1.discardMaxBytes = 0 }
        #expect(without.discardGranularityBytes == 4096)
        #expect(without.discardMaxSectors == (1 << 30) / 512)
        let with = try stack { cache, core in
            core.discardMaxBytes = 1 << 20
            core.discardGranularityBytes = 16384
            core.discardAlignmentBytes = 512
        }
        #expect(with.discardMaxSectors == 2048)
        #expect(with.discardGranularityBytes == 16384)
        #expect(with.discardAlignmentBytes == 512)
    }
}

@Suite struct DeviceUseTests {
    @Test func mountPointsAreFoundByNumber() {
        let table = """
            22 1 259:0 / / rw,relatime - ext4 /dev/root rw
            30 22 259:7 / /mnt/with\\040space rw - xfs /dev/ublkb0 rw
            31 22 259:70 / /other rw - xfs /dev/other rw
            """
        #expect(DeviceUse.mountPoints(ofDevice: "259:7", in: table) == ["/mnt/with space"])
        #expect(DeviceUse.mountPoints(ofDevice: "259:1", in: table) == [])
    }

    @Test func anUnusedDiskHasNoUses() {
        #expect(DeviceUse.uses(ofDisk: "ublkb4095").isEmpty)
    }
}
