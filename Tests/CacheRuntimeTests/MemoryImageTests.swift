import CacheEngine
import CacheFormat
import CacheRuntime
import Glibc
import Testing

@Suite struct MemoryImageTests {
    private let geometry = Geometry(lineBytes: 4096, setCount: 5, journalBlockCount: 256)

    private func identity(session: UInt64 = 7) throws -> ImageIdentity {
        ImageIdentity(
            bootID: try ImageIdentity.currentBoot(), cacheUUID: UInt128.random(in: 1 ... .max),
            session: session, device: try #require(DeviceIdentity(path: "/dev/null")))
    }

    private let counterBytes = SharedCache.counterBytes(workerCount: 2)

    @Test func theContentIsInTheFile() throws {
        let geometry = try #require(geometry)
        let identity = try identity()
        let image = try MemoryImage(creating: identity, geometry: geometry, workerCount: 2)
        defer { image.remove() }
        image.pages.storeBytes(of: 0x1234, toByteOffset: 4 * 4096, as: UInt64.self)
        image.counters.storeBytes(of: 0x77, toByteOffset: counterBytes - 8, as: UInt64.self)
        try image.publish()
        let descriptor = open(image.path, O_RDONLY)
        defer { close(descriptor) }
        var word: UInt64 = 0
        #expect(pread(descriptor, &word, 8, (2 << 20) + 4 * 4096) == 8)
        #expect(word == 0x1234)
        // The journal's memory is the last of it.
        image.journalMemory.storeBytes(
            of: 0x5678, toByteOffset: Journal.byteCount - 8, as: UInt64.self)
        var status = stat()
        #expect(fstat(descriptor, &status) == 0)
        #expect(status.st_mode & 0o777 == 0o600)
        let size = (2 << 20) + 5 * 4096 + counterBytes + Journal.byteCount
        #expect(Int(status.st_size) == size)
        #expect(pread(descriptor, &word, 8, off_t(size) - 8) == 8)
        #expect(word == 0x5678)
        #expect(pread(descriptor, &word, 8, off_t(size - Journal.byteCount) - 8) == 8)
        #expect(word == 0x77)
    }

    @Test func anotherProcessGoesOnWithIt() throws {
        let geometry = try #require(geometry)
        let identity = try identity()
        let first = try MemoryImage(creating: identity, geometry: geometry, workerCount: 2)
        defer { first.remove() }
        first.pages.storeBytes(of: 0x1234, toByteOffset: 4 * 4096, as: UInt64.self)
        first.counters.storeBytes(of: 0x77, toByteOffset: 8, as: UInt64.self)
        #expect(MemoryImage.find(identity, geometry: geometry) == .absent)
        try first.publish()
        #expect(MemoryImage.find(identity, geometry: geometry) == .usable(workerCount: 2))
        // As long as its maker lives, nobody else gets it.
        let early = code { () throws(CacheError) in
            _ = try MemoryImage(attaching: identity, geometry: geometry)
        }
        #expect(early == .busy)
        let path = first.path
        let copy = path + ".copy"
        #expect(system("cp \(path) \(copy) && mv \(copy) \(path)") == 0)
        let second = try MemoryImage(attaching: identity, geometry: geometry)
        #expect(second.workerCount == 2)
        #expect(second.pages.load(fromByteOffset: 4 * 4096, as: UInt64.self) == 0x1234)
        #expect(second.counters.load(fromByteOffset: 8, as: UInt64.self) == 0x77)
    }

    /// The keeper of a dead process has its mappings for a while, and none of its open files.
    @Test func aMappingThatIsLeftDoesNotKeepTheImageLocked() throws {
        typealias Remap =
            @convention(c) (
                UnsafeMutableRawPointer?, Int, Int, Int32, UnsafeMutableRawPointer?
            ) -> UnsafeMutableRawPointer?
        let remap = unsafeBitCast(try #require(dlsym(nil, "mremap")), to: Remap.self)
        let geometry = try #require(geometry)
        let identity = try identity()
        var first: MemoryImage? = try MemoryImage(
            creating: identity, geometry: geometry, workerCount: 2)
        try first?.publish()
        // A second mapping of what a first one maps: mremap of no bytes, MREMAP_MAYMOVE.
        let left = remap(first?.pages, 0, 4096, 1, nil)
        try #require(left != nil && left != MAP_FAILED)
        defer { munmap(left, 4096) }
        first = nil
        let second = try MemoryImage(attaching: identity, geometry: geometry)
        second.remove()
    }

    @Test func anImageOfSomethingElseIsNotAttached() throws {
        let geometry = try #require(geometry)
        let identity = try identity()
        #expect(MemoryImage.find(identity, geometry: geometry) == .absent)
        let image = try MemoryImage(creating: identity, geometry: geometry, workerCount: 2)
        defer { image.remove() }
        try image.publish()
        var other = identity
        other.session += 1
        #expect(MemoryImage.find(other, geometry: geometry) == .otherSession)
        let refused = code { () throws(CacheError) in
            _ = try MemoryImage(attaching: other, geometry: geometry)
        }
        #expect(refused == .notCleanlyStopped)
        other = identity
        other.bootID ^= 1
        #expect(MemoryImage.find(other, geometry: geometry) == .otherBoot)
        other = identity
        other.device = try #require(DeviceIdentity(path: "/dev/zero"))
        #expect(MemoryImage.find(other, geometry: geometry) == .otherDevice)
        let larger = try #require(
            Geometry(lineBytes: 4096, setCount: 6, journalBlockCount: 256))
        #expect(MemoryImage.find(identity, geometry: larger) == .otherCache)
    }

    /// Each byte of the header, and the length, decide whether it is the image that was looked for.
    @Test func aDamagedHeaderIsNotAttached() throws {
        let geometry = try #require(geometry)
        let identity = try identity()
        let image = try MemoryImage(creating: identity, geometry: geometry, workerCount: 2)
        defer { image.remove() }
        try image.publish()
        let descriptor = open(image.path, O_RDWR)
        defer { close(descriptor) }
        for offset in 0..<88 where !(68..<72).contains(offset) {
            var byte: UInt8 = 0
            #expect(pread(descriptor, &byte, 1, off_t(offset)) == 1)
            var spoilt = byte ^ 0x40
            #expect(pwrite(descriptor, &spoilt, 1, off_t(offset)) == 1)
            let found = MemoryImage.find(identity, geometry: geometry)
            #expect(found != .usable(workerCount: 2), "byte \(offset)")
            if case .usable = found { Issue.record("byte \(offset) is not looked at") }
            #expect(pwrite(descriptor, &byte, 1, off_t(offset)) == 1)
        }
        #expect(MemoryImage.find(identity, geometry: geometry) == .usable(workerCount: 2))
        #expect(ftruncate(descriptor, off_t(2 << 20) + 4 * 4096) == 0)
        #expect(MemoryImage.find(identity, geometry: geometry) == .damaged)
    }

    @Test func removingLeavesNothing() throws {
        let geometry = try #require(geometry)
        let image = try MemoryImage(
            creating: try identity(), geometry: geometry, workerCount: 1)
        #expect(access(image.path, F_OK) != 0)
        try image.publish()
        #expect(access(image.path, F_OK) == 0)
        image.remove()
        #expect(access(image.path, F_OK) != 0)
        image.pages.storeBytes(of: 1, as: UInt8.self)
    }

    @Test func aFullMemoryFilesystemIsReportedAtOnce() throws {
        let huge = try #require(
            Geometry(lineBytes: 65536, setCount: 1 << 31, journalBlockCount: 256))
        let identity = try identity()
        let text = message { () throws(CacheError) in
            _ = try MemoryImage(creating: identity, geometry: huge, workerCount: 1)
        }
        #expect(text?.hasPrefix("Not enough free RAM") == true)
        let path = MemoryImage.path(cacheUUID: identity.cacheUUID, directory: "/dev/shm")
        #expect(access(path, F_OK) != 0)
    }
}
