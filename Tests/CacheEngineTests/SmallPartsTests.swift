import Testing

@testable import CacheEngine

@Suite struct WayUseTests {
    private static func use(readers: Int = 0, writers: Int = 0) -> WayUse {
        var use = WayUse(rawValue: 0)
        for _ in 0..<readers { use.addReader() }
        for _ in 0..<writers { use.addWriter() }
        return use
    }

    @Test func readersExcludeNobody() {
        let use = Self.use(readers: 3)
        #expect(!use.isIdle)
        #expect(use.canAddReader && use.canAddWriter && use.canBecomeExclusive)
    }

    @Test func writersShareButKeepOutAnExclusiveUser() {
        let use = Self.use(writers: 2)
        #expect(!use.isIdle && !use.isExclusive)
        #expect(use.canAddReader && use.canAddWriter && !use.canBecomeExclusive)
    }

    @Test func anExclusiveUserKeepsOutWritersButNotReaders() {
        var use = Self.use(readers: 1)
        use.becomeExclusive()
        #expect(use.isExclusive && !use.canAddWriter && !use.canBecomeExclusive)
        #expect(use.canAddReader)
        use.endExclusive()
        #expect(use == Self.use(readers: 1))
    }

    @Test func theCleanerKeepsOutAnExclusiveUserAlone() {
        var use = Self.use()
        use.isCleaning = true
        #expect(!use.isIdle && use.canAddReader && use.canAddWriter && !use.canBecomeExclusive)
        use.isCleaning = false
        #expect(use.isIdle)
    }

    @Test func thereIsAnEndToReadersAndWriters() {
        #expect(Self.use(readers: 14).canAddReader)
        #expect(!Self.use(readers: 15).canAddReader)
        #expect(Self.use(writers: 5).canAddWriter)
        #expect(!Self.use(writers: 6).canAddWriter)
        #expect(!Self.use(writers: 6).isExclusive)
    }

    @Test func theCountsDoNotTouchEachOther() {
        for readers in 0...15 {
            for writers in 0...6 {
                var use = Self.use(readers: readers, writers: writers)
                use.isCleaning = true
                #expect(use.readers == readers && use.writers == writers && use.isCleaning)
                for _ in 0..<readers { use.removeReader() }
                #expect(use.readers == 0 && use.writers == writers && use.isCleaning)
                for _ in 0..<writers { use.removeWriter() }
                use.isCleaning = false
                #expect(use.isIdle)
            }
        }
    }

    @Test func oneReaderTooManyTraps() async {
        await #expect(processExitsWith: .failure) {
            var use = WayUse(rawValue: 15)
            use.addReader()
        }
    }
}

@Suite struct SlotPoolTests {
    @Test func everySlotIsGivenOutOnceThenNone() {
        var pool = SlotPool(capacity: 5, initial: 0)
        let taken = (0..<5).compactMap { _ in pool.acquire() }
        #expect(Set(taken) == [0, 1, 2, 3, 4])
        #expect(pool.acquire() == nil)
        #expect(!pool.hasFree(1) && pool.hasFree(0) && !pool.isUnused)
        pool.release(3)
        #expect(pool.hasFree(1) && !pool.hasFree(2))
        #expect(!pool.isInUse(3) && pool.isInUse(2))
        #expect(pool.acquire() == 3)
        #expect(pool.acquire() == nil)
    }

    @Test func eachUseOfASlotHasAGenerationOfItsOwn() throws {
        var pool = SlotPool(capacity: 1, initial: 0)
        var seen = Set<UInt32>()
        for _ in 0..<1000 {
            let acquired = pool.acquire()
            let slot = try #require(acquired)
            #expect(seen.insert(pool.generation(slot)).inserted)
            pool.release(slot)
        }
    }

    @Test func slotsKeepWhatIsPutIntoThem() throws {
        var pool = SlotPool(capacity: 3, initial: -1)
        for _ in 0..<3 {
            let acquired = pool.acquire()
            let slot = try #require(acquired)
            #expect(pool[slot].pointee == -1)
            pool[slot].pointee = Int(slot) * 10
        }
        for slot in UInt32(0)..<3 { #expect(pool[slot].pointee == Int(slot) * 10) }
    }

    @Test func releasingTwiceTraps() async {
        await #expect(processExitsWith: .failure) {
            var pool = SlotPool(capacity: 2, initial: 0)
            guard let slot = pool.acquire() else { return }
            pool.release(slot)
            pool.release(slot)
        }
    }

    @Test func aSlotOutsideThePoolTraps() async {
        await #expect(processExitsWith: .failure) {
            let pool = SlotPool(capacity: 2, initial: 0)
            _ = pool.isInUse(2)
        }
    }

    @Test func aPartKeepsTheWaysOfSixteenLines() {
        var part = Part()
        for line in 0..<16 { #expect(part.ways[line] == Ways.none) }
        for line in 0..<16 { part.ways[line] = UInt8(line * 13) }
        for line in 0..<16 { #expect(part.ways[line] == UInt8(line * 13)) }
        part.ways[7] = Ways.none
        #expect(part.ways[6] == 78 && part.ways[7] == Ways.none && part.ways[8] == 104)
    }
}

@Suite struct CommandQueueTests {
    /// Fills to `most`, empties to `least`, again and again; everything comes out in order.
    private static func play(_ queue: inout CommandQueue, most: Int, least: Int) {
        var next: UInt32 = 0
        var expected: UInt32 = 0
        for round in 0..<200 {
            while queue.count < most - round % 3 {
                queue.append(.readCore).pointee.slot = next
                next += 1
            }
            while queue.count > least + round % 5 {
                #expect(queue.first?.pointee.slot == expected)
                queue.removeFirst()
                expected += 1
            }
        }
        while queue.first != nil {
            #expect(queue.oldest.pointee.slot == expected)
            queue.removeFirst()
            expected += 1
        }
        #expect(expected == next && next > 500)
    }

    @Test(arguments: [(16, 9, 0), (16, 9, 2), (16, 12, 3), (16, 16, 1), (8, 64, 3), (2, 200, 0)])
    func commandsComeOutInOrder(capacity: Int, most: Int, least: Int) {
        var queue = CommandQueue(capacity: capacity)
        defer { queue.deallocate() }
        Self.play(&queue, most: most, least: least)
    }

    @Test func itDoesNotGrowWhileHalfOfItIsEnough() {
        var queue = CommandQueue(capacity: 32)
        defer { queue.deallocate() }
        Self.play(&queue, most: 16, least: 0)
        #expect(queue.capacity == 32)
        queue.restart()
        #expect(queue.head == 0 && queue.tail == 0)
        Self.play(&queue, most: 40, least: 0)
        #expect(queue.capacity == 64 || queue.capacity == 128)
    }

    @Test func theLastCommandMayGrowUntilItIsTaken() {
        var queue = CommandQueue(capacity: 4)
        defer { queue.deallocate() }
        #expect(queue.last == nil)
        for number in UInt32(0)..<7 {
            queue.append(.readCore).pointee.slot = number
            queue.last?.pointee.byteCount = 512
            #expect(queue.last?.pointee.slot == number)
            #expect(queue.oldest.pointee.byteCount == 512)
            if number > 0 { queue.removeFirst() }
        }
        while queue.count > 0 { queue.removeFirst() }
        #expect(queue.first == nil && queue.last == nil)
    }

    @Test func takingFromAnEmptyQueueTraps() async {
        await #expect(processExitsWith: .failure) {
            var queue = CommandQueue(capacity: 4)
            queue.removeFirst()
        }
    }
}
