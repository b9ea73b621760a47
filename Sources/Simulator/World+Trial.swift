import CacheEngine
import CacheFormat

/// Trials: what a power cut at this very moment would leave, found out by the product's recovery on
/// a copy, while the run goes on. So there can be many of them, at the moments that matter.
extension World {
    /// Something was promised, or became durable: a good moment to look.
    func maybeTryCut() {
        guard scenario.trialPercent > 0, random.chance(scenario.trialPercent) else { return }
        tryCut()
    }

    private func tryCut() {
        trials += 1
        // Metadata and data apart: the one without the other is what hurts.
        let cache = survivors(of: cacheDevice)
        let left = cores.map { survivors(of: $0.device) }
        let isDamaged = random.chance(20) && damage(cache)
        guard let pages = recoveredPages(cache, isDamaged: isDamaged) else { return }
        defer { pages.deallocate() }
        let dirty = dirtyLines(pages)
        for core in cores where core.isAttached {
            checkTrial(core, left[Int(core.id)], cache, dirty)
        }
    }

    private func survivors(of device: SimulatedDevice) -> SurvivingDevice {
        let percents = [0, 0, 100, random.below(101)]
        return SurvivingDevice(
            device, transfers.filter { self.device(of: $0.command) === device },
            metadataPercent: percents[random.below(4)], isTorn: random.chance(40),
            dataPercent: percents[random.below(4)], &random)
    }

    /// Nil if the recovery refuses, which it may only if something is damaged.
    private func recoveredPages(
        _ image: SurvivingDevice, isDamaged: Bool
    ) -> UnsafeMutableRawPointer? {
        let pages = UnsafeMutableRawPointer.allocate(
            byteCount: scenario.setCount * SetPageLayout.byteCount, alignment: 4096)
        var isRefused = false
        do {
            let report = try recovery(
                pages, block: image.block(at:), sector: image.stamp(_:)
            ).report
            isRefused = !report.damagedSets.isEmpty
            if isRefused, !isDamaged { fail("sets \(report.damagedSets) would be damaged") }
        } catch {
            isRefused = true
            if !isDamaged { fail("the journal would be damaged by a power cut: \(error)") }
        }
        guard isRefused else { return pages }
        pages.deallocate()
        return nil
    }

    private func dirtyLines(_ pages: UnsafeMutableRawPointer) -> [UInt64: DirtyLine] {
        var lines: [UInt64: DirtyLine] = [:]
        for set in 0..<scenario.setCount {
            let page = SetPageView(base: pages + set * SetPageLayout.byteCount)
            for way in 0..<SetPageLayout.ways where page.state(way).dirty != 0 {
                let place = DirtyLine(set: UInt32(set), way: way, granules: page.state(way).dirty)
                let identity = page.identity(way)
                if lines.updateValue(place, forKey: identity.rawValue) != nil {
                    fail("line \(identity.line) of core \(identity.core) would be there twice")
                }
            }
        }
        return lines
    }

    private func checkTrial(
        _ core: SimulatedCore, _ left: SurvivingDevice, _ cache: SurvivingDevice,
        _ dirty: [UInt64: DirtyLine]
    ) {
        let lineSectors = Int(geometry.lineBytes) / 512
        for first in stride(from: 0, to: core.sectorCount, by: lineSectors) {
            let line = Identity(core: core.id, line: UInt64(first / lineSectors), ioClass: 0)
            let place = dirty[line.rawValue]
            for sector in first..<min(first + lineSectors, core.sectorCount) {
                var found = left.stamp(sector)
                if let place, place.granules & UInt16(1) << UInt16(sector - first) != 0 {
                    let offset = geometry.cacheOffset(set: place.set, way: place.way)
                    found = cache.stamp(Int(offset / 512) + sector - first)
                }
                if !core.history[sector].mayBeLeft(found) {
                    let whose = place.map { " by set \($0.set) way \($0.way)" } ?? ""
                    fail(core, sector, "would hold \(found)\(whose) after a power cut")
                    return
                }
            }
        }
    }
}

private struct DirtyLine {
    let set: UInt32
    let way: Int
    let granules: UInt16
}

// MARK: - Damage

extension World {
    /// Spoils one block of the metadata: recovery must refuse it, or come to the same without it.
    /// False if there was none to spoil.
    private func damage(_ image: SurvivingDevice) -> Bool {
        let blocks = geometry.journalBlockCount
        switch random.below(3) {
        case 0:
            let set = UInt64(random.below(scenario.setCount))
            spoil(image, geometry.setPageOffset(set: set, slot: random.below(2)))
        case 1:
            guard let newest = newestBlock(image) else { return false }
            let near = newest.sequence + 1 + blocks - UInt64(random.below(4))
            let lost = newest.onlyWitness.flatMap { random.chance(70) ? $0 : nil } ?? near
            spoil(image, geometry.journalOffset(sequence: lost))
        default:
            // A block is gone of which a later one says that it was durable.
            guard let newest = newestBlock(image), newest.durable >= newest.tail else {
                return false
            }
            let lost = newest.tail + UInt64(random.below(Int(newest.durable - newest.tail) + 1))
            let block = image.ownBlock(at: geometry.journalOffset(sequence: lost))
            JournalBlockView(base: block).begin(session: 0, sequence: 0)
            JournalBlockView(base: block).seal(tail: 0, trustedThrough: 0, durableThrough: 0)
        }
        return true
    }

    private func spoil(_ image: SurvivingDevice, _ offset: UInt64) {
        let byte = image.ownBlock(at: offset) + random.below(4096)
        byte.storeBytes(
            of: ~byte.load(as: UInt8.self), as: UInt8.self)
    }

    private struct NewestBlock {
        var sequence: UInt64
        var tail: UInt64
        var durable: UInt64
        /// The block that says alone of some others that they are durable with their data.
        var onlyWitness: UInt64?
    }

    private func newestBlock(_ image: SurvivingDevice) -> NewestBlock? {
        var newest: NewestBlock?
        var trusted: UInt64 = 0
        var witnesses: [UInt64] = []
        for place in 0..<geometry.journalBlockCount {
            let view = JournalBlockView(
                base: image.block(at: Geometry.journalOffset + place * 4096))
            guard case .whole(let owner, let sequence) = view.validate(), owner == session
            else { continue }
            if view.trustedThrough > trusted { witnesses = [] }
            trusted = max(trusted, view.trustedThrough)
            if view.trustedThrough == trusted { witnesses.append(sequence) }
            guard sequence > newest?.sequence ?? 0 else { continue }
            newest = NewestBlock(
                sequence: sequence, tail: view.tail, durable: view.durableThrough)
        }
        newest?.onlyWitness = witnesses.count == 1 ? witnesses.first : nil
        return newest
    }
}

/// What a device would have after a power cut: all that is durable, and some of what is not.
final class SurvivingDevice {
    private let device: SimulatedDevice
    private var stamps: [Int: UInt64] = [:]
    /// By offset: blocks of metadata that are not as the device durably has them.
    private var blocks: [UInt64: UnsafeMutableRawPointer] = [:]

    /// Metadata survives in blocks, unless it is torn. One of them may be an exception.
    init(
        _ device: SimulatedDevice, _ transfers: [SimulatedTransfer], metadataPercent: Int,
        isTorn: Bool, dataPercent: Int, _ random: inout SeededRandom
    ) {
        self.device = device
        var block = (index: -1, survives: false)
        let unflushed = device.unflushed.sorted()
        let exception = Exception(
            among: unflushed.filter { $0 < device.metadata.current.count }, &random)
        for sector in unflushed {
            guard sector < device.metadata.current.count else {
                if random.chance(dataPercent) { stamps[sector] = device.read(sector) }
                continue
            }
            if isTorn || sector / 8 != block.index || exception.isTorn(sector) {
                block = (
                    sector / 8, random.chance(exception.percent(sector) ?? metadataPercent)
                )
            }
            if block.survives { keep(metadata: sector, device.metadata.current.address(sector)) }
        }
        for transfer in transfers {
            let isMetadata = transfer.metadata != nil
            let percent = isMetadata ? metadataPercent : dataPercent
            let survives = random.chance(percent)
            for sector in transfer.pending.joined()
            where isMetadata && !isTorn ? survives : random.chance(percent) {
                land(transfer, sector)
            }
        }
    }

    deinit { for block in blocks.values { block.deallocate() } }

    /// A block that is lost although others survive, or the other way round, or that is torn.
    private struct Exception {
        private var block = -1
        private var percent = 0

        init(among sectors: [Int], _ random: inout SeededRandom) {
            guard !sectors.isEmpty, random.chance(40) else { return }
            block = sectors[random.below(sectors.count)] / 8
            percent = [0, 50, 100][random.below(3)]
        }

        func percent(_ sector: Int) -> Int? { sector / 8 == block ? percent : nil }
        func isTorn(_ sector: Int) -> Bool { sector / 8 == block && percent == 50 }
    }

    private func land(_ transfer: SimulatedTransfer, _ sector: Int) {
        let place = Int(transfer.command.deviceOffset / 512) + sector
        switch transfer.command.kind {
        case .writeCache, .writeCore:
            let index = Int(transfer.command.bufferOffset / 512) + sector
            if let metadata = transfer.metadata {
                keep(metadata: place, metadata + sector * 512)
            } else if let stamp = transfer.buffer?.stamps[index] {
                stamps[place] = stamp
            }
        case .discardCore: stamps[place] = 0
        default: break
        }
    }

    private func keep(metadata sector: Int, _ bytes: UnsafeRawPointer) {
        let offset = UInt64(sector) * 512
        let block = ownBlock(at: offset / 4096 * 4096)
        (block + Int(offset % 4096)).copyMemory(from: bytes, byteCount: 512)
    }

    func stamp(_ sector: Int) -> UInt64 { stamps[sector] ?? device.durable[sector] }

    /// The 4096 bytes at an offset of the metadata.
    func block(at offset: UInt64) -> UnsafeMutableRawPointer {
        blocks[offset] ?? device.metadata.durable.address(Int(offset / 512))
    }

    /// The same, to be changed.
    func ownBlock(at offset: UInt64) -> UnsafeMutableRawPointer {
        if let block = blocks[offset] { return block }
        let block = UnsafeMutableRawPointer.allocate(byteCount: 4096, alignment: 4096)
        block.copyMemory(
            from: device.metadata.durable.address(Int(offset / 512)), byteCount: 4096)
        blocks[offset] = block
        return block
    }
}
