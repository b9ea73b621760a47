import Testing

@testable import powercut

private let writer = Writer(seed: 7, name: "one")

private func content(_ sector: UInt64, _ version: Version, by writer: Writer = writer) -> [UInt8] {
    var bytes = [UInt8](repeating: 0xEE, count: SectorContent.byteCount)
    bytes.withUnsafeMutableBytes {
        SectorContent.write(writer, sector: sector, version, to: $0)
    }
    return bytes
}

private func recognised(_ bytes: [UInt8], as sector: UInt64) -> SectorContent {
    bytes.withUnsafeBytes { SectorContent($0, writer: writer, sector: sector) }
}

@Suite struct SectorContentTests {
    private let version = Version(round: 3, step: 12)

    @Test func aSectorIsRecognised() {
        #expect(recognised(content(5, version), as: 5) == .version(version))
        #expect(recognised([UInt8](repeating: 0, count: 512), as: 5) == .zeroes)
    }

    @Test func whatBelongsElsewhereIsNamed() {
        #expect(
            recognised(content(6, version), as: 5)
                == .foreign("content of sector 6 of this stream, round 3 step 12"))
        #expect(
            recognised(content(5, version, by: Writer(seed: 7, name: "two")), as: 5)
                == .foreign("content of sector 5 of another stream, round 3 step 12"))
        #expect(
            recognised(content(5, version, by: Writer(seed: 8, name: "one")), as: 5)
                == .foreign("content of another run"))
    }

    /// Any changed byte, and any mixture of two versions.
    @Test func nothingElseIsTakenForAVersion() {
        let good = content(5, version)
        for place in good.indices {
            var bytes = good
            bytes[place] ^= 0x10
            #expect(recognised(bytes, as: 5) != .version(version), "byte \(place)")
            guard case .foreign = recognised(bytes, as: 5) else {
                Issue.record("byte \(place) may be changed")
                return
            }
        }
        let newer = content(5, Version(round: 3, step: 13))
        // The version is the fifth word.
        for cut in stride(from: 40, to: 512, by: 8) {
            var mixture = newer
            mixture[cut...] = good[cut...]
            let torn = SectorContent.foreign("torn inside the sector, round 3 step 13")
            #expect(recognised(mixture, as: 5) == torn, "cut at \(cut)")
        }
    }

    @Test func versionsAreOrderedByRoundAndStep() {
        #expect(Version(round: 1, step: .max) < Version(round: 2, step: 0))
        #expect(Version(round: 2, step: 1) < Version(round: 2, step: 2))
        #expect(Version.never < Version(round: 0, step: 1))
        #expect(version.round == 3 && version.step == 12)
    }
}

@Suite struct PlanTests {
    /// Steps stay inside, and of each kind there are some.
    @Test func areaStepsAreMixed() {
        let steps = (1...4000).map {
            AreaStep(writer, Version(round: 1, step: $0), sectorCount: 1000)
        }
        #expect(steps.allSatisfy { $0.sectors.lowerBound >= 0 && $0.sectors.upperBound <= 1000 })
        #expect(steps.allSatisfy { (1...128).contains($0.sectors.count) })
        for kind in [.read, .write, .durableWrite] as [AreaStep.Kind] {
            #expect(steps.filter { $0.kind == kind }.count > 200, "\(kind)")
        }
        #expect(Set(steps.map(\.sectors.count)).isSuperset(of: [1, 7, 8, 16, 128]))
        #expect(steps.filter(\.flushes).count > 200)
        #expect(steps.enumerated().allSatisfy { ($0.offset + 1) % 32 != 0 || $0.element.flushes })
        #expect(Set(steps.flatMap(\.sectors)).count == 1000, "sectors that are never touched")
    }

    @Test func otherRoundsAndStreamsDoOtherThings() {
        func firsts(_ writer: Writer, _ round: UInt32) -> [Range<Int>] {
            (1...20).map {
                AreaStep(writer, Version(round: round, step: $0), sectorCount: 9999).sectors
            }
        }
        #expect(firsts(writer, 1) == firsts(writer, 1) && firsts(writer, 1) != firsts(writer, 2))
        #expect(firsts(writer, 1) != firsts(Writer(seed: 7, name: "two"), 1))
        #expect(firsts(writer, 1) != firsts(Writer(seed: 8, name: "one"), 1))
    }

    @Test func slotsAreReplacedAndRemoved() {
        let steps = (1...500).map {
            SlotStep(writer, Version(round: 1, step: $0), slotCount: 24)
        }
        #expect(Set(steps.map(\.slot)) == Set(0..<24))
        #expect(steps.contains { $0.sectorCount == nil } && steps.contains { $0.sectorCount == 64 })
        #expect(steps.allSatisfy { (1...64).contains($0.sectorCount ?? 1) })
    }
}

@Suite struct StreamTests {
    @Test func wordsAreStreams() throws {
        let area = try #require(Stream(argument: "direct:one:/dev/x:8:256"))
        #expect(area.kind == .area(isDirect: true, first: 8, count: 256))
        #expect(area.name == "one" && area.path == "/dev/x")
        #expect(Stream(argument: "slots:s:/mnt:24")?.kind == .slots(count: 24))
        #expect(Stream(argument: "log:l:/mnt")?.kind == .log)
    }

    @Test(arguments: [
        "", "direct", "direct:one:/dev/x", "direct:one:/dev/x:8:255", "direct:one:/dev/x:-8:256",
        "direct::/dev/x:8:256", "slots:s:/mnt", "slots:s:/mnt:0", "log:l:/mnt:1", "tape:t:/mnt",
        "log:a b:/mnt",
    ])
    func otherWordsAreNot(word: String) { #expect(Stream(argument: word) == nil) }
}
