import CLinux
import CacheEngine
package import CacheFormat
import Glibc
import Synchronization
import SystemFiles

/// What a memory image must have been made for, to be used.
package struct ImageIdentity: Equatable, Sendable {
    /// The kernel's boot id, 16 bytes: an image does not outlive a boot.
    package var bootID: UInt128
    package var cacheUUID: UInt128
    /// Changes each time the cache is started on its devices; the superblock names it, too.
    package var session: UInt64
    /// The device itself: a copy of it has the same superblock, and other content.
    package var device: DeviceIdentity

    package init(bootID: UInt128, cacheUUID: UInt128, session: UInt64, device: DeviceIdentity) {
        self.bootID = bootID
        self.cacheUUID = cacheUUID
        self.session = session
        self.device = device
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
/// | 0 | header: magic, version, identity, line length, set count, worker count (4 KiB) |
/// | 2 MiB | the set pages |
/// | behind them | the counters, as many blocks as the workers need |
/// | behind them | the journal's memory |
///
/// The file gets its name, and its magic, when the pages are complete. Attaching looks at the
/// header alone, so that its time does not grow with the table.
package final class MemoryImage: @unchecked Sendable {
    package let path: String
    package let identity: ImageIdentity
    /// `setCount` pages of 4096 bytes.
    package let pages: UnsafeMutableRawPointer
    /// Whoever goes on with an image has as many workers as whoever made it: each serves a queue
    /// of every exported device.
    package let workerCount: Int
    /// What `SharedCache` counts in.
    package let counters: UnsafeMutableRawPointer
    /// `Journal.byteCount` bytes.
    package let journalMemory: UnsafeMutableRawPointer
    private let base: UnsafeMutableRawPointer
    private let byteCount: Int
    /// Of its own: the keeper of a dead process still has the mapping, and with it the file that
    /// was mapped.
    private let lock: Int32

    package static let version = Header.versionValue

    /// O_TMPFILE, which Swift does not know.
    private static let unnamedFile: Int32 = 0o20_000_000 | O_DIRECTORY

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
        static let workerCount = (offset: 64, size: 4)
        static let device = (offset: 72, size: 8)
        static let inode = (offset: 80, size: 8)
        static let byteCount = 88
        static let pageBytes = 4096
        static let magicValue: UInt64 = 0x4547_414d_4953_4143  // "CASIMAGE" in memory order.
        static let versionValue: UInt32 = 4
    }

    /// The image of a cache in `directory`: named by the cache, so that two never share one.
    package static func path(cacheUUID: UInt128, directory: String) -> String {
        let digits = String(cacheUUID, radix: 16)
        return "\(directory)/ublk-cas-" + String(repeating: "0", count: 32 - digits.count) + digits
    }

    private static func byteCount(_ geometry: Geometry, workerCount: Int) -> Int {
        pagesOffset + Int(geometry.setCount) * SetPageLayout.byteCount
            + SharedCache.counterBytes(workerCount: workerCount) + Journal.byteCount
    }

    /// Makes the image, all zero, and all of it in memory: a full memory filesystem is found out
    /// now and not by a signal later. It has no name before `publish`: if its maker dies, nothing
    /// is left.
    package convenience init(
        creating identity: ImageIdentity, geometry: Geometry, workerCount: Int,
        directory: String = "/dev/shm"
    ) throws(CacheError) {
        let path = Self.path(cacheUUID: identity.cacheUUID, directory: directory)
        let byteCount = Self.byteCount(geometry, workerCount: workerCount)
        unlink(path)
        let descriptor = open(directory, Self.unnamedFile | O_RDWR | O_CLOEXEC, 0o600)
        guard descriptor >= 0 else { throw Self.failed("Creating", path, errno) }
        defer { close(descriptor) }
        let lock = try Self.claim(descriptor, path)
        let base: UnsafeMutableRawPointer
        do {
            base = try Self.mapReserved(descriptor, path, byteCount)
        } catch {
            close(lock)
            throw error
        }
        self.init(path, identity, geometry, workerCount, base, byteCount, lock)
        writeHeader(geometry)
    }

    /// Lets images in `directory` have huge pages, unless somebody has decided on it (`huge=`): the
    /// kernel lets go of a dead process's memory much faster then, and users wait for that. Nobody
    /// else is concerned: only mappings that ask for huge pages get them.
    package static func allowHugePages(directory: String) {
        let mounts = readText("/proc/self/mounts") ?? ""
        let isPlain = mounts.split(separator: "\n").contains { line in
            let fields = line.split(separator: " ")
            return fields.count > 3 && fields[1] == directory && fields[2] == "tmpfs"
                && !fields[3].contains("huge=")
        }
        if isPlain { _ = ucas_advise_huge_pages(directory) }
    }

    private init(
        _ path: String, _ identity: ImageIdentity, _ geometry: Geometry, _ workerCount: Int,
        _ base: UnsafeMutableRawPointer, _ byteCount: Int, _ lock: Int32
    ) {
        self.path = path
        self.identity = identity
        self.workerCount = workerCount
        self.base = base
        self.byteCount = byteCount
        self.lock = lock
        pages = base + Self.pagesOffset
        counters = pages + Int(geometry.setCount) * SetPageLayout.byteCount
        journalMemory = counters + SharedCache.counterBytes(workerCount: workerCount)
    }

    /// The pages are complete: from now on another process can go on with them.
    package func publish() throws(CacheError) {
        base.assumingMemoryBound(to: Atomic<UInt64>.self).pointee
            .store(Header.magicValue.littleEndian, ordering: .releasing)
        let source = "/proc/self/fd/\(lock)"
        guard linkat(AT_FDCWD, source, AT_FDCWD, path, AT_SYMLINK_FOLLOW) == 0 else {
            throw Self.failed("Naming", path, errno)
        }
    }

    deinit {
        munmap(base, byteCount)
        close(lock)
    }

    /// Removes the file; the mapping lives on until the last use of this object.
    package func remove() { unlink(path) }

    /// Removes the image an earlier process of this cache left, if there is one. A copy of a
    /// device in use names the image of a process that lives: that stays.
    package static func removeLeftOver(cacheUUID: UInt128, directory: String = "/dev/shm") {
        let path = path(cacheUUID: cacheUUID, directory: directory)
        let descriptor = open(path, O_RDWR | O_CLOEXEC)
        guard descriptor >= 0 else { return }
        defer { close(descriptor) }
        if flock(descriptor, LOCK_EX | LOCK_NB) == 0 { unlink(path) }
    }

    /// Opens the file once more and locks it. The lock ends with the process, however it ends.
    private static func claim(_ descriptor: Int32, _ path: String) throws(CacheError) -> Int32 {
        let lock = open("/proc/self/fd/\(descriptor)", O_RDONLY | O_CLOEXEC)
        guard lock >= 0 else { throw failed("Opening", path, errno) }
        guard flock(lock, LOCK_EX | LOCK_NB) == 0 else {
            close(lock)
            throw CacheError(
                .busy, "The memory image '\(path)' is in use: another process serves this cache.")
        }
        return lock
    }

    /// A filesystem with `huge=advise` gives huge pages to mappings that ask for them, and only to
    /// those: so it is the mapping that takes them.
    private static func mapReserved(
        _ descriptor: Int32, _ path: String, _ byteCount: Int
    ) throws(CacheError) -> UnsafeMutableRawPointer {
        guard ftruncate(descriptor, off_t(byteCount)) == 0 else {
            throw failed("Creating", path, errno)
        }
        let base = try map(descriptor, path, byteCount)
        for range in [0..<Header.pageBytes, pagesOffset..<byteCount] {
            let result = reserve(range, base, descriptor)
            guard result == 0 else {
                munmap(base, byteCount)
                throw failed("Creating", path, result, byteCount: byteCount)
            }
        }
        return base
    }

    private static func reserve(
        _ range: Range<Int>, _ base: UnsafeMutableRawPointer, _ descriptor: Int32
    ) -> Int32 {
        // Too much for the filesystem would take all its memory before it fails.
        var space = statvfs()
        guard fstatvfs(descriptor, &space) == 0 else { return errno }
        let isLimited = space.f_blocks > 0
        if isLimited, range.count / Int(space.f_frsize) > space.f_bavail { return ENOSPC }
        if madvise(base + range.lowerBound, range.count, Int32(MADV_POPULATE_WRITE)) == 0 {
            return 0
        }
        // A kernel before 5.14, or others were faster: this tells.
        var result: Int32
        repeat {
            result = posix_fallocate(descriptor, off_t(range.lowerBound), off_t(range.count))
        } while result == EINTR
        return result
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
        store(UInt32(workerCount), Header.workerCount)
        store(identity.device.device, Header.device)
        store(identity.device.inode, Header.inode)
    }
}

// MARK: - Going on with one

extension MemoryImage {
    /// What a file in the place of an image is to a cache that looks for its own.
    package enum Finding: Equatable, Sendable {
        /// To be attached to, by so many workers.
        case usable(workerCount: Int)
        case absent
        /// It was damaged.
        case damaged
        case otherVersion(UInt32)
        case otherBoot
        case otherCache
        case otherSession
        case otherDevice
    }

    /// Maps the image that an earlier process of this cache left. None of its pages is touched.
    package convenience init(
        attaching identity: ImageIdentity, geometry: Geometry, directory: String = "/dev/shm"
    ) throws(CacheError) {
        let path = Self.path(cacheUUID: identity.cacheUUID, directory: directory)
        guard
            case .usable(let workerCount) = Self.find(
                identity, geometry: geometry, directory: directory)
        else {
            throw CacheError(.notCleanlyStopped, "The memory image '\(path)' cannot be used.")
        }
        let descriptor = open(path, O_RDWR | O_CLOEXEC)
        guard descriptor >= 0 else { throw Self.failed("Opening", path, errno) }
        defer { close(descriptor) }
        let lock = try Self.claim(descriptor, path)
        let byteCount = Self.byteCount(geometry, workerCount: workerCount)
        let base: UnsafeMutableRawPointer
        do {
            base = try Self.map(descriptor, path, byteCount)
        } catch {
            close(lock)
            throw error
        }
        self.init(path, identity, geometry, workerCount, base, byteCount, lock)
    }

    /// Looks at the header of the file in the place of the cache's image.
    package static func find(
        _ identity: ImageIdentity, geometry: Geometry, directory: String = "/dev/shm"
    ) -> Finding {
        let descriptor = open(
            path(cacheUUID: identity.cacheUUID, directory: directory), O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else { return .absent }
        defer { close(descriptor) }
        var header = [UInt8](repeating: 0, count: Header.byteCount)
        guard pread(descriptor, &header, header.count, 0) == header.count else {
            return .damaged
        }
        let found = judge(header, identity, geometry)
        guard case .usable(let workerCount) = found else { return found }
        let byteCount = byteCount(geometry, workerCount: workerCount)
        return lseek(descriptor, 0, SEEK_END) == byteCount ? found : .damaged
    }

    private static func judge(
        _ header: [UInt8], _ identity: ImageIdentity, _ geometry: Geometry
    ) -> Finding {
        func load<Value: FixedWidthInteger>(_: Value.Type, _ field: (offset: Int, size: Int))
            -> Value
        {
            header.withUnsafeBytes {
                Value(littleEndian: $0.loadUnaligned(fromByteOffset: field.offset, as: Value.self))
            }
        }
        guard load(UInt64.self, Header.magic) == Header.magicValue else { return .damaged }
        let version = load(UInt32.self, Header.version)
        guard version == Header.versionValue else { return .otherVersion(version) }
        guard load(UInt128.self, Header.bootID) == identity.bootID else { return .otherBoot }
        guard load(UInt128.self, Header.cacheUUID) == identity.cacheUUID,
            load(UInt32.self, Header.lineBytes) == geometry.lineBytes,
            load(UInt64.self, Header.setCount) == geometry.setCount
        else { return .otherCache }
        guard load(UInt64.self, Header.session) == identity.session else { return .otherSession }
        guard load(UInt64.self, Header.device) == identity.device.device,
            load(UInt64.self, Header.inode) == identity.device.inode
        else { return .otherDevice }
        let workerCount = Int(load(UInt32.self, Header.workerCount))
        guard (1...SharedCache.workerCountMax).contains(workerCount) else { return .damaged }
        return .usable(workerCount: workerCount)
    }
}
