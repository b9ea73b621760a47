/// Whether a worker that has died is started again: not if that leads nowhere.
///
/// Three deaths within ten seconds, or three starts in turn that did not become ready, are enough.
package struct RestartPolicy: Equatable, Sendable {
    package static let standardDeathMax = 3
    /// Environment variable that allows more or fewer deaths in that time.
    package static let override = "UBLK_CAS_RESTART_LIMIT"
    package static let windowNanoseconds: UInt64 = 10_000_000_000

    package enum Decision: Equatable, Sendable {
        case restart
        /// Why not, as the end of a sentence about the server.
        case giveUp(String)
    }

    /// When the latest deaths were, at most `deathMax`.
    private var deaths: [UInt64] = []
    private var failedStarts = 0
    private let deathMax: Int

    package init(deathMax: Int = Self.standardDeathMax) {
        precondition(deathMax > 0)
        self.deathMax = deathMax
    }

    /// A worker ended that should not have, at `now` of a clock that never goes back.
    package mutating func noteDeath(at now: UInt64, wasReady: Bool) -> Decision {
        deaths.append(now)
        if deaths.count > deathMax { deaths.removeFirst() }
        failedStarts = wasReady ? 0 : failedStarts + 1
        if failedStarts >= Self.standardDeathMax {
            return .giveUp("could not be started again in \(failedStarts) attempts")
        }
        if deaths.count == deathMax, let first = deaths.first,
            now - first <= Self.windowNanoseconds
        {
            return .giveUp("died \(deaths.count) times within 10 seconds")
        }
        return .restart
    }
}
