import Synchronization

/// Which extents of one core have dirty lines: one bit an extent, with summaries above it.
///
/// A set bit may be stale (the cleaner finds nothing and clears it); a cleared bit is never wrong.
/// A bit is changed only under the lock of the extent's set, so two changes of one bit are ordered;
/// its neighbours in the word belong to other sets, hence the atomics.
public struct DirtyMap: @unchecked Sendable {
    private static let levelMax = 6

    private let memory: ZeroedMemory
    private let words: UnsafeMutablePointer<Atomic<UInt64>>
    private let extentCount: UInt64
    private let levelCount: Int
    /// First word of each level; level 0 has a bit an extent, each next one a bit a word below.
    private var levelStart: (Int, Int, Int, Int, Int, Int) = (0, 0, 0, 0, 0, 0)
    private let wordCount: Int

    public init(extentCount: UInt64) {
        precondition(extentCount > 0)
        self.extentCount = extentCount
        var starts: [Int] = []
        var total = 0
        var bits = Int(extentCount)
        repeat {
            starts.append(total)
            bits = (bits + 63) / 64
            total += bits
        } while bits > 1
        precondition(starts.count <= Self.levelMax, "core too large for the dirty map")
        levelCount = starts.count
        wordCount = total
        while starts.count < Self.levelMax { starts.append(0) }
        levelStart = (starts[0], starts[1], starts[2], starts[3], starts[4], starts[5])
        memory = ZeroedMemory(byteCount: total * 8)
        words = memory.base.assumingMemoryBound(to: Atomic<UInt64>.self)
    }

    public func deallocate() { memory.deallocate() }

    /// Bytes of memory the map takes.
    public var byteCount: Int { wordCount * 8 }

    private func start(_ level: Int) -> Int {
        switch level {
        case 0: levelStart.0
        case 1: levelStart.1
        case 2: levelStart.2
        case 3: levelStart.3
        case 4: levelStart.4
        default: levelStart.5
        }
    }

    @inline(__always) func insert(_ extent: UInt64) {
        precondition(extent < extentCount)
        let word = words + Int(extent / 64)
        let bit = UInt64(1) << (extent % 64)
        if word.pointee.load(ordering: .relaxed) & bit != 0 { return }
        insertSlowly(extent)
    }

    @inline(never) private func insertSlowly(_ extent: UInt64) {
        var index = extent
        for level in 0..<levelCount {
            let word = words + start(level) + Int(index / 64)
            let bit = UInt64(1) << (index % 64)
            word.pointee.bitwiseOr(bit, ordering: .sequentiallyConsistent)
            index /= 64
        }
    }

    /// Clears a bit, and the summaries that became empty.
    ///
    /// Another worker may set a neighbour in between: after clearing a summary bit the word below
    /// is read again and the bit put back if it is not empty any more.
    func remove(_ extent: UInt64) {
        precondition(extent < extentCount)
        var index = extent
        for level in 0..<levelCount {
            let word = words + start(level) + Int(index / 64)
            let bit = UInt64(1) << (index % 64)
            let left = word.pointee.bitwiseAnd(~bit, ordering: .sequentiallyConsistent).newValue
            if level > 0 {
                let below = words + start(level - 1) + Int(index)
                if below.pointee.load(ordering: .sequentiallyConsistent) != 0 {
                    putBack(index, fromLevel: level)
                    return
                }
            }
            if left != 0 { return }
            index /= 64
        }
    }

    private func putBack(_ bitIndex: UInt64, fromLevel: Int) {
        var index = bitIndex
        for level in fromLevel..<levelCount {
            let word = words + start(level) + Int(index / 64)
            word.pointee.bitwiseOr(UInt64(1) << (index % 64), ordering: .sequentiallyConsistent)
            index /= 64
        }
    }

    public func contains(_ extent: UInt64) -> Bool {
        words[Int(extent / 64)].load(ordering: .relaxed) & (1 << (extent % 64)) != 0
    }

    /// The first extent at or after `from` whose bit is set.
    public func next(from: UInt64) -> UInt64? {
        guard from < extentCount else { return nil }
        var level = 0
        var index = from
        // Climb until a word has something at or after the position.
        while level < levelCount {
            let wordIndex = Int(index / 64)
            guard wordIndex < wordsIn(level) else { return nil }
            let word = words[start(level) + wordIndex].load(ordering: .sequentiallyConsistent)
            let left = word & (~0 << (index % 64))
            if left != 0 {
                let found = UInt64(wordIndex) * 64 + UInt64(left.trailingZeroBitCount)
                if level == 0 { return found }
                if let extent = firstBelow(level, found) { return extent }
                index = found + 1  // A stale summary: go on behind it.
                continue
            }
            index = UInt64(wordIndex) + 1
            level += 1
        }
        return nil
    }

    private func wordsIn(_ level: Int) -> Int {
        (level + 1 < levelCount ? start(level + 1) : wordCount) - start(level)
    }

    private func firstBelow(_ level: Int, _ bitIndex: UInt64) -> UInt64? {
        var index = bitIndex
        for below in stride(from: level - 1, through: 0, by: -1) {
            let word = words[start(below) + Int(index)].load(ordering: .sequentiallyConsistent)
            if word == 0 { return nil }
            index = index * 64 + UInt64(word.trailingZeroBitCount)
        }
        return index
    }
}
