import CacheFormat

/// Blocks of metadata that the device does not give. They read as zero, which nobody ever wrote:
/// what is there counts as damaged, and what the rest says decides whether that matters.
struct UnreadableBlocks {
    fileprivate private(set) var offsets: [UInt64] = []
    private var reason = ""

    fileprivate mutating func add(_ offset: UInt64, _ error: CacheError) {
        if offsets.isEmpty { reason = error.message }
        offsets.append(offset)
    }

    /// A sentence for whoever is told of damage; empty if all could be read.
    var advice: String {
        guard let first = offsets.first else { return "" }
        return " \(offsets.count) block\(offsets.count == 1 ? "" : "s") of metadata could not be "
            + "read, the first at byte \(first) (\(reason)) If the device may get well again, "
            + "nothing was changed: try again then."
    }
}

extension CacheStore {
    /// Reads blocks of 4096 bytes in a row.
    func readBlocks(
        into bytes: UnsafeMutableRawBufferPointer, at offset: UInt64,
        _ unreadable: inout UnreadableBlocks
    ) {
        do throws(CacheError) {
            return try medium.read(into: bytes, at: offset)
        } catch {
            // One by one, to lose no more than has to be.
        }
        for start in stride(from: 0, to: bytes.count, by: Geometry.blockBytes) {
            let block = UnsafeMutableRawBufferPointer(
                rebasing: bytes[start..<start + Geometry.blockBytes])
            do throws(CacheError) {
                try medium.read(into: block, at: offset + UInt64(start))
            } catch {
                block.initializeMemory(as: UInt8.self, repeating: 0)
                unreadable.add(offset + UInt64(start), error)
            }
        }
    }

    /// Before anything is given up for good: a device that fails for a while, and then does not,
    /// has it all.
    func checkStillUnreadable(_ unreadable: UnreadableBlocks) throws(CacheError) {
        let block = AlignedBytes(count: Geometry.blockBytes)
        for offset in unreadable.offsets {
            guard (try? medium.read(into: block.bytes, at: offset)) != nil else { continue }
            throw CacheError(
                .inputOutput,
                "Reading '\(medium.path)' at byte \(offset) failed, and then it did not: the "
                    + "device is unreliable. Nothing was changed: try again.")
        }
    }
}
