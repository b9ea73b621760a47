import ControlProtocol
import Foundation
import Testing

@testable import CasadmCore

@Suite struct MountTests {
    private let table = """
        22 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw
        40 22 259:0 / /mnt/a\\040b rw - ext4 /dev/ublkb0 rw
        41 22 259:1 / /srv rw - xfs /dev/ublkb0p1 rw
        42 22 259:7 / /other rw - xfs /dev/ublkb07 rw
        43 22 0:25 / /proc rw - proc proc rw
        """
    private let disks = [
        "254:1": "/sys/devices/pci0/virtio1/block/vda/vda1",
        "259:0": "/sys/devices/virtual/block/ublkb0",
        "259:1": "/sys/devices/virtual/block/ublkb0/ublkb0p1",
        "259:7": "/sys/devices/virtual/block/ublkb07",
    ]

    @Test func aDiskAndItsPartitionsAreFound() {
        let mounts = Mounts(table: table) { disks[$0] }
        #expect(
            mounts.lines(disk: "ublkb0") == ["/dev/ublkb0 on /mnt/a b", "/dev/ublkb0p1 on /srv"])
        #expect(mounts.lines(disk: "ublkb1").isEmpty)
    }

    @Test func aCoreIsFoundByItsKernelNode() {
        let mounts = Mounts(table: table) { disks[$0] }
        var core = CacheSnapshot.sample().cores[0]
        core.exportedDevice = "/nonexistent/cas1-1"
        #expect(mounts.lines(of: core).count == 2)
        core.state = .inactive
        #expect(mounts.lines(of: core).isEmpty)
    }
}

@Suite struct DeviceCheckTests {
    @Test func aMissingDeviceIsNamed() {
        #expect(throws: Failure("Device /nope/x not found.")) { try Devices.checked("/nope/x") }
    }

    @Test func aDirectoryIsNoDevice() {
        #expect(throws: Failure("Path /proc does not describe a block device")) {
            try Devices.checked("/proc")
        }
    }

    @Test func aCharacterDeviceIsNoBlockDevice() {
        #expect(throws: Failure("Path /dev/null does not describe a block device")) {
            try Devices.checked("/dev/null")
        }
    }

    @Test func aDeviceThatIsMountedAtBootIsRefused() throws {
        let folder = try TemporaryFolder()
        let device = try folder.file("disk", "")
        let table = try folder.file("fstab", "# disks\n\(device)\t/mnt ext4 defaults 0 0\n")
        #expect(throws: Failure("Device entry present in fstab, please remove it.")) {
            try Devices.checked(device, fileSystemTable: table)
        }
        let other = try folder.file("fstab2", "\(device)1 /mnt ext4 defaults 0 0\n")
        #expect(try Devices.checked(device, fileSystemTable: other) == device)
    }

    @Test func namesStayAsGivenButBecomeAbsolute() {
        #expect(Devices.absolutePath("/dev/disk/by-id/x") == "/dev/disk/by-id/x")
        let here = FileManager.default.currentDirectoryPath
        #expect(Devices.absolutePath("x") == here + "/x")
    }
}

@Suite struct CachingTests {
    /// Cache 1 has core /dev/a; cache 2 caches what cache 1 exports.
    private let caching: Caching = {
        var lower = CacheSnapshot.sample(id: 1)
        lower.cores[0].device = "/dev/a"
        var upper = CacheSnapshot.sample(id: 2)
        upper.cores[0].device = "/dev/cas1-1"
        return Caching([lower, upper], resolved: { $0 })
    }()

    @Test func theSameDataIsNotCachedTwiceInOneCache() {
        #expect(caching.isBelow("/dev/cas1-1", cache: 1))
        #expect(caching.isBelow("/dev/cas2-1", cache: 1))
        #expect(caching.isBelow("/dev/cas2-1", cache: 2))
        #expect(!caching.isBelow("/dev/cas1-1", cache: 2))
        #expect(!caching.isBelow("/dev/a", cache: 1))
        #expect(!caching.isBelow("/dev/cas2-1", cache: 3))
    }

    @Test func coresAreKnown() {
        #expect(caching.isCore("/dev/a"))
        #expect(caching.isCore("/dev/cas1-1"))
        #expect(!caching.isCore("/dev/b"))
    }

    @Test func aCircleEnds() {
        var cache = CacheSnapshot.sample(id: 1)
        cache.cores[0].device = cache.cores[0].exportedDevice
        let caching = Caching([cache], resolved: { $0 })
        #expect(!caching.isBelow("/dev/cas1-1", cache: 2))
    }
}

/// A folder for one test, gone with it.
final class TemporaryFolder {
    let path: String

    init() throws {
        path = FileManager.default.temporaryDirectory.path + "/casadm-" + UUID().uuidString
        try FileManager.default.createDirectory(
            atPath: path, withIntermediateDirectories: true)
    }

    deinit {
        try? FileManager.default.removeItem(atPath: path)
    }

    func file(_ name: String, _ content: String, mode: Int = 0o644) throws -> String {
        let file = "\(path)/\(name)"
        try content.write(toFile: file, atomically: false, encoding: .utf8)
        try FileManager.default.setAttributes([.posixPermissions: mode], ofItemAtPath: file)
        return file
    }
}
