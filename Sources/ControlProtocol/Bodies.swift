/// Body of every answer that is not a success.
package struct ErrorBody: Codable, Sendable, Equatable, Error {
    /// Codes a client acts on; any other string is possible and only for logs.
    package enum Code {
        package static let noSuchCore = "no-such-core"
        package static let coreInactive = "core-inactive"
        package static let flushInProgress = "flush-in-progress"
        package static let cancelled = "cancelled"
        package static let cacheIDTaken = "cache-id-taken"
        package static let deviceNotFound = "device-not-found"
        package static let deviceBusy = "device-busy"
        package static let metadataFound = "metadata-found"
        package static let noMetadata = "no-metadata"
        package static let notCleanlyStopped = "not-cleanly-stopped"
        package static let cleanlyStopped = "cleanly-stopped"
        package static let badRequest = "bad-request"
        package static let noSuchOperation = "no-such-operation"
        package static let noSuchEndpoint = "no-such-endpoint"
        package static let failed = "failed"
    }

    package var code: String
    /// A sentence: what failed, on which device, why, what to do.
    package var message: String

    package init(code: String, message: String) {
        self.code = code
        self.message = message
    }
}

/// Answer of `GET /v1/version`.
package struct VersionBody: Codable, Sendable, Equatable {
    /// `Endpoints.protocolVersion` of the server.
    package var protocolVersion: Int
    /// The program's version, for example "0.1.0".
    package var programVersion: String

    package init(protocolVersion: Int, programVersion: String) {
        self.protocolVersion = protocolVersion
        self.programVersion = programVersion
    }
}

/// `POST /v1/cores`: attaches a core device.
package struct AddCoreBody: Codable, Sendable, Equatable {
    package var device: String
    /// 0...4095; nil: the first free one, searched 1...4095, then 0.
    package var id: UInt16?

    package init(device: String, id: UInt16? = nil) {
        self.device = device
        self.id = id
    }
}

/// Answer of `POST /v1/cores`, sent when the exported device is usable.
package struct AddedCore: Codable, Sendable, Equatable {
    package var id: UInt16
    /// The stable name, for example "/dev/cas1-1".
    package var exportedDevice: String

    package init(id: UInt16, exportedDevice: String) {
        self.id = id
        self.exportedDevice = exportedDevice
    }
}

/// `POST /v1/flush`: cleans all dirty data of the cache, or of one core.
package struct FlushBody: Codable, Sendable, Equatable {
    package var core: UInt16?

    package init(core: UInt16? = nil) {
        self.core = core
    }
}

/// `POST /v1/mode`: switches the cache's mode; `flush` is nil where nothing can be dirty.
package struct ModeBody: Codable, Sendable, Equatable {
    package var mode: CacheMode
    /// True: clean all dirty data before the operation ends. False: clean it in the background.
    package var flush: Bool?

    package init(mode: CacheMode, flush: Bool? = nil) {
        self.mode = mode
        self.flush = flush
    }
}

/// `POST /v1/stop`: ends the cache and its server.
package struct StopBody: Codable, Sendable, Equatable {
    /// False keeps dirty data on the cache device, for a later `--load`.
    package var flush: Bool

    package init(flush: Bool) {
        self.flush = flush
    }
}

/// `POST /v1/counters/reset`: of all cores, or of one.
package struct ResetCountersBody: Codable, Sendable, Equatable {
    package var core: UInt16?

    package init(core: UInt16? = nil) {
        self.core = core
    }
}

/// A request that takes as long as there is dirty data.
package struct OperationStatus: Codable, Sendable, Equatable {
    package enum Kind: String, Codable, Sendable {
        case flush, stop, removeCore, setMode
    }

    package enum State: String, Codable, Sendable {
        /// `cancelled` means stopped early by a client: the cache goes on as before.
        case running, done, failed, cancelled
    }

    package var id: UInt64
    package var kind: Kind
    package var state: State
    /// 0.0 to 1.0 of the work known so far; nil before it is known.
    package var progress: Double?
    /// Set when `state` is failed.
    package var error: ErrorBody?

    package init(
        id: UInt64, kind: Kind, state: State, progress: Double? = nil, error: ErrorBody? = nil
    ) {
        self.id = id
        self.kind = kind
        self.state = state
        self.progress = progress
        self.error = error
    }
}

/// When a write may be answered.
package enum Durability: String, Codable, Sendable, CaseIterable {
    /// When a crash of the server cannot lose it. A power cut may, until the next FLUSH.
    case flush
    /// When a power cut cannot lose it.
    case write
}

/// `POST /v1/parameters`: changes those that are not nil.
package struct ParametersBody: Codable, Sendable, Equatable {
    package var durability: Durability?

    package init(durability: Durability? = nil) { self.durability = durability }
}

/// What a load found of a cache that had not been stopped, or was damaged.
package struct RecoveryBody: Codable, Sendable, Equatable {
    package var dirtyLines: UInt64
    package var dirtyBytes: UInt64
    package var journalBlocks: UInt64
    package var journalRecords: UInt64
    /// Records whose data had not reached the device, and which nobody had been promised.
    package var recordsDropped: UInt64
    /// Sets that could not be read; with `--force-partial` they are empty now.
    package var damagedSets: UInt64
    package var seconds: Double
    /// It had been stopped in order, and is damaged; nil as false.
    package var wasStopped: Bool?

    package init(
        dirtyLines: UInt64, dirtyBytes: UInt64, journalBlocks: UInt64, journalRecords: UInt64,
        recordsDropped: UInt64, damagedSets: UInt64, seconds: Double, wasStopped: Bool? = nil
    ) {
        self.dirtyLines = dirtyLines
        self.dirtyBytes = dirtyBytes
        self.journalBlocks = journalBlocks
        self.journalRecords = journalRecords
        self.recordsDropped = recordsDropped
        self.damagedSets = damagedSets
        self.seconds = seconds
        self.wasStopped = wasStopped
    }
}
