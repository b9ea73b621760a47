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
            session: session)
    }

    @Test func theContentIsInTheFile() throws {
        let geometry = try #require(geometry)
        let identity = try identity()
        let image = try MemoryImage(creating: identity, geometry: geometry)
        defer { image.remove() }
        image.pages.storeBytes(of: 0x1234, toByteOffset: 4 * 4096, as: UInt64.self)
        #expect(MemoryImage.matches(path: image.path, identity: identity, geometry: geometry))
        let descriptor = open(image.path, O_RDONLY)
        defer { close(descriptor) }
        var word: UInt64 = 0
        #expect(pread(descriptor, &word, 8, (2 << 20) + 4 * 4096) == 8)
        #expect(word == 0x1234)
        // The journal's memory is behind the pages.
        image.journalMemory.storeBytes(
            of: 0x5678, toByteOffset: Journal.byteCount - 8, as: UInt64.self)
        #expect(pread(descriptor, &word, 8, (2 << 20) + 5 * 4096 + off_t(Journal.byteCount) - 8) == 8)
        #expect(word == 0x5678)
        var status = stat()
        #expect(fstat(descriptor, &status) == 0)
        #expect(status.st_mode & 0o777 == 0o600)
        #expect(status.st_size == (2 << 20) + 5 * 4096 + Journal.byteCount)
    }

    @Test func anImageOfSomethingElseDoesNotMatch() throws {
        let geometry = try #require(geometry)
        let identity = try identity()
        let image = try MemoryImage(creating: identity, geometry: geometry)
        defer { image.remove() }
        var other = identity
        other.session += 1
        #expect(!MemoryImage.matches(path: image.path, identity: other, geometry: geometry))
        other = identity
        other.bootID ^= 1
        #expect(!MemoryImage.matches(path: image.path, identity: other, geometry: geometry))
        let larger = try #require(
            Geometry(lineBytes: 4096, setCount: 6, journalBlockCount: 256))
        #expect(!MemoryImage.matches(path: image.path, identity: identity, geometry: larger))
        #expect(!MemoryImage.matches(path: "/dev/null", identity: identity, geometry: geometry))
    }

    @Test func removingLeavesNothing() throws {
        let geometry = try #require(geometry)
        let image = try MemoryImage(creating: try identity(), geometry: geometry)
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
            _ = try MemoryImage(creating: identity, geometry: huge)
        }
        #expect(text?.hasPrefix("Not enough free RAM") == true)
        let path = MemoryImage.path(cacheUUID: identity.cacheUUID, directory: "/dev/shm")
        #expect(access(path, F_OK) != 0)
    }
}
