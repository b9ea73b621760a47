import CacheFormat

/// Turning lines of a part into device I/O, and hearing of its end.
///
/// Granules of a part are numbered from the start of its first line; a part has at most 128.
extension Engine {
    var granulesPerLine: Int { Int(geometry.granulesPerLine) }

    /// The granules of line `line` (0 = the part's first) that the part touches.
    @inline(__always) func granules(_ part: UnsafeMutablePointer<Part>, line: Int) -> UInt16 {
        if line == 0 { return part.pointee.firstGranules }
        return line &+ 1 == Int(part.pointee.lineCount) ? part.pointee.lastGranules : allGranules
    }

    @inline(__always) func identity(_ part: UnsafeMutablePointer<Part>, line: Int, core: UInt16)
        -> Identity
    {
        Identity(core: core, line: part.pointee.firstLine &+ UInt64(line), ioClass: 0)
    }

    /// Bytes of the part from the buffer's start to `sector`.
    @inline(__always)
    private func bufferOffset(_ part: UnsafeMutablePointer<Part>, _ sector: UInt64) -> UInt32 {
        part.pointee.bufferOffset
            &+ UInt32(truncatingIfNeeded: sector &- part.pointee.startSector) &* 512
    }

    /// Cache I/O for whole touched lines in `lines`: neighbours in neighbouring ways become one.
    @inline(__always)
    mutating func emitLines(_ index: UInt32, _ kind: Command.Kind, _ lines: UInt16) {
        let part = parts[index]
        let partEnd = part.pointee.startSector &+ UInt64(part.pointee.sectorCount)
        var left = lines
        while left != 0 {
            let first = left.trailingZeroBitCount
            let way = Int(part.pointee.ways[first])
            var next = first + 1
            while next < Int(part.pointee.lineCount), left & 1 << UInt16(next) != 0,
                Int(part.pointee.ways[next]) == way + next - first
            {
                next += 1
            }
            left &= ~(UInt16(truncatingIfNeeded: (UInt32(1) << UInt32(next)) &- 1))
            let lineStart = (part.pointee.firstLine &+ UInt64(first)) << lineShift
            let from = max(part.pointee.startSector, lineStart)
            let to = min(partEnd, (part.pointee.firstLine &+ UInt64(next)) << lineShift)
            emitCache(index, kind, way: way, sectorInWay: from &- lineStart, from: from, to: to)
        }
    }

    @inline(__always)
    private mutating func emitCache(
        _ index: UInt32, _ kind: Command.Kind, way: Int, sectorInWay: UInt64, from: UInt64,
        to: UInt64
    ) {
        let part = parts[index]
        let request = requests[part.pointee.request]
        let command = commands.append(kind)
        command.pointee.core = request.pointee.request.core
        command.pointee.buffer = .request(part.pointee.request)
        command.pointee.bufferOffset = bufferOffset(part, from)
        command.pointee.byteCount = UInt32(truncatingIfNeeded: (to &- from) &* 512)
        command.pointee.deviceOffset =
            geometry.cacheOffset(set: part.pointee.set, way: way) &+ sectorInWay &* 512
        command.pointee.token = Token(
            .part, slot: index, generation: parts.generation(index), isCore: false)
        if kind == .writeCache {
            command.pointee.forceUnitAccess = part.pointee.isDurableInPlace
            counters.add(.cacheWriteBytes, command.pointee.core, UInt64(command.pointee.byteCount))
        } else {
            counters.add(.cacheReadBytes, command.pointee.core, UInt64(command.pointee.byteCount))
        }
        part.pointee.pending &+= 1
    }

    /// Cache I/O for single granules (bits as numbered in the part).
    mutating func emitCacheGranules(_ index: UInt32, _ kind: Command.Kind, _ bits: UInt128) {
        let part = parts[index]
        let perLine = granulesPerLine
        var left = bits
        while left != 0 {
            let first = left.trailingZeroBitCount
            var end = first
            while end < 128, left & 1 << UInt128(end) != 0 {
                let isNewLine = end % perLine == 0 && end != first
                if isNewLine,
                    part.pointee.ways[end / perLine] != part.pointee.ways[end / perLine - 1] &+ 1
                {
                    break
                }
                end += 1
            }
            left &= ~mask(first, end)
            let line = first / perLine
            let lineStart = (part.pointee.firstLine + UInt64(line)) << lineShift
            let from = max(part.pointee.startSector, granuleStart(part, first))
            let to = min(
                part.pointee.startSector + UInt64(part.pointee.sectorCount),
                granuleStart(part, end))
            emitCache(
                index, kind, way: Int(part.pointee.ways[line]), sectorInWay: from - lineStart,
                from: from, to: to)
        }
    }

    private func granuleStart(_ part: UnsafeMutablePointer<Part>, _ granule: Int) -> UInt64 {
        part.pointee.firstLine << lineShift + UInt64(granule) << granuleShift
    }

    private func mask(_ first: Int, _ end: Int) -> UInt128 {
        let below = end == 128 ? UInt128.max : (UInt128(1) << UInt128(end)) - 1
        return below & ~((UInt128(1) << UInt128(first)) - 1)
    }

    /// Core I/O for granules (bits as numbered in the part), one command a run.
    mutating func emitCoreGranules(_ index: UInt32, _ kind: Command.Kind, _ bits: UInt128) {
        let part = parts[index]
        var left = bits
        while left != 0 {
            let first = left.trailingZeroBitCount
            var end = first
            while end < 128, left & 1 << UInt128(end) != 0 { end += 1 }
            left &= ~mask(first, end)
            let from = max(part.pointee.startSector, granuleStart(part, first))
            let to = min(
                part.pointee.startSector + UInt64(part.pointee.sectorCount),
                granuleStart(part, end))
            emitCore(index, kind, from: from, to: to)
        }
    }

    /// Core I/O for sectors of the part. What continues the request's previous core transfer is
    /// carried by that one: a long request stays one I/O for the core.
    mutating func emitCore(_ index: UInt32, _ kind: Command.Kind, from: UInt64, to: UInt64) {
        let part = parts[index]
        let request = requests[part.pointee.request]
        let core = request.pointee.request.core
        let byteCount = UInt32(truncatingIfNeeded: (to - from) * 512)
        let offset = bufferOffset(part, from)
        part.pointee.pending += 1
        counters.add(
            kind == .writeCore ? .coreWriteBytes : .coreReadBytes, core, UInt64(byteCount))
        if let last = commands.last, last.pointee.kind == kind,
            last.pointee.buffer == .request(part.pointee.request),
            last.pointee.deviceOffset + UInt64(last.pointee.byteCount) == from * 512,
            last.pointee.bufferOffset + last.pointee.byteCount == offset,
            chain(index, behind: last.pointee.token)
        {
            last.pointee.byteCount += byteCount
            last.pointee.token = last.pointee.token.withChain
            if kind == .readCore, part.pointee.owners != 0 { last.pointee.isFilled = true }
            return
        }
        let command = commands.append(kind)
        command.pointee.core = core
        command.pointee.buffer = .request(part.pointee.request)
        command.pointee.bufferOffset = offset
        command.pointee.byteCount = byteCount
        command.pointee.deviceOffset = from * 512
        if kind == .readCore {
            command.pointee.isFilled = part.pointee.owners != 0
        } else {
            command.pointee.forceUnitAccess =
                request.pointee.request.forceUnitAccess || shared.durability == .write
        }
        command.pointee.token = Token(
            .part, slot: index, generation: parts.generation(index), isCore: true)
    }

    /// Lets the transfer of `token` carry this part's bytes, too; false if it cannot.
    private func chain(_ index: UInt32, behind token: Token) -> Bool {
        guard token.kind == .part, token.isCore, token.slot != index else { return false }
        var tail = token.slot
        while parts[tail].pointee.chained != noSlot { tail = parts[tail].pointee.chained }
        guard tail != index, parts[tail].pointee.nextPart == index else { return false }
        parts[tail].pointee.chained = index
        return true
    }
}

// MARK: - Ends

extension Engine {
    mutating func partTransferEnded(_ token: Token, _ result: Int32) {
        let index = token.slot
        precondition(
            parts.isCurrent(index, token.generation),
            "a completion for a part that has ended")
        guard token.carriesChain else {
            transferEnded(index, isCore: token.isCore, result)
            return
        }
        // A part may end, and its slot be used again, as soon as it is told: look ahead first.
        var carried = index
        while carried != noSlot {
            let next = parts[carried].pointee.chained
            parts[carried].pointee.chained = noSlot
            transferEnded(carried, isCore: true, result)
            carried = next
        }
    }

    @inline(__always)
    private mutating func transferEnded(_ index: UInt32, isCore: Bool, _ result: Int32) {
        let part = parts[index]
        precondition(part.pointee.pending > 0, "more completions than transfers")
        part.pointee.pending &-= 1
        if result < 0 { noteFailure(index, isCore: isCore, result) }
        if part.pointee.pending == 0 { transfersEnded(index) }
    }

    private func noteFailure(_ index: UInt32, isCore: Bool, _ result: Int32) {
        let part = parts[index]
        let core = requests[part.pointee.request].pointee.request.core
        let isRead =
            part.pointee.phase == .readHit || part.pointee.phase == .readMiss
            || part.pointee.phase == .readRetry
        if isCore {
            counters.add(isRead ? .coreReadErrors : .coreWriteErrors, core)
            part.pointee.coreFailure = result
        } else {
            counters.add(isRead ? .cacheReadErrors : .cacheWriteErrors, core)
            part.pointee.cacheFailure = result
        }
    }

    @inline(__always) private mutating func transfersEnded(_ index: UInt32) {
        switch parts[index].pointee.phase {
        case .readHit: readHitEnded(index)
        case .readMiss: readMissEnded(index)
        case .readRetry: readRetryEnded(index)
        case .filling: fillEnded(index)
        case .writeBack: writeBackEnded(index)
        case .writeThrough: writeThroughEnded(index)
        case .passThrough: passThroughEnded(index)
        case .idle, .parked, .awaitingAnswer, .flushingCore, .discarding:
            preconditionFailure("a transfer ended for a part that has none")
        }
    }
}
