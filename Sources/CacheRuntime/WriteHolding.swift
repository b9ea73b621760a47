import CacheEngine

/// Which writes are copied to memory of this process although their pages are registered.
///
/// Where both devices get the data, or it has to be durable at the answer, it must not change on
/// the way. Otherwise only the journal asks: a commit all of whose records have a checksum needs
/// one flush of the cache device, else two. A copy costs far less than a flush, so data is held as
/// long as there is little of it in a commit; a load that never flushes is not copied.
struct WriteHolding {
    /// Bytes of a commit, as far as this worker gets them, that are worth a flush.
    static let heldBytesMax: UInt32 = 1 << 20

    private var commit: UInt16 = 0
    private var heldBytes: UInt32 = 0

    mutating func holds(_ request: Request, _ shared: SharedCache) -> Bool {
        if shared.holdsWrites || request.forceUnitAccess { return true }
        // Nothing is inserted.
        if shared.mode == .passThrough { return false }
        let open = shared.journal.openCommitMark
        if open != commit {
            commit = open
            heldBytes = 0
        }
        let byteCount = request.sectorCount * 512
        guard heldBytes + byteCount <= Self.heldBytesMax else { return false }
        heldBytes += byteCount
        return true
    }
}
