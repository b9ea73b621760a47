import CacheFormat

/// Discards whose core part has ended and whose lines are being dropped.
struct DiscardList {
    var first = noSlot
    var last = noSlot

    func isEmpty() -> Bool { first == noSlot }

    mutating func append(_ index: UInt32, _ parts: borrowing SlotPool<Part>) {
        parts[index].pointee.phase = .discarding
        parts[index].pointee.nextParked = noSlot
        if last == noSlot { first = index } else { parts[last].pointee.nextParked = index }
        last = index
    }

    mutating func popFirst(_ parts: borrowing SlotPool<Part>) -> UInt32? {
        guard first != noSlot else { return nil }
        let index = first
        first = parts[index].pointee.nextParked
        if first == noSlot { last = noSlot }
        parts[index].pointee.nextParked = noSlot
        return index
    }
}

/// Discard: first the core, then every granule inside the range is dropped, dirty or not.
///
/// Before dirty granules are dropped the core is flushed: the journal says that they are gone, and
/// the core must not then come up with what it had before them.
///
/// Dirty ones stay where the core has older data than theirs, which no read may go back to: on a
/// core that cannot discard or failed to, and where a cleaning may have written behind the discard.
///
/// The order matters: dropped first, a crash before the core's discard would bring back what the
/// core had before the dirty data. Afterwards, whatever a crash leaves is content the range had
/// before, which is all a discard that was not answered may leave.
///
/// The walk is bounded a turn. A range of more extents than the cache has sets is walked set by
/// set, so no discard costs more than one look at every way.
extension Engine {
    private static var stepsPerTurn: Int { 32 }
    /// -EOPNOTSUPP.
    private static var notSupported: Int32 { -95 }

    mutating func startDiscard(_ slot: UInt32) {
        guard let index = parts.acquire() else {
            preconditionFailure("submit counted the free parts")
        }
        let request = requests[slot]
        request.pointee.mode = shared.effectiveMode
        request.pointee.firstPart = index
        request.pointee.partsBeforeAnswer = 1
        request.pointee.partsInUse = 1
        parts[index].pointee = Part()
        parts[index].pointee.request = slot
        // The part walks: `firstLine` is the next extent, or the next set.
        let sectors = request.pointee.request
        let firstExtent = sectors.startSector >> extentShift
        let extentCount =
            ((sectors.startSector + UInt64(sectors.sectorCount) - 1) >> extentShift) - firstExtent
            + 1
        let bySet = extentCount > UInt64(geometry.setCount)
        parts[index].pointee.firstLine = bySet ? 0 : firstExtent
        parts[index].pointee.lineCount = bySet ? 1 : 0
        guard shared.cores[Int(sectors.core)].canDiscard else {
            discards.append(index, parts)
            return
        }
        let command = commands.append(.discardCore)
        command.pointee.core = sectors.core
        command.pointee.deviceOffset = sectors.startSector * 512
        command.pointee.discardByteCount = UInt64(sectors.sectorCount) * 512
        command.pointee.token = Token(
            .request, slot: slot, generation: requests.generation(slot), isCore: true)
    }

    /// The core's discard ended, or the flush before the first dirty granule is dropped.
    mutating func coreDiscardEnded(_ slot: UInt32, _ result: Int32) {
        let index = requests[slot].pointee.firstPart
        let core = requests[slot].pointee.request.core
        if parts[index].pointee.phase == .flushingCore {
            parts[index].pointee.isCoreFlushed = true
        } else {
            counters.add(.directWritesDone, core)
        }
        if result < 0 {
            // The core may have lost some of it: what is clean in the cache is not the core's
            // content any more and goes, too; what is dirty stays.
            if result != Self.notSupported { counters.add(.coreWriteErrors, core) }
            parts[index].pointee.coreFailure = result
        }
        discards.append(index, parts)
    }

    @inline(__always) mutating func continueDiscards() {
        if !discards.isEmpty() { continueDiscardsSlowly() }
    }

    @inline(never) private mutating func continueDiscardsSlowly() {
        guard let index = discards.popFirst(parts) else { return }
        let slot = parts[index].pointee.request
        let request = requests[slot].pointee.request
        let bySet = parts[index].pointee.lineCount == 1
        let end =
            bySet
            ? UInt64(geometry.setCount)
            : ((request.startSector + UInt64(request.sectorCount) - 1) >> extentShift) + 1
        var steps = 0
        while parts[index].pointee.firstLine < end {
            guard steps < Self.stepsPerTurn else {
                discards.append(index, parts)
                return
            }
            let at = parts[index].pointee.firstLine
            let set =
                bySet
                ? UInt32(at)
                : setNumber(core: request.core, line: at * UInt64(geometry.linesPerExtent))
            guard dropRange(index, request, set: set) else { return }  // Parked.
            parts[index].pointee.firstLine += 1
            steps += 1
        }
        // A discard is a hint: that the device does not understand it is no error.
        let failure = parts[index].pointee.coreFailure
        let result = failure == Self.notSupported ? 0 : failure
        partDone(index)
        partReady(slot, result)
    }

    /// Drops the range's granules that lie in one set; false if the part waits: for a line that is
    /// in use, the journal, or a flush of the core.
    private mutating func dropRange(_ index: UInt32, _ request: Request, set: UInt32) -> Bool {
        let access = SetAccess(shared, set, counters)
        let isDiscarded =
            shared.cores[Int(request.core)].canDiscard && parts[index].pointee.coreFailure == 0
        access.sidecar.lock()
        if access.sidecar.occupied > 0 {
            for way in 0..<SetPageLayout.ways where access.holds(way, core: request.core) {
                let state = access.page.state(way)
                var dropped = granules(of: access.page.identity(way).line, in: request)
                if !isDiscarded {
                    // What a cleaning has just written to the core may be gone again.
                    if dropped & state.dirty != 0 { noteRewritten(way, access) }
                    dropped &= ~state.dirty
                }
                if dropped == 0 { continue }
                // A fill under way may have read what is no longer there; a cleaning may mark clean
                // what the core has just discarded.
                guard access.sidecar.uses[way].canBecomeExclusive else {
                    parts[index].pointee.set = set
                    park(index, access)
                    access.sidecar.unlock()
                    return false
                }
                if access.page.replacement[way] & Replacement.staleOnCore != 0 {
                    dropped &= ~state.dirty
                }
                if dropped & state.dirty != 0, !parts[index].pointee.isCoreFlushed {
                    access.sidecar.unlock()
                    parts[index].pointee.phase = .flushingCore
                    appendCoreFlush(parts[index].pointee.request)
                    return false
                }
                var isRecorded = false
                if access.needsRecord(way, dropped) {
                    switch roomToDrop(access, way, dropped) {
                    case .reserved: isRecorded = true
                    case .full:
                        parts[index].pointee.set = set
                        parkForJournal(index, access)
                        access.sidecar.unlock()
                        return false
                    case .failing:
                        // What is dirty stays. What is clean is not the core's content any more.
                        parts[index].pointee.coreFailure = -5  // EIO
                        dropped &= ~state.dirty
                    }
                }
                access.invalidate(way, dropped)
                // Behind the record: whoever counts it relies on the commit that has it.
                if isRecorded { counters.add(.cacheWritesDone, request.core) }
                access.releaseIfEmpty(way)
            }
        }
        let waiters = takeWaiters(access)
        access.sidecar.unlock()
        wake(waiters, set: set)
        return true
    }

    /// What is dropped may be overwritten at once. But recovery compares all that a record wrote:
    /// if some of that stays dirty, it must not be compared any more.
    private func roomToDrop(_ access: SetAccess, _ way: Int, _ dropped: UInt16) -> JournalRoom {
        if access.page.state(way).recorded & ~dropped != 0 {
            switch access.mayOverwrite(way, dropped, worker: worker) {
            case .allowed: break
            case .mustWait: return .full
            case .failing: return .failing
            }
        }
        return journal.reserve(1, worker: worker)
    }

    /// The granules of a line that lie wholly inside the request.
    private func granules(of line: UInt64, in request: Request) -> UInt16 {
        let start = line << lineShift
        let end = start + 1 << lineShift
        let from = max(start, request.startSector)
        let to = min(end, request.startSector + UInt64(request.sectorCount))
        guard from < to else { return 0 }
        let granule = UInt64(1) << granuleShift
        let first = (from - start + granule - 1) >> granuleShift
        let last = (to - start) >> granuleShift
        guard first < last else { return 0 }
        return UInt16(
            truncatingIfNeeded: (UInt32(1) << UInt32(last)) - (UInt32(1) << UInt32(first)))
    }
}
