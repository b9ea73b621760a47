import CacheEngine
package import CacheFormat
import Glibc

/// What a memory image must have been made for, to be used.
package struct ImageIdentity: Equatable, Sendable {
    /// The kernel's boot id, 16 bytes: an image does not outlive a boot.
    package var bootID: UInt128
    package var cacheUUID: UInt128
    /// Changes each time the cache is started on its devices; the superblock names it, too.
    package var session: UInt64

    package init(bootID: UInt128, cacheUUID: UInt128, session: UInt64) {
        self.bootID = bootID
        self.cacheUUID = cacheUUID
        self.session = session
    }

    /// The id of the running boot.
    package static func currentBoot() throws(CacheError) -> UInt128 {
        let path = "/proc/sys/kernel/random/boot_id"
        let digits = readText(path)?.filter { $0 != "-" } ?? ""
        guard digits.count == 32, let id = UInt128(digits, radix: 16) else {
            throw CacheError(.kernel, "Reading the boot id from '\(path)' failed.")
        }
        return id
    }
}

/// The set table in memory: a file on a memory filesystem, mapped shared, so that it survives the
/// process that works on it, and no reboot.
///
/// | offset | what |
/// | --- | --- |
/// | 0 | header: magic, version, identity, line length, set count (4 KiB) |
/// | 2 MiB | the set pages |
/// | behind them | the journal's memory |
package final class MemoryImage: @unchecked Sendable {
    package let path: String
    package let identity: ImageIdentity
    /// `setCount` pages of 4096 bytes.
    package let pages: UnsafeMutableRawPointer
    /// `Journal.byteCount` bytes.
    package let journalMemory: UnsafeMutableRawPointer
    private let base: UnsafeMutableRawPointer
    private let byteCount: Int
    private let descriptor: Int32

    /// Where the set pages begin: a huge page may start there.
    private static let pagesOffset = 2 << 20

    private enum Header {
        static let magic = (offset: 0, size: 8)
        static let version = (offset: 8, size: 4)
        static let lineBytes = (offset: 12, size: 4)
        static let setCount = (offset: 16, size: 8)
        static let session = (offset: 24, size: 8)
        static let bootID = (offset: 32, size: 16)
        static let cacheUUID = (offset: 48, size: 16)
        static let magicValue: UInt64 = 0x4547_414d_4953_4143  // "CASIMAGE" in memory order.
        static let versionValue: UInt32 = 2
    }

    /// The image of a cache in `directory`: named by the cache, so that two never share one.
    package static func path(cacheUUID: UInt128, directory: String) -> String {
        let digits = String(cacheUUID, radix: 16)
        return "\(directory)/ublk-cas-" + String(repeating: "0", count: 32 - digits.count) + digits
    }

    /// Makes the image, all zero, and all of it in memory: a full memory filesystem is found out
    /// now and not by a signal later.
    package init(
        creating identity: ImageIdentity, geometry: Geometry, directory: String = "/dev/shm"
    ) throws(CacheError) {
        let path = Self.path(cacheUUID: identity.cacheUUID, directory: directory)
        let pageBytes = Int(geometry.setCount) * SetPageLayout.byteCount
        let byteCount = Self.pagesOffset + pageBytes + Journal.byteCount
        unlink(path)
        let descriptor = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0o600)
        guard descriptor >= 0 else { throw Self.failed("Creating", path, errno) }
        do {
            try Self.reserve(descriptor, path, byteCount)
            base = try Self.map(descriptor, path, byteCount)
        } catch {
            unlink(path)
            close(descriptor)
            throw error
        }
        self.path = path
        self.identity = identity
        self.byteCount = byteCount
        self.descriptor = descriptor
        pages = base + Self.pagesOffset
        journalMemory = pages + pageBytes
        writeHeader(geometry)
    }

    deinit {
        munmap(base, byteCount)
        close(descriptor)
    }

    /// Removes the file; the mapping lives on until the last use of this object.
    package func remove() { unlink(path) }

    /// Removes the image an earlier process of this cache left, if there is one.
    package static func removeLeftOver(cacheUUID: UInt128, directory: String = "/dev/shm") {
        unlink(path(cacheUUID: cacheUUID, directory: directory))
    }

    private static func reserve(
        _ descriptor: Int32, _ path: String, _ byteCount: Int
    ) throws(CacheError) {
        guard ftruncate(descriptor, off_t(byteCount)) == 0 else {
            throw failed("Creating", path, errno)
        }
        var result: Int32
        repeat {
            result = posix_fallocate(
                descriptor, off_t(pagesOffset), off_t(byteCount - pagesOffset))
        } while result == EINTR
        guard result == 0 else { throw failed("Creating", path, result, byteCount: byteCount) }
    }

    private static func map(
        _ descriptor: Int32, _ path: String, _ byteCount: Int
    ) throws(CacheError) -> UnsafeMutableRawPointer {
        let mapped = mmap(nil, byteCount, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0)
        guard let mapped, mapped != MAP_FAILED else { throw failed("Mapping", path, errno) }
        madvise(mapped + pagesOffset, byteCount - pagesOffset, Int32(MADV_HUGEPAGE))
        return mapped
    }

    private static func failed(
        _ verb: String, _ path: String, _ code: Int32, byteCount: Int = 0
    ) -> CacheError {
        guard code == ENOSPC || code == ENOMEM else {
            return CacheError(
                .memory, "\(verb) the memory image '\(path)' failed: \(errorText(code)).")
        }
        return CacheError(
            .memory,
            "Not enough free RAM: the cache's metadata need \(byteCount >> 20) MiB in '\(path)'. "
                + "Try with greater cache line size.")
    }

    private func writeHeader(_ geometry: Geometry) {
        func store<Value: FixedWidthInteger>(_ value: Value, _ field: (offset: Int, size: Int)) {
            precondition(MemoryLayout<Value>.size == field.size)
            base.storeBytes(of: value.littleEndian, toByteOffset: field.offset, as: Value.self)
        }
        store(Header.versionValue, Header.version)
        store(geometry.lineBytes, Header.lineBytes)
        store(geometry.setCount, Header.setCount)
        store(identity.session, Header.session)
        store(identity.bootID, Header.bootID)
        store(identity.cacheUUID, Header.cacheUUID)
        store(Header.magicValue, Header.magic)
    }

    /// Whether the file at this place was made for `identity` and `geometry`.
    package static func matches(
        path: String, identity: ImageIdentity, geometry: Geometry
    ) -> Bool {
        let descriptor = open(path, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else { return false }
        defer { close(descriptor) }
        var header = [UInt8](repeating: 0, count: 64)
        guard pread(descriptor, &header, 64, 0) == 64 else { return false }
        func load<Value: FixedWidthInteger>(_: Value.Type, _ field: (offset: Int, size: Int))
            -> Value
        {
            header.withUnsafeBytes {
                Value(littleEndian: $0.loadUnaligned(fromByteOffset: field.offset, as: Value.self))
            }
        }
        return load(UInt64.self, Header.magic) == Header.magicValue
            && load(UInt32.self, Header.version) == Header.versionValue
            && load(UInt32.self, Header.lineBytes) == geometry.lineBytes
            && load(UInt64.self, Header.setCount) == geometry.setCount
            && load(UInt64.self, Header.session) == identity.session
            && load(UInt128.self, Header.bootID) == identity.bootID
            && load(UInt128.self, Header.cacheUUID) == identity.cacheUUID
    }
}
