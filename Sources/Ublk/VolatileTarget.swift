import Glibc
import Synchronization

/// A disk for tests: it loses what was not flushed when its server ends.
///
/// - What a FLUSH was answered for is in the file behind it, synchronised; so are the sectors of an
///   FUA write, and no others because of it.
/// - A read sees the newest data.
/// - All requests exclude each other: a sector is never between the memory and the file.
public final class VolatileTarget: Target {
    /// How the disk behaves; the same numbers and the same requests give the same disk.
    public struct Behaviour: Equatable, Sendable {
        public var seed: UInt64
        /// Of a hundred writes, how many are followed by writing back some sectors at random.
        public var writeBackPercent: Int
        /// The most sectors that are kept in memory.
        public var sectorLimit: Int
        /// Every so many FLUSHes one is answered and not done, which no disk may do; 0: none.
        public var lieInterval: UInt64

        public init(
            seed: UInt64, writeBackPercent: Int, sectorLimit: Int, lieInterval: UInt64 = 0
        ) {
            self.seed = seed
            self.writeBackPercent = writeBackPercent
            self.sectorLimit = sectorLimit
            self.lieInterval = lieInterval
        }
    }

    public let parameters: DeviceParameters
    public let descriptor: Int32?
    public var seesData: Bool { true }
    private let lock = Mutex(())
    private let disk: VolatileDisk

    /// - Parameter descriptor: the open file, of whole sectors of 512 bytes.
    public init(descriptor: Int32, parameters: DeviceParameters, behaviour: Behaviour) {
        var parameters = parameters
        parameters.attributes.formUnion([.volatileCache, .forceUnitAccess])
        // It tears writes at every sector, so it does not claim larger ones.
        parameters.physicalBlockBytes = UInt32(VolatileCache.sectorBytes)
        parameters.discard = nil
        self.parameters = parameters
        self.descriptor = descriptor
        disk = VolatileDisk(
            file: descriptor, lieInterval: behaviour.lieInterval,
            cache: VolatileCache(
                sectorLimit: behaviour.sectorLimit,
                writeBackPercent: behaviour.writeBackPercent, seed: behaviour.seed))
    }

    public func step(_ request: IODescriptor) -> Step {
        switch request.operation {
        case .read, .write, .flush: .inMemory
        case .discard, .writeZeroes, .writeSame, nil: .done(-EOPNOTSUPP)
        }
    }

    public func serve(_ request: IODescriptor, _ data: UnsafeMutableRawBufferPointer) -> Int32 {
        lock.withLock { _ in disk.serve(request, data) }
    }
}

/// The memory and the file. Used under the target's lock alone.
private final class VolatileDisk: @unchecked Sendable {
    private let file: Int32
    private let lieInterval: UInt64
    private var cache: VolatileCache
    private var flushCount: UInt64 = 0

    init(file: Int32, lieInterval: UInt64, cache: consuming VolatileCache) {
        self.file = file
        self.lieInterval = lieInterval
        self.cache = cache
    }

    func serve(_ request: IODescriptor, _ data: UnsafeMutableRawBufferPointer) -> Int32 {
        switch request.operation {
        case .read: read(request.startSector, data)
        case .write: write(request, UnsafeRawBufferPointer(data))
        case .flush: flush()
        default: -EOPNOTSUPP
        }
    }

    private func read(_ first: UInt64, _ data: UnsafeMutableRawBufferPointer) -> Int32 {
        let result = transfer(data.count) { done in
            pread(
                file, data.baseAddress.unsafelyUnwrapped + done, data.count - done,
                off_t(first) * off_t(VolatileCache.sectorBytes) + off_t(done))
        }
        if result == 0 { cache.overlay(first, data) }
        return result
    }

    private func write(_ request: IODescriptor, _ data: UnsafeRawBufferPointer) -> Int32 {
        guard request.forceUnitAccess else {
            return cache.write(request.startSector, data, store: store)
        }
        let result = cache.writeThrough(request.startSector, data, store: store)
        return result == 0 ? synchronise() : result
    }

    private func flush() -> Int32 {
        flushCount += 1
        if lieInterval > 0, flushCount.isMultiple(of: lieInterval) { return 0 }
        let result = cache.flush(store: store)
        return result == 0 ? synchronise() : result
    }

    // MARK: The file

    private func store(_ first: UInt64, _ bytes: UnsafeRawBufferPointer) -> Int32 {
        transfer(bytes.count) { done in
            pwrite(
                file, bytes.baseAddress.unsafelyUnwrapped + done, bytes.count - done,
                off_t(first) * off_t(VolatileCache.sectorBytes) + off_t(done))
        }
    }

    /// Goes on with `step`, which is told how far it came, until all bytes are moved.
    private func transfer(_ byteCount: Int, _ step: (_ done: Int) -> Int) -> Int32 {
        var done = 0
        while done < byteCount {
            let count = step(done)
            if count < 0, errno == EINTR || errno == EAGAIN { continue }
            guard count > 0 else { return count < 0 ? -errno : -EIO }
            done += count
        }
        return 0
    }

    private func synchronise() -> Int32 {
        while fdatasync(file) != 0 {
            guard errno == EINTR else { return -errno }
        }
        return 0
    }
}
