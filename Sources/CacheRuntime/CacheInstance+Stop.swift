import CacheEngine
import CacheFormat
import Glibc
import Synchronization

extension CacheInstance {
    /// Ends the cache: no exported device is left, everything is stored, the devices are closed.
    ///
    /// With `flush` all dirty data is brought to the cores first; without, it stays in the cache
    /// for a later load. Cancelled during the flush, the cache goes on as before.
    package func stop(flush: Bool, cancelled: () -> Bool) throws(CacheError) {
        try changing { () throws(CacheError) in
            try checkRunning()
            let cores = state.withLock { Array($0.cores.values) }.sorted { $0.id < $1.id }
            try refuseUse(
                of: cores, "Can't stop cache instance \(cacheID) due to mounted devices:")
            if flush { try refuseInactive() }
            state.withLock { $0.isStopping = true }
            do throws(CacheError) {
                stopBackgroundFlush()
                if flush { try clean(cores.map(\.id), cancelled: cancelled) }
                try endExports(cores.map(\.id))
            } catch {
                state.withLock { $0.isStopping = false }
                throw error
            }
            // What was written between the flush and the end of the devices.
            var failure: CacheError?
            if flush {
                do throws(CacheError) {
                    try clean(cores.map(\.id), cancelled: { false })
                } catch {
                    failure = error
                }
            }
            try shutDown()
            if let failure { throw failure }
        }
    }

    /// Ends all exported devices, or none: somebody may have opened one just now.
    private func endExports(_ ids: [UInt16]) throws(CacheError) {
        for id in ids {
            do throws(CacheError) {
                try endExport(id)
            } catch {
                throw exportingAgain(ids, after: error)
            }
        }
    }

    /// Ends whatever is running and stores the metadata. The instance cannot be used afterwards.
    func shutDown() throws(CacheError) {
        stopClock()
        for id in state.withLock({ Array($0.cores.keys) }) { try endExport(id) }
        endAdoption()
        // Data and journal first: pages that are durable must not name what is not.
        let isCommitted = try commitJournal()
        for worker in workers { try worker.stop() }
        state.withLock { $0.isStopped = true }
        let dirty = state.withLock { Array($0.cores.keys) }
            .reduce(UInt64(0)) { $0 &+ shared.sum(.dirtyLines, core: $1) }
        guard isCommitted else {
            throw CacheError(
                .inputOutput,
                "Writing the journal to the cache device '\(device.path)' failed. The cache is "
                    + "stopped without storing its metadata; loading it recovers what was durable.")
        }
        for core in state.withLock({ Array($0.cores.values) }) { try core.device?.flush() }
        try store.markStopping(shared.dirtyDigest)
        try store.markClean(try store.storeSetPages(shared), dirtyLineCount: dirty)
        image.remove()
        // Closes the core devices; the cache device goes with the instance.
        state.withLock { state in
            for id in state.cores.keys { state.cores[id]?.device = nil }
        }
    }
}
