import Synchronization

/// What is counted for each core, with Open CAS's meaning (its `-P` shows them).
///
/// Requests are counted once, when they are started; blocks are byte sums, rounded by whoever
/// prints them.
public enum Counter: Int, CaseIterable, Sendable {
    case readTotal, readPartialMisses, readFullMisses, readDeferred
    case writeTotal, writePartialMisses, writeFullMisses, writeDeferred
    case passThroughReads, passThroughWrites
    case cleanerRequests
    case coreReadBytes, coreWriteBytes, cacheReadBytes, cacheWriteBytes
    case exportedReadBytes, exportedWriteBytes
    case cleanerCacheReadBytes, cleanerCoreWriteBytes
    case cacheReadErrors, cacheWriteErrors, coreReadErrors, coreWriteErrors
    // Not resettable: what the core holds in the cache, as differences a worker contributed.
    case occupiedLines, dirtyLines
    // Not resettable: progress of writes, for deciding what a FLUSH must flush. Counted when the
    // journal has the write's records, and before it is answered: a FLUSH that has seen the count
    // joins a commit that has the records.
    case cacheWritesDone, directWritesDone

    public static let first = Counter.readTotal
    public static let firstKept = Counter.occupiedLines
    /// Not reset by `casadm -Z`: it describes the cache, not its use.
    var isKept: Bool { rawValue >= Self.firstKept.rawValue }
}

/// The counters of one worker, a row of `Counter.allCases.count` words for each core id.
///
/// Only its worker writes (one block is written by all, with `addShared`); others read plain
/// aligned words and add up. What a FLUSH must cover they do see: it was counted before its write
/// was answered, and the FLUSH came after the answer.
/// Differences may be negative in one worker (it evicted what another one inserted): sums wrap
/// around to the right answer.
public struct WorkerCounters: @unchecked Sendable {
    static let rowWords = 32
    @usableFromInline let words: UnsafeMutablePointer<UInt64>

    init(words: UnsafeMutablePointer<UInt64>) {
        precondition(Counter.allCases.count <= Self.rowWords)
        self.words = words
    }

    @inline(__always) func add(_ counter: Counter, _ core: UInt16, _ amount: UInt64 = 1) {
        words[Int(core) * Self.rowWords + counter.rawValue] &+= amount
    }

    @inline(__always) func subtract(_ counter: Counter, _ core: UInt16, _ amount: UInt64 = 1) {
        words[Int(core) * Self.rowWords + counter.rawValue] &-= amount
    }

    public func value(_ counter: Counter, _ core: UInt16) -> UInt64 {
        words[Int(core) * Self.rowWords + counter.rawValue]
    }

    /// For the block that many threads write.
    func addShared(_ counter: Counter, _ core: UInt16, _ amount: UInt64 = 1) {
        let word = words + (Int(core) * Self.rowWords + counter.rawValue)
        UnsafeMutableRawPointer(word).assumingMemoryBound(to: Atomic<UInt64>.self).pointee
            .wrappingAdd(amount, ordering: .relaxed)
    }

    func clear(_ counter: Counter, _ core: UInt16) {
        words[Int(core) * Self.rowWords + counter.rawValue] = 0
    }

    /// Zeroes what `casadm -Z` zeroes. A count made at the same instant may be lost.
    func reset(core: UInt16) {
        for counter in Counter.allCases where !counter.isKept { clear(counter, core) }
    }
}
