import Glibc
import Uring

// A request's way: its step is asked for, its data move, the step is done, its data move, it is
// given back.

extension TagServer {
    mutating func begin(_ slot: UInt32) {
        let place = Int(slot)
        let request = queues[Int(slots[place].queue)].descriptor(tag: slots[place].tag)
        slots[place].request = request
        slots[place].step = target.step(request)
        slots[place].byteCount = request.movesData ? request.sectorCount * 512 : 0
        slots[place].done = 0
        if case .automatic = mode {
            slots[place].isRegistered = request.movesData && !request.needsRegistration
        }
        // In user copy a write's bytes have to be fetched first.
        if mode == .userCopy, request.operation == .write {
            let bytes = queues[Int(slots[place].queue)].bytes(tag: slots[place].tag)
            let result = bytes.take(into: buffer(slot), count: Int(slots[place].byteCount))
            guard result == 0 else {
                finish(slot, result)
                return
            }
        }
        run(slot)
    }

    /// Does the step, or what is left of it.
    private mutating func run(_ slot: UInt32) {
        let data = userData(.file, slot)
        let file = Self.targetFile
        switch slots[Int(slot)].step {
        case .done(let result): finish(slot, result)
        case .inMemory: serveInMemory(slot)
        case .read(let offset): transfer(slot, offset: offset, isWrite: false, isDurable: false)
        case .write(let offset, let isDurable):
            transfer(slot, offset: offset, isWrite: true, isDurable: isDurable)
        case .flush:
            ring.makeRoom(1)
            mustFit(ring.prepareFlush(file: file, userData: data))
        case .punchHole(let offset, let byteCount):
            ring.makeRoom(1)
            mustFit(
                ring.preparePunchHole(
                    file: file, offset: offset, byteCount: byteCount, userData: data))
        case .discard(let offset, let byteCount):
            ring.makeRoom(1)
            mustFit(
                ring.prepareDiscard(
                    file: file, offset: offset, byteCount: byteCount, userData: data))
        case .zeroRange(let offset, let byteCount):
            ring.makeRoom(1)
            mustFit(
                ring.prepareZeroRange(
                    file: file, offset: offset, byteCount: byteCount, userData: data))
        }
    }

    private mutating func serveInMemory(_ slot: UInt32) {
        let state = slots[Int(slot)]
        let bytes = UnsafeMutableRawBufferPointer(
            start: state.byteCount > 0 ? buffer(slot) : nil, count: Int(state.byteCount))
        let result = target.serve(state.request, bytes)
        if result == 0 { transferred(slot) } else { finish(slot, result) }
    }

    mutating func fileStepEnded(_ slot: UInt32, _ result: Int32) {
        if slots[Int(slot)].chainLeft > 0 {
            slots[Int(slot)].transferred = result
            chainPartEnded(slot, 0)
        } else {
            stepEnded(slot, result)
        }
    }

    private mutating func stepEnded(_ slot: UInt32, _ result: Int32) {
        if result == -EAGAIN || result == -EINTR {
            run(slot)
            return
        }
        switch slots[Int(slot)].step {
        case .read, .write:
            guard result > 0 else {
                finish(slot, result == 0 ? -EIO : result)
                return
            }
            slots[Int(slot)].done += UInt32(result)
            if slots[Int(slot)].done < slots[Int(slot)].byteCount {
                run(slot)
            } else {
                transferred(slot)
            }
        case .discard(let offset, let byteCount) where result == -EOPNOTSUPP || result == -EINVAL:
            // Kernels before 6.12 have no discard command for rings.
            slots[Int(slot)].step = .punchHole(offset: offset, byteCount: byteCount)
            run(slot)
        default: finish(slot, min(result, 0))
        }
    }

    /// All bytes of the target are moved: in user copy a read's are not with the driver yet.
    private mutating func transferred(_ slot: UInt32) {
        guard mode == .userCopy, slots[Int(slot)].request.operation == .read else {
            finish(slot, 0)
            return
        }
        let state = slots[Int(slot)]
        let bytes = queues[Int(state.queue)].bytes(tag: state.tag)
        finish(slot, bytes.give(from: buffer(slot), count: Int(state.byteCount)))
    }
}

// MARK: - Between the target's file and the request

extension TagServer {
    /// Moves what is left of the request's bytes.
    private mutating func transfer(
        _ slot: UInt32, offset: UInt64, isWrite: Bool, isDurable: Bool
    ) {
        let state = slots[Int(slot)]
        let position = offset + UInt64(state.done)
        let left = state.byteCount - state.done
        let data = userData(.file, slot)
        guard mode.hasBuffers else {
            transferRegistered(slot, position, left, isWrite: isWrite, isDurable: isDurable)
            return
        }
        let at = buffer(slot) + Int(state.done)
        ring.makeRoom(1)
        mustFit(
            isWrite
                ? ring.prepareWrite(
                    file: Self.targetFile, from: at, byteCount: left, offset: position,
                    isDurable: isDurable, userData: data)
                : ring.prepareRead(
                    file: Self.targetFile, into: at, byteCount: left, offset: position,
                    userData: data))
    }

    /// The same straight from or to the request's pages. If they are not in the buffer table yet,
    /// that is done first and undone afterwards, in one chain.
    private mutating func transferRegistered(
        _ slot: UInt32, _ position: UInt64, _ left: UInt32, isWrite: Bool, isDurable: Bool
    ) {
        let place = UInt16(slot)
        let (done, tag) = (slots[Int(slot)].done, slots[Int(slot)].tag)
        let queue = queues[Int(slots[Int(slot)].queue)]
        let isChain = !slots[Int(slot)].isRegistered
        ring.makeRoom(isChain ? 3 : 1)
        if isChain {
            slots[Int(slot)].chainLeft = 3
            slots[Int(slot)].chainFailure = 0
            mustFit(
                queue.prepareRegister(
                    &ring, tag: tag, place: place, userData: userData(.register, slot)))
            ring.linkLast()
        }
        let data = userData(.file, slot)
        mustFit(
            isWrite
                ? ring.prepareWrite(
                    file: Self.targetFile, place: place, start: done, byteCount: left,
                    offset: position, isDurable: isDurable, userData: data)
                : ring.prepareRead(
                    file: Self.targetFile, place: place, start: done, byteCount: left,
                    offset: position, userData: data))
        guard isChain else { return }
        ring.linkLast()
        mustFit(
            queue.prepareUnregister(
                &ring, tag: tag, place: place, userData: userData(.unregister, slot)))
    }

    /// A part of the chain has ended; the next one begins in any case. Where the pages could not be
    /// registered that is the reason, whatever the rest says.
    mutating func chainPartEnded(_ slot: UInt32, _ failure: Int32) {
        let place = Int(slot)
        precondition(slots[place].chainLeft > 0, "a part of a chain that is not there")
        slots[place].chainLeft -= 1
        if slots[place].chainFailure == 0 { slots[place].chainFailure = failure }
        guard slots[place].chainLeft == 0 else { return }
        let failure = slots[place].chainFailure
        stepEnded(slot, failure == 0 ? slots[place].transferred : failure)
    }
}
