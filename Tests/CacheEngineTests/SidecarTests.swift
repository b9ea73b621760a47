import Testing

@testable import CacheEngine

/// The sidecar of a cache's only set, all zero.
private final class Memory {
    let bench: Bench
    init() throws { bench = try Bench(.writeBack) }
    var sidecar: SetSidecar { bench.shared.sidecar(0) }
    var sum: Int {
        UnsafeRawBufferPointer(start: sidecar.base, count: SetSidecar.byteCount)
            .reduce(0) { $0 + Int($1) }
    }
}

@Suite struct SidecarTests {
    @Test func theFieldsDoNotTouchEachOther() throws {
        let memory = try Memory()
        let sidecar = memory.sidecar
        sidecar.lock()
        sidecar.occupied = 224
        sidecar.dirty = 223
        sidecar.small = 222
        sidecar.waiters = .max
        sidecar.isUrgent = true
        sidecar.isChanged = true
        sidecar.isListed = true
        sidecar.hadFailedWrite = true
        sidecar.listed.pageIsBeingWritten = true
        sidecar.listed.isOlder = true
        sidecar.listed.nextListed = .max - 1
        sidecar.lastCommit = .max - 2
        sidecar.listed.listedBlock = .max - 3
        for hash in UInt16(0)..<32 { sidecar.directWrites(hash).pointee = 0xd0 }
        for way in 0..<224 { sidecar.uses[way] = WayUse(rawValue: 0x55) }
        for _ in 0..<SetSidecar.ghostCapacity { sidecar.ghostInsert(0xbeef) }
        sidecar.unlock()
        #expect(sidecar.occupied == 224 && sidecar.dirty == 223 && sidecar.small == 222)
        #expect(sidecar.waiters == .max)
        #expect(sidecar.isUrgent && sidecar.isChanged)
        #expect(sidecar.isListed && sidecar.hadFailedWrite)
        #expect(sidecar.listed.pageIsBeingWritten && sidecar.listed.isOlder)
        #expect(sidecar.listed.nextListed == UInt32.max - 1)
        #expect(sidecar.lastCommit == UInt64.max - 2)
        #expect(sidecar.listed.listedBlock == UInt64.max - 3)
        #expect((UInt16(0)..<32).allSatisfy { sidecar.directWrites($0).pointee == 0xd0 })
        #expect((0..<224).allSatisfy { sidecar.uses[$0] == WayUse(rawValue: 0x55) })
        #expect(sidecar.ghostContains(0xbeef))
    }

    @Test func theFlagsDoNotTouchEachOther() throws {
        let memory = try Memory()
        let flags = memory.sidecar
        flags.isChanged = false
        let before = memory.sum
        flags.isUrgent = true
        flags.isChanged = true
        flags.isListed = true
        flags.hadFailedWrite = true
        flags.isChanged = false
        #expect(flags.isUrgent && !flags.isChanged && flags.isListed && flags.hadFailedWrite)
        flags.isListed = false
        #expect(flags.isUrgent && !flags.isListed && flags.hadFailedWrite)
        flags.hadFailedWrite = false
        #expect(flags.isUrgent && !flags.hadFailedWrite)
        flags.isUrgent = false
        #expect(memory.sum == before)
    }

    @Test func directWritesAreCountedByHash() throws {
        let memory = try Memory()
        memory.sidecar.directWrites(3).pointee += 1
        #expect(memory.sidecar.directWrites(3 + 32).pointee == 1)
        #expect(memory.sidecar.directWrites(4).pointee == 0)
    }

    @Test func theGhostRemembersTheLast200() throws {
        let memory = try Memory()
        let ghost = memory.sidecar
        for hash in UInt16(1)...450 {
            #expect(!ghost.ghostContains(hash))
            ghost.ghostInsert(hash)
            #expect(ghost.ghostContains(hash))
        }
        #expect((251...450).allSatisfy { ghost.ghostContains(UInt16($0)) })
        #expect((1...250).allSatisfy { !ghost.ghostContains(UInt16($0)) })
    }

    @Test func theLockExcludes() async throws {
        let memory = try Memory()
        let sidecar = memory.sidecar
        let shared = memory.bench.shared
        await withTaskGroup(of: Void.self) { group in
            for _ in 0..<4 {
                group.addTask {
                    let sidecar = shared.sidecar(0)
                    for _ in 0..<20_000 {
                        sidecar.lock()
                        sidecar.waiters += 1
                        sidecar.unlock()
                    }
                }
            }
        }
        #expect(sidecar.waiters == 80_000)
    }
}

@Suite struct CounterTests {
    @Test func everyCounterHasAPlaceInTheRow() {
        #expect(Counter.allCases.map(\.rawValue) == Array(0..<Counter.allCases.count))
        #expect(Counter.allCases.count <= WorkerCounters.rowWords)
    }

    @Test func workersContributeDifferencesThatSumUp() throws {
        let bench = try Bench(.writeBack, workerCount: 3)
        bench.shared.counters(0).add(.occupiedLines, 1, 5)
        bench.shared.counters(1).subtract(.occupiedLines, 1, 7)
        bench.shared.counters(2).add(.occupiedLines, 1, 4)
        bench.shared.counters(2).add(.occupiedLines, 2, 100)
        // The control thread counts, too.
        bench.shared.counters(3).add(.occupiedLines, 1)
        #expect(bench.sum(.occupiedLines) == 3)
    }

    @Test func aResetZeroesWhatUsersSeeAndKeepsWhatIsTrueNow() throws {
        let bench = try Bench(.writeBack, workerCount: 2)
        for worker in 0...2 {
            for counter in Counter.allCases {
                bench.shared.counters(worker).add(counter, 1, 10)
                bench.shared.counters(worker).add(counter, 2, 10)
            }
        }
        bench.shared.resetCounters(core: 1)
        let kept: Set<Counter> = [
            .occupiedLines, .dirtyLines, .cacheWritesDone, .directWritesDone,
        ]
        for counter in Counter.allCases {
            #expect(bench.sum(counter) == (kept.contains(counter) ? 30 : 0), "\(counter)")
            #expect(bench.shared.sum(counter, core: 2) == 30)
        }
    }

    @Test func aCoreThatComesBackStartsFromZero() throws {
        let bench = try Bench(.writeThrough)
        try bench.write(0, 8, 1)
        bench.finishAll()
        #expect(bench.shared.dropLines(core: 1) == .done)
        bench.shared.removeCore(1)
        bench.addCore(1)
        #expect(Counter.allCases.allSatisfy { bench.sum($0) == 0 })
        try bench.flush()
        #expect(bench.take() == ["answer 0"])
    }
}
