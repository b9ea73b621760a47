import CacheRuntime
import Foundation

/// What only tests and measurements ask for: environment variables of `casd`, which `casadm` passes
/// on.
enum EnvironmentOptions {
    /// `UBLK_CAS_DATA_MOVEMENT`: how requests' data is moved; nil for the best that the kernel has.
    static func movement() throws(CacheError) -> DataMovement? {
        let known = DataMovement.allCases.map(\.rawValue).joined(separator: ", ")
        return try value("UBLK_CAS_DATA_MOVEMENT", "one of \(known)") {
            DataMovement(rawValue: $0)
        }
    }

    /// `UBLK_CAS_REGISTERED_REQUESTS`: how many requests of a worker may have their pages
    /// registered at a time.
    static func registeredRequestMax() throws(CacheError) -> UInt32? {
        try value("UBLK_CAS_REGISTERED_REQUESTS", "a number up to 16384") {
            UInt32($0).flatMap { $0 <= 16384 ? $0 : nil }
        }
    }

    private static func value<Value>(
        _ name: String, _ expected: String, _ parse: (String) -> Value?
    ) throws(CacheError) -> Value? {
        guard let text = ProcessInfo.processInfo.environment[name] else { return nil }
        guard let value = parse(text) else {
            throw CacheError(
                .invalidArgument,
                "The environment variable \(name) is '\(text)'; it may be \(expected).")
        }
        return value
    }
}
