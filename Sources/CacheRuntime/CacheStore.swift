package import CacheFormat

/// The metadata on a cache device: superblock, configuration, set pages.
///
/// Superblock and configuration change together, atomically, and survive a power cut at any write:
/// 1. The configuration goes to the slot that the superblock does not name, then a flush.
/// 2. The superblock goes to slot 0, flush, slot 1, flush. Until the first of them is whole the old
///    one counts, from then on the new one.
/// 3. Only then the other configuration slot is overwritten, with the same configuration.
/// So both copies of both tell the same, and one damaged copy of either is no loss.
/// A superblock whose other copy is older or damaged is written there before anything else changes.
package final class CacheStore {
    package let medium: any StoreMedium
    package private(set) var superblock: Superblock
    package private(set) var configuration: Configuration
    package var geometry: Geometry { superblock.geometry }
    /// A superblock that is not in these slots yet: they are older or damaged, or writing ended
    /// there. It is finished before any other change, for that overwrites a configuration which the
    /// older copy may name, and the copy that may be the only good one.
    private var unfinished: (superblock: Superblock, slots: [Int])?
    /// The configuration in the slot that the superblock does not name is the same.
    private var hasBothConfigurations = true
    /// Both copies of both are there and the same.
    package var isWhole: Bool { unfinished == nil && hasBothConfigurations }

    private init(
        _ medium: any StoreMedium, _ superblock: Superblock, _ configuration: Configuration
    ) {
        self.medium = medium
        self.superblock = superblock
        self.configuration = configuration
    }

    private static let superblockOffsets = [
        Geometry.superblockOffsets.0, Geometry.superblockOffsets.1,
    ]
    private static let configurationOffsets = [
        Geometry.configurationOffsets.0, Geometry.configurationOffsets.1,
    ]
}

// MARK: - Formatting

extension CacheStore {
    /// Makes a new, empty cache that is in use. Whatever the device held is lost.
    ///
    /// Every place of the journal and one copy of every set page is written, so that later anything
    /// that is none of this cache's is known to be damage.
    package static func format(
        _ medium: any StoreMedium, cacheID: UInt16, lineBytes: UInt32, session: UInt64,
        configuration: Configuration, cacheUUID: UInt128 = UInt128.random(in: 1 ... .max)
    ) throws(CacheError) -> CacheStore {
        guard let geometry = Geometry.forDevice(byteCount: medium.byteCount, lineBytes: lineBytes)
        else {
            throw CacheError(
                .tooSmall,
                "The cache device '\(medium.path)' is too small: it has \(medium.byteCount >> 20) "
                    + "MiB, and at least \(Geometry.deviceBytesMin >> 20) MiB are needed.")
        }
        let superblock = Superblock(
            cacheUUID: cacheUUID, epoch: UInt64.random(in: 1 ... .max),
            session: session, geometry: geometry, cacheID: cacheID, state: .inUse)
        // Nothing may stay that others take for theirs, or that is older than this cache.
        let start = AlignedBytes(count: Int(Geometry.journalOffset))
        try medium.write(start.readOnly, at: 0)
        try medium.flush()
        try writeEmptyJournal(medium, geometry)
        try writeEmptyPages(medium, geometry, epoch: superblock.epoch)
        try medium.flush()
        let store = CacheStore(medium, superblock, configuration)
        try store.save(configuration)
        return store
    }

    /// Makes the pages of an empty cache, in memory.
    package func makeEmptyPages(in pages: UnsafeMutableRawPointer) {
        for set in 0..<geometry.setCount {
            Self.makeEmptyPage(
                SetPageView(base: pages + Int(set) * SetPageLayout.byteCount), set,
                epoch: superblock.epoch)
        }
    }

    private static func makeEmptyPage(_ page: SetPageView, _ set: UInt64, epoch: UInt64) {
        page.makeEmpty(set: set, epoch: epoch)
        page.seal(sequence: 1)
    }

    private static let blocksPerPiece: UInt64 = 256

    private static func writeEmptyJournal(
        _ medium: any StoreMedium, _ geometry: Geometry
    ) throws(CacheError) {
        let piece = AlignedBytes(count: Int(blocksPerPiece) * Geometry.blockBytes)
        for block in 0..<Int(blocksPerPiece) {
            let view = JournalBlockView(base: piece.address(block * Geometry.blockBytes))
            view.begin(session: 0, sequence: 0)
            view.seal(tail: 0, trustedThrough: 0, durableThrough: 0)
        }
        for first in stride(from: 0, to: geometry.journalBlockCount, by: Int(blocksPerPiece)) {
            let count = Int(min(blocksPerPiece, geometry.journalBlockCount - first))
            try medium.write(
                UnsafeRawBufferPointer(rebasing: piece.readOnly[0..<count * Geometry.blockBytes]),
                at: geometry.journalOffset(sequence: first))
        }
    }

    /// Both copies, with sequences 0 and 1: a copy that is not whole later was damaged.
    private static func writeEmptyPages(
        _ medium: any StoreMedium, _ geometry: Geometry, epoch: UInt64
    ) throws(CacheError) {
        let piece = AlignedBytes(count: Int(blocksPerPiece) * SetPageLayout.byteCount)
        for first in stride(from: 0, to: geometry.setCount, by: Int(blocksPerPiece)) {
            let count = Int(min(blocksPerPiece, geometry.setCount - first))
            for slot in 0...1 {
                for index in 0..<count {
                    let page = SetPageView(base: piece.address(index * SetPageLayout.byteCount))
                    page.makeEmpty(set: first + UInt64(index), epoch: epoch)
                    page.seal(sequence: UInt64(slot))
                }
                try medium.write(
                    UnsafeRawBufferPointer(
                        rebasing: piece.readOnly[0..<count * SetPageLayout.byteCount]),
                    at: geometry.setPageOffset(set: first, slot: slot))
            }
        }
    }
}

// MARK: - Changing

extension CacheStore {
    /// Replaces the configuration.
    package func save(_ configuration: Configuration) throws(CacheError) {
        try commit(superblock, configuration)
    }

    /// Writes copies that are older or damaged again: what is served from now on must not be taken
    /// for something older when one more of them is damaged.
    package func makeWhole() throws(CacheError) {
        if !isWhole { try save(configuration) }
    }

    /// Must be durable before the first line is written: from now on only an orderly stop, or
    /// recovery, makes the set pages on the device mean something.
    package func markInUse(session: UInt64) throws(CacheError) {
        var next = superblock
        next.state = .inUse
        next.session = session
        next.setPageDigest = 0
        next.dirtyDigest = 0
        try commit(next, configuration)
    }

    /// Set pages are written from now on, for a stop; everything the journal says is durable.
    package func markStopping(_ digest: DirtyDigest) throws(CacheError) {
        var next = superblock
        next.state = .stopping
        next.dirtyDigest = digest.value
        try commit(next, configuration)
    }

    /// The set pages and all data are durable on the device.
    package func markClean(
        _ digest: SetPageDigest, dirtyLineCount: UInt64
    ) throws(CacheError) {
        var next = superblock
        next.state = .cleanlyStopped
        next.setPageDigest = digest.value
        next.dirtyDigest = 0
        next.dirtyLineCount = dirtyLineCount
        try commit(next, configuration)
    }

    private func commit(
        _ changed: Superblock, _ configuration: Configuration
    ) throws(CacheError) {
        let generation = (unfinished?.superblock ?? superblock).generation + 1
        let bytes = try encoded(configuration, generation)
        let block = AlignedBytes(count: (bytes.count + 4095) / 4096 * 4096)
        block.bytes.copyBytes(from: bytes)
        // The one good copy may only be in the device's cache, from a process that died.
        if !isWhole { try medium.flush() }
        try finish()
        var next = changed
        next.generation = generation
        let slot = 1 - superblock.configurationSlot
        next.configurationSlot = slot
        next.configurationBytes = UInt32(bytes.count)
        next.configurationChecksum = bytes.withUnsafeBytes { checksum($0) }
        hasBothConfigurations = false
        try medium.write(block.readOnly, at: Self.configurationOffsets[slot])
        try medium.flush()
        try write(next, to: [0, 1])
        superblock = next
        self.configuration = configuration
        // Where this fails, the change has happened all the same.
        try? writeSecond(block)
    }

    private func finish() throws(CacheError) {
        guard let unfinished else { return }
        try write(unfinished.superblock, to: unfinished.slots)
        superblock = unfinished.superblock
    }

    private func writeSecond(_ block: AlignedBytes) throws(CacheError) {
        let slot = 1 - superblock.configurationSlot
        try medium.write(block.readOnly, at: Self.configurationOffsets[slot])
        try medium.flush()
        hasBothConfigurations = true
    }

    /// One copy after the other: if one is torn, the other one is whole, and what it names is
    /// there.
    private func write(_ superblock: Superblock, to slots: [Int]) throws(CacheError) {
        let block = AlignedBytes(count: Superblock.Layout.byteCount)
        superblock.encode(into: block.diskBytes)
        for (index, slot) in slots.enumerated() {
            unfinished = (superblock, Array(slots[index...]))
            try medium.write(block.readOnly, at: Self.superblockOffsets[slot])
            try medium.flush()
        }
        unfinished = nil
    }

    private func encoded(
        _ configuration: Configuration, _ generation: UInt64
    ) throws(CacheError) -> [UInt8] {
        do {
            return try configuration.encode(generation: generation)
        } catch {
            throw CacheError(
                .tooMany,
                "The configuration does not fit the cache device '\(medium.path)': there are too "
                    + "many core devices with long names.")
        }
    }
}

// MARK: - Finding

extension CacheStore {
    /// What the superblock slots of a device say.
    package enum Finding: Equatable, Sendable {
        case nothing
        case cache(Superblock)
        case otherVersion(UInt32)
        case unknownFeatures(UInt64)
        case damaged
    }

    /// Reads both superblocks; the newer one of those that are whole counts. Throws if there is
    /// none, and one that cannot be read.
    package static func find(on medium: any StoreMedium) throws(CacheError) -> Finding {
        try findCopies(on: medium).finding
    }

    /// Also the slot whose copy is not the one that was found, if one is not.
    private static func findCopies(
        on medium: any StoreMedium
    ) throws(CacheError) -> (finding: Finding, otherSlot: Int?) {
        let block = AlignedBytes(count: Superblock.Layout.byteCount)
        var found: [(slot: Int, superblock: Superblock)] = []
        var rejected: [FormatError] = []
        var failure: CacheError?
        for (slot, offset) in superblockOffsets.enumerated()
        where offset + UInt64(block.bytes.count) <= medium.byteCount {
            do throws(CacheError) {
                try medium.read(into: block.bytes, at: offset)
            } catch {
                failure = failure ?? error
                continue
            }
            do {
                found.append((slot, try Superblock(decoding: block.diskBytes)))
            } catch {
                rejected.append(error)
            }
        }
        if let newest = found.max(by: { $0.superblock.generation < $1.superblock.generation }) {
            let areTheSame = found.count == 2 && found[0].superblock == found[1].superblock
            return (.cache(newest.superblock), areTheSame ? nil : 1 - newest.slot)
        }
        if let failure { throw failure }
        for error in rejected {
            switch error {
            case .otherVersion(let version): return (.otherVersion(version), nil)
            case .unknownFeatures(let bits): return (.unknownFeatures(bits), nil)
            case .noMagic, .damaged, .impossible, .tooLarge: continue
            }
        }
        return (rejected.allSatisfy { $0 == .noMagic } ? .nothing : .damaged, nil)
    }

    /// Opens the cache on a device. Its set pages are good only if `superblock.state` says so.
    package static func open(_ medium: any StoreMedium) throws(CacheError) -> CacheStore {
        let (superblock, otherSlot) = try usableSuperblock(on: medium)
        let requiredBytes = superblock.geometry.requiredBytes
        guard medium.byteCount >= requiredBytes else {
            throw CacheError(
                .sizeMismatch,
                "The cache device '\(medium.path)' is smaller than its metadata say: it has "
                    + "\(medium.byteCount) bytes, and the cache needs \(requiredBytes). "
                    + "Give the device its old size back, or start a new cache with --force.")
        }
        var failure: CacheError?
        var whole: [(slot: Int, configuration: Configuration)] = []
        for slot in [superblock.configurationSlot, 1 - superblock.configurationSlot] {
            do throws(CacheError) {
                if let found = try configuration(of: superblock, slot: slot, on: medium) {
                    whole.append((slot, found))
                }
            } catch {
                failure = failure ?? error
            }
        }
        if let first = whole.first {
            var used = superblock
            used.configurationSlot = first.slot
            let store = CacheStore(medium, used, first.configuration)
            store.unfinished = otherSlot.map { (used, [$0]) }
            store.hasBothConfigurations = whole.count == 2
            return store
        }
        if let failure { throw failure }
        throw CacheError(
            .damaged,
            "Metadata checksum is not correct. Metadata is damaged: neither copy of the "
                + "configuration on '\(medium.path)' is the one the superblock names.")
    }

    private static func usableSuperblock(
        on medium: any StoreMedium
    ) throws(CacheError) -> (superblock: Superblock, otherSlot: Int?) {
        let (finding, otherSlot) = try findCopies(on: medium)
        switch finding {
        case .cache(let superblock): return (superblock, otherSlot)
        case .nothing:
            throw CacheError(.noMetadata, "No metadata found on device '\(medium.path)'.")
        case .otherVersion(let version):
            throw CacheError(
                .otherVersion,
                "Metadata version mismatch: '\(medium.path)' has format version \(version), this "
                    + "program knows version \(Superblock.formatVersion).")
        case .unknownFeatures(let bits):
            throw CacheError(
                .otherVersion,
                "Metadata version mismatch: '\(medium.path)' uses features this program does not "
                    + "know (bits 0x\(String(bits, radix: 16))).")
        case .damaged:
            throw CacheError(
                .damaged,
                "Metadata checksum is not correct. Metadata is damaged: both copies of the "
                    + "superblock on '\(medium.path)'.")
        }
    }

    private static func configuration(
        of superblock: Superblock, slot: Int, on medium: any StoreMedium
    ) throws(CacheError) -> Configuration? {
        let length = Int(superblock.configurationBytes)
        let block = AlignedBytes(count: max((length + 4095) / 4096 * 4096, 4096))
        try medium.read(into: block.bytes, at: configurationOffsets[slot])
        let bytes = UnsafeRawBufferPointer(rebasing: block.readOnly[0..<length])
        guard checksum(bytes) == superblock.configurationChecksum else { return nil }
        do {
            return try Configuration(decoding: Array(bytes), generation: superblock.generation)
        } catch {
            throw CacheError(
                .damaged,
                "Metadata is damaged: the configuration on '\(medium.path)' cannot be understood "
                    + "(\(error)).")
        }
    }
}
