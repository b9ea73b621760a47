import CLinux
import CacheEngine
import CacheFormat
import Glibc
import Synchronization
import Ublk

extension CacheInstance {
    /// The id of the cache that is on a device; nil if there is none that can be read.
    package static func storedCacheID(devicePath: String) -> UInt16? {
        let descriptor = Glibc.open(devicePath, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else { return nil }
        defer { close(descriptor) }
        let medium = ReadOnlyMedium(path: devicePath, descriptor: descriptor)
        guard case .cache(let superblock)? = try? CacheStore.find(on: medium) else { return nil }
        return superblock.cacheID
    }

    /// Starts a new cache, or loads one; on return its cores can be used.
    ///
    /// Nothing is written to the device before everything that can be checked was checked, and
    /// nothing is left of a failed start but a stopped cache.
    package static func start(_ options: Options) throws(CacheError) -> CacheInstance {
        try checkOptions(options)
        _ = ucas_raise_file_limit()
        let publisher = options.exportsDevices ? try makePublisher() : nil
        let succession = try beginSuccession(options, publisher)
        defer { succession?.crew.dismiss() }
        let device = try DeviceFile.open(
            path: options.devicePath, role: .cache, allowsPlainFile: options.allowsPlainFiles,
            patience: succession == nil ? 0 : patienceAfterDeath)
        options.milestone("cache device")
        let instance =
            options.load
            ? try load(options, device, publisher, succession)
            : try create(options, device, publisher)
        do throws(CacheError) {
            try instance.startClock()
            try instance.activateCores()
        } catch {
            instance.giveUpStart()
            throw error
        }
        try instance.startAdoption()
        return instance
    }

    /// A cache that was made or loaded for this start is stopped again. One that goes on after a
    /// crash stays as it is, for the next try: image, metadata and exported devices.
    private func giveUpStart() {
        guard isResumed else {
            try? shutDown()
            return
        }
        stopClock()
        let isServing = state.withLock { $0.cores.values.contains { $0.exported != nil } }
        // Workers that serve a device end with the process.
        guard !isServing, publisher == nil else { return }
        for worker in workers { try? worker.stop() }
        state.withLock { $0.isStopped = true }
    }

    private static func checkOptions(_ options: Options) throws(CacheError) {
        if let id = options.cacheID, !(1...16384).contains(id) {
            throw CacheError(
                .invalidArgument, "Invalid cache id, must be in the range 1-16384.")
        }
        guard options.load || options.cacheID != nil else {
            throw CacheError(.invalidArgument, "A new cache needs an id.")
        }
        let lineBytes = options.lineBytes ?? 4096
        guard lineBytes >= 4096, lineBytes <= 65536, lineBytes.nonzeroBitCount == 1 else {
            throw CacheError(
                .invalidArgument, "Invalid cache line size, must be 4, 8, 16, 32 or 64 KiB.")
        }
        guard lineBytes == 4096 else {
            throw CacheError(
                .invalidArgument,
                "Cache lines of \(lineBytes >> 10) KiB are not supported by this version; use 4.")
        }
    }

    static func makePublisher() throws(CacheError) -> Publisher {
        do throws(UblkError) {
            let control = try ControlDevice()
            return Publisher(control: control, features: try control.features())
        } catch {
            switch error.errno {
            case ENOENT, ENXIO, ENODEV:
                throw CacheError(.kernel, ControlDevice.missingAdvice)
            case EACCES, EPERM:
                throw CacheError(.permission, "Must be run as root.")
            default:
                throw CacheError(
                    .kernel,
                    "This kernel's ublk cannot be used: \(error). Kernel 6.5 or newer "
                        + "is needed.")
            }
        }
    }
}

// MARK: - New

extension CacheInstance {
    private static func create(
        _ options: Options, _ device: DeviceFile, _ publisher: Publisher?
    ) throws(CacheError) -> CacheInstance {
        let lineBytes = options.lineBytes ?? 4096
        if !options.force { try refuseContent(of: device) }
        guard
            let geometry = Geometry.forDevice(
                byteCount: device.limits.bytes, lineBytes: lineBytes)
        else {
            throw CacheError(
                .tooSmall,
                "The cache device '\(device.path)' is too small: it has "
                    + "\(device.limits.bytes >> 20) MiB, and at least "
                    + "\(Geometry.deviceBytesMin >> 20) MiB are needed.")
        }
        if case .cache(let old) = try CacheStore.find(on: device) {
            // Nobody will ever serve the devices that a dead server of it has left.
            if let publisher {
                try withdrawExports(of: old, publisher, linkDirectory: options.linkDirectory)
            }
            MemoryImage.removeLeftOver(
                cacheUUID: old.cacheUUID, directory: options.imageDirectory)
        }
        let identity = ImageIdentity(
            bootID: try ImageIdentity.currentBoot(), cacheUUID: UInt128.random(in: 1 ... .max),
            session: UInt64.random(in: 1 ... .max), device: device.identity)
        let image = try makeImage(identity, geometry, options)
        do throws(CacheError) {
            let mode = options.mode ?? .writeThrough
            var configuration = Configuration(mode: mode.stored)
            configuration.durability = (options.durability ?? .flush).stored
            let store = try CacheStore.format(
                device, cacheID: options.cacheID ?? 1, lineBytes: lineBytes,
                session: identity.session,
                configuration: configuration,
                cacheUUID: identity.cacheUUID)
            store.makeEmptyPages(in: image.pages)
            let shared = SharedCache(
                geometry: geometry, pages: image.pages, workerCount: image.workerCount,
                counters: image.counters,
                journal: .anew(image.journalMemory, session: identity.session))
            shared.mode = mode
            shared.durability = options.durability ?? .flush
            try image.publish()
            return try assemble(options, device, store, image, shared, publisher)
        } catch {
            image.remove()
            throw error
        }
    }

    private static func refuseContent(of device: DeviceFile) throws(CacheError) {
        guard try CacheStore.find(on: device) == .nothing else {
            throw CacheError(
                .oldMetadata,
                "Old metadata found on device '\(device.path)'.\nPlease load cache metadata using "
                    + "--load option or use --force to discard on-disk metadata and start fresh "
                    + "cache instance.")
        }
        guard let content = try ContentSignature.find(on: device) else { return }
        let what =
            content.hasSuffix("filesystem") ? "A filesystem" : "Something that looks like data"
        throw CacheError(
            .foreignContent,
            "\(what) exists on \(device.path) (\(content)). Specify the --force option if you "
                + "wish to add the cache anyway.\nNote: this may result in loss of data")
    }

    private static func makeImage(
        _ identity: ImageIdentity, _ geometry: Geometry, _ options: Options
    ) throws(CacheError) -> MemoryImage {
        if options.exportsDevices {
            MemoryImage.allowHugePages(directory: options.imageDirectory)
        }
        return try MemoryImage(
            creating: identity, geometry: geometry, workerCount: workerCount(options),
            directory: options.imageDirectory)
    }

    static func workerCount(_ options: Options) -> Int {
        let wanted = options.workerCount ?? NativeThread.allowedCPUs().count
        return min(max(wanted, 1), SharedCache.workerCountMax)
    }
}

// MARK: - Load

extension CacheInstance {
    private static func load(
        _ options: Options, _ device: DeviceFile, _ publisher: Publisher?, _ succession: Succession?
    ) throws(CacheError) -> CacheInstance {
        let store = try CacheStore.open(device)
        let id = store.superblock.cacheID
        if let wanted = options.cacheID, wanted != id {
            throw CacheError(
                .invalidArgument, "The cache on '\(device.path)' has the id \(id), not \(wanted).")
        }
        guard store.geometry.lineBytes == 4096 else {
            throw CacheError(
                .otherVersion,
                "The cache on '\(device.path)' has lines of \(store.geometry.lineBytes >> 10) KiB, "
                    + "which this version does not support.")
        }
        guard let mode = EngineMode(stored: store.configuration.mode) else {
            throw CacheError(
                .otherVersion,
                "The cache on '\(device.path)' is in a mode this version does not support.")
        }
        if store.superblock.state != .cleanlyStopped,
            let resumed = try resume(options, device, store, mode, publisher, succession)
        {
            return resumed
        }
        if options.resumesOnly {
            throw CacheError(
                .cleanlyStopped, "Cache \(id) on '\(device.path)' was stopped in order.")
        }
        let identity = ImageIdentity(
            bootID: try ImageIdentity.currentBoot(), cacheUUID: store.superblock.cacheUUID,
            session: UInt64.random(in: 1 ... .max), device: device.identity)
        let image = try makeImage(identity, store.geometry, options)
        do throws(CacheError) {
            let (shared, recovery) = try adopt(store, image, options)
            shared.mode = mode
            try store.markInUse(session: identity.session)
            store.emptyJournal(places: recovery?.report.damagedJournalPlaces ?? [])
            // Whoever finds it goes on from here.
            try image.publish()
            return try assemble(
                options, device, store, image, shared, publisher, recovery: recovery)
        } catch {
            image.remove()
            throw error
        }
    }

    private static func adopt(
        _ store: CacheStore, _ image: MemoryImage, _ options: Options
    ) throws(CacheError) -> (SharedCache, RecoveredCache?) {
        let start = monotonicNanoseconds()
        let wasStopped = store.superblock.state == .cleanlyStopped
        let report = try store.readPages(into: image.pages, acceptsLoss: options.forcePartial)
        let recovery = report.map {
            RecoveredCache(
                report: $0, wasStopped: wasStopped,
                seconds: Double(monotonicNanoseconds() - start) / 1e9)
        }
        let shared = share(
            image, store, .anew(image.journalMemory, session: image.identity.session))
        if let set = shared.adoptPages() {
            shared.deallocate()
            throw CacheError(
                .damaged,
                "Metadata is damaged: the page of set \(set) on '\(store.medium.path)' "
                    + "contradicts itself.")
        }
        shared.durability = EngineDurability(stored: store.configuration.durability)
        // After a recovery every page differs from the device's: what was clean is dropped.
        if recovery == nil {
            for set in 0..<UInt32(store.geometry.setCount) { shared.noteLoaded(set) }
        }
        return (shared, recovery)
    }
}

// MARK: - Putting it together

extension CacheInstance {
    /// The table of an image and the cores of a configuration, whose devices are not open yet.
    static func share(
        _ image: MemoryImage, _ store: CacheStore, _ journal: JournalStart
    ) -> SharedCache {
        let shared = SharedCache(
            geometry: store.geometry, pages: image.pages, workerCount: image.workerCount,
            counters: image.counters, journal: journal)
        for core in store.configuration.cores {
            shared.addCore(
                core.id, coreOffset: core.coreOffset, sectorCount: core.sectorCount,
                canDiscard: false)
            shared.setHasDevice(core.id, false)
        }
        return shared
    }

    static func assemble(
        _ options: Options, _ device: DeviceFile, _ store: CacheStore, _ image: MemoryImage,
        _ shared: SharedCache, _ publisher: Publisher?, resuming succession: Succession? = nil,
        recovery: RecoveredCache? = nil
    ) throws(CacheError) -> CacheInstance {
        let workers: [Worker]
        do throws(CacheError) {
            let used: Crew
            if let succession {
                used = succession.crew
            } else {
                used = try Crew(options, count: shared.workerCount)
            }
            workers = try used.serve(shared, cacheDescriptor: device.descriptor)
        } catch {
            shared.deallocate()
            throw error
        }
        let instance = try CacheInstance(
            options: options, device: device, store: store, image: image, shared: shared,
            workers: workers, publisher: publisher, isResumed: succession != nil,
            leftDevices: succession?.devices, recovery: recovery)
        options.milestone("workers")
        instance.state.withLock { state in
            for core in store.configuration.cores {
                state.cores[core.id] = CoreEntry(id: core.id, configuration: core)
            }
        }
        return instance
    }

    /// Opens and exports the cores of a loaded configuration. A core whose device is missing stays
    /// inactive; its lines wait for it.
    ///
    /// Side by side where users wait for them: each waits for the kernel now and then.
    private func activateCores() throws(CacheError) {
        let cores = store.configuration.cores
        guard isResumed, cores.count > 1 else {
            for core in cores { try activate(core) }
            return
        }
        let next = Atomic(0)
        let failure = Mutex<CacheError?>(nil)
        let body: @Sendable () -> Void = { [self] in
            while true {
                let index = next.wrappingAdd(1, ordering: .relaxed).oldValue
                guard index < cores.count, failure.withLock({ $0 == nil }) else { return }
                do throws(CacheError) {
                    try activate(cores[index])
                } catch {
                    failure.withLock { $0 = error }
                }
            }
        }
        var threads: [NativeThread] = []
        for _ in 0..<min(cores.count, 16) {
            threads.append(try NativeThread(name: "cas start", body))
        }
        for thread in threads { thread.join() }
        if let failure = failure.withLock({ $0 }) { throw failure }
    }

    private func activate(_ core: Configuration.Core) throws(CacheError) {
        let device: DeviceFile
        do throws(CacheError) {
            device = try openCore(
                core.devicePath, patience: isResumed ? Self.patienceAfterDeath : 0)
        } catch {
            guard error.code == .notFound else { throw error }
            return
        }
        guard device.limits.sectorCount == core.sectorCount else {
            throw CacheError(
                .sizeMismatch,
                "Core volume size does not match the size stored in cache metadata: "
                    + "'\(core.devicePath)' has \(device.limits.sectorCount) sectors, core "
                    + "\(core.id) had \(core.sectorCount).")
        }
        try activate(core, device)
        options.milestone("core \(core.id)")
    }
}

extension EngineDurability {
    var stored: Configuration.Durability {
        switch self {
        case .flush: .flush
        case .write: .write
        }
    }

    init(stored: Configuration.Durability) {
        switch stored {
        case .flush: self = .flush
        case .write: self = .write
        }
    }
}

extension EngineMode {
    var stored: Configuration.Mode {
        switch self {
        case .writeThrough: .writeThrough
        case .writeBack: .writeBack
        case .passThrough: .passThrough
        }
    }

    /// Nil for a mode the engine does not have.
    init?(stored: Configuration.Mode) {
        switch stored {
        case .writeThrough: self = .writeThrough
        case .writeBack: self = .writeBack
        case .passThrough: self = .passThrough
        case .writeAround, .writeOnly: return nil
        }
    }
}

/// Looking at a device that somebody else may be using.
final class ReadOnlyMedium: StoreMedium {
    let path: String
    private let descriptor: Int32
    let byteCount: UInt64

    init(path: String, descriptor: Int32) {
        self.path = path
        self.descriptor = descriptor
        byteCount = UInt64(max(lseek(descriptor, 0, SEEK_END), 0))
    }

    func read(into bytes: UnsafeMutableRawBufferPointer, at offset: UInt64) throws(CacheError) {
        guard pread(descriptor, bytes.baseAddress, bytes.count, off_t(offset)) == bytes.count else {
            throw CacheError(.inputOutput, "Reading '\(path)' failed.")
        }
    }

    func write(_: UnsafeRawBufferPointer, at _: UInt64) throws(CacheError) {
        throw CacheError(.permission, "'\(path)' is open for reading only.")
    }

    func flush() throws(CacheError) {}
}
