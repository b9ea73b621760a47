internal import CLinux
internal import Glibc
import SystemFiles

/// What a device says of itself; the sizes are bytes unless named otherwise.
package struct DeviceLimits: Equatable, Sendable {
    package var bytes: UInt64 = 0
    package var logicalBlockBytes: UInt32 = 512
    package var physicalBlockBytes: UInt32 = 512
    package var ioMinBytes: UInt32 = 512
    /// 0 when the device names none.
    package var ioOptBytes: UInt32 = 0
    /// The longest request, in 512-byte sectors.
    package var maxSectors: UInt32 = 2048
    package var isRotational = false
    /// Whether written data needs a flush to survive a power cut.
    package var hasVolatileCache = true
    /// 0 when the device does not discard.
    package var discardMaxBytes: UInt64 = 0
    package var discardGranularityBytes: UInt32 = 0
    package var discardAlignmentBytes: UInt32 = 0
    /// What the memory of a transfer is aligned to, a power of two up to 4096.
    package var memoryAlignmentBytes: UInt32 = 512
    /// The data of a write must not change on its way (checksums, mirrors).
    package var needsStableData = false

    package init() {}

    package var sectorCount: UInt64 { bytes / 512 }
}

/// A cache or core device, opened for this process alone and past the page cache.
///
/// Block devices are claimed as a mounted filesystem claims them (`O_EXCL`); plain files, which
/// tests and benchmarks use, are locked.
package final class DeviceFile: Sendable {
    package enum Role: String, Sendable {
        case cache, core
    }

    package let path: String
    package let role: Role
    package let descriptor: Int32
    package let limits: DeviceLimits
    package let isBlockDevice: Bool
    /// Tells the same device under two names: its number, or a plain file's device and inode.
    package let identity: DeviceIdentity

    package init(
        path: String, role: Role, allowsPlainFile: Bool = false
    ) throws(CacheError) {
        self.path = path
        self.role = role
        let isBlockDevice = try Self.checkKind(path, role, allowsPlainFile)
        let descriptor = try Self.openAlone(path, role, isBlockDevice)
        do {
            self.limits = try Self.readLimits(descriptor, path, role, isBlockDevice)
        } catch {
            close(descriptor)
            throw error
        }
        self.descriptor = descriptor
        self.isBlockDevice = isBlockDevice
        identity = DeviceIdentity(descriptor: descriptor)
    }

    deinit { close(descriptor) }

    /// Opens a device that a process which is gone may still hold: until the last of its I/O has
    /// ended, nobody else gets the device, and nothing may be made of its content.
    package static func open(
        path: String, role: Role, allowsPlainFile: Bool, patience seconds: UInt64
    ) throws(CacheError) -> DeviceFile {
        let deadline = monotonicNanoseconds() + seconds * 1_000_000_000
        while true {
            do throws(CacheError) {
                return try DeviceFile(path: path, role: role, allowsPlainFile: allowsPlainFile)
            } catch {
                guard error.code == .busy, monotonicNanoseconds() < deadline else { throw error }
                usleep(1000)
            }
        }
    }

    private static func checkKind(
        _ path: String, _ role: Role, _ allowsPlainFile: Bool
    ) throws(CacheError) -> Bool {
        var status = stat()
        guard stat(path, &status) == 0 else {
            throw openingFailed(path, role, errno)
        }
        switch status.st_mode & S_IFMT {
        case S_IFBLK: return true
        case S_IFREG where allowsPlainFile: return false
        default:
            throw CacheError(
                .notBlockDevice, "Path does not describe a block device: '\(path)'.")
        }
    }

    private static func openAlone(
        _ path: String, _ role: Role, _ isBlockDevice: Bool
    ) throws(CacheError) -> Int32 {
        var descriptor = ucas_open_device(path, 1, isBlockDevice ? 1 : 0)
        if descriptor == -EINVAL, !isBlockDevice {
            // The filesystem of this plain file has no direct I/O.
            descriptor = ucas_open_device(path, 0, 0)
        }
        guard descriptor >= 0 else { throw openingFailed(path, role, -descriptor) }
        if !isBlockDevice, flock(descriptor, LOCK_EX | LOCK_NB) != 0 {
            close(descriptor)
            throw openingFailed(path, role, EBUSY)
        }
        return descriptor
    }

    private static func openingFailed(_ path: String, _ role: Role, _ code: Int32) -> CacheError {
        switch code {
        case ENOENT, ENOTDIR:
            CacheError(.notFound, "Device '\(path)' not found.")
        case EBUSY:
            CacheError(
                .busy,
                "Failed to open '\(path)' device exclusively. Please close all applications "
                    + "accessing it or unmount the device.")
        case EACCES, EPERM:
            CacheError(
                .permission,
                "Opening the \(role.rawValue) device '\(path)' is not permitted. Run as root.")
        case EROFS:
            CacheError(.permission, "The \(role.rawValue) device '\(path)' is read-only.")
        case ENXIO, ENODEV:
            CacheError(.notFound, "There is no device behind '\(path)'.")
        default:
            CacheError(
                .inputOutput,
                "Opening the \(role.rawValue) device '\(path)' failed: \(errorText(code)).")
        }
    }
}

/// Compares two device files by what they are, not by what they are called.
package struct DeviceIdentity: Hashable, Sendable {
    package let device: UInt64
    package let inode: UInt64

    fileprivate init(descriptor: Int32) {
        var status = stat()
        precondition(fstat(descriptor, &status) == 0, "fstat of an open file")
        let isBlock = status.st_mode & S_IFMT == S_IFBLK
        device = UInt64(isBlock ? status.st_rdev : status.st_dev)
        inode = isBlock ? 0 : UInt64(status.st_ino)
    }

    /// What `path` leads to; nil if nothing.
    package init?(path: String) {
        var status = stat()
        guard stat(path, &status) == 0 else { return nil }
        let isBlock = status.st_mode & S_IFMT == S_IFBLK
        device = UInt64(isBlock ? status.st_rdev : status.st_dev)
        inode = isBlock ? 0 : UInt64(status.st_ino)
    }
}

// MARK: - Limits

extension DeviceFile {
    private static func readLimits(
        _ descriptor: Int32, _ path: String, _ role: Role, _ isBlockDevice: Bool
    ) throws(CacheError) -> DeviceLimits {
        var limits = DeviceLimits()
        var status = stat()
        guard fstat(descriptor, &status) == 0 else { throw openingFailed(path, role, errno) }
        guard isBlockDevice else {
            limits.bytes = UInt64(status.st_size) / 512 * 512
            limits.discardMaxBytes = 1 << 30
            limits.discardGranularityBytes = 4096
            return limits
        }
        var block = ucas_block_limits()
        let result = ucas_block_limits(descriptor, &block)
        guard result == 0 else { throw openingFailed(path, role, -result) }
        limits.bytes = block.bytes
        limits.logicalBlockBytes = block.logical_block_bytes
        limits.physicalBlockBytes = max(block.physical_block_bytes, block.logical_block_bytes)
        limits.ioMinBytes = max(block.io_min_bytes, limits.physicalBlockBytes)
        limits.ioOptBytes = block.io_opt_bytes
        limits.isRotational = block.is_rotational != 0
        readQueue(UInt64(status.st_rdev), into: &limits)
        return limits
    }

    /// What only sysfs tells. A partition's queue is its disk's.
    private static func readQueue(_ device: UInt64, into limits: inout DeviceLimits) {
        let node = "/sys/dev/block/\(ucas_device_major(device)):\(ucas_device_minor(device))"
        let isPartition = access("\(node)/partition", F_OK) == 0
        let queue = isPartition ? "\(node)/../queue" : "\(node)/queue"
        if let kibibytes = readNumber("\(queue)/max_sectors_kb"), kibibytes > 0 {
            limits.maxSectors = UInt32(clamping: kibibytes * 2)
        }
        if let text = readText("\(queue)/write_cache") {
            limits.hasVolatileCache = text != "write through"
        }
        limits.discardMaxBytes = readNumber("\(queue)/discard_max_bytes") ?? 0
        limits.discardGranularityBytes =
            UInt32(clamping: readNumber("\(queue)/discard_granularity") ?? 0)
        limits.discardAlignmentBytes =
            UInt32(clamping: readNumber("\(node)/discard_alignment") ?? 0)
        if let mask = readNumber("\(queue)/dma_alignment"), mask < 4096,
            (mask + 1).nonzeroBitCount == 1
        {
            limits.memoryAlignmentBytes = UInt32(mask + 1)
        }
        limits.needsStableData = readNumber("\(queue)/stable_writes") == 1
    }
}

// MARK: - Blocking I/O, for control threads

extension DeviceFile {
    /// Reads exactly `bytes.count` bytes; everything must be aligned to the device's blocks.
    package func read(
        into bytes: UnsafeMutableRawBufferPointer, at offset: UInt64
    ) throws(CacheError) {
        var done = 0
        while done < bytes.count {
            let count = pread(
                descriptor, bytes.baseAddress.map { $0 + done }, bytes.count - done,
                off_t(offset) + off_t(done))
            if count < 0 && errno == EINTR { continue }
            guard count > 0 else {
                throw transferFailed("Reading", count == 0 ? EIO : errno, offset)
            }
            done += count
        }
    }

    /// Writes all of `bytes`. Not durable before `flush`.
    package func write(_ bytes: UnsafeRawBufferPointer, at offset: UInt64) throws(CacheError) {
        var done = 0
        while done < bytes.count {
            let count = pwrite(
                descriptor, bytes.baseAddress.map { $0 + done }, bytes.count - done,
                off_t(offset) + off_t(done))
            if count < 0 && errno == EINTR { continue }
            guard count > 0 else {
                throw transferFailed("Writing", count == 0 ? EIO : errno, offset)
            }
            done += count
        }
    }

    /// Returns when everything written is durable.
    package func flush() throws(CacheError) {
        while fdatasync(descriptor) != 0 {
            guard errno == EINTR else { throw transferFailed("Flushing", errno, 0) }
        }
    }

    private func transferFailed(_ verb: String, _ code: Int32, _ offset: UInt64) -> CacheError {
        CacheError(
            .inputOutput,
            "\(verb) the \(role.rawValue) device '\(path)' failed at byte \(offset): "
                + "\(errorText(code)).")
    }
}
