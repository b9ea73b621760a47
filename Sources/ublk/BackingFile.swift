import CLinux
import Glibc
import Ublk

/// The open file or block device behind a target, and what a device over it can promise.
struct BackingFile {
    let descriptor: Int32
    let isBlockDevice: Bool
    let parameters: DeviceParameters

    /// Opens it, a block device exclusively.
    init(
        _ path: String, requestBytesMax: UInt32, isDirect: Bool, isReadOnly: Bool,
        waitsForLastServer: Bool
    ) throws {
        var status = stat()
        guard stat(path, &status) == 0 else { throw Failure("\(path): \(reason(errno))") }
        isBlockDevice = status.st_mode & S_IFMT == S_IFBLK
        guard isBlockDevice || status.st_mode & S_IFMT == S_IFREG else {
            throw Failure("\(path) is neither a file nor a block device")
        }
        let (direct, exclusive) = (isDirect ? 1 : 0, isBlockDevice ? 1 : 0) as (Int32, Int32)
        var opened: Int32
        var attempts = 0
        repeat {
            opened =
                isReadOnly
                ? ucas_open_read_only(path, direct, exclusive)
                : ucas_open_device(path, direct, exclusive)
            attempts += 1
            // The last I/O of the server before may not be over.
            guard waitsForLastServer, opened == -EBUSY, attempts < 350 else { break }
            usleep(100_000)
        } while true
        descriptor = opened
        guard descriptor >= 0 else {
            let way = isDirect && descriptor == -EINVAL ? "; try --buffered_io" : ""
            throw Failure("opening \(path) failed: \(reason(-descriptor))\(way)")
        }
        var parameters = DeviceParameters(sectorCount: 0, maxSectors: requestBytesMax / 512)
        var bytes = UInt64(status.st_size)
        if isBlockDevice {
            bytes = try Self.takeLimits(descriptor, path, &parameters)
        }
        if isDirect { try Self.takeAlignment(descriptor, path, &parameters) }
        let block = UInt64(parameters.logicalBlockBytes)
        parameters.sectorCount = bytes / block * block / 512
        guard parameters.sectorCount > 0 else { throw Failure("\(path) is empty") }
        parameters.attributes.formUnion([.volatileCache, .forceUnitAccess])
        self.parameters = isReadOnly ? parameters : Self.withDiscard(parameters)
    }

    private static func withDiscard(_ parameters: DeviceParameters) -> DeviceParameters {
        var parameters = parameters
        parameters.discard = DeviceParameters.Discard(
            granularityBytes: max(4096, parameters.logicalBlockBytes),
            maxSectors: UInt32(clamping: min(parameters.sectorCount, 1 << 30)))
        parameters.discard?.maxWriteZeroesSectors = UInt32(
            clamping: min(parameters.sectorCount, 1 << 30))
        return parameters
    }

    /// Returns the bytes of the block device.
    private static func takeLimits(
        _ descriptor: Int32, _ path: String, _ parameters: inout DeviceParameters
    ) throws -> UInt64 {
        var limits = ucas_block_limits()
        let result = ucas_block_limits(descriptor, &limits)
        guard result == 0 else { throw Failure("\(path): \(reason(-result))") }
        parameters.logicalBlockBytes = limits.logical_block_bytes
        parameters.physicalBlockBytes = limits.physical_block_bytes
        if limits.is_rotational != 0 { parameters.attributes.insert(.rotational) }
        return limits.bytes
    }

    /// What direct I/O on the file is aligned to, the device's users have to keep to as well.
    private static func takeAlignment(
        _ descriptor: Int32, _ path: String, _ parameters: inout DeviceParameters
    ) throws {
        var alignment = ucas_direct_io_alignment()
        let result = ucas_direct_io_alignment(descriptor, &alignment)
        guard result == 0 else { throw Failure("\(path): \(reason(-result))") }
        guard alignment.offset_bytes <= 4096 else {
            throw Failure(
                "\(path) is read and written past the page cache in blocks of "
                    + "\(alignment.offset_bytes) bytes only, and a device's blocks have at most "
                    + "4096; try --buffered_io")
        }
        parameters.logicalBlockBytes = max(parameters.logicalBlockBytes, alignment.offset_bytes)
        // Where the kernel does not know, 512 bytes satisfy every disk.
        let memory = alignment.memory_bytes == 0 ? 512 : alignment.memory_bytes
        parameters.memoryAlignmentBytes = min(max(memory, 4), 4096)
    }
}

private func reason(_ code: Int32) -> String { String(cString: strerror(code)) }
