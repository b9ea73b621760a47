import CacheFormat
import CacheRuntime
import Testing

@Suite struct CacheStoreTests {
    private static let deviceBytes = 40 << 20
    private static let slots = [0, 512 << 10]
    private static let configurationSlots = [4 << 10, 516 << 10]

    private func configuration(_ coreCount: UInt16, mode: Configuration.Mode = .writeBack)
        -> Configuration
    {
        var configuration = Configuration(mode: mode)
        for id in 0..<coreCount {
            configuration.cores.append(
                Configuration.Core(
                    id: id, coreOffset: UInt32(id) * 17, sectorCount: 1 << 20,
                    logicalBlockBytes: 512,
                    devicePath: "/dev/disk/by-id/a-disk-with-a-long-name-\(id)"))
        }
        return configuration
    }

    private func formatted(_ medium: FaultyMedium) throws(CacheError) -> CacheStore {
        try CacheStore.format(
            medium, cacheID: 3, lineBytes: 4096, session: 1, configuration: configuration(2))
    }

    @Test func whatIsFormattedIsFound() throws {
        let medium = FaultyMedium(byteCount: Self.deviceBytes)
        #expect(try CacheStore.find(on: medium) == .nothing)
        let store = try formatted(medium)
        #expect(try CacheStore.find(on: medium) == .cache(store.superblock))
        let loaded = try CacheStore.open(medium)
        #expect(loaded.superblock == store.superblock)
        #expect(loaded.superblock.state == .inUse)
        #expect(loaded.superblock.cacheID == 3)
        #expect(loaded.geometry == store.geometry)
        #expect(loaded.configuration == configuration(2))
    }

    /// Interrupted between its two copies, a change counts; damage of the first may not undo it
    /// when the cache has been served.
    @Test(arguments: 1...4) func whatIsServedIsWholeBefore(failing: Int) throws {
        let medium = FaultyMedium(byteCount: Self.deviceBytes)
        let store = try formatted(medium)
        medium.failingWrite = medium.writeCount + failing
        _ = message { () throws(CacheError) in try store.markInUse(session: 2) }
        medium.failingWrite = nil
        try medium.flush()
        let opened = try CacheStore.open(medium)
        let writes = medium.writeCount
        try opened.makeWhole()
        #expect((medium.writeCount > writes) == (failing < 4))
        for slot in Self.slots {
            let damaged = FaultyMedium(medium.durable)
            damaged.poke([UInt8](repeating: 0, count: 4096), at: slot)
            #expect(try CacheStore.open(damaged).superblock.session == opened.superblock.session)
        }
        let again = try CacheStore.open(medium)
        let before = medium.writeCount
        try again.makeWhole()
        #expect(medium.writeCount == before)
    }

    @Test func formattingTwiceMakesAnotherCache() throws {
        let medium = FaultyMedium(byteCount: Self.deviceBytes)
        let first = try formatted(medium).superblock
        let second = try formatted(medium).superblock
        #expect(first.cacheUUID != second.cacheUUID)
        #expect(first.epoch != second.epoch)
    }

    @Test func aDeviceBelowTheMinimumIsRefused() {
        let medium = FaultyMedium(byteCount: Self.deviceBytes - 512)
        let text = message { () throws(CacheError) in _ = try formatted(medium) }
        #expect(text?.contains("is too small: it has 39 MiB") == true)
    }

    @Test func aDeviceWithoutMetadataIsRefused() {
        let medium = FaultyMedium(byteCount: Self.deviceBytes)
        let text = message { () throws(CacheError) in _ = try CacheStore.open(medium) }
        #expect(text == "No metadata found on device '/dev/faulty'.")
    }

    @Test(arguments: [0, 1]) func oneDamagedSuperblockIsNoLoss(slot: Int) throws {
        let medium = FaultyMedium(byteCount: Self.deviceBytes)
        let store = try formatted(medium)
        try store.markInUse(session: 5)
        medium.poke([0xff], at: Self.slots[slot] + 80)
        let loaded = try CacheStore.open(medium)
        #expect(loaded.superblock == store.superblock)
        #expect(loaded.superblock.state == .inUse)
        #expect(loaded.configuration == configuration(2))
    }

    @Test func twoDamagedSuperblocksAreRefused() throws {
        let medium = FaultyMedium(byteCount: Self.deviceBytes)
        _ = try formatted(medium)
        for slot in Self.slots { medium.poke([0xff], at: slot + 80) }
        #expect(try CacheStore.find(on: medium) == .damaged)
        let text = message { () throws(CacheError) in _ = try CacheStore.open(medium) }
        #expect(text?.hasPrefix("Metadata checksum is not correct. Metadata is damaged") == true)
        medium.poke([UInt8](repeating: 0, count: 4096), at: Self.slots[0])
        #expect(try CacheStore.find(on: medium) == .damaged)
    }

    /// The superblock of a slot, with version 9 and a right checksum.
    private func otherVersion(_ medium: FaultyMedium, _ slot: Int) -> [UInt8] {
        var block = Array(medium.durable[slot..<slot + 4096])
        block[8] = 9
        block.withUnsafeMutableBytes {
            let bytes = DiskBytes(base: $0.baseAddress!, count: 4096)
            let place = Superblock.Layout.checksum
            bytes.store(bytes.checksum(without: place), place)
        }
        return block
    }

    @Test func metadataOfAnotherVersionAreRefused() throws {
        let medium = FaultyMedium(byteCount: Self.deviceBytes)
        _ = try formatted(medium)
        for slot in Self.slots { medium.poke(otherVersion(medium, slot), at: slot) }
        let text = message { () throws(CacheError) in _ = try CacheStore.open(medium) }
        #expect(
            text?.hasPrefix("Metadata version mismatch: '/dev/faulty' has format version 9") == true
        )
    }

    @Test func aSmallerDeviceIsRefused() throws {
        let medium = FaultyMedium(byteCount: 48 << 20)
        _ = try formatted(medium)
        let smaller = FaultyMedium(byteCount: 44 << 20)
        smaller.poke(Array(medium.durable[0..<(1 << 20)]), at: 0)
        let text = message { () throws(CacheError) in _ = try CacheStore.open(smaller) }
        #expect(text?.contains("is smaller than its metadata say") == true)
    }

    @Test(arguments: [0, 1]) func oneDamagedConfigurationIsNoLoss(slot: Int) throws {
        let medium = FaultyMedium(byteCount: Self.deviceBytes)
        try formatted(medium).save(configuration(5))
        medium.poke([0xff, 0xff], at: Self.configurationSlots[slot] + 20)
        let loaded = try CacheStore.open(medium)
        #expect(loaded.configuration == configuration(5))
        // And the next change does not rely on the damaged copy.
        try loaded.save(configuration(6))
        #expect(try CacheStore.open(medium).configuration == configuration(6))
    }

    @Test func twoDamagedConfigurationsAreRefused() throws {
        let medium = FaultyMedium(byteCount: Self.deviceBytes)
        _ = try formatted(medium)
        for slot in Self.configurationSlots { medium.poke([0xff, 0xff], at: slot + 20) }
        #expect(code { () throws(CacheError) in _ = try CacheStore.open(medium) } == .damaged)
    }

    @Test func aConfigurationThatDoesNotFitIsRefusedAndChangesNothing() throws {
        let medium = FaultyMedium(byteCount: Self.deviceBytes)
        let store = try formatted(medium)
        var huge = configuration(4000)
        for index in huge.cores.indices {
            huge.cores[index].devicePath = "/dev/" + String(repeating: "x", count: 200)
        }
        #expect(code { () throws(CacheError) in try store.save(huge) } == .tooMany)
        #expect(try CacheStore.open(medium).configuration == configuration(2))
    }

    private enum Change: CaseIterable {
        case moreCores, inUse, otherMode, stopping, clean
    }

    private func apply(_ change: Change, to store: CacheStore) throws(CacheError) {
        switch change {
        case .moreCores: try store.save(configuration(40))
        case .inUse: try store.markInUse(session: 9)
        case .otherMode: try store.save(configuration(1, mode: .writeThrough))
        case .stopping:
            let block = AlignedPage()
            var digest = DirtyDigest()
            digest.add(set: 3, block.page(line: 5, dirty: 0x0f))
            try store.markStopping(digest)
        case .clean: try store.markClean(SetPageDigest(), dirtyLineCount: 5)
        }
    }

    @Test func digestsAreThoseOfTheirStateAlone() throws {
        let medium = FaultyMedium(byteCount: Self.deviceBytes)
        let store = try formatted(medium)
        try apply(.stopping, to: store)
        #expect(store.superblock.dirtyDigest != 0 && store.superblock.state == .stopping)
        try store.markClean(SetPageDigest(), dirtyLineCount: 7)
        #expect(store.superblock.dirtyDigest == 0 && store.superblock.dirtyLineCount == 7)
        try apply(.stopping, to: store)
        try store.markInUse(session: 12)
        #expect(store.superblock.dirtyDigest == 0 && store.superblock.setPageDigest == 0)
        #expect(try CacheStore.open(medium).superblock == store.superblock)
    }

    /// The power fails at every write of a series of changes, with several outcomes each.
    @Test func changesAreAtomicUnderPowerCuts() throws {
        let undisturbed = FaultyMedium(byteCount: Self.deviceBytes)
        let store = try formatted(undisturbed)
        let firstWrite = undisturbed.writeCount
        var states = [(store.superblock, store.configuration)]
        for change in Change.allCases {
            try apply(change, to: store)
            states.append((store.superblock, store.configuration))
        }
        #expect(undisturbed.writeCount - firstWrite == 20)
        for failing in firstWrite + 1...undisturbed.writeCount {
            for seed in UInt64(1)...4 { try cut(at: failing, seed, states) }
        }
    }

    /// One change fails, and during the next one the power.
    @Test func aChangeThatFailedDoesNotSpoilTheNext() throws {
        for failing in 1...5 {
            for cut in 1...6 {
                for seed in UInt64(1)...4 { try failThenCut(failing, cut, seed) }
            }
        }
    }

    /// What ends a process in the middle of a change: after its death the device still has in its
    /// cache what was not flushed.
    enum End: CaseIterable { case powerCut, death }

    /// And then the power fails during the first change after it, or while that is only finished.
    @Test(arguments: End.allCases, [false, true]) func aChangeThatWasCutDoesNotSpoilTheNext(
        end: End, finishing: Bool
    ) throws {
        for failing in 1...5 {
            for cut in 1...6 {
                for seed in UInt64(1)...4 {
                    try cutTwice(failing, cut, seed, end, finishing: finishing)
                }
            }
        }
    }

    private func cutTwice(
        _ failing: Int, _ cut: Int, _ seed: UInt64, _ end: End, finishing: Bool
    ) throws {
        let medium = FaultyMedium(byteCount: Self.deviceBytes, seed: seed)
        let store = try formatted(medium)
        medium.failingWrite = medium.writeCount + failing
        try? store.save(configuration(0))
        let after =
            end == .death ? medium : FaultyMedium(afterPowerCutOf: medium, spoils: true)
        after.failingWrite = nil
        let opened = try CacheStore.open(after)
        let between = opened.configuration
        let wanted = finishing ? between : configuration(1)
        after.failingWrite = after.writeCount + cut
        let failure = message { () throws(CacheError) in
            try finishing ? opened.makeWhole() : opened.save(wanted)
        }
        let name = "write \(failing), then \(cut), seed \(seed)"
        expect(after, wanted, failure == nil ? [] : [between], name)
    }

    /// One copy of the superblock was damaged before: the other one may not be torn then.
    @Test(arguments: 0...1, 1...6) func aChangeBesideADamagedCopyIsAtomic(
        slot: Int, cut: Int
    ) throws {
        for seed in UInt64(1)...4 {
            let medium = FaultyMedium(byteCount: Self.deviceBytes, seed: seed)
            let old = try formatted(medium).configuration
            medium.poke([0xa5, 0xa5], at: Self.slots[slot] + 100)
            let opened = try CacheStore.open(medium)
            medium.failingWrite = medium.writeCount + cut
            let failure = message { () throws(CacheError) in try opened.save(configuration(1)) }
            expect(medium, configuration(1), failure == nil ? [] : [old], "seed \(seed)")
        }
    }

    /// What is there after a power cut: that, or one of the others.
    private func expect(
        _ medium: FaultyMedium, _ wanted: Configuration, _ others: [Configuration], _ name: String
    ) {
        let last = FaultyMedium(afterPowerCutOf: medium, spoils: true)
        do {
            let found = try CacheStore.open(last).configuration
            #expect(([wanted] + others).contains(found), "\(name)")
        } catch {
            Issue.record("\(name): \(error)")
        }
    }

    /// Its second copy alone could not be written: it is, by the next change.
    @Test func aChangeWhoseSecondCopyFailsHasHappened() throws {
        let medium = FaultyMedium(byteCount: Self.deviceBytes)
        let store = try formatted(medium)
        #expect(store.isWhole)
        medium.failingWrite = medium.writeCount + 4
        try store.save(configuration(1))
        #expect(!store.isWhole)
        medium.failingWrite = nil
        #expect(try CacheStore.open(medium).configuration == configuration(1))
        try store.makeWhole()
        #expect(store.isWhole)
    }

    private func failThenCut(_ failing: Int, _ cut: Int, _ seed: UInt64) throws {
        let medium = FaultyMedium(byteCount: Self.deviceBytes, seed: seed)
        let store = try formatted(medium)
        let old = store.configuration
        var failed = old
        failed.cores.removeAll()
        var next = old
        next.cores = Array(old.cores.prefix(1))
        medium.failingWrite = medium.writeCount + failing
        try? store.save(failed)
        medium.failingWrite = medium.writeCount + cut
        try? store.save(next)
        let loaded = try CacheStore.open(
            FaultyMedium(afterPowerCutOf: medium, spoils: seed.isMultiple(of: 2)))
        #expect(
            [old, failed, next].contains(loaded.configuration),
            "write \(failing), then \(cut), seed \(seed)")
    }

    private func cut(
        at failing: Int, _ seed: UInt64, _ states: [(Superblock, Configuration)]
    ) throws {
        let medium = FaultyMedium(byteCount: Self.deviceBytes, seed: seed)
        let store = try formatted(medium)
        medium.failingWrite = failing
        var done = 0
        do {
            for change in Change.allCases {
                try apply(change, to: store)
                done += 1
            }
        } catch {
            #expect(error.message == "The power failed.")
        }
        let loaded = try CacheStore.open(
            FaultyMedium(afterPowerCutOf: medium, spoils: seed.isMultiple(of: 2)))
        let candidates = states[done...min(done + 1, states.count - 1)]
        #expect(
            candidates.contains {
                $0.0.state == loaded.superblock.state && $0.0.session == loaded.superblock.session
                    && $0.0.dirtyDigest == loaded.superblock.dirtyDigest
                    && $0.0.dirtyLineCount == loaded.superblock.dirtyLineCount
                    && $0.1 == loaded.configuration
            }, "write \(failing), seed \(seed)")
    }
}
