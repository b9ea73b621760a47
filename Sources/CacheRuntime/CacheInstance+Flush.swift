package import CacheEngine
import CacheFormat
import Glibc
import Synchronization

extension CacheInstance {
    /// Brings the dirty data of one core, or of all, to the core devices. I/O goes on meanwhile;
    /// `snapshot` tells the progress.
    ///
    /// Cancelled, it throws `.interrupted`, and the cache goes on as before.
    package func flush(core: UInt16?, cancelled: () -> Bool) throws(CacheError) {
        try checkRunning()
        let cores = state.withLock { $0.cores }
        if let core {
            guard let entry = cores[core] else { throw noSuchCore(core) }
            guard entry.device != nil else {
                throw CacheError(
                    .incompatible, "Core \(core) of cache \(cacheID) is inactive.")
            }
            try withoutBackgroundFlush { () throws(CacheError) in
                try clean([core], cancelled: cancelled)
            }
        } else {
            try refuseInactive()
            try withoutBackgroundFlush { () throws(CacheError) in
                try clean(Array(cores.keys), cancelled: cancelled)
            }
        }
    }

    /// A flush of the whole cache would leave out the dirty data of inactive cores.
    func refuseInactive() throws(CacheError) {
        finishAdoption()
        let inactive = state.withLock { state in
            state.cores.values.filter { $0.device == nil }.map(\.id)
        }
        guard inactive.allSatisfy({ shared.sum(.dirtyLines, core: $0) == 0 }) else {
            throw CacheError(
                .incompatible,
                "Cache is in incomplete state - at least one core is inactive, and the cache holds "
                    + "dirty data of it.")
        }
    }

    /// Cleans cores side by side.
    func clean(_ ids: [UInt16], cancelled: () -> Bool) throws(CacheError) {
        // Not on a worker's time.
        finishAdoption()
        let claimed = try claim(ids)
        defer { unclaim(claimed) }
        var replies: [(core: UInt16, reply: Reply)] = []
        for id in claimed {
            let reply = try Reply()
            flusher(of: id).post(.beginFlush(core: id, reply))
            replies.append((id, reply))
        }
        var isCancelled = false
        var failure: (core: UInt16, code: Int32)?
        for (core, reply) in replies {
            var result = reply.wait(milliseconds: 100)
            while result == nil {
                if !isCancelled && cancelled() {
                    isCancelled = true
                    for id in claimed { flusher(of: id).post(.cancelFlush(core: id)) }
                }
                result = reply.wait(milliseconds: 100)
            }
            if let result, result != 0, failure == nil { failure = (core, result) }
        }
        guard let failure else { return }
        throw flushFailed(failure.core, failure.code)
    }

    private func flushFailed(_ core: UInt16, _ code: Int32) -> CacheError {
        switch code {
        case -ECANCELED:
            CacheError(
                .interrupted,
                "You have interrupted flushing of cache dirty data. CAS continues to operate "
                    + "normally and dirty data that remains on cache device stays there until it "
                    + "is flushed.")
        case -EBUSY:
            CacheError(.flushRunning, "Another flush operation in progress")
        default:
            CacheError(
                .inputOutput,
                "Flushing core \(core) of cache \(cacheID) failed: \(errorText(-code)). Its dirty "
                    + "data stay in the cache.")
        }
    }

    /// Active cores among `ids`, marked as being flushed.
    private func claim(_ ids: [UInt16]) throws(CacheError) -> [UInt16] {
        let claimed = state.withLock { state -> [UInt16]? in
            let active = ids.filter { state.cores[$0]?.device != nil }.sorted()
            if active.contains(where: { state.cores[$0]?.isFlushing == true }) { return nil }
            for id in active {
                state.cores[id]?.isFlushing = true
                state.cores[id]?.dirtyAtFlushStart = shared.sum(.dirtyLines, core: id)
            }
            return active
        }
        guard let claimed else {
            throw CacheError(.flushRunning, "Another flush operation in progress")
        }
        return claimed
    }

    private func unclaim(_ ids: [UInt16]) {
        state.withLock { state in
            for id in ids { state.cores[id]?.isFlushing = false }
        }
    }
}

// MARK: - Mode

extension CacheInstance {
    /// Switches the mode. Leaving write-back, `flush` decides whether the dirty data is cleaned
    /// before (true) or in the background afterwards (false); without dirty data it means nothing.
    ///
    /// Cancelled during the flush, the old mode stays.
    package func setMode(
        _ mode: EngineMode, flush: Bool, cancelled: () -> Bool
    ) throws(CacheError) {
        try changing { () throws(CacheError) in
            try checkRunning()
            let old = shared.mode
            guard mode != old else { return }
            stopBackgroundFlush()
            if old == .writeBack && flush {
                try refuseInactive()
                // No new dirty data meanwhile, and none from writes that began before: then the end
                // of the flush is the end of it.
                shared.freezeDirty()
                defer { shared.thawDirty() }
                for worker in workers { _ = try worker.ask { .settle($0) } }
                try clean(state.withLock { Array($0.cores.keys) }, cancelled: cancelled)
                try applyMode(mode)
            } else {
                try applyMode(mode)
                if old == .writeBack { try startBackgroundFlush(from: old) }
            }
        }
    }

    /// Switches the durability. Raised, everything answered before is durable on return.
    package func setDurability(_ durability: EngineDurability) throws(CacheError) {
        try changing { () throws(CacheError) in
            try checkRunning()
            guard durability != shared.durability else { return }
            var configuration = store.configuration
            configuration.durability = durability.stored
            try store.save(configuration)
            shared.durability = durability
            guard durability == .write else { return }
            for worker in workers { _ = try worker.ask { .settle($0) } }
            // What was answered before the switch: in the cache, and gone directly to cores.
            var isWell = try commitJournal()
            for core in state.withLock({ Array($0.cores.values) }) {
                do throws(CacheError) { try core.device?.flush() } catch { isWell = false }
            }
            guard isWell else {
                throw CacheError(
                    .inputOutput,
                    "The durability of cache \(cacheID) is 'write' from now on, but making what "
                        + "was written before durable failed.")
            }
        }
    }

    private func applyMode(_ mode: EngineMode) throws(CacheError) {
        var configuration = store.configuration
        configuration.mode = mode.stored
        try store.save(configuration)
        shared.mode = mode
    }

    /// The cleaning that goes on after a mode switch.
    struct BackgroundFlush: Sendable {
        let thread: NativeThread
        let isCancelled: CancelFlag
    }

    final class CancelFlag: Sendable {
        let flag = Atomic(false)
    }

    func startBackgroundFlush(from old: EngineMode) throws(CacheError) {
        let flag = CancelFlag()
        state.withLock { $0.previousMode = old }
        let thread = try NativeThread(name: "cas mode switch") { [self] in
            // Dirty data that cannot be cleaned now stays dirty: nothing is lost.
            let ids = state.withLock { Array($0.cores.keys) }
            try? clean(ids) { flag.flag.load(ordering: .relaxed) }
            state.withLock { $0.previousMode = nil }
        }
        backgroundFlush.withLock { $0 = BackgroundFlush(thread: thread, isCancelled: flag) }
    }

    /// Runs `body` while the cleaning that a mode switch left in the background stands still: it
    /// is nobody's flush, and makes way.
    func withoutBackgroundFlush(_ body: () throws(CacheError) -> Void) throws(CacheError) {
        guard let old = state.withLock({ $0.previousMode }) else { return try body() }
        stopBackgroundFlush()
        defer {
            let ids = state.withLock { Array($0.cores.keys) }
            if shared.mode != .writeBack,
                ids.contains(where: { shared.sum(.dirtyLines, core: $0) > 0 })
            {
                try? startBackgroundFlush(from: old)
            }
        }
        try body()
    }

    func stopBackgroundFlush() {
        guard let running = backgroundFlush.withLock({ $0.take() }) else { return }
        running.isCancelled.flag.store(true, ordering: .relaxed)
        running.thread.join()
    }
}
