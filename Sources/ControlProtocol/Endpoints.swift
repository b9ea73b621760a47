/// The control interface: HTTP and JSON on the Unix socket of one cache.
///
/// | request | body | answer |
/// | --- | --- | --- |
/// | `GET /v1/version` | | `VersionBody` |
/// | `GET /v1/cache` | | `CacheSnapshot` |
/// | `POST /v1/cores` | `AddCoreBody` | `AddedCore` |
/// | `DELETE /v1/cores/{id}?flush=true` | | `OperationStatus` (202) |
/// | `POST /v1/flush` | `FlushBody` | `OperationStatus` (202) |
/// | `POST /v1/mode` | `ModeBody` | `OperationStatus` (202) |
/// | `POST /v1/parameters` | `ParametersBody` | 204 |
/// | `POST /v1/stop` | `StopBody` | `OperationStatus` (202) |
/// | `POST /v1/counters/reset` | `ResetCountersBody` | 204 |
/// | `GET /v1/operations/{id}` | | `OperationStatus` |
/// | `DELETE /v1/operations/{id}` | | `OperationStatus` (asks it to stop early; poll on) |
///
/// Whatever may write back dirty data is an operation: the answer names it, the client polls it.
/// A server that stops keeps its socket until the final status of the stop has been read, or for
/// five seconds. Every other answer is an `ErrorBody` with a status of 400 or more. Every answer
/// carries `Endpoints.versionHeader`.
package enum Endpoints {
    /// Rises when an old client could misunderstand a new server.
    package static let protocolVersion = 1
    package static let versionHeader = "ublk-cas-protocol"

    package static let version = "/v1/version"
    package static let cache = "/v1/cache"
    package static let cores = "/v1/cores"
    package static let flush = "/v1/flush"
    package static let mode = "/v1/mode"
    package static let resetCounters = "/v1/counters/reset"
    package static let parameters = "/v1/parameters"
    package static let stop = "/v1/stop"
    package static let operations = "/v1/operations"

    /// Query name of core removal: "true" or "false" (dirty data of the core is lost).
    package static let flushQuery = "flush"

    /// The path of one core, with the question whether to clean it first.
    package static func core(_ id: UInt16, flush: Bool) -> String {
        "\(cores)/\(id)?\(flushQuery)=\(flush)"
    }

    package static func operation(_ id: UInt64) -> String {
        "\(operations)/\(id)"
    }
}
