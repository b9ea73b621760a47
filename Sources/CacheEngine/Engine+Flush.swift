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
            emitFlush(slot, .flushCache)
        }
        if request.pointee.directWritesSeen
            > flushed.pointee.directWrites.load(ordering: .acquiring)
        {
            emitFlush(slot, .flushCore)
        }
        if request.pointee.partsInUse == 0 { answer(slot) }
    }

    private mutating func emitFlush(_ slot: UInt32, _ kind: Command.Kind) {
        let request = requests[slot]
        request.pointee.partsInUse += 1
        let command = commands.append(kind)
        command.pointee.core = request.pointee.request.core
        command.pointee.token = Token(
            .request, slot: slot, generation: requests.generation(slot), isCore: kind == .flushCore)
    }

    /// A flush ended, or the core part of a discard.
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
            counters.add(token.isCore ? .coreWriteErrors : .cacheWriteErrors, core)
            if request.pointee.result == 0 { request.pointee.result = result }
        } else if token.isCore {
            raise(flushed.pointee.directWrites, to: request.pointee.directWritesSeen)
        } else {
            raise(flushed.pointee.cacheWrites, to: request.pointee.cacheWritesSeen)
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
