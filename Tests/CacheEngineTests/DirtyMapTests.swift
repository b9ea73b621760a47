import Testing

@testable import CacheEngine

@Suite struct DirtyMapTests {
    private static func extents(_ map: DirtyMap) -> [UInt64] {
        var found: [UInt64] = []
        var from: UInt64 = 0
        while let extent = map.next(from: from) {
            found.append(extent)
            from = extent + 1
        }
        return found
    }

    // One level to four, and the borders between.
    @Test(arguments: [1, 2, 63, 64, 65, 4096, 4097, 262_144, 262_145, 300_000] as [UInt64])
    func firstAndLastExtentAreFoundWhateverTheSize(extentCount: UInt64) {
        let map = DirtyMap(extentCount: extentCount)
        defer { map.deallocate() }
        #expect(map.next(from: 0) == nil)
        map.insert(extentCount - 1)
        #expect(map.next(from: 0) == extentCount - 1)
        map.insert(0)
        #expect(map.contains(0) && map.contains(extentCount - 1))
        #expect(Self.extents(map) == (extentCount == 1 ? [0] : [0, extentCount - 1]))
        #expect(map.next(from: extentCount) == nil)
        #expect(map.next(from: .max) == nil)
        map.remove(extentCount - 1)
        map.remove(0)
        #expect(map.next(from: 0) == nil && !map.contains(0))
    }

    @Test(arguments: [50, 1000, 5000, 300_000] as [UInt64])
    func itHoldsWhatASetWouldHold(extentCount: UInt64) {
        let map = DirtyMap(extentCount: extentCount)
        defer { map.deallocate() }
        var model = Set<UInt64>()
        for step in 0..<4000 {
            let extent = UInt64.random(in: 0..<extentCount)
            // Grows, then shrinks to nothing.
            if Int.random(in: 0..<4000) > step {
                map.insert(extent)
                model.insert(extent)
            } else if let member = model.randomElement() {
                map.remove(member)
                model.remove(member)
            }
            #expect(map.contains(extent) == model.contains(extent))
            if step % 100 == 0 {
                #expect(Self.extents(map) == model.sorted())
                #expect(map.next(from: extent) == model.filter { $0 >= extent }.min())
            }
        }
        for extent in model { map.remove(extent) }
        #expect(map.next(from: 0) == nil)
    }

    @Test func removingWhatIsNotThereDoesNotHurtNeighbours() {
        let map = DirtyMap(extentCount: 10_000)
        defer { map.deallocate() }
        map.insert(70)
        map.remove(71)
        map.remove(5000)
        #expect(Self.extents(map) == [70])
    }

    /// Each task changes extents of its own; they share every word and every summary.
    @Test func workersDoNotLoseEachOthersExtents() async {
        let map = DirtyMap(extentCount: 8192)
        defer { map.deallocate() }
        for _ in 0..<20 {
            var expected: [UInt64] = []
            await withTaskGroup(of: Set<UInt64>.self) { group in
                for task in UInt64(0)..<4 {
                    group.addTask {
                        var own = Set<UInt64>()
                        for _ in 0..<3000 {
                            // Few words, so that summaries come and go all the time.
                            let extent = UInt64.random(in: 0..<8) * 1024 + task
                            if own.contains(extent) {
                                map.remove(extent)
                                own.remove(extent)
                            } else {
                                map.insert(extent)
                                own.insert(extent)
                            }
                        }
                        return own
                    }
                }
                for await own in group { expected += own }
            }
            #expect(Self.extents(map) == expected.sorted())
            for extent in expected { map.remove(extent) }
            #expect(map.next(from: 0) == nil)
        }
    }
}
