import Glibc

/// Where the sockets of running caches are, one a cache.
package enum RunDirectory {
    package static let standard = "/run/ublk-cas"
    /// Environment variable that names another directory.
    package static let override = "UBLK_CAS_RUN_DIR"

    package static var path: String {
        guard let value = getenv(override), value.pointee != 0 else { return standard }
        return String(cString: value)
    }

    package static func socketName(cacheID: UInt16) -> String {
        "cache-\(cacheID).sock"
    }

    package static func socketPath(cacheID: UInt16, in directory: String = path) -> String {
        "\(directory)/\(socketName(cacheID: cacheID))"
    }

    /// The file that the server of a cache keeps locked as long as it lives.
    package static func lockPath(cacheID: UInt16, in directory: String = path) -> String {
        "\(directory)/cache-\(cacheID).lock"
    }

    /// The cache a directory entry belongs to, or nil for any other file.
    package static func cacheID(socketName: String) -> UInt16? {
        guard socketName.hasPrefix("cache-"), socketName.hasSuffix(".sock") else { return nil }
        return UInt16(socketName.dropFirst("cache-".count).dropLast(".sock".count))
    }
}
