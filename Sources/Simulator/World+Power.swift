import CacheEngine
import CacheFormat

/// Cutting the power, and what comes back.
///
/// After a cut the devices have what was flushed and any subset, by sectors, of what was not. The
/// product's recovery decides what counts; then every sector must hold something that its users
/// could have been left with, and that stays.
extension World {
    /// A new cache on the device, as the product makes it.
    func format() {
        for place in 0..<geometry.journalBlockCount {
            withBlock { block in
                JournalBlockView(base: block).begin(session: 0, sequence: 0)
                JournalBlockView(base: block).seal(
                    tail: 0, trustedThrough: 0, durableThrough: 0)
                writeMetadata(Geometry.journalOffset + place * 4096, block)
            }
        }
        for set in 0..<geometry.setCount {
            let page = SetPageView(base: pages + Int(set) * SetPageLayout.byteCount)
            page.makeEmpty(set: set, epoch: Self.epoch)
            for slot in 0...1 {
                page.seal(sequence: UInt64(slot))
                writeMetadata(geometry.setPageOffset(set: set, slot: slot), page.base)
            }
        }
    }

    private static var epoch: UInt64 { 77 }

    private func withBlock(_ body: (UnsafeMutableRawPointer) -> Void) {
        let block = UnsafeMutableRawPointer.allocate(byteCount: 4096, alignment: 4096)
        defer { block.deallocate() }
        body(block)
    }

    private func writeMetadata(_ offset: UInt64, _ bytes: UnsafeMutableRawPointer) {
        for sector in 0..<8 {
            cacheDevice.write(
                metadata: Int(offset / 512) + sector, bytes + sector * 512, durably: true)
        }
    }

    /// Some of what devices have in their caches becomes durable by itself.
    func writeBackSome(_ device: SimulatedDevice, percent: Int) {
        guard percent > 0 else { return }
        // In an order that the seed alone decides.
        let sectors = device.unflushed.sorted().filter { _ in random.chance(percent) }
        device.makeDurable(sectors)
    }

    /// From now on nothing is under way, and only what is durable is there.
    func cutPower() {
        let now = tick()
        powerCuts += 1
        let percent = [0, 10, 50, 90, 100][random.below(5)]
        for transfer in transfers where random.chance(percent) {
            while !transfer.pending.isEmpty, !isFlush(transfer.command), random.chance(80) {
                takePiece(of: transfer)
            }
        }
        for device in [cacheDevice] + cores.map(\.device) {
            writeBackSome(device, percent: percent)
            device.cutPower()
        }
        for client in Array(underWay.values) + requests.joined() { client.endUncertain(at: now) }
        transfers = []
        underWay = [:]
        for worker in inboxes.indices {
            inboxes[worker] = []
            requests[worker] = []
        }
        for core in cores { core.requestsUnderWay = 0 }
        flushesEnded = [:]
        settling = []
    }

    private func isFlush(_ command: Command) -> Bool {
        command.kind == .flushCache || command.kind == .flushCore
    }
}

extension ClientRequest {
    /// Nobody will ever know whether it happened.
    fileprivate func endUncertain(at now: UInt64) {
        let stamp = request.operation == .write ? stamp : 0
        guard request.operation == .write || request.operation == .discard else { return }
        for sector in sectors {
            core.history[sector].writeEnded(stamp, at: now, certain: false)
        }
    }
}

// MARK: - Recovery

extension World {
    /// Runs the product's recovery, interrupts it by another cut once or not, and starts again.
    func recover() {
        let first = runRecovery()
        if random.chance(50) {
            // A second cut, before the journal began anew.
            writeRecoveredPages(first, percent: random.below(101))
            let second = runRecovery()
            if second.dirtyContent != first.dirtyContent {
                fail("a second recovery changed something")
            }
            writeRecoveredPages(second, percent: 100)
        } else {
            writeRecoveredPages(first, percent: 100)
        }
        durability = shared.durability
        restart()
        if let set = shared.adoptPages() { fail("recovery made nonsense of set \(set)") }
        shared.durability = durability
        for core in cores { checkAfterCut(core) }
    }

    private struct Recovered {
        var replayed: [UInt64]
        var dirtyContent: [[UInt64]]
    }

    private func runRecovery() -> Recovered {
        let outcome: RecoveryOutcome
        do {
            outcome = try recovery(
                pages, block: metadata, sector: { cacheDevice.durable[$0] })
        } catch {
            let events = trace?.lines(core: 0, sector: 0) ?? []
            fail(
                (["the journal is damaged by a power cut: \(error)"] + events)
                    .joined(separator: "\n"))
            return Recovered(replayed: [], dirtyContent: [])
        }
        if !outcome.report.damagedSets.isEmpty {
            fail("sets \(outcome.report.damagedSets) are damaged by a power cut")
        }
        recoveredRecords += outcome.report.journalRecords
        trace?.noteForAll("\(eventCount) power cut: \(outcome.report)")
        return Recovered(
            replayed: outcome.replayed,
            dirtyContent: (0..<geometry.setCount).map { dirtyContent($0) })
    }

    /// The product's recovery into `pages`, of a device told by its blocks and sectors.
    func recovery(
        _ pages: UnsafeMutableRawPointer, block: (UInt64) -> UnsafeMutableRawPointer,
        sector: (Int) -> UInt64
    ) throws(JournalDamage) -> RecoveryOutcome {
        var recovery = Recovery(
            geometry: geometry, epoch: Self.epoch, session: session, pages: pages)
        for set in 0..<geometry.setCount {
            recovery.choosePage(
                set: set, block(geometry.setPageOffset(set: set, slot: 0)),
                block(geometry.setPageOffset(set: set, slot: 1)))
        }
        for place in 0..<geometry.journalBlockCount {
            recovery.scan(
                place: place,
                JournalBlockView(base: block(Geometry.journalOffset + place * 4096)))
        }
        for sequence in try recovery.planReplay() {
            let view = JournalBlockView(base: block(geometry.journalOffset(sequence: sequence)))
            try recovery.replay(view) { offset, granules in
                dataChecksum(offset, granules, sector)
            }
        }
        recovery.finish()
        var replayed: [UInt64] = []
        for set in 0..<geometry.setCount where recovery.isReplayed(set) { replayed.append(set) }
        return RecoveryOutcome(report: recovery.report, replayed: replayed)
    }

    func dataChecksum(
        _ offset: UInt64, _ granules: UInt16, _ sector: (Int) -> UInt64
    ) -> UInt32 {
        var crc: UInt32 = 0
        for granule in 0..<16 where granules & 1 << UInt16(granule) != 0 {
            var stamp = sector(Int(offset / 512) + granule)
            crc = withUnsafeBytes(of: &stamp) { checksum($0, continuing: crc) }
        }
        return crc
    }

    private func metadata(_ offset: UInt64) -> UnsafeMutableRawPointer {
        cacheDevice.metadata.durable.address(Int(offset / 512))
    }

    private func dirtyContent(_ set: UInt64) -> [UInt64] {
        let page = SetPageView(base: pages + Int(set) * SetPageLayout.byteCount)
        return (0..<SetPageLayout.ways).flatMap { way -> [UInt64] in
            let state = page.state(way)
            return state.dirty == 0 ? [0, 0] : [page.identity(way).rawValue, state.rawValue]
        }
    }

    /// Writes the pages that recovery changed; with less than 100 percent, some of their sectors.
    private func writeRecoveredPages(_ recovered: Recovered, percent: Int) {
        for set in recovered.replayed {
            let page = SetPageView(base: pages + Int(set) * SetPageLayout.byteCount)
            let sequence = page.sequence + 1
            page.seal(sequence: sequence)
            let offset = geometry.setPageOffset(set: set, slot: Int(sequence & 1))
            for sector in 0..<8 where random.chance(percent) {
                cacheDevice.write(
                    metadata: Int(offset / 512) + sector, page.base + sector * 512, durably: true)
            }
        }
    }

    /// What each sector holds from now on must be something that could have been left.
    private func checkAfterCut(_ core: SimulatedCore) {
        let lineSectors = Int(geometry.lineBytes) / 512
        let now = tick()
        for first in stride(from: 0, to: core.sectorCount, by: lineSectors) {
            let place = shared.place(ofLine: UInt64(first / lineSectors), core: core.id)
            for sector in first..<min(first + lineSectors, core.sectorCount) {
                var found = core.device.durable[sector]
                if let place, place.state.dirty & UInt16(1) << UInt16(sector - first) != 0 {
                    let offset = geometry.cacheOffset(set: place.set, way: place.way)
                    found = cacheDevice.durable[Int(offset / 512) + sector - first]
                }
                guard core.history[sector].recovered(found, at: now) else {
                    fail(core, sector, "holds \(found) after a power cut")
                    return
                }
            }
        }
    }
}

/// What a recovery found, and the sets whose pages it changed.
struct RecoveryOutcome {
    let report: RecoveryReport
    let replayed: [UInt64]
}
