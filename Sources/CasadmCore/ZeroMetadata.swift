import CacheFormat
import Glibc

/// Takes the metadata away from a device that is no longer to be a cache.
struct ZeroMetadata {
    let device: String
    let force: Bool

    private static let slotBytes = Superblock.Layout.byteCount
    private static let slotOffsets = [
        Geometry.superblockOffsets.0, Geometry.superblockOffsets.1,
    ]

    func run() throws(Failure) -> Answer {
        let path = try Devices.checked(device)
        let descriptor = try openExclusively(path)
        defer { close(descriptor) }
        let slots = Self.slotOffsets.map { Slot(descriptor, $0) }
        guard slots.contains(where: \.isOurs) else {
            throw Failure("Device '\(device)' does not contain OpenCAS's metadata.")
        }
        let warnings = try checkLoss(slots)
        // The valid slot that counts goes last: an interrupted wipe leaves it as it was.
        let order = slots.sorted { $0.generation < $1.generation }
        guard order.allSatisfy({ Self.wipe(descriptor, $0.offset) }) else {
            throw Failure("Error while wiping out metadata from device '\(device)'.")
        }
        return Answer(
            lines: ["OpenCAS's metadata wiped successfully from device '\(device)'."],
            warnings: warnings, json: .object([("device", .string(device))]))
    }

    /// As a cache opens it, so that a running cache keeps its metadata.
    private func openExclusively(_ path: String) throws(Failure) -> Int32 {
        var status = stat()
        let isBlock = stat(path, &status) == 0 && status.st_mode & S_IFMT == S_IFBLK
        let descriptor = open(path, O_RDWR | O_CLOEXEC | (isBlock ? O_EXCL : 0))
        guard descriptor >= 0 else {
            if errno == EBUSY { throw busy }
            throw Failure("Couldn't open cache device \(device): \(ServerStart.reason(errno)).")
        }
        guard isBlock || flock(descriptor, LOCK_EX | LOCK_NB) == 0 else {
            close(descriptor)
            throw busy
        }
        return descriptor
    }

    private var busy: Failure {
        Failure(
            "Error while opening '\(device)'exclusively. This can be due to",
            "cache instance running on this device. In such case please stop the cache and "
                + "try again.")
    }

    /// Refuses what would lose data, unless forced: then it is only said.
    private func checkLoss(_ slots: [Slot]) throws(Failure) -> [String] {
        let newest = slots.compactMap(\.superblock).max { $0.generation < $1.generation }
        guard let newest, newest.state == .cleanlyStopped else {
            guard force else {
                throw Failure(
                    "Cache instance did not shut down cleanly. It might contain dirty data. ",
                    "Clearing metadata might result in loss of dirty data. "
                        + "Please recover cache instance",
                    "by loading it and flush dirty data in order to preserve them on the core "
                        + "device.", Self.forceHint)
            }
            return ["Clearing metadata after dirty shutdown - potential loss of dirty data."]
        }
        guard newest.dirtyLineCount > 0 else { return [] }
        guard force else {
            throw Failure(
                "Cache instance contains dirty data. Clearing metadata will result in loss of "
                    + "dirty data.",
                "Please load cache instance and flush dirty data in order to preserve them on "
                    + "the core device.", Self.forceHint)
        }
        return ["Clearing metadata for dirty pages - dirty cache data is being discarded."]
    }

    private static let forceHint =
        "Alternatively, if you wish to clear metadata anyway, please use '--force' option."

    private static func wipe(_ descriptor: Int32, _ offset: UInt64) -> Bool {
        let zeros = [UInt8](repeating: 0, count: slotBytes)
        return pwrite(descriptor, zeros, slotBytes, off_t(offset)) == slotBytes
            && fsync(descriptor) == 0
    }

    /// One of the two places of the superblock.
    private struct Slot {
        let offset: UInt64
        /// Nil where there is none, or none that can be believed.
        let superblock: Superblock?
        /// Whether it is a superblock at all, if only a damaged one or one of another version.
        let isOurs: Bool

        var generation: UInt64 { superblock?.generation ?? 0 }

        init(_ descriptor: Int32, _ offset: UInt64) {
            self.offset = offset
            var content = [UInt8](repeating: 0, count: slotBytes)
            _ = pread(descriptor, &content, slotBytes, off_t(offset))
            (superblock, isOurs) = content.withUnsafeMutableBytes { buffer in
                guard let base = buffer.baseAddress else { return (nil, false) }
                do {
                    let bytes = DiskBytes(base: base, count: buffer.count)
                    return (try Superblock(decoding: bytes), true)
                } catch {
                    return (nil, error as? FormatError != .noMagic)
                }
            }
        }
    }
}
