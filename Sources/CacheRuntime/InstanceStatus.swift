package import CacheEngine

/// Everything there is to tell about a running cache, at one moment.
package struct InstanceStatus: Sendable {
    package enum State: Sendable {
        case running, stopping
        /// A core device of the loaded configuration is missing.
        case incomplete
    }

    package var cacheID: UInt16 = 0
    package var state = State.running
    package var mode = EngineMode.writeThrough
    package var durability = EngineDurability.flush
    /// The mode whose dirty data is still being cleaned in the background, after a mode switch.
    package var previousMode: EngineMode?
    package var devicePath = ""
    package var lineBytes: UInt32 = 0
    package var lineCount: UInt64 = 0
    /// Memory that describes the cache's content: set pages and what belongs to them.
    package var metadataBytes: UInt64 = 0
    package var workerCount = 0
    package var cores: [CoreStatus] = []

    package var occupiedLines: UInt64 { cores.reduce(0) { $0 &+ $1.occupiedLines } }
    package var dirtyLines: UInt64 { cores.reduce(0) { $0 &+ $1.dirtyLines } }
}

/// One core of a running cache.
package struct CoreStatus: Sendable {
    package var id: UInt16 = 0
    package var isActive = false
    package var devicePath = ""
    /// For example "/dev/cas1-1".
    package var exportedLink = ""
    /// For example "/dev/ublkb0"; nil when inactive.
    package var exportedNode: String?
    package var sectorCount: UInt64 = 0
    /// Seconds since the core became dirty; nil: it is clean.
    package var dirtySeconds: UInt64?
    /// 0.0 to 1.0 while its dirty data is being cleaned on request; else nil.
    package var flushProgress: Double?
    package var occupiedLines: UInt64 = 0
    package var dirtyLines: UInt64 = 0
    /// Since the last reset.
    package var counters: [Counter: UInt64] = [:]
}
