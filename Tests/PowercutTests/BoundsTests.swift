import Testing

@testable import powercut

private let writer = Writer(seed: 7, name: "one")

private func area(_ step: UInt32, round: UInt32 = 1, _ sectorCount: Int = 1000) -> AreaStep {
    AreaStep(writer, Version(round: round, step: step), sectorCount: sectorCount)
}

@Suite struct PromiseTests {
    @Test func linesAreCollected() throws {
        var promises = Promises()
        try promises.add("promise one 1 5\npromise one 1 9\ndurable one 1 11\nstate wb 1,2\n")
        try promises.add("promise two 1 3\npromise one 2 2\n")
        #expect(promises.count == 5 && promises.complaints.isEmpty)
        #expect(promises.upTo["one"] == [1: 9, 2: 2] && promises.lastRound("one") == 2)
        #expect(promises.lastRound("three") == nil && promises.steps("three").isEmpty)
        let steps = promises.steps("one").sorted()
        let expected =
            (1...9).map { Version(round: 1, step: $0) } + [Version(round: 1, step: 11)]
            + [Version(round: 2, step: 1), Version(round: 2, step: 2)]
        #expect(steps == expected)
    }

    @Test func aTornLastLineSaysNothing() throws {
        var promises = Promises()
        try promises.add("promise one 1 5\npromise one 1 1234")
        #expect(promises.upTo["one"] == [1: 5])
        try promises.add("")
        #expect(promises.count == 1)
    }

    @Test func whatAWriterSawIsAComplaint() throws {
        var promises = Promises()
        try promises.add("wrong one sector 3: read zeroes\n")
        #expect(promises.complaints == ["wrong one sector 3: read zeroes"])
    }

    @Test(arguments: ["promise one 1\n", "promise one 1 x\n", "premise one 1 2\n", "hello\n"])
    func otherLinesAreRefused(text: String) {
        #expect(throws: Complaint.self) {
            var promises = Promises()
            try promises.add(text)
        }
    }
}

@Suite struct AreaBoundsTests {
    private static func bounds(_ steps: [Version]) -> AreaBounds {
        var bounds = AreaBounds(writer: writer, seen: [Version](repeating: .never, count: 1000))
        bounds.apply(steps)
        return bounds
    }

    private static func accepts(
        _ bounds: AreaBounds, _ content: SectorContent, _ sector: Int
    ) -> Bool {
        if case .success = bounds.judge(content, sector: sector) { true } else { false }
    }

    /// Two writes of the same sector in one round, first and second.
    private static func rewritten() -> (sector: Int, first: UInt32, second: UInt32) {
        var lastWriter: [Int: UInt32] = [:]
        for step in 1...1000 as ClosedRange<UInt32> where area(step).writes {
            for sector in area(step).sectors {
                if let first = lastWriter[sector] { return (sector, first, step) }
                lastWriter[sector] = step
            }
        }
        preconditionFailure("no sector is ever written twice")
    }

    @Test func whatWasPromisedOrIsNewerMayBeThere() {
        let (sector, first, second) = Self.rewritten()
        let old = SectorContent.version(Version(round: 1, step: first))
        let new = SectorContent.version(Version(round: 1, step: second))
        let none = Self.bounds([])
        #expect(Self.accepts(none, .zeroes, sector))
        #expect(Self.accepts(none, old, sector) && Self.accepts(none, new, sector))
        let one = Self.bounds([Version(round: 1, step: first)])
        #expect(!Self.accepts(one, .zeroes, sector))
        #expect(Self.accepts(one, old, sector) && Self.accepts(one, new, sector))
        let both = Self.bounds((1...second).map { Version(round: 1, step: $0) })
        #expect(!Self.accepts(both, .zeroes, sector))
        #expect(!Self.accepts(both, old, sector) && Self.accepts(both, new, sector))
    }

    @Test func whatWasNeverWrittenThereMayNot() {
        let bounds = Self.bounds([])
        for step in 1...50 as ClosedRange<UInt32> {
            let sectors = area(step).sectors
            let outside = sectors.upperBound < 1000 ? sectors.upperBound : sectors.lowerBound - 1
            let content = SectorContent.version(Version(round: 1, step: step))
            #expect(!Self.accepts(bounds, content, outside), "step \(step)")
            #expect(
                Self.accepts(bounds, content, sectors.lowerBound) == area(step).writes,
                "step \(step)")
        }
        #expect(!Self.accepts(bounds, .foreign("x"), 3))
    }

    @Test func whatWasSeenDoesNotGoBack() {
        let (sector, first, second) = Self.rewritten()
        var seen = [Version](repeating: .never, count: 1000)
        seen[sector] = Version(round: 1, step: second)
        let bounds = AreaBounds(writer: writer, seen: seen)
        #expect(!Self.accepts(bounds, .version(Version(round: 1, step: first)), sector))
        #expect(Self.accepts(bounds, .version(Version(round: 1, step: second)), sector))
    }

    /// A disk that keeps, of what was not flushed, any sectors, is always accepted; one that loses
    /// a flushed sector never is.
    @Test(arguments: [1, 2, 3, 4, 5] as [UInt64])
    func cutsAreJudgedAsTheyAre(seed: UInt64) {
        var random = StepRandom(state: seed)
        var disk = [Version](repeating: .never, count: 1000)
        var flushed = disk
        var promised: UInt32 = 0
        let steps = UInt32(1 + random.below(200))
        for number in 1...steps {
            let step = area(number)
            let version = Version(round: 1, step: number)
            if step.writes { for sector in step.sectors { disk[sector] = version } }
            if step.flushes { (flushed, promised) = (disk, number) }
        }
        let bounds = Self.bounds((0..<promised).map { Version(round: 1, step: $0 + 1) })
        for sector in disk.indices {
            let survivor = random.below(2) == 0 ? disk[sector] : flushed[sector]
            let content: SectorContent = survivor == .never ? .zeroes : .version(survivor)
            #expect(Self.accepts(bounds, content, sector))
            if flushed[sector] != .never { #expect(!Self.accepts(bounds, .zeroes, sector)) }
        }
    }
}

@Suite struct SlotBoundsTests {
    private static let slotCount = 4

    private static func step(_ number: UInt32) -> SlotStep {
        SlotStep(writer, Version(round: 1, step: number), slotCount: slotCount)
    }

    private static func bounds(_ promised: UInt32) -> SlotBounds {
        SlotBounds(
            writer: writer, seen: [SlotState](repeating: .initial, count: slotCount),
            promises: [1: promised], endRound: 2)
    }

    /// The first step that replaces a file and after which, for some steps, nothing touches it.
    private static func lonelyWrite() -> UInt32 {
        (1...500).first { number in
            step(number).sectorCount != nil
                && (1...4).allSatisfy { step(number + $0).slot != step(number).slot }
        } ?? 0
    }

    @Test func aPromisedFileIsThere() {
        let number = Self.lonelyWrite()
        let step = Self.step(number)
        let bounds = Self.bounds(number)
        let version = Version(round: 1, step: number)
        let count = step.sectorCount ?? 0
        #expect(bounds.judgeAbsence(slot: step.slot) != nil)
        #expect(bounds.judge(version, sectorCount: count, slot: step.slot) == nil)
        #expect(bounds.judge(version, sectorCount: count + 1, slot: step.slot) != nil)
        #expect(bounds.judge(version, sectorCount: count, slot: (step.slot + 1) % 4) != nil)
        #expect(bounds.judge(.never, sectorCount: count, slot: step.slot) != nil)
        // Not promised: it may be missing.
        #expect(Self.bounds(0).judgeAbsence(slot: step.slot) == nil)
    }

    @Test func aRemovedFileIsGone() throws {
        let number = try #require(
            (2...500).first { number in
                Self.step(number).sectorCount == nil
                    && (1..<number).contains {
                        Self.step($0).slot == Self.step(number).slot
                            && Self.step($0).sectorCount != nil
                    }
            })
        let slot = Self.step(number).slot
        let before = try #require(
            (1..<number).last { Self.step($0).slot == slot && Self.step($0).sectorCount != nil })
        let old = Version(round: 1, step: before)
        let count = try #require(Self.step(before).sectorCount)
        #expect(Self.bounds(number).judgeAbsence(slot: slot) == nil)
        #expect(Self.bounds(number).judge(old, sectorCount: count, slot: slot) != nil)
        // The step before: both may be.
        #expect(Self.bounds(number - 1).judgeAbsence(slot: slot) == nil)
        #expect(Self.bounds(number - 1).judge(old, sectorCount: count, slot: slot) == nil)
    }

    @Test func aFileThatWasSeenStays() {
        let number = Self.lonelyWrite()
        let slot = Self.step(number).slot
        var seen = [SlotState](repeating: .initial, count: Self.slotCount)
        seen[slot] = SlotState(version: Version(round: 1, step: number), isAbsent: false)
        let bounds = SlotBounds(writer: writer, seen: seen, promises: [:], endRound: 1)
        #expect(bounds.judgeAbsence(slot: slot) != nil)
    }
}
