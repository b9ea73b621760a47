/// Everything there is to tell about a cache, at one moment: answer of `GET /v1/cache`.
package struct CacheSnapshot: Codable, Sendable, Equatable {
    package enum State: String, Codable, Sendable {
        case running, stopping
        /// A device failed so that the cache no longer serves from it.
        case notRunning
        /// A core device of the loaded configuration is missing.
        case incomplete
    }

    package var id: UInt16
    package var state: State
    package var mode: CacheMode
    /// The mode whose dirty data is still being cleaned in the background, after a mode switch.
    package var previousMode: CacheMode?
    package var device: String
    /// Bytes of data the cache can hold.
    package var sizeBytes: UInt64
    package var lineBytes: UInt32
    /// As Open CAS names them: nop, alru, acp; always, nhit; none, readahead.
    package var cleaningPolicy: String
    package var promotionPolicy: String
    package var prefetchPolicy: String
    package var durability: Durability
    /// Seconds since the cache became dirty; nil: it is clean.
    package var dirtySeconds: UInt64?
    /// Memory that describes the cache's content, in bytes.
    package var metadataBytes: UInt64
    /// 0.0 to 1.0 while dirty data of the whole cache is being cleaned on request; else nil.
    package var flushProgress: Double?
    package var statistics: Statistics
    package var cores: [CoreSnapshot]

    package init(
        id: UInt16, state: State, mode: CacheMode, previousMode: CacheMode? = nil,
        device: String, sizeBytes: UInt64, lineBytes: UInt32, cleaningPolicy: String,
        promotionPolicy: String, prefetchPolicy: String, durability: Durability = .flush,
        dirtySeconds: UInt64? = nil, metadataBytes: UInt64, flushProgress: Double? = nil,
        statistics: Statistics,
        cores: [CoreSnapshot]
    ) {
        self.id = id
        self.state = state
        self.mode = mode
        self.previousMode = previousMode
        self.device = device
        self.sizeBytes = sizeBytes
        self.lineBytes = lineBytes
        self.cleaningPolicy = cleaningPolicy
        self.promotionPolicy = promotionPolicy
        self.prefetchPolicy = prefetchPolicy
        self.durability = durability
        self.dirtySeconds = dirtySeconds
        self.metadataBytes = metadataBytes
        self.flushProgress = flushProgress
        self.statistics = statistics
        self.cores = cores
    }
}

/// One core of a cache.
package struct CoreSnapshot: Codable, Sendable, Equatable {
    package enum State: String, Codable, Sendable {
        case active, inactive
    }

    package var id: UInt16
    package var state: State
    package var device: String
    /// The stable name, for example "/dev/cas1-1".
    package var exportedDevice: String
    /// The kernel's node behind that name, for example "/dev/ublkb0"; nil when inactive.
    package var ublkDevice: String?
    package var sizeBytes: UInt64
    /// Stream length in KiB from which requests go around the cache.
    package var sequentialCutoffKiB: UInt32
    /// always, full or never.
    package var sequentialCutoffPolicy: String
    /// Seconds since the core became dirty; nil: it is clean.
    package var dirtySeconds: UInt64?
    /// 0.0 to 1.0 while this core's dirty data is being cleaned on request; else nil.
    package var flushProgress: Double?
    package var statistics: Statistics

    package init(
        id: UInt16, state: State, device: String, exportedDevice: String,
        ublkDevice: String? = nil, sizeBytes: UInt64, sequentialCutoffKiB: UInt32,
        sequentialCutoffPolicy: String, dirtySeconds: UInt64? = nil,
        flushProgress: Double? = nil, statistics: Statistics
    ) {
        self.id = id
        self.state = state
        self.device = device
        self.exportedDevice = exportedDevice
        self.ublkDevice = ublkDevice
        self.sizeBytes = sizeBytes
        self.sequentialCutoffKiB = sequentialCutoffKiB
        self.sequentialCutoffPolicy = sequentialCutoffPolicy
        self.dirtySeconds = dirtySeconds
        self.flushProgress = flushProgress
        self.statistics = statistics
    }
}
