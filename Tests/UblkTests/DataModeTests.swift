import Testing

@testable import Ublk

@Suite struct DataModeTests {
    static let kernel612 = Features(rawValue: 0x1fe)
    static let kernel73 = Features(rawValue: 0x1f_ffff)

    @Test(
        arguments: [
            .copy, .userCopy, .zeroCopy, .automatic(fallsBack: false), .automatic(fallsBack: true),
        ] as [DataMode])
    func aModeIsWhatItsDeviceWasMadeFor(mode: DataMode) {
        #expect(DataMode(mode.features) == mode)
        #expect(DataMode(mode.features.union([.userRecovery, .commandIoctlEncode])) == mode)
    }

    @Test func theBestModeIsOneTheKernelHas() {
        #expect(DataMode.best(kernel: Self.kernel612, seesData: false) == .copy)
        #expect(
            DataMode.best(kernel: Self.kernel73, seesData: false) == .automatic(fallsBack: true))
        // Linux 6.15: explicit registration only.
        #expect(DataMode.best(kernel: [.supportZeroCopy, .userCopy], seesData: false) == .copy)
    }

    @Test func whoSeesTheDataGetsThemInMemory() {
        #expect(DataMode.best(kernel: Self.kernel73, seesData: true) == .copy)
    }
}

@Suite struct ThreadPlanTests {
    private static func shares(
        _ queues: UInt16, _ depth: UInt16, threads: UInt16?, spread: Bool
    ) -> [[TagShare]]? {
        ThreadPlan(threadCount: threads, spreadsEveryQueue: spread).shares(
            queueCount: queues, queueDepth: depth)
    }

    /// The device starts when every tag was fetched, and a tag fetched twice is refused.
    @Test(arguments: [(1, 1), (1, 128), (3, 5), (4, 64)] as [(UInt16, UInt16)])
    func eachTagHasExactlyOneThread(queues: UInt16, depth: UInt16) throws {
        var plans = 0
        for threads in [nil] + (1...16).map({ UInt16($0) }) as [UInt16?] {
            for spread in [false, true] {
                guard let shares = Self.shares(queues, depth, threads: threads, spread: spread)
                else { continue }
                plans += 1
                #expect(shares.count == Int(threads ?? queues))
                #expect(shares.allSatisfy { !$0.isEmpty })
                var seen = Set<Int>()
                for share in shares.joined() {
                    #expect(!share.tags.isEmpty)
                    for tag in share.tags {
                        #expect(seen.insert(Int(share.queue) << 16 | Int(tag)).inserted)
                        #expect(share.queue < queues && tag < depth)
                    }
                }
                #expect(seen.count == Int(queues) * Int(depth))
            }
        }
        #expect(plans >= 3)
    }

    @Test func byDefaultAQueueHasItsThread() throws {
        let shares = try #require(Self.shares(2, 3, threads: nil, spread: false))
        #expect(
            shares == [
                [TagShare(queue: 0, tags: [0, 1, 2])], [TagShare(queue: 1, tags: [0, 1, 2])],
            ]
        )
    }

    @Test func severalThreadsOfAQueueTakeTurns() throws {
        let shares = try #require(Self.shares(2, 4, threads: 4, spread: false))
        #expect(shares[0] == [TagShare(queue: 0, tags: [0, 2])])
        #expect(shares[1] == [TagShare(queue: 0, tags: [1, 3])])
        #expect(shares[3] == [TagShare(queue: 1, tags: [1, 3])])
    }

    @Test func spreadThreadsServeEveryQueue() throws {
        let shares = try #require(Self.shares(2, 4, threads: 2, spread: true))
        #expect(
            shares[0] == [TagShare(queue: 0, tags: [0, 2]), TagShare(queue: 1, tags: [0, 2])])
    }

    @Test func whatCannotBeDividedIsRefused() {
        #expect(Self.shares(2, 8, threads: 3, spread: false) == nil)
        #expect(Self.shares(2, 8, threads: 1, spread: false) == nil)
        #expect(Self.shares(1, 8, threads: 9, spread: false) == nil)
        #expect(Self.shares(1, 8, threads: 9, spread: true) == nil)
        #expect(Self.shares(2, 8, threads: 0, spread: false) == nil)
    }

    @Test func oneThreadAQueueIsForEveryKernel() {
        #expect(!ThreadPlan().needsPerTagThreads(queueCount: 4))
        #expect(!ThreadPlan(threadCount: 4).needsPerTagThreads(queueCount: 4))
        #expect(ThreadPlan(threadCount: 8).needsPerTagThreads(queueCount: 4))
        #expect(
            ThreadPlan(threadCount: 4, spreadsEveryQueue: true).needsPerTagThreads(queueCount: 4))
    }
}
