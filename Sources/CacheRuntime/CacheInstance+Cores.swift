import CacheEngine
import CacheFormat
import Glibc
import Synchronization
import Ublk

extension CacheInstance {
    /// Adds a core device; on return its exported device can be used. Returns the core's id.
    package func addCore(id: UInt16?, devicePath: String) throws(CacheError) -> UInt16 {
        try changing { () throws(CacheError) in
            try checkRunning()
            let id = try freeID(id)
            try checkUnused(devicePath)
            let device = try openCore(devicePath)
            guard device.limits.sectorCount > 0 else {
                throw CacheError(.tooSmall, "The core device '\(devicePath)' is empty.")
            }
            guard device.limits.sectorCount < Configuration.Core.sectorsMax else {
                throw CacheError(
                    .incompatible,
                    "The core device '\(devicePath)' is too large: 256 PiB are the limit.")
            }
            var configuration = store.configuration
            // Left there if saving failed when a core of this id was removed.
            configuration.cores.removeAll { $0.id == id }
            let core = Configuration.Core(
                id: id, coreOffset: coreOffset(id), sectorCount: device.limits.sectorCount,
                logicalBlockBytes: device.limits.logicalBlockBytes, devicePath: devicePath)
            let place = configuration.cores.firstIndex { $0.id > id } ?? configuration.cores.count
            configuration.cores.insert(core, at: place)
            shared.addCore(
                id, coreOffset: core.coreOffset, sectorCount: core.sectorCount,
                canDiscard: device.limits.discardMaxBytes > 0)
            shared.setHasDevice(id, false)
            // The device knows of the core before the first of its lines can be dirty.
            do throws(CacheError) {
                try store.save(configuration)
            } catch {
                shared.removeCore(id)
                throw error
            }
            state.withLock { $0.cores[id] = CoreEntry(id: id, configuration: core) }
            do throws(CacheError) {
                try activate(core, device)
            } catch {
                try forget(id)
                throw error
            }
            return id
        }
    }

    /// Removes a core. With `flush` its dirty data are brought to it first; without, they are lost.
    ///
    /// Cancelled before the end of the flush, it leaves everything as it was.
    package func removeCore(
        id: UInt16, flush: Bool, cancelled: () -> Bool
    ) throws(CacheError) {
        try changing { () throws(CacheError) in
            try checkRunning()
            guard let core = state.withLock({ $0.cores[id] }) else { throw noSuchCore(id) }
            guard core.device != nil else {
                throw CacheError(
                    .incompatible,
                    "Core \(id) of cache \(cacheID) is inactive: its device was not there when the "
                        + "cache was loaded. Stop the cache and load it with the device present.")
            }
            try refuseUse(
                of: [core], "Can't remove core \(id) from cache \(cacheID) due to mounted devices:")
            try withoutBackgroundFlush { () throws(CacheError) in
                if flush { try clean([id], cancelled: cancelled) }
                try endExport(id)
                // What was written between the flush and the end of the device.
                if flush { try cleanRest(id) }
                try forget(id)
            }
        }
    }

    /// Cleans a core whose exported device is gone; if that fails, makes the device again.
    private func cleanRest(_ id: UInt16) throws(CacheError) {
        do throws(CacheError) {
            try clean([id], cancelled: { false })
        } catch {
            throw exportingAgain([id], after: error)
        }
    }

    /// One at a time, in the order they come.
    func changing<Value>(_ body: () throws(CacheError) -> Value) throws(CacheError) -> Value {
        let result = change.withLock { _ -> Result<Value, CacheError> in
            do throws(CacheError) {
                return .success(try body())
            } catch {
                return .failure(error)
            }
        }
        return try result.get()
    }

    /// Open CAS looks for a free id from 1 on and takes 0 last.
    private func freeID(_ wanted: UInt16?) throws(CacheError) -> UInt16 {
        let used = state.withLock { Set($0.cores.keys) }
        if let wanted {
            guard wanted < SharedCache.coreCountMax else {
                throw CacheError(
                    .invalidArgument, "Invalid core id, must be in the range 0-4095.")
            }
            guard !used.contains(wanted) else {
                throw CacheError(
                    .coreExists, "Core id already used: core \(wanted) in cache \(cacheID).")
            }
            return wanted
        }
        for id in Array(1..<UInt16(SharedCache.coreCountMax)) + [0] where !used.contains(id) {
            return id
        }
        throw CacheError(.tooMany, "Too many core devices in cache \(cacheID).")
    }

    /// Refuses the cache device, a device that is a core already, and an exported device.
    private func checkUnused(_ path: String) throws(CacheError) {
        guard let identity = DeviceIdentity(path: path) else { return }
        if identity == device.identity {
            throw CacheError(.busy, "Cache device '\(path)' is already used as cache.")
        }
        for core in state.withLock({ Array($0.cores.values) }) {
            if core.device?.identity == identity
                || core.device == nil && core.configuration.devicePath == path
            {
                throw CacheError(
                    .coreExists,
                    "Core device '\(path)' is already cached: it is core \(core.id) of cache "
                        + "\(cacheID).")
            }
            if let exported = core.exported,
                DeviceIdentity(path: "/dev/\(exported.name)") == identity
            {
                throw CacheError(
                    .incompatible,
                    "Illegal multilevel caching configuration: '\(path)' is an exported device of "
                        + "cache \(cacheID).")
            }
        }
    }

    /// Spreads the starts of cores, where they are busiest, over the sets.
    private func coreOffset(_ id: UInt16) -> UInt32 {
        UInt32(truncatingIfNeeded: (UInt64(id) &* 0x9E37_79B9) % shared.geometry.setCount)
    }

    func openCore(_ path: String, patience seconds: UInt64 = 0) throws(CacheError) -> DeviceFile {
        try DeviceFile.open(
            path: path, role: .core, allowsPlainFile: options.allowsPlainFiles, patience: seconds)
    }
}

// MARK: - Steps

extension CacheInstance {
    /// Makes a known core usable: the workers get its device, the users its exported device.
    func activate(_ core: Configuration.Core, _ device: DeviceFile) throws(CacheError) {
        let limits = try ExportedLimits(
            cache: self.device.limits, core: device.limits,
            lineBytes: shared.geometry.lineBytes, coreName: core.devicePath)
        shared.setCanDiscard(core.id, device.limits.discardMaxBytes > 0)
        for worker in workers {
            let result = try worker.ask {
                .attachCore(
                    core: core.id, descriptor: device.descriptor,
                    isBlockDevice: device.isBlockDevice, $0)
            }
            guard result == 0 else {
                throw CacheError(
                    .tooMany,
                    "Registering the core device '\(core.devicePath)' failed: "
                        + "\(errorText(-result)).")
            }
        }
        shared.setHasDevice(core.id, true)
        state.withLock { $0.cores[core.id]?.device = device }
        try export(core.id, limits)
    }

    private func export(_ id: UInt16, _ limits: ExportedLimits) throws(CacheError) {
        guard let publisher else { return }
        let plan = ExportedDevice.Plan(
            core: id, tag: tag(id), link: link(id), limits: limits,
            queueDepth: options.queueDepth, movement: options.movement ?? .best(publisher.features))
        let exported: ExportedDevice
        if let left = try takeLeftDevice(plan) {
            exported = try ExportedDevice(
                resuming: left, plan, control: publisher.control, features: publisher.features,
                workers: workers)
        } else {
            exported = try ExportedDevice(
                plan, control: publisher.control, features: publisher.features, workers: workers)
        }
        state.withLock { $0.cores[id]?.exported = exported }
    }

    private func takeLeftDevice(_ plan: ExportedDevice.Plan) throws(CacheError) -> DeviceInfo? {
        do throws(UblkError) {
            return try leftDevices?.take(plan.tag)
        } catch {
            throw CacheError(
                .kernel, "Taking over the exported device '\(plan.link)' failed: \(error).")
        }
    }

    private func tag(_ id: UInt16) -> ExportedTag {
        ExportedTag(cacheUUID: store.superblock.cacheUUID, core: id)
    }

    /// Ends the device of a core that is inactive: it has waited for a server in vain.
    private func withdrawLeftOver(_ id: UInt16) throws(CacheError) {
        guard isResumed, let publisher else { return }
        do throws(UblkError) {
            try ExportedDevice.withdraw(tag(id), publisher.control)
        } catch {
            throw CacheError(
                .kernel, "Ending the exported device '\(link(id))' failed: \(error).")
        }
        unlink(link(id))
    }

    /// No request of the core comes any more after this.
    func endExport(_ id: UInt16) throws(CacheError) {
        guard let exported = state.withLock({ $0.cores[id]?.exported }) else {
            return try withdrawLeftOver(id)
        }
        try exported.end()
        state.withLock { $0.cores[id]?.exported = nil }
    }

    /// Makes the exported devices again whose end was taken back because of `error`. Returns the
    /// error, with what cannot be made again.
    func exportingAgain(_ ids: [UInt16], after error: CacheError) -> CacheError {
        var message = error.message
        for id in ids {
            do throws(CacheError) {
                try exportAgain(id)
            } catch let second {
                message += " Making the exported device of core \(id) again failed: "
                message += second.message
            }
        }
        return CacheError(error.code, message)
    }

    private func exportAgain(_ id: UInt16) throws(CacheError) {
        guard let core = state.withLock({ $0.cores[id] }), core.exported == nil,
            let coreDevice = core.device
        else { return }
        try export(
            id,
            try ExportedLimits(
                cache: device.limits, core: coreDevice.limits,
                lineBytes: shared.geometry.lineBytes, coreName: coreDevice.path))
    }

    /// Drops a core whose exported device is gone: its lines, dirty or not, its device, its place
    /// in the configuration.
    private func forget(_ id: UInt16) throws(CacheError) {
        try endExport(id)
        shared.setHasDevice(id, false)
        guard dropLines(id) else { throw stays(id) }
        for worker in workers {
            while try worker.ask({ .detachCore(core: id, $0) }) == -EBUSY { usleep(2_000) }
        }
        // The journal must not say anything of this core to another one of its id.
        guard try commitJournal() else { throw stays(id) }
        shared.removeCore(id)
        state.withLock { _ = $0.cores.removeValue(forKey: id) }
        var configuration = store.configuration
        configuration.cores.removeAll { $0.id == id }
        try store.save(configuration)
    }

    /// False if that would need the journal, and it cannot be written.
    private func dropLines(_ id: UInt16) -> Bool {
        while true {
            switch shared.dropLines(core: id) {
            case .done: return true
            case .journalFails: return false
            case .again: break
            }
            // Whatever the journal waits for, a worker has to find it.
            workers.first?.post(.journal)
            usleep(2_000)
        }
    }

    private func stays(_ id: UInt16) -> CacheError {
        CacheError(
            .inputOutput,
            "Writing the journal to the cache device '\(device.path)' failed: core \(id) stays in "
                + "the configuration of cache \(cacheID), without its exported device.")
    }

    /// Makes everything durable that the cache holds by now; false if that failed.
    func commitJournal() throws(CacheError) -> Bool {
        guard let worker = workers.first else { return true }
        let commit = shared.requestCommit()
        worker.post(.journal)
        while true {
            if let isWell = shared.commitOutcome(commit) { return isWell }
            usleep(1_000)
        }
    }

    /// Throws with `heading` and a line for each use, if one of the cores' devices is in use.
    func refuseUse(of cores: [CoreEntry], _ heading: String) throws(CacheError) {
        var lines: [String] = []
        for core in cores {
            guard let exported = core.exported else { continue }
            for use in exported.uses() {
                let partition = use.device.dropFirst(exported.name.count)
                lines.append("\(link(core.id))\(partition) (/dev/\(use.device)): \(use.purpose)")
            }
        }
        guard !lines.isEmpty else { return }
        throw CacheError(.mounted, ([heading] + lines).joined(separator: "\n"))
    }
}
