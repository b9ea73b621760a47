import CacheEngine
import CacheFormat
import CacheRuntime
import Glibc
import Testing

/// Whole caches over plain files; without exported devices, which need a kernel with ublk.
@Suite(.serialized) struct CacheInstanceTests {
    private func options(_ file: TemporaryFile, id: UInt16? = 7) -> CacheInstance.Options {
        var options = CacheInstance.Options(devicePath: file.path)
        options.cacheID = id
        options.workerCount = 2
        options.allowsPlainFiles = true
        options.exportsDevices = false
        options.limits.requestSlots = 64
        options.limits.partSlots = 128
        options.limits.cleaningBatchBytes = 128 << 10
        return options
    }

    private func loading(_ file: TemporaryFile) -> CacheInstance.Options {
        var options = options(file, id: nil)
        options.load = true
        return options
    }

    private func stop(_ instance: CacheInstance) throws {
        try instance.stop(flush: true, cancelled: { false })
    }

    private func startAndStop(_ options: CacheInstance.Options) throws {
        try stop(try CacheInstance.start(options))
    }

    @Test func whatWasConfiguredIsLoaded() throws {
        let cache = TemporaryFile(byteCount: 48 << 20)
        let cores = [TemporaryFile(byteCount: 16 << 20), TemporaryFile(byteCount: 8 << 20)]
        do {
            var options = options(cache)
            options.mode = .writeBack
            let instance = try CacheInstance.start(options)
            #expect(try instance.addCore(id: nil, devicePath: cores[0].path) == 1)
            #expect(try instance.addCore(id: 9, devicePath: cores[1].path) == 9)
            #expect(instance.snapshot().cores.map(\.id) == [1, 9])
            try stop(instance)
        }
        #expect(CacheInstance.storedCacheID(devicePath: cache.path) == 7)
        let instance = try CacheInstance.start(loading(cache))
        let status = instance.snapshot()
        #expect(status.cacheID == 7)
        #expect(status.mode == .writeBack)
        #expect(status.state == .running)
        #expect(status.cores.map(\.id) == [1, 9])
        #expect(status.cores.map(\.devicePath) == cores.map(\.path))
        #expect(status.cores.map(\.sectorCount) == [32768, 16384])
        #expect(status.cores.map(\.isActive) == [true, true])
        #expect(status.cores[1].exportedLink == "/dev/cas7-9")
        try stop(instance)
    }

    @Test func aModeChangeIsKept() throws {
        let cache = TemporaryFile(byteCount: 48 << 20)
        do {
            let instance = try CacheInstance.start(options(cache))
            #expect(instance.snapshot().mode == .writeThrough)
            try instance.setMode(.writeBack, flush: true, cancelled: { false })
            try instance.setMode(.passThrough, flush: true, cancelled: { false })
            try stop(instance)
        }
        let instance = try CacheInstance.start(loading(cache))
        #expect(instance.snapshot().mode == .passThrough)
        try stop(instance)
    }

    @Test func aDurabilityChangeIsKept() throws {
        let cache = TemporaryFile(byteCount: 48 << 20)
        let core = TemporaryFile(byteCount: 16 << 20)
        do {
            let instance = try CacheInstance.start(options(cache))
            _ = try instance.addCore(id: nil, devicePath: core.path)
            #expect(instance.snapshot().durability == .flush)
            try instance.setDurability(.write)
            #expect(instance.snapshot().durability == .write)
            try stop(instance)
        }
        do {
            let instance = try CacheInstance.start(loading(cache))
            #expect(instance.snapshot().durability == .write)
            try instance.setDurability(.flush)
            #expect(instance.snapshot().durability == .flush)
            try stop(instance)
            #expect(throws: CacheError.self) { try instance.setDurability(.write) }
        }
        let again = try CacheInstance.start(loading(cache))
        #expect(again.snapshot().durability == .flush)
        try stop(again)
    }

    @Test func aRemovedCoreIsGone() throws {
        let cache = TemporaryFile(byteCount: 48 << 20)
        let core = TemporaryFile(byteCount: 16 << 20)
        let instance = try CacheInstance.start(options(cache))
        _ = try instance.addCore(id: 3, devicePath: core.path)
        #expect(
            code { () throws(CacheError) in
                try instance.removeCore(id: 4, flush: true, cancelled: { false })
            } == .noSuchCore)
        try instance.removeCore(id: 3, flush: true, cancelled: { false })
        #expect(instance.snapshot().cores.isEmpty)
        // The device is free again.
        _ = try instance.addCore(id: 3, devicePath: core.path)
        try stop(instance)
    }

    @Test func aDeviceIsUsedOnce() throws {
        let cache = TemporaryFile(byteCount: 48 << 20)
        let core = TemporaryFile(byteCount: 16 << 20)
        let instance = try CacheInstance.start(options(cache))
        _ = try instance.addCore(id: nil, devicePath: core.path)
        let twice = message { () throws(CacheError) in
            _ = try instance.addCore(id: nil, devicePath: core.path)
        }
        #expect(
            twice == "Core device '\(core.path)' is already cached: it is core 1 of cache 7.")
        let itself = message { () throws(CacheError) in
            _ = try instance.addCore(id: nil, devicePath: cache.path)
        }
        #expect(itself == "Cache device '\(cache.path)' is already used as cache.")
        let id = message { () throws(CacheError) in
            _ = try instance.addCore(id: 1, devicePath: "/dev/null")
        }
        #expect(id == "Core id already used: core 1 in cache 7.")
        let other = code { () throws(CacheError) in try startUnused(cache) }
        #expect(other == .busy)
        try stop(instance)
    }

    private func startUnused(_ cache: TemporaryFile) throws(CacheError) {
        _ = try CacheInstance.start(options(cache, id: 8))
    }

    @Test func metadataAndFilesystemsNeedForce() throws {
        let cache = TemporaryFile(byteCount: 48 << 20)
        #expect(system("/sbin/mkfs.ext4 -q -F \(cache.path) >/dev/null 2>&1") == 0)
        let filesystem = message { () throws(CacheError) in try startUnused(cache) }
        #expect(
            filesystem?.hasPrefix(
                "A filesystem exists on \(cache.path) (ext2/ext3/ext4 filesystem). Specify the "
                    + "--force option") == true)
        var forced = options(cache)
        forced.force = true
        try startAndStop(forced)
        let metadata = message { () throws(CacheError) in try startUnused(cache) }
        #expect(metadata?.hasPrefix("Old metadata found on device") == true)
        try startAndStop(forced)
        try startAndStop(loading(cache))
    }

    @Test func aCacheThatWasNotStoppedIsRecovered() throws {
        let cache = TemporaryFile(byteCount: 48 << 20)
        let core = TemporaryFile(byteCount: 16 << 20)
        let copy = TemporaryFile(byteCount: 0)
        let instance = try CacheInstance.start(options(cache))
        _ = try instance.addCore(id: nil, devicePath: core.path)
        #expect(instance.recovery == nil)
        #expect(system("cp \(cache.path) \(copy.path)") == 0)
        try stop(instance)
        do {
            let loaded = try CacheInstance.start(loading(copy))
            let report = try #require(loaded.recovery?.report)
            #expect(report.dirtyLines == 0 && report.damagedSets == [])
            #expect(loaded.snapshot().cores.map(\.id) == [1])
            try stop(loaded)
        }
        // Now it was.
        let again = try CacheInstance.start(loading(copy))
        #expect(again.recovery == nil)
        try stop(again)
    }

    /// A process that serves a cache of cores 3 and 4, and dies.
    private func startAndDie(_ cache: TemporaryFile, _ cores: [TemporaryFile]) async {
        let paths = [cache.path, cores[0].path, cores[1].path]
        await #expect(processExitsWith: .signal(SIGKILL)) { [paths = paths as [String]] in
            var options = CacheInstance.Options(devicePath: paths[0])
            options.cacheID = 7
            options.workerCount = 2
            options.allowsPlainFiles = true
            options.exportsDevices = false
            let instance = try CacheInstance.start(options)
            _ = try instance.addCore(id: 3, devicePath: paths[1])
            _ = try instance.addCore(id: 4, devicePath: paths[2])
            try instance.setMode(.writeBack, flush: true, cancelled: { false })
            kill(getpid(), SIGKILL)
        }
    }

    @Test func aCacheGoesOnAfterTheDeathOfItsProcess() async throws {
        let cache = TemporaryFile(byteCount: 48 << 20)
        let cores = (0..<2).map { _ in TemporaryFile(byteCount: 16 << 20) }
        await startAndDie(cache, cores)
        do {
            let instance = try CacheInstance.start(loading(cache))
            #expect(instance.isResumed)
            let status = instance.snapshot()
            #expect(status.mode == .writeBack && status.state == .running)
            #expect(status.cores.map(\.id) == [3, 4] && status.workerCount == 2)
            try stop(instance)
        }
        let loaded = try CacheInstance.start(loading(cache))
        #expect(!loaded.isResumed && loaded.snapshot().mode == .writeBack)
        try stop(loaded)
    }

    @Test func aCacheThatWasStoppedIsNotResumed() throws {
        let cache = TemporaryFile(byteCount: 48 << 20)
        try startAndStop(options(cache))
        var resuming = loading(cache)
        resuming.resumesOnly = true
        let text = message { () throws(CacheError) in _ = try CacheInstance.start(resuming) }
        #expect(text == "Cache 7 on '\(cache.path)' was stopped in order.")
        let instance = try CacheInstance.start(loading(cache))
        #expect(!instance.isResumed)
        try stop(instance)
    }

    /// The superblock of a copy is the same, and its lines are what they were long ago.
    @Test func aCopyOfADeadCachesDeviceIsRefused() async throws {
        let cache = TemporaryFile(byteCount: 48 << 20)
        let cores = (0..<2).map { _ in TemporaryFile(byteCount: 16 << 20) }
        await startAndDie(cache, cores)
        let copy = TemporaryFile(byteCount: 0)
        #expect(system("cp \(cache.path) \(copy.path)") == 0)
        let text = message { () throws(CacheError) in
            _ = try CacheInstance.start(loading(copy))
        }
        #expect(text?.contains("was not stopped cleanly") == true)
        #expect(text?.contains("was made for another device") == true)
        let instance = try CacheInstance.start(loading(cache))
        try stop(instance)
    }

    @Test func aCacheWhoseImageIsGoneIsRecovered() async throws {
        let cache = TemporaryFile(byteCount: 48 << 20)
        let cores = (0..<2).map { _ in TemporaryFile(byteCount: 16 << 20) }
        await startAndDie(cache, cores)
        let superblock = try CacheStore.open(
            try DeviceFile.open(
                path: cache.path, role: .cache, allowsPlainFile: true, patience: 60)
        ).superblock
        MemoryImage.removeLeftOver(cacheUUID: superblock.cacheUUID)
        let instance = try CacheInstance.start(loading(cache))
        #expect(!instance.isResumed)
        #expect(instance.recovery?.report.damagedSets == [])
        let status = instance.snapshot()
        #expect(status.mode == .writeBack && status.cores.map(\.id) == [3, 4])
        try stop(instance)
    }

    /// Whoever only goes on with what is in memory does not look at the device instead.
    @Test func aCacheWhoseImageIsGoneIsNotResumed() async throws {
        let cache = TemporaryFile(byteCount: 48 << 20)
        let cores = (0..<2).map { _ in TemporaryFile(byteCount: 16 << 20) }
        await startAndDie(cache, cores)
        let superblock = try CacheStore.open(
            try DeviceFile.open(
                path: cache.path, role: .cache, allowsPlainFile: true, patience: 60)
        ).superblock
        MemoryImage.removeLeftOver(cacheUUID: superblock.cacheUUID)
        var resuming = loading(cache)
        resuming.resumesOnly = true
        let text = message { () throws(CacheError) in _ = try CacheInstance.start(resuming) }
        #expect(text?.contains("was not stopped cleanly") == true)
        #expect(text?.contains("does not outlive a restart of the machine") == true)
    }

    @Test func aMissingCoreLeavesTheCacheIncomplete() throws {
        let cache = TemporaryFile(byteCount: 48 << 20)
        do {
            let core = TemporaryFile(byteCount: 16 << 20)
            let instance = try CacheInstance.start(options(cache))
            _ = try instance.addCore(id: nil, devicePath: core.path)
            try stop(instance)
        }
        let instance = try CacheInstance.start(loading(cache))
        let status = instance.snapshot()
        #expect(status.state == .incomplete)
        #expect(status.cores.map(\.isActive) == [false])
        #expect(
            message { () throws(CacheError) in
                try instance.removeCore(id: 1, flush: false, cancelled: { false })
            }?.contains("is inactive: its device was not there") == true)
        try stop(instance)
    }

    @Test func aCoreOfAnotherSizeIsRefused() throws {
        let cache = TemporaryFile(byteCount: 48 << 20)
        let core = TemporaryFile(byteCount: 16 << 20)
        do {
            let instance = try CacheInstance.start(options(cache))
            _ = try instance.addCore(id: nil, devicePath: core.path)
            try stop(instance)
        }
        core.resize(8 << 20)
        let text = message { () throws(CacheError) in _ = try CacheInstance.start(loading(cache)) }
        #expect(
            text?.hasPrefix("Core volume size does not match the size stored in cache metadata")
                == true)
        // The refusal left the cache as it was.
        core.resize(16 << 20)
        try startAndStop(loading(cache))
    }

    @Test func badOptionsAreRefused() {
        let cache = TemporaryFile(byteCount: 48 << 20)
        var line = options(cache)
        line.lineBytes = 5000
        #expect(
            code { () throws(CacheError) in _ = try CacheInstance.start(line) } == .invalidArgument)
        let id = options(cache, id: 16385)
        #expect(
            code { () throws(CacheError) in _ = try CacheInstance.start(id) } == .invalidArgument)
        let small = TemporaryFile(byteCount: 39 << 20)
        #expect(code { () throws(CacheError) in try startUnused(small) } == .tooSmall)
        #expect(
            code { () throws(CacheError) in _ = try CacheInstance.start(loading(cache)) }
                == .noMetadata)
    }

    @Test func nothingIsLeftInMemory() throws {
        let cache = TemporaryFile(byteCount: 48 << 20)
        let directory = "/tmp/ublk-cas-images-\(getpid())"
        mkdir(directory, 0o700)
        defer { rmdir(directory) }
        var options = options(cache)
        options.imageDirectory = directory
        let instance = try CacheInstance.start(options)
        #expect(system("test $(ls \(directory) | wc -l) = 1") == 0)
        try stop(instance)
        #expect(system("test $(ls \(directory) | wc -l) = 0") == 0)
    }
}
