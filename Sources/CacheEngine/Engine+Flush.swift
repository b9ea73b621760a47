import Synchronization

/// FLUSH: rule 2 of the design. What was acknowledged before it is durable when it is answered,
/// and nothing is flushed that took no write since its last flush.
extension Engine {
    mutating func startFlush(_ slot: UInt32) {
        let request = requests[slot]
        let core = request.pointee.request.core
        request.pointee.cacheWritesSeen = shared.sum(.cacheWritesDone, core: core)
        request.pointee.directWritesSeen = shared.sum(.directWritesDone, core: core)
        let flushed = shared.flushed(core)
        if request.pointee.cacheWritesSeen
            > flushed.pointee.cacheWrites.load(ordering: .acquiring)
        {
            request.pointee.partsInUse += 1
            awaitCommit(slot)
        }
        if request.pointee.directWritesSeen
            > flushed.pointee.directWrites.load(ordering: .acquiring)
        {
            emitCoreFlush(slot)
        }
        if request.pointee.partsInUse == 0 { answer(slot) }
    }

    private mutating func emitCoreFlush(_ slot: UInt32) {
        requests[slot].pointee.partsInUse += 1
        appendCoreFlush(slot)
    }

    /// The end of it is a transfer of the request.
    mutating func appendCoreFlush(_ slot: UInt32) {
        let command = commands.append(.flushCore)
        command.pointee.core = requests[slot].pointee.request.core
        command.pointee.token = Token(
            .request, slot: slot, generation: requests.generation(slot), isCore: true)
    }

    /// The commit that a FLUSH waited for ended.
    mutating func flushOfCacheEnded(_ slot: UInt32, isWell: Bool) {
        let request = requests[slot]
        if isWell {
            raise(
                shared.flushed(request.pointee.request.core).pointee.cacheWrites,
                to: request.pointee.cacheWritesSeen)
        }
        request.pointee.partsInUse -= 1
        if request.pointee.partsInUse == 0 { answer(slot) }
    }

    /// A flush of the core ended, or the core part of a discard.
    mutating func requestTransferEnded(_ token: Token, _ result: Int32) {
        let slot = token.slot
        precondition(
            requests.isCurrent(slot, token.generation),
            "a completion for a request that has ended")
        if requests[slot].pointee.request.operation == .discard {
            coreDiscardEnded(slot, result)
            return
        }
        let request = requests[slot]
        let core = request.pointee.request.core
        let flushed = shared.flushed(core)
        if result < 0 {
            counters.add(.coreWriteErrors, core)
            if request.pointee.result == 0 { request.pointee.result = result }
        } else {
            raise(flushed.pointee.directWrites, to: request.pointee.directWritesSeen)
        }
        request.pointee.partsInUse -= 1
        if request.pointee.partsInUse == 0 { answer(slot) }
    }

    private func raise(_ mark: borrowing Atomic<UInt64>, to value: UInt64) {
        _ = mark.max(value, ordering: .acquiringAndReleasing)
    }
}

/// Up to which write a core's data, and its data in the cache, was flushed.
public struct FlushMarks: ~Copyable {
    let cacheWrites = Atomic<UInt64>(0)
    let directWrites = Atomic<UInt64>(0)
}
