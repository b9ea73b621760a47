import Testing
import Ublk

/// A store in memory: what a power cut leaves. A sector's content is one number, repeated.
private final class Store {
    var sectors: [UInt64: UInt64] = [:]
    /// The sectors given at once, in order.
    var calls: [Range<UInt64>] = []
    /// How many calls succeed from now on.
    var patience = Int.max

    func take(_ first: UInt64, _ bytes: UnsafeRawBufferPointer) -> Int32 {
        guard patience > 0 else { return -5 }
        patience -= 1
        let count = UInt64(bytes.count / 512)
        calls.append(first..<first + count)
        for index in 0..<count { sectors[first + index] = stamp(bytes, Int(index)) }
        return 0
    }

    func content(_ sector: UInt64) -> UInt64 { sectors[sector] ?? 0 }
}

/// The number of which the sector consists, or one that nobody wrote if it is torn.
private func stamp(_ bytes: UnsafeRawBufferPointer, _ index: Int) -> UInt64 {
    let words = (0..<64).map {
        bytes.loadUnaligned(fromByteOffset: index * 512 + $0 * 8, as: UInt64.self)
    }
    return words.allSatisfy { $0 == words[0] } ? words[0] : .max
}

private func sectors(_ stamp: UInt64, _ count: Int) -> [UInt64] {
    [UInt64](repeating: stamp, count: count * 64)
}

/// A cache and its store, and what each sector may hold behind it.
private struct Bench: ~Copyable {
    var cache: VolatileCache
    let store = Store()
    var newest: [UInt64: UInt64] = [:]
    /// What was written since the last flush that ended, and what was there then.
    var allowed: [UInt64: Set<UInt64>] = [:]

    init(limit: Int = 64, writeBackPercent: Int = 0, seed: UInt64 = 1) {
        cache = VolatileCache(sectorLimit: limit, writeBackPercent: writeBackPercent, seed: seed)
    }

    mutating func write(_ first: UInt64, _ count: Int, _ stamp: UInt64) -> Int32 {
        for sector in first..<first + UInt64(count) {
            newest[sector] = stamp
            allowed[sector, default: [0]].insert(stamp)
        }
        let store = self.store
        return sectors(stamp, count).withUnsafeBytes {
            cache.write(first, $0, store: store.take)
        }
    }

    mutating func writeThrough(_ first: UInt64, _ count: Int, _ stamp: UInt64) -> Int32 {
        for sector in first..<first + UInt64(count) {
            newest[sector] = stamp
            allowed[sector] = [stamp]
        }
        let store = self.store
        return sectors(stamp, count).withUnsafeBytes {
            cache.writeThrough(first, $0, store: store.take)
        }
    }

    mutating func flush() -> Int32 {
        let store = self.store
        let result = cache.flush(store: store.take)
        if result == 0 { allowed = newest.mapValues { [$0] } }
        return result
    }

    func read(_ sector: UInt64) -> UInt64 {
        var bytes = sectors(store.content(sector), 1)
        return bytes.withUnsafeMutableBytes {
            cache.overlay(sector, $0)
            return stamp(UnsafeRawBufferPointer($0), 0)
        }
    }

    func check(_ range: Range<UInt64>) {
        for sector in range {
            #expect(read(sector) == newest[sector] ?? 0, "a read of sector \(sector)")
            #expect(
                (allowed[sector] ?? [0]).contains(store.content(sector)),
                "a cut now shows \(store.content(sector)) in sector \(sector)")
        }
    }
}

@Suite struct VolatileCacheTests {
    @Test func nothingReachesTheStoreBeforeAFlush() {
        var bench = Bench()
        #expect(bench.write(10, 8, 1) == 0)
        #expect(bench.store.calls.isEmpty && bench.cache.sectorCount == 8)
        #expect(bench.read(17) == 1 && bench.read(18) == 0)
        #expect(bench.flush() == 0)
        #expect(bench.cache.sectorCount == 0 && bench.store.sectors.count == 8)
        bench.check(0..<32)
    }

    /// Also when the sectors have an older version that was not flushed.
    @Test func aWriteThroughTakesItsSectorsAlong() {
        var bench = Bench()
        #expect(bench.write(0, 16, 1) == 0)
        #expect(bench.writeThrough(4, 4, 2) == 0)
        #expect(bench.store.calls == [4..<8] && bench.cache.sectorCount == 12)
        bench.check(0..<32)
        #expect(bench.flush() == 0)
        #expect(bench.store.content(4) == 2 && bench.store.content(3) == 1)
    }

    @Test func beyondTheLimitTheOldestGo() {
        var bench = Bench(limit: 4)
        for sector in [9, 3, 7, 5] as [UInt64] { #expect(bench.write(sector, 1, sector) == 0) }
        // Written again, it keeps its place in the row.
        #expect(bench.write(9, 1, 90) == 0)
        #expect(bench.store.calls.isEmpty)
        #expect(bench.write(20, 2, 1) == 0)
        #expect(bench.store.calls == [9..<10, 3..<4] && bench.cache.sectorCount == 4)
        bench.check(0..<32)
    }

    @Test func aStoreThatFailsLosesNothing() {
        var bench = Bench(limit: 8, seed: 5)
        for sector in 0..<8 as Range<UInt64> { #expect(bench.write(sector * 2, 1, 1) == 0) }
        bench.store.patience = 3
        #expect(bench.flush() == -5)
        #expect(bench.cache.sectorCount == 5 && bench.store.calls.count == 3)
        bench.check(0..<16)
        #expect(bench.write(17, 3, 2) == 0)
        #expect(bench.write(30, 1, 2) == -5)
        bench.store.patience = .max
        #expect(bench.flush() == 0)
        bench.check(0..<30)
    }

    /// Two unflushed writes: after some writing back all four outcomes of a cut are seen.
    @Test func aCutShowsAnySubset() {
        var outcomes: Set<[UInt64]> = []
        var torn = false
        for seed in 0..<400 as Range<UInt64> {
            var bench = Bench(writeBackPercent: 20, seed: seed)
            #expect(bench.write(0, 4, 1) == 0)
            #expect(bench.write(16, 4, 2) == 0)
            for filler in 0..<4 as Range<UInt64> { #expect(bench.write(32 + filler, 1, 3) == 0) }
            outcomes.insert([bench.store.content(0), bench.store.content(16)])
            torn = torn || bench.store.content(0) != bench.store.content(1)
        }
        #expect(outcomes == [[0, 0], [0, 2], [1, 0], [1, 2]])
        #expect(torn, "no write of four sectors was ever torn")
    }

    /// A cut in the midst of a flush: neither the order of the writes nor that of the sectors.
    @Test func aFlushHasNoOrder() {
        var firsts: Set<UInt64> = []
        for seed in 0..<100 as Range<UInt64> {
            var bench = Bench(seed: seed)
            for sector in [0, 10, 20] as [UInt64] { #expect(bench.write(sector, 2, 1) == 0) }
            bench.store.patience = 1
            #expect(bench.flush() == -5)
            firsts.insert(bench.store.calls[0].lowerBound)
        }
        #expect(firsts.isSuperset(of: [0, 10, 20]))
    }

    @Test(arguments: [1, 2, 3, 4, 0xDEAD] as [UInt64])
    func randomRequestsKeepThePromises(seed: UInt64) {
        var random = SystemOrder(state: seed)
        var bench = Bench(limit: 24, writeBackPercent: 20, seed: seed)
        for step in 1...1500 as ClosedRange<UInt64> {
            let first = UInt64.random(in: 0..<56, using: &random)
            let count = Int.random(in: 1...8, using: &random)
            switch Int.random(in: 0..<12, using: &random) {
            case 0: #expect(bench.flush() == 0 && bench.cache.sectorCount == 0)
            case 1: #expect(bench.writeThrough(first, count, step) == 0)
            case 2:
                bench.store.patience = Int.random(in: 0..<6, using: &random)
                let result = bench.flush()
                bench.store.patience = .max
                #expect((result == 0) == (bench.cache.sectorCount == 0))
            default: #expect(bench.write(first, count, step) == 0)
            }
            #expect(bench.cache.sectorCount <= 24)
            bench.check(0..<64)
        }
    }
}

/// A seeded order of steps.
private struct SystemOrder: RandomNumberGenerator {
    var state: UInt64

    mutating func next() -> UInt64 {
        state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
        return (state ^ state >> 29) &* 0xBF58_476D_1CE4_E5B9
    }
}
