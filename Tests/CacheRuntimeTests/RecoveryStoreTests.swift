import CacheEngine
import CacheFormat
import CacheRuntime
import Testing

/// Loading a cache that was not stopped, from what is on its device.
@Suite struct RecoveryStoreTests {
    private func image() throws -> DeviceImage { try DeviceImage() }

    @Test func pagesAndJournalTogetherTellWhatIsDirty() throws {
        let image = try image()
        let loaded = try LoadedImage(image.medium)
        #expect(loaded.dirty == image.expected)
        #expect(loaded.report?.journalBlocks == 4 && loaded.report?.damagedSets == [])
        #expect(loaded.report?.recordsCompared == 2 && loaded.report?.recordsDropped == 0)
        #expect(loaded.report?.replayedSets == 3)
        // And again, now that the pages are written.
        #expect(try LoadedImage(image.medium).dirty == image.expected)
    }

    @Test func dataThatNeverCameIsDropped() throws {
        let image = try image()
        let place = Int(image.geometry.cacheOffset(set: 3, way: 8))
        image.medium.poke([0xa5], at: place + 700)
        let loaded = try LoadedImage(image.medium)
        var expected = image.expected
        expected[image.identity(8, set: 3).rawValue] = nil
        #expect(loaded.dirty == expected)
        #expect(loaded.report?.recordsDropped == 1)
    }

    /// It may be there: nobody can tell.
    @Test func dataThatCannotBeReadIsNotDroppedWithoutConsent() throws {
        let image = try image()
        let place = image.geometry.cacheOffset(set: 3, way: 8)
        image.medium.unreadable = place..<place + 512
        let before = image.medium.durable
        let text = message { () throws(CacheError) in _ = try LoadedImage(image.medium) }
        #expect(text?.hasPrefix("Reading the data at byte \(place) of ") == true, "\(text ?? "")")
        #expect(image.medium.durable == before)
        #expect(try LoadedImage(image.medium, acceptsLoss: true).report?.recordsDropped == 1)
        image.medium.unreadable = nil
    }

    @Test func whatIsRecoveredIsWrittenToTheOlderCopies() throws {
        let image = try image()
        let before = image.medium.durable
        _ = try LoadedImage(image.medium)
        let geometry = image.geometry
        for set in DeviceImage.usedSets {
            let changed = (0...1).filter { slot in
                let place = Int(geometry.setPageOffset(set: set, slot: slot))
                return image.medium.durable[place..<place + 4096] != before[place..<place + 4096]
            }
            let expected: [Int] = [1: [1], 2: [1], 3: [0]][set] ?? []
            #expect(changed == expected, "set \(set)")
        }
    }

    // MARK: - Refusal

    @Test func aDamagedSetIsNamedAndWithConsentTheRestIsLoaded() throws {
        let image = try image()
        let place = Int(image.geometry.setPageOffset(set: 4, slot: 0))
        image.medium.poke([0xa5], at: place + 700)
        let text = message { () throws(CacheError) in _ = try LoadedImage(image.medium) }
        #expect(text?.hasPrefix("Metadata is damaged: 1 of ") == true)
        #expect(text?.contains("set 4 (core 1 64 KiB at ") == true)
        #expect(text?.contains("--force-partial") == true)
        let loaded = try LoadedImage(image.medium, acceptsLoss: true)
        var expected = image.expected
        expected[image.identity(0, set: 4).rawValue] = nil
        #expect(loaded.dirty == expected && loaded.report?.damagedSets == [4])
    }

    /// What was given up is not asked for again, and its older page does not come back.
    @Test(arguments: [0, 1]) func aSetThatWasGivenUpStaysEmpty(slot: Int) throws {
        let image = try image()
        image.page(6, 8, number: 3, [5: 0x01])
        image.page(6, slot == 0 ? 10 : 9, number: 4, [5: 0x03])
        if slot == 0 { image.page(6, 9, number: 3, [5: 0x01]) }
        let place = Int(image.geometry.setPageOffset(set: 6, slot: slot))
        image.medium.poke([0xa5], at: place + 700)
        let loaded = try LoadedImage(image.medium, acceptsLoss: true)
        #expect(loaded.dirty == image.expected && loaded.report?.damagedSets == [6])
        #expect(try LoadedImage(image.medium).dirty == image.expected)
    }

    /// The place that the message tells for the set is where its lines are.
    @Test func thePlacesOfADamagedSetAreItsOwn() throws {
        let image = try image()
        let extent = image.line(0, set: 4) / 16
        #expect(
            image.geometry.set(ofCoreLine: extent * 16, coreOffset: 3) == 4)
        let place = Int(image.geometry.setPageOffset(set: 4, slot: 0))
        image.medium.poke([0xa5], at: place + 700)
        let text = message { () throws(CacheError) in _ = try LoadedImage(image.medium) }
        let wanted =
            "core 1 64 KiB at \(extent * 64) KiB and every \(image.geometry.setCount * 64) KiB"
        #expect(text?.contains(wanted) == true, "\(text ?? "")")
    }

    @Test func manyDamagedSetsAreCounted() throws {
        let image = try image()
        for set in UInt64(0)..<20 {
            for slot in 0...1 {
                let place = Int(image.geometry.setPageOffset(set: set, slot: slot))
                image.medium.poke([0xa5, 0xa5], at: place + 1)
            }
        }
        let text = message { () throws(CacheError) in _ = try LoadedImage(image.medium) }
        #expect(text?.hasPrefix("Metadata is damaged: 20 of ") == true)
        #expect(text?.contains("; and 12 more") == true)
    }

    /// Set 2 goes on in block 23 where 22 had ended, set 3 where 21 had: without those nothing is
    /// known of them. What of set 1 only block 22 said nobody misses.
    private static let whatIsLost:
        [(block: UInt64, lines: [(way: UInt64, set: UInt64)], sets: [UInt64])] = [
            (20, [], []), (21, [(7, 3), (8, 3)], [3]), (22, [(12, 1), (6, 2)], [2]),
            (23, [(6, 2), (8, 3)], []),
        ]

    @Test(arguments: 0...3)
    func aDamagedJournalIsNamedAndWithConsentTheRestOfItCounts(index: Int) throws {
        let (block, lines, sets) = Self.whatIsLost[index]
        let image = try image()
        let place = image.geometry.journalOffset(sequence: block)
        image.medium.poke([0xa5], at: Int(place) + 700)
        let text = message { () throws(CacheError) in _ = try LoadedImage(image.medium) }
        #expect(
            text?.hasPrefix("Metadata is damaged: block \(block) of the journal on '/dev/faulty'")
                == true)
        #expect(text?.contains("(at byte \(place))") == true)
        let loaded = try LoadedImage(image.medium, acceptsLoss: true)
        var expected = image.expected
        for (way, set) in lines { expected[image.identity(way, set: set).rawValue] = nil }
        #expect(loaded.dirty == expected && loaded.report?.damagedSets == sets)
        #expect(loaded.report?.damagedJournalPlaces == [block])
    }

    /// A place of which nothing can be read any more could belong to any journal.
    @Test func whatWasDamagedIsNoDamageOfTheNextJournal() throws {
        let image = try image()
        let medium = ImageMedium(image.medium.durable)
        medium.zero(at: image.geometry.journalOffset(sequence: 20))
        medium.makeUnreadable(at: image.geometry.journalOffset(sequence: 70))
        let report = try #require(try LoadedImage(medium, acceptsLoss: true).report)
        #expect(report.damagedJournalPlaces == [20, 70])
        let store = try CacheStore.open(medium)
        try store.markInUse(session: 6)
        let text = message { () throws(CacheError) in _ = try LoadedImage(medium) }
        #expect(text?.contains("block 20 of the journal") == true, "\(text ?? "")")
        store.emptyJournal(places: report.damagedJournalPlaces)
        #expect(try LoadedImage(medium).dirty == image.expected)
    }

    /// What is flushed and then overwritten has the new content, and the old record.
    @Test func whatOnlyALostBlockHadConfirmedIsDropped() throws {
        let image = try image()
        image.medium.poke([0xa5], at: Int(image.geometry.cacheOffset(set: 1, way: 12)))
        #expect(try LoadedImage(FaultyMedium(image.medium.durable)).dirty == image.expected)
        image.medium.poke([0xa5], at: Int(image.geometry.journalOffset(sequence: 23)) + 700)
        let loaded = try LoadedImage(image.medium, acceptsLoss: true)
        #expect(loaded.dirty[image.identity(12, set: 1).rawValue] == nil)
        #expect(loaded.report?.recordsDropped == 1)
    }

    // MARK: - What cannot be read

    /// It has it all, and may give it again.
    @Test func aDeviceThatFailsForAWhileLosesNothing() throws {
        let image = try image()
        let medium = ImageMedium(image.medium.durable)
        // With its neighbours, and by itself.
        medium.makeUnreadable(at: image.geometry.setPageOffset(set: 4, slot: 0), times: 2)
        let text = message { () throws(CacheError) in
            _ = try LoadedImage(medium, acceptsLoss: true)
        }
        #expect(text?.hasSuffix("Nothing was changed: try again.") == true, "\(text ?? "")")
        #expect(try LoadedImage(medium).dirty == image.expected)
    }

    @Test func aSetThatCannotBeReadIsNamedAndWithConsentTheRestIsLoaded() throws {
        let image = try image()
        let medium = ImageMedium(image.medium.durable)
        let offset = image.geometry.setPageOffset(set: 4, slot: 0)
        medium.makeUnreadable(at: offset)
        let text = message { () throws(CacheError) in _ = try LoadedImage(medium) }
        #expect(text?.contains(" set 4 (core 1 ") == true, "\(text ?? "")")
        #expect(
            text?.contains("1 block of metadata could not be read, the first at byte \(offset) (")
                == true)
        var expected = image.expected
        expected[image.identity(0, set: 4).rawValue] = nil
        #expect(try LoadedImage(medium, acceptsLoss: true).dirty == expected)
        // It was written again.
        #expect(try LoadedImage(medium).dirty == expected)
    }

    @Test func whatIsWrittenNextCannotBeReadAndIsNotNeeded() throws {
        let image = try image()
        let medium = ImageMedium(image.medium.durable)
        // The older copy of a set of which records follow.
        medium.makeUnreadable(at: image.geometry.setPageOffset(set: 2, slot: 1))
        medium.makeUnreadable(at: Geometry.superblockOffsets.0)
        medium.makeUnreadable(at: Geometry.configurationOffsets.1)
        #expect(try LoadedImage(medium).dirty == image.expected)
    }

    @Test func withoutASuperblockTheReasonIsTold() throws {
        let image = try image()
        let medium = ImageMedium(image.medium.durable)
        medium.makeUnreadable(at: Geometry.superblockOffsets.0)
        medium.makeUnreadable(at: Geometry.superblockOffsets.1)
        let text = message { () throws(CacheError) in _ = try LoadedImage(medium) }
        #expect(text == "Reading '/dev/image' at 0 failed.")
    }

    // MARK: - Power cuts

    private static func loadWithLoss(_ medium: FaultyMedium) throws(CacheError) {
        let report = try LoadedImage(medium, acceptsLoss: true).report
        let store = try CacheStore.open(medium)
        try store.markInUse(session: 6)
        store.emptyJournal(places: report?.damagedJournalPlaces ?? [])
        // What a failure there leaves is told by the next load.
        try medium.flush()
    }

    /// What is given up is given up once: done again, it is the same.
    @Test func aLoadThatLosesSurvivesPowerCutsAtEveryWrite() throws {
        let image = try image()
        let zeroes = [UInt8](repeating: 0, count: 4096)
        image.medium.poke(zeroes, at: Int(image.geometry.journalOffset(sequence: 22)))
        image.medium.poke([0xa5], at: Int(image.geometry.setPageOffset(set: 4, slot: 0)) + 700)
        var expected = image.expected
        for (way, set) in [(12, 1), (6, 2), (0, 4)] as [(UInt64, UInt64)] {
            expected[image.identity(way, set: set).rawValue] = nil
        }
        let undisturbed = FaultyMedium(image.medium.durable)
        try Self.loadWithLoss(undisturbed)
        #expect(try LoadedImage(undisturbed).dirty == expected)
        for failing in 1...undisturbed.writeCount {
            for seed in UInt64(1)...3 {
                let medium = FaultyMedium(image.medium.durable, seed: seed)
                medium.failingWrite = failing
                let text = message { () throws(CacheError) in try Self.loadWithLoss(medium) }
                #expect(text == "The power failed.")
                let after = FaultyMedium(afterPowerCutOf: medium)
                let loaded = try LoadedImage(after, acceptsLoss: true)
                #expect(loaded.dirty == expected, "write \(failing), seed \(seed)")
            }
        }
    }

    /// Recovery and start, then an orderly stop, on pages that are adopted in between.
    private static func liveAndStop(_ medium: FaultyMedium) throws(CacheError) {
        let store = try CacheStore.open(medium)
        let count = Int(store.geometry.setCount)
        let pages = UnsafeMutableRawPointer.allocate(byteCount: count * 4096, alignment: 4096)
        defer { pages.deallocate() }
        _ = try store.recover(into: pages, acceptsLoss: false)
        let shared = SharedCache(geometry: store.geometry, pages: pages, workerCount: 1)
        defer { shared.deallocate() }
        for core in store.configuration.cores {
            shared.addCore(
                core.id, coreOffset: core.coreOffset, sectorCount: core.sectorCount,
                canDiscard: false)
        }
        guard shared.adoptPages() == nil else {
            throw CacheError(.damaged, "A page contradicts itself.")
        }
        try store.markInUse(session: 6)
        try store.markStopping(shared.dirtyDigest)
        try store.markClean(try store.storeSetPages(shared), dirtyLineCount: 9)
    }

    /// At every write of it the power fails, with several outcomes each.
    @Test func recoveryStartAndStopSurvivePowerCutsAtEveryWrite() throws {
        let image = try image()
        let undisturbed = FaultyMedium(image.medium.durable)
        try Self.liveAndStop(undisturbed)
        #expect(try LoadedImage(undisturbed).dirty == image.expected)
        #expect(try CacheStore.open(undisturbed).superblock.state == .cleanlyStopped)
        #expect(undisturbed.writeCount >= 3 + 4 + 4 + 2 + 4)
        for failing in 1...undisturbed.writeCount {
            for seed in UInt64(1)...3 {
                let medium = FaultyMedium(image.medium.durable, seed: seed)
                medium.failingWrite = failing
                let text = message { () throws(CacheError) in try Self.liveAndStop(medium) }
                // The last one is a second copy.
                let isLast = failing == undisturbed.writeCount
                #expect(text == (isLast ? nil : "The power failed."))
                let loaded = try LoadedImage(FaultyMedium(afterPowerCutOf: medium))
                #expect(loaded.dirty == image.expected, "write \(failing), seed \(seed)")
            }
        }
    }
}

/// One thing is damaged: what is loaded is right, or the refusal says what is damaged.
@Suite struct DamagedMetadataTests {
    private static func isNamed(_ text: String) -> Bool {
        guard text.contains("/dev/image") else { return false }
        let names = [
            /set \d+/, /block \d+ of the journal/, /both copies of the superblock/,
            /neither copy of the configuration/, /the set pages/,
        ]
        return names.contains { text.contains($0) }
    }

    /// What is wrong with a load of the medium; nil if nothing is.
    private static func complaint(
        _ medium: ImageMedium, _ expected: DirtyContent
    ) -> String? {
        do throws(CacheError) {
            let loaded = try LoadedImage(medium)
            return loaded.dirty == expected ? nil : "loads something else"
        } catch {
            guard error.code == .damaged else { return "\(error.code): \(error.message)" }
            return isNamed(error.message) ? nil : "does not say what: \(error.message)"
        }
    }

    private struct Place {
        var name: String
        var offset: UInt64
        var bits: [Int]
    }

    /// Bits of fields and of what is between them.
    private static let bitsOfPages = [
        3, 37, 50, 60, 65, 129, 193, 260, 321, 390, 480, 600, 64 * 8 + 7, 288 * 8 + 5,
        512 * 8 + 1, 512 * 8 + 64, 512 * 8 + 80, 572 * 8, 4095 * 8 + 7,
    ]
    private static let bitsOfBlocks = [
        0, 33, 41, 50, 65, 130, 193, 256, 290, 300, 330, 400, 512 * 8 + 34, 512 * 8 + 195,
        1024 * 8 + 200, 2048 * 8 + 700, 4095 * 8 + 7,
    ]

    private static func places(_ geometry: Geometry) -> [Place] {
        var places: [Place] = []
        let superblocks = [Geometry.superblockOffsets.0, Geometry.superblockOffsets.1]
        let configurations = [Geometry.configurationOffsets.0, Geometry.configurationOffsets.1]
        for slot in 0...1 {
            places.append(
                Place(
                    name: "superblock \(slot)", offset: superblocks[slot],
                    bits: [0, 70, 100, 130, 330, 460, 520, 580, 650, 720, 780, 816, 824, 900, 970]))
            places.append(
                Place(
                    name: "configuration \(slot)", offset: configurations[slot],
                    bits: [0, 40, 80, 200, 500]))
            for set in 0..<geometry.setCount {
                let isUsed = DeviceImage.usedSets.contains(set)
                guard isUsed || set % 11 == 7 else { continue }
                places.append(
                    Place(
                        name: "page of set \(set) in slot \(slot)",
                        offset: geometry.setPageOffset(set: set, slot: slot),
                        bits: isUsed ? bitsOfPages : [3, 200]))
            }
        }
        for block in UInt64(0)..<geometry.journalBlockCount {
            let isUsed = (18...25).contains(block)
            guard isUsed || block % 50 == 3 else { continue }
            places.append(
                Place(
                    name: "journal block \(block)", offset: geometry.journalOffset(sequence: block),
                    bits: isUsed ? bitsOfBlocks : [9, 300]))
        }
        return places
    }

    /// Every place, with one bit flipped, all of it zero, or not to be read.
    private static func complaints(
        _ image: [UInt8], _ geometry: Geometry, _ expected: DirtyContent
    ) -> [String] {
        let medium = ImageMedium(image)
        var complaints: [String] = []
        if let text = complaint(medium, expected) { complaints.append("undamaged: \(text)") }
        for place in places(geometry) {
            for bit in place.bits {
                medium.reset()
                medium.flip(bit, at: place.offset)
                if let text = complaint(medium, expected) {
                    complaints.append("\(place.name), bit \(bit): \(text)")
                }
            }
            medium.reset()
            medium.zero(at: place.offset)
            if let text = complaint(medium, expected) {
                complaints.append("\(place.name), zero: \(text)")
            }
            medium.reset()
            medium.makeUnreadable(at: place.offset)
            if let text = complaint(medium, expected) {
                complaints.append("\(place.name), unreadable: \(text)")
            }
        }
        return complaints
    }

    @Test func ofACacheThatLostItsPower() throws {
        let image = try DeviceImage()
        #expect(
            Self.complaints(image.medium.durable, image.geometry, image.expected) == [])
    }

    /// Recovered, and its pages adopted; stopped, or in the middle of that.
    private static func stopping(
        _ image: DeviceImage, isDone: Bool, storesPages: Bool = true
    ) throws(CacheError) {
        let store = try CacheStore.open(image.medium)
        let count = Int(store.geometry.setCount)
        let pages = UnsafeMutableRawPointer.allocate(byteCount: count * 4096, alignment: 4096)
        defer { pages.deallocate() }
        _ = try store.recover(into: pages, acceptsLoss: false)
        let shared = SharedCache(geometry: store.geometry, pages: pages, workerCount: 1)
        defer { shared.deallocate() }
        for core in store.configuration.cores {
            shared.addCore(
                core.id, coreOffset: core.coreOffset, sectorCount: core.sectorCount,
                canDiscard: false)
        }
        _ = shared.adoptPages()
        try store.markInUse(session: 6)
        try store.markStopping(shared.dirtyDigest)
        guard storesPages else { return }
        let digest = try store.storeSetPages(shared)
        if isDone { try store.markClean(digest, dirtyLineCount: 9) }
    }

    @Test func ofACacheThatWasStopped() throws {
        let image = try DeviceImage()
        try Self.stopping(image, isDone: true)
        #expect(Self.complaints(image.medium.durable, image.geometry, image.expected) == [])
    }

    @Test func ofACacheThatWasBeingStopped() throws {
        let image = try DeviceImage()
        try Self.stopping(image, isDone: false)
        #expect(Self.complaints(image.medium.durable, image.geometry, image.expected) == [])
    }

    /// After a stop the digest tells that it was the older one; after a power cut nothing would.
    @Test(arguments: [0, 1]) func anOlderCopyThatIsGoneIsWrittenAgainByALoad(slot: Int) throws {
        let image = try DeviceImage()
        try Self.stopping(image, isDone: true)
        let medium = ImageMedium(image.medium.durable)
        var older: [UInt64] = []
        for set in 0..<image.geometry.setCount {
            medium.makeUnreadable(at: image.geometry.setPageOffset(set: set, slot: slot))
            if Self.complaint(medium, image.expected) == nil,
                (try? LoadedImage(medium)) != nil
            {
                older.append(set)
            }
            medium.reset()
        }
        #expect(older.count > 2)
        for set in older {
            medium.makeUnreadable(at: image.geometry.setPageOffset(set: set, slot: slot))
        }
        _ = try LoadedImage(medium)
        try CacheStore.open(medium).markInUse(session: 7)
        #expect(try LoadedImage(medium).dirty == image.expected)
    }

    /// Started again after a stop, with nothing new of a set whose newest page is its second.
    @Test func theSecondPageOfASetIsMissedIfItIsGone() throws {
        let image = try DeviceImage()
        image.page(6, 2, number: 3, [5: 0x0f])
        var expected = image.expected
        expected[image.identity(5, set: 6).rawValue] = 0x0f
        let medium = ImageMedium(image.medium.durable)
        #expect(Self.complaint(medium, expected) == nil)
        medium.zero(at: image.geometry.setPageOffset(set: 6, slot: 0))
        #expect(Self.complaint(medium, expected) == nil)
        medium.reset()
        medium.flip(3, at: image.geometry.setPageOffset(set: 6, slot: 0))
        #expect(Self.complaint(medium, expected) == nil)
    }

    /// During a stop what is dirty does not change: whatever else is found is damage.
    @Test func duringAStopWhatTheDigestDoesNotSayIsNoticed() throws {
        let image = try DeviceImage()
        image.page(6, 2, number: 3, [5: 0x0f])
        var expected = image.expected
        expected[image.identity(5, set: 6).rawValue] = 0x0f
        try Self.stopping(image, isDone: false, storesPages: false)
        let medium = ImageMedium(image.medium.durable)
        #expect(Self.complaint(medium, expected) == nil)
        medium.zero(at: image.geometry.setPageOffset(set: 6, slot: 0))
        #expect(Self.complaint(medium, expected) == nil)
        // As if what was written last had never reached the device.
        image.page(6, 0, number: 0, [:])
        let text = message { () throws(CacheError) in _ = try LoadedImage(image.medium) }
        #expect(text?.contains("what its stop had noted") == true, "\(text ?? "")")
    }
}
