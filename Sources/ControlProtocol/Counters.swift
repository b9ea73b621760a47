/// What is in the cache now, in 4 KiB blocks; a line with any valid byte counts whole.
package struct Usage: Codable, Sendable, Equatable {
    package var occupancy: UInt64
    /// Of the whole cache, in the view of a core too.
    package var free: UInt64
    package var clean: UInt64
    package var dirty: UInt64

    package init(occupancy: UInt64 = 0, free: UInt64 = 0, clean: UInt64 = 0, dirty: UInt64 = 0) {
        self.occupancy = occupancy
        self.free = free
        self.clean = clean
        self.dirty = dirty
    }
}

/// Requests since the last reset, each counted once.
package struct RequestCounters: Codable, Sendable, Equatable {
    package struct Direction: Codable, Sendable, Equatable {
        /// All lines were there, and none had to be waited for.
        package var hits: UInt64
        /// All lines were there, but the request waited for one.
        package var deferred: UInt64
        package var partialMisses: UInt64
        package var fullMisses: UInt64
        /// Requests that went around the cache; not in `total`.
        package var passThrough: UInt64

        package init(
            hits: UInt64 = 0, deferred: UInt64 = 0, partialMisses: UInt64 = 0,
            fullMisses: UInt64 = 0, passThrough: UInt64 = 0
        ) {
            self.hits = hits
            self.deferred = deferred
            self.partialMisses = partialMisses
            self.fullMisses = fullMisses
            self.passThrough = passThrough
        }

        package var total: UInt64 { hits + deferred + partialMisses + fullMisses }
    }

    package var reads: Direction
    package var writes: Direction
    package var prefetchReadahead: UInt64
    package var cleaner: UInt64

    package init(
        reads: Direction = Direction(), writes: Direction = Direction(),
        prefetchReadahead: UInt64 = 0, cleaner: UInt64 = 0
    ) {
        self.reads = reads
        self.writes = writes
        self.prefetchReadahead = prefetchReadahead
        self.cleaner = cleaner
    }

    package var serviced: UInt64 { reads.total + writes.total }
    package var user: UInt64 { serviced + reads.passThrough + writes.passThrough }
    package var total: UInt64 { user + prefetchReadahead + cleaner }
}

/// Bytes moved since the last reset. Whoever shows them rounds each up to 4 KiB blocks, and adds
/// up totals from the rounded numbers.
package struct BlockCounters: Codable, Sendable, Equatable {
    /// Cleaner and prefetch are not in here, but have counters of their own below.
    package var coreReads: UInt64
    package var coreWrites: UInt64
    package var cacheReads: UInt64
    package var cacheWrites: UInt64
    /// What users of the exported devices read and wrote.
    package var exportedReads: UInt64
    package var exportedWrites: UInt64
    package var prefetchCoreReads: UInt64
    package var prefetchCacheWrites: UInt64
    package var cleanerCacheReads: UInt64
    package var cleanerCoreWrites: UInt64

    package init(
        coreReads: UInt64 = 0, coreWrites: UInt64 = 0, cacheReads: UInt64 = 0,
        cacheWrites: UInt64 = 0, exportedReads: UInt64 = 0, exportedWrites: UInt64 = 0,
        prefetchCoreReads: UInt64 = 0, prefetchCacheWrites: UInt64 = 0,
        cleanerCacheReads: UInt64 = 0, cleanerCoreWrites: UInt64 = 0
    ) {
        self.coreReads = coreReads
        self.coreWrites = coreWrites
        self.cacheReads = cacheReads
        self.cacheWrites = cacheWrites
        self.exportedReads = exportedReads
        self.exportedWrites = exportedWrites
        self.prefetchCoreReads = prefetchCoreReads
        self.prefetchCacheWrites = prefetchCacheWrites
        self.cleanerCacheReads = cleanerCacheReads
        self.cleanerCoreWrites = cleanerCoreWrites
    }
}

/// Requests to a device that failed, since the last reset.
package struct ErrorCounters: Codable, Sendable, Equatable {
    package var cacheReads: UInt64
    package var cacheWrites: UInt64
    package var coreReads: UInt64
    package var coreWrites: UInt64

    package init(
        cacheReads: UInt64 = 0, cacheWrites: UInt64 = 0, coreReads: UInt64 = 0,
        coreWrites: UInt64 = 0
    ) {
        self.cacheReads = cacheReads
        self.cacheWrites = cacheWrites
        self.coreReads = coreReads
        self.coreWrites = coreWrites
    }

    package var cacheTotal: UInt64 { cacheReads + cacheWrites }
    package var coreTotal: UInt64 { coreReads + coreWrites }
    package var total: UInt64 { cacheTotal + coreTotal }
}

/// All numbers of one object: the whole cache, or one core.
package struct Statistics: Codable, Sendable, Equatable {
    package var usage: Usage
    package var requests: RequestCounters
    package var blocks: BlockCounters
    package var errors: ErrorCounters

    package init(
        usage: Usage = Usage(), requests: RequestCounters = RequestCounters(),
        blocks: BlockCounters = BlockCounters(), errors: ErrorCounters = ErrorCounters()
    ) {
        self.usage = usage
        self.requests = requests
        self.blocks = blocks
        self.errors = errors
    }
}
