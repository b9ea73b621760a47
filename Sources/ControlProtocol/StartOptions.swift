/// What `casadm -S` asks of the `casd` it starts, and `casd` of its worker.
///
/// Nil means the server's default (a new cache) or what the metadata says (a loaded one).
package struct StartOptions: Codable, Sendable, Equatable {
    package var cacheDevice: String
    /// 1...16384; nil: the first free one, or the loaded cache's own.
    package var cacheID: UInt16?
    package var mode: CacheMode?
    /// Cache line size in KiB: 4, 8, 16, 32 or 64.
    package var lineKiB: UInt32?
    package var durability: Durability?
    package var load: Bool
    package var force: Bool
    /// With `load`: start without the parts of the metadata that cannot be read.
    package var forcePartial: Bool
    /// With `load`: go on after a worker that died; a cache that was stopped in order stays so.
    package var resume: Bool
    /// When the worker died that this one goes on after, on the monotonic clock in nanoseconds;
    /// told when it happens.
    package var diedAt: UInt64?

    package init(
        cacheDevice: String, cacheID: UInt16? = nil, mode: CacheMode? = nil,
        lineKiB: UInt32? = nil, durability: Durability? = nil, load: Bool = false,
        force: Bool = false, forcePartial: Bool = false, resume: Bool = false
    ) {
        self.cacheDevice = cacheDevice
        self.cacheID = cacheID
        self.mode = mode
        self.lineKiB = lineKiB
        self.durability = durability
        self.load = load
        self.force = force
        self.forcePartial = forcePartial
        self.resume = resume
    }

    /// The command line of `casd` (without the program's name): the long options of `casadm -S`,
    /// plus the descriptor on which readiness is to be reported.
    package func arguments(readyDescriptor: Int32?) -> [String] {
        var list = ["--cache-device", cacheDevice]
        if let cacheID { list += ["--cache-id", String(cacheID)] }
        if let mode { list += ["--cache-mode", mode.rawValue] }
        if let lineKiB { list += ["--cache-line-size", String(lineKiB)] }
        if let durability { list += ["--durability", durability.rawValue] }
        if load { list.append("--load") }
        if force { list.append("--force") }
        if forcePartial { list.append("--force-partial") }
        if resume { list.append("--resume") }
        if let readyDescriptor { list += ["--ready-fd", String(readyDescriptor)] }
        return list
    }
}

/// The single JSON line that `casd` writes to its readiness descriptor, then closes it.
package struct Readiness: Codable, Sendable, Equatable {
    package var ok: Bool
    package var cacheID: UInt16?
    /// Why it failed, as a sentence for the admin.
    package var message: String?
    /// One of `ErrorBody.Code` where it says more than "failed".
    package var code: String?
    /// Sentences for an admin whose cache started, but not entirely as expected.
    package var warnings: [String]?
    /// What recovery found, if the cache had not been stopped.
    package var recovery: RecoveryBody?
    /// Of a server that goes on after another one: since the end of that.
    package var pauseMilliseconds: UInt64?

    package static func ready(
        cacheID: UInt16, warnings: [String] = [], recovery: RecoveryBody? = nil,
        pauseMilliseconds: UInt64? = nil
    ) -> Readiness {
        var ready = Readiness(
            ok: true, cacheID: cacheID, warnings: warnings.isEmpty ? nil : warnings)
        ready.recovery = recovery
        ready.pauseMilliseconds = pauseMilliseconds
        return ready
    }

    package static func failed(_ error: ErrorBody) -> Readiness {
        Readiness(ok: false, message: error.message, code: error.code)
    }

    package init(
        ok: Bool, cacheID: UInt16? = nil, message: String? = nil, code: String? = nil,
        warnings: [String]? = nil
    ) {
        self.ok = ok
        self.cacheID = cacheID
        self.message = message
        self.code = code
        self.warnings = warnings
    }

    private enum CodingKeys: String, CodingKey {
        case ok, cacheID = "cacheId", message, code, warnings, recovery, pauseMilliseconds
    }
}
