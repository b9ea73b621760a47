/// What a supervisor notes about its cache, for the time when nobody answers for it: the file
/// `cache-ID.json` in the run directory, locked as long as the supervisor lives.
package struct CacheRecord: Codable, Sendable, Equatable {
    package var id: UInt16
    package var device: String
    /// Why the cache is out of service, as a sentence; nil as long as it is not.
    package var failure: String?
    /// The last lines of the log when it went out of service.
    package var log: [String]
    package var supervisor: Int32
    /// What the server's program attaches to and speaks; another program must agree.
    package var versions: ServerVersions
    /// How the last upgrade went.
    package var upgrade: UpgradeResult?

    package init(
        id: UInt16, device: String, supervisor: Int32 = -1,
        versions: ServerVersions = ServerVersions(memoryImage: 0), failure: String? = nil,
        log: [String] = [], upgrade: UpgradeResult? = nil
    ) {
        self.supervisor = supervisor
        self.versions = versions
        self.upgrade = upgrade
        self.id = id
        self.device = device
        self.failure = failure
        self.log = log
    }
}

/// What must be the same for one program to go on where another one stopped.
package struct ServerVersions: Codable, Sendable, Equatable {
    package var memoryImage: UInt32
    package var control: Int
    package var program: String

    package init(memoryImage: UInt32) {
        self.memoryImage = memoryImage
        control = Endpoints.protocolVersion
        program = ProgramVersion.current
    }

    /// Why a program of these versions cannot go on after the running one, as the end of a sentence
    /// about it; nil if it can.
    package func conflict(with running: ServerVersions) -> String? {
        if memoryImage != running.memoryImage {
            return
                "works with memory images of version \(memoryImage), and the running server with "
                + "version \(running.memoryImage)"
        }
        if control != running.control {
            return "speaks control protocol \(control), and the running server \(running.control)"
        }
        return nil
    }
}

/// The end of an upgrade, in the record of the supervisor that carried it out.
package struct UpgradeResult: Codable, Sendable, Equatable {
    /// The wish it answers.
    package var wish: UInt64
    /// Nil if the new program serves.
    package var failure: String?
    /// From the end of the old server to the first request that the new one could answer.
    package var pauseMilliseconds: UInt64?

    package init(wish: UInt64, failure: String? = nil, pauseMilliseconds: UInt64? = nil) {
        self.wish = wish
        self.failure = failure
        self.pauseMilliseconds = pauseMilliseconds
    }
}

/// What an upgrade is asked by: the file `cache-ID.upgrade` in the run directory, then SIGHUP to
/// the supervisor.
package struct UpgradeWish: Codable, Sendable, Equatable {
    package var wish: UInt64
    /// The new `casd`.
    package var program: String

    package init(wish: UInt64, program: String) {
        self.wish = wish
        self.program = program
    }
}

extension RunDirectory {
    package static func upgradePath(cacheID: UInt16, in directory: String = path) -> String {
        "\(directory)/cache-\(cacheID).upgrade"
    }

    package static func recordPath(cacheID: UInt16, in directory: String = path) -> String {
        "\(directory)/cache-\(cacheID).json"
    }

    /// The cache that a record in the run directory is about, or nil for any other file.
    package static func cacheID(recordName: String) -> UInt16? {
        guard recordName.hasPrefix("cache-"), recordName.hasSuffix(".json") else { return nil }
        return UInt16(recordName.dropFirst("cache-".count).dropLast(".json".count))
    }
}
