import CacheEngine
import CacheFormat

/// The devices' side: transfers take effect piece by piece and end, in any order.
extension World {
    func device(of command: Command) -> SimulatedDevice {
        switch command.kind {
        case .readCache, .writeCache, .flushCache: cacheDevice
        default: cores[Int(command.core)].device
        }
    }

    func begin(_ transfer: SimulatedTransfer) {
        let command = transfer.command
        if command.kind == .flushCache || command.kind == .flushCore {
            transfer.unflushed = device(of: command).unflushed
        }
        if scenario.errorPerMille > 0, scenario.failing.contains(kind(of: transfer)),
            isOutage || random.below(1000) < scenario.errorPerMille
        {
            transfer.willFail = true
        }
        if device(of: command) !== cacheDevice, cores[Int(command.core)].isAbsent {
            fail("a transfer of core \(command.core), which has no device")
        }
        checkTransfer(transfer)
        note(transfer, "begins")
        transfers.append(transfer)
    }

    private func kind(of transfer: SimulatedTransfer) -> TransferKinds {
        if transfer.command.kind == .flushCache { return .cacheFlushes }
        guard transfer.metadata != nil else {
            let kind = transfer.command.kind
            return kind == .readCache || kind == .readCore ? .reads : .writes
        }
        let isBlock =
            transfer.command.deviceOffset < geometry.setPageOffset(set: 0, slot: 0)
        return isBlock ? .journalBlocks : .setPages
    }

    /// No transfer may reach outside its device or its buffer.
    private func checkTransfer(_ transfer: SimulatedTransfer) {
        let command = transfer.command
        guard command.byteCount > 0 else { return }
        let end = command.deviceOffset + UInt64(command.byteCount)
        if command.buffer.isMetadata {
            if command.deviceOffset < Geometry.journalOffset || end > geometry.dataOffset {
                fail("a metadata transfer outside the metadata")
            }
        } else if command.kind == .readCache || command.kind == .writeCache {
            if command.deviceOffset < geometry.dataOffset || end > geometry.requiredBytes {
                fail("a cache transfer outside the data area")
            }
        } else if end > UInt64(cores[Int(command.core)].sectorCount) * 512 {
            fail("a core transfer behind the end of the core")
        }
        let bufferEnd = Int(command.bufferOffset + command.byteCount) / 512
        if let buffer = transfer.buffer, bufferEnd > buffer.stamps.count {
            fail("a transfer behind the end of its buffer")
        }
    }

    /// One step of a transfer chosen by chance: a piece takes effect, or it ends.
    func stepTransfer() {
        let index = random.below(transfers.count)
        let transfer = transfers[index]
        if scenario.slow.contains(kind(of: transfer)), random.chance(scenario.slowPercent) {
            return
        }
        let mayEndEarly = transfer.willFail && random.chance(50)
        guard !transfer.pending.isEmpty, !mayEndEarly else {
            transfers.swapAt(index, transfers.count - 1)
            transfers.removeLast()
            end(transfer)
            return
        }
        takePiece(of: transfer)
    }

    /// Some of the transfer's sectors take effect.
    func takePiece(of transfer: SimulatedTransfer) {
        let piece = random.below(transfer.pending.count)
        var range = transfer.pending.remove(at: piece)
        if range.count > 1, random.chance(30) {
            let cut = range.lowerBound + 1 + random.below(range.count - 1)
            transfer.pending.append(cut..<range.upperBound)
            range = range.lowerBound..<cut
        }
        apply(transfer, range)
    }

    /// Traces a transfer under the exported sectors it moves, where that is known.
    private func note(_ transfer: SimulatedTransfer, _ what: String) {
        guard let trace else { return }
        let command = transfer.command
        let text =
            "\(eventCount) worker \(transfer.worker) \(command.kind) \(what)"
            + " device \(command.deviceOffset / 512)+\(command.byteCount / 512)"
            + " buffer \(command.buffer.rawValue)@\(command.bufferOffset / 512)"
        if transfer.metadata != nil || command.kind == .flushCache {
            trace.noteForAll(text)
            return
        }
        var sectors = 0..<Int.max
        if command.kind == .readCore || command.kind == .writeCore {
            let start = Int(command.deviceOffset / 512)
            sectors = start..<start + Int(command.byteCount / 512)
        } else if let client = transfer.client, command.kind != .discardCore {
            let start = Int(client.request.startSector) + Int(command.bufferOffset / 512)
            sectors = start..<start + Int(command.byteCount / 512)
        }
        trace.note(core: command.core, sectors: sectors, text)
    }

    private func apply(_ transfer: SimulatedTransfer, _ range: Range<Int>) {
        let command = transfer.command
        if trace != nil { note(transfer, "moves \(range)") }
        let device = device(of: command)
        let deviceStart = Int(command.deviceOffset / 512)
        let bufferStart = Int(command.bufferOffset / 512)
        for sector in range {
            switch command.kind {
            case .readCache, .readCore:
                transfer.buffer?.stamps[bufferStart + sector] = device.read(deviceStart + sector)
                transfer.buffer?.isOurs[bufferStart + sector] = command.isFilled
            case .writeCache where transfer.metadata != nil:
                guard let metadata = transfer.metadata else { continue }
                device.write(
                    metadata: deviceStart + sector, metadata + sector * 512,
                    durably: command.forceUnitAccess)
            case .writeCache, .writeCore:
                guard let stamp = transfer.buffer?.stamps[bufferStart + sector] else { continue }
                if stamp == .max { fail("a write of bytes nobody put into its buffer") }
                device.write(deviceStart + sector, stamp, durably: command.forceUnitAccess)
            case .discardCore:
                device.write(deviceStart + sector, 0, durably: false)
            default: fail("a transfer of a kind that moves no bytes")
            }
        }
    }

    private func end(_ transfer: SimulatedTransfer) {
        let command = transfer.command
        note(transfer, transfer.willFail ? "fails" : "ends")
        if !transfer.willFail, command.kind == .flushCache || command.kind == .flushCore {
            device(of: command).makeDurable(transfer.unflushed)
        }
        if transfer.metadata != nil || command.kind == .flushCache { maybeTryCut() }
        let result: Int32 = transfer.willFail ? -5 : Int32(command.byteCount)
        inboxes[transfer.worker].append(.completion(command.token, result: result))
    }
}
