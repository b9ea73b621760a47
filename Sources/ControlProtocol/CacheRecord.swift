/// What a supervisor notes about its cache, for the time when nobody answers for it: the file
/// `cache-ID.json` in the run directory, locked as long as the supervisor lives.
package struct CacheRecord: Codable, Sendable, Equatable {
    package var id: UInt16
    package var device: String
    /// Why the cache is out of service, as a sentence; nil as long as it is not.
    package var failure: String?
    /// The last lines of the log when it went out of service.
    package var log: [String]

    package init(id: UInt16, device: String, failure: String? = nil, log: [String] = []) {
        self.id = id
        self.device = device
        self.failure = failure
        self.log = log
    }
}

extension RunDirectory {
    package static func recordPath(cacheID: UInt16, in directory: String = path) -> String {
        "\(directory)/cache-\(cacheID).json"
    }

    /// The cache that a record in the run directory is about, or nil for any other file.
    package static func cacheID(recordName: String) -> UInt16? {
        guard recordName.hasPrefix("cache-"), recordName.hasSuffix(".json") else { return nil }
        return UInt16(recordName.dropFirst("cache-".count).dropLast(".json".count))
    }
}
