import CacheEngine
import CacheFormat
import Glibc
import Synchronization
import Ublk

/// Going on after the death of the process that served the cache: with its memory image, its
/// session and its exported devices, as if nothing had been.
///
/// The old process's I/O may still be on its way to the devices. It is over when the devices can be
/// opened exclusively; before that nothing is read or written. Nothing here is proportional to the
/// set table: sets are adopted when they are asked for, the rest by a thread beside the workers.
extension CacheInstance {
    /// Seconds that the last I/O of a dead process may take. A device that hangs longer is better
    /// looked at than waited for.
    static var patienceAfterDeath: UInt64 { 60 }

    /// Begins what does not need the cache device. Nil if no dead server has left an image to go on
    /// with; if one has, its last I/O may be under way, and is worth waiting for.
    static func beginSuccession(
        _ options: Options, _ publisher: Publisher?
    ) throws(CacheError) -> Succession? {
        guard options.load, let left = leftImage(options) else { return nil }
        let crew = try Crew(options, count: left.workerCount)
        guard let publisher else { return Succession(crew: crew, devices: nil) }
        do throws(CacheError) {
            return Succession(
                crew: crew,
                devices: try LeftDevices(cacheUUID: left.cacheUUID, publisher.control))
        } catch {
            crew.dismiss()
            throw error
        }
    }

    private static func leftImage(_ options: Options) -> (cacheUUID: UInt128, workerCount: Int)? {
        let descriptor = Glibc.open(options.devicePath, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else { return nil }
        defer { close(descriptor) }
        let medium = ReadOnlyMedium(path: options.devicePath, descriptor: descriptor)
        guard case .cache(let superblock)? = try? CacheStore.find(on: medium),
            superblock.state != .cleanlyStopped,
            let device = DeviceIdentity(path: options.devicePath),
            let identity = try? identity(superblock, device)
        else { return nil }
        let found = MemoryImage.find(
            identity, geometry: superblock.geometry, directory: options.imageDirectory)
        guard case .usable(let workerCount) = found else { return nil }
        return (superblock.cacheUUID, workerCount)
    }

    private static func identity(
        _ superblock: Superblock, _ device: DeviceIdentity
    ) throws(CacheError) -> ImageIdentity {
        ImageIdentity(
            bootID: try ImageIdentity.currentBoot(), cacheUUID: superblock.cacheUUID,
            session: superblock.session, device: device)
    }

    /// Goes on with a cache that is in use according to its superblock, and whose device is ours
    /// now. Session and metadata stay what they are.
    ///
    /// Nil if there is nothing to go on with: then the device alone tells what is durable.
    static func resume(
        _ options: Options, _ device: DeviceFile, _ store: CacheStore, _ mode: EngineMode,
        _ publisher: Publisher?, _ begun: Succession?
    ) throws(CacheError) -> CacheInstance? {
        let identity = try identity(store.superblock, device.identity)
        let found = MemoryImage.find(
            identity, geometry: store.geometry, directory: options.imageDirectory)
        guard case .usable = found else {
            if !options.resumesOnly, !found.mayHoldMoreThanTheDevice {
                // Whoever still has them open has seen the server die: they do not come back.
                if let publisher {
                    try withdrawExports(
                        of: store.superblock, publisher, linkDirectory: options.linkDirectory)
                }
                return nil
            }
            throw notResumable(found, store, directory: options.imageDirectory)
        }
        let image = try MemoryImage(
            attaching: identity, geometry: store.geometry, directory: options.imageDirectory)
        let shared = share(image, store, .goingOn(image.journalMemory))
        shared.mode = mode
        shared.durability = EngineDurability(stored: store.configuration.durability)
        let blocks = SharedCache.counterBlockCount(workerCount: image.workerCount)
        for core in store.configuration.cores {
            shared.keepCounters(core: core.id, blockCount: blocks)
        }
        if store.superblock.state == .stopping {
            // It died while it was stopping: from now on what is dirty changes again.
            try store.markInUse(session: identity.session)
        } else {
            // A device that cannot be written any more still has dirty data for the cores.
            try? store.makeWhole()
        }
        options.milestone("memory image")
        let succession: Succession
        if let begun, begun.crew.count == image.workerCount {
            succession = begun
        } else {
            // Its owner died while the device was being opened.
            guard let late = try beginSuccession(options, publisher) else {
                throw notResumable(.absent, store, directory: options.imageDirectory)
            }
            succession = late
        }
        return try assemble(options, device, store, image, shared, publisher, resuming: succession)
    }

    private static func notResumable(
        _ found: MemoryImage.Finding, _ store: CacheStore, directory: String
    ) -> CacheError {
        let path = MemoryImage.path(cacheUUID: store.superblock.cacheUUID, directory: directory)
        let reason =
            switch found {
            case .usable: "is usable"
            case .absent: "is not there: it does not outlive a restart of the machine"
            case .damaged: "is not whole"
            case .otherVersion(let version):
                "is of version \(version): load the cache with the version of casd that made it"
            case .otherBoot: "is of an earlier boot of this machine"
            case .otherCache: "describes another cache"
            case .otherSession:
                "is of another session: the cache was used elsewhere, or later, without it"
            case .otherDevice:
                "was made for another device: this is a copy, or the device has got another number"
            }
        let way =
            found.mayHoldMoreThanTheDevice ? "remove that file and load again" : "load it again"
        return CacheError(
            .notCleanlyStopped,
            "Cache \(store.superblock.cacheID) on '\(store.medium.path)' was not stopped cleanly, "
                + "and cannot go on: its memory image '\(path)' \(reason). Without it, what was "
                + "written since the last FLUSH may be lost. To load the cache with what is "
                + "durable on the device, \(way).")
    }
}

// MARK: - Adoption

extension CacheInstance {
    /// Adopts all sets beside the workers, and then begins again what the dead process was doing in
    /// the background.
    func startAdoption() throws(CacheError) {
        let thread = try NativeThread(name: "cas adoption") { [self] in
            adoptSlowly()
            cleanAfterModeChange()
        }
        adoption.withLock { $0 = thread }
    }

    /// Leaves half of the time to the workers. Not by a low priority: a lock would be held by a
    /// thread that does not run.
    private func adoptSlowly() {
        let setCount = UInt32(shared.geometry.setCount)
        for first in stride(from: 0, to: setCount, by: 64) {
            if shared.isAdopted { break }
            shared.adopt(sets: first..<min(first + 64, setCount))
            usleep(100)
        }
        finishAdoption()
        options.milestone("all sets adopted")
    }

    /// On return counters and dirty maps are complete.
    func finishAdoption() {
        // The journal may have waited for it, and all workers for the journal.
        if shared.finishAdoption() { workers.first?.post(.journal) }
    }

    func endAdoption() {
        adoption.withLock { $0.take() }?.join()
    }

    /// A change from write-back in the background had not come to its end.
    private func cleanAfterModeChange() {
        // Whoever changes or stops the cache may be waiting for this thread.
        while isResumed, shared.mode != .writeBack, !state.withLock({ $0.isStopping }) {
            let isDone: Void? = change.withLockIfAvailable { _ in
                let ids = state.withLock { Array($0.cores.keys) }
                let isDirty = ids.contains { shared.sum(.dirtyLines, core: $0) > 0 }
                if isDirty, shared.mode != .writeBack {
                    try? startBackgroundFlush(from: .writeBack)
                }
            }
            if isDone != nil { return }
            usleep(10_000)
        }
    }
}

// MARK: - Giving up

extension CacheInstance {
    /// Ends the exported devices of a cache whose server is gone: whoever uses them gets errors.
    /// Metadata and memory image stay for a later start. Returns the cache's id.
    package static func withdrawExports(devicePath: String) throws(CacheError) -> UInt16 {
        var options = Options(devicePath: devicePath)
        options.load = true
        let publisher = try makePublisher()
        let device = try DeviceFile.open(
            path: devicePath, role: .cache, allowsPlainFile: false,
            patience: leftImage(options) == nil ? 0 : patienceAfterDeath)
        let superblock = try CacheStore.open(device).superblock
        try withdrawExports(of: superblock, publisher, linkDirectory: options.linkDirectory)
        return superblock.cacheID
    }

    static func withdrawExports(
        of superblock: Superblock, _ publisher: Publisher, linkDirectory: String
    ) throws(CacheError) {
        do throws(UblkError) {
            try ExportedDevice.withdrawAll(
                cacheUUID: superblock.cacheUUID, publisher.control,
                link: { "\(linkDirectory)/cas\(superblock.cacheID)-\($0)" })
        } catch {
            throw CacheError(
                .kernel,
                "Ending the exported devices of cache \(superblock.cacheID) failed: \(error).")
        }
    }
}

extension MemoryImage.Finding {
    /// The image may be of this very session, but cannot be used here and now: recovering without
    /// it would lose what it alone knows.
    fileprivate var mayHoldMoreThanTheDevice: Bool {
        switch self {
        case .usable, .otherVersion, .otherDevice: true
        case .absent, .damaged, .otherBoot, .otherCache, .otherSession: false
        }
    }
}
