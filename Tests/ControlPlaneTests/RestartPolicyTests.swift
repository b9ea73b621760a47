import ControlPlane
import Testing

@Suite struct RestartPolicyTests {
    private static let second: UInt64 = 1_000_000_000

    private func decisions(
        _ policy: RestartPolicy = RestartPolicy(), at seconds: [Double], wasReady: Bool = true
    ) -> [Bool] {
        var policy = policy
        return seconds.map { moment in
            let now = UInt64(moment * Double(Self.second))
            return policy.noteDeath(at: now, wasReady: wasReady) == .restart
        }
    }

    @Test func aWorkerThatDiesNowAndThenIsStartedAgain() {
        #expect(decisions(at: [100, 106, 112, 118, 124]) == [true, true, true, true, true])
    }

    @Test func threeDeathsWithinTenSecondsAreEnough() {
        #expect(decisions(at: [100, 104, 110]) == [true, true, false])
        #expect(decisions(at: [100, 104, 110.1]) == [true, true, true])
        // Any three, not only the first.
        #expect(decisions(at: [100, 120, 121, 129]) == [true, true, true, false])
        #expect(decisions(at: [100, 100, 100]) == [true, true, false])
    }

    /// However long each attempt takes.
    @Test func threeStartsInTurnThatCameToNothingAreEnough() {
        #expect(decisions(at: [100, 160, 220], wasReady: false) == [true, true, false])
    }

    @Test func aStartThatSucceedsForgivesThoseThatDidNot() {
        var policy = RestartPolicy()
        for (minute, wasReady) in [false, false, true, false, false].enumerated() {
            let now = UInt64(minute) * 60 * Self.second
            #expect(policy.noteDeath(at: now, wasReady: wasReady) == .restart)
        }
        #expect(
            policy.noteDeath(at: 600 * Self.second, wasReady: false)
                == .giveUp("could not be started again in 3 attempts"))
    }

    @Test func theReasonNamesTheDeaths() {
        var policy = RestartPolicy()
        _ = policy.noteDeath(at: 1, wasReady: true)
        _ = policy.noteDeath(at: 2, wasReady: true)
        #expect(
            policy.noteDeath(at: 3, wasReady: true) == .giveUp("died 3 times within 10 seconds"))
    }

    @Test func theLimitCanBeAnother() {
        #expect(decisions(RestartPolicy(deathMax: 1), at: [5]) == [false])
        let many = decisions(RestartPolicy(deathMax: 50), at: (0..<50).map { Double($0) / 10 })
        #expect(many.dropLast().allSatisfy { $0 } && many.last == false)
    }
}
