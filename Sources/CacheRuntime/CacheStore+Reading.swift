import CacheFormat

/// Blocks of metadata that the device does not give. They read as zero, which nobody ever wrote:
/// what is there counts as damaged, and what the rest says decides whether that matters.
struct UnreadableBlocks {
    private var count = 0
    private var first: (offset: UInt64, reason: String)?

    fileprivate mutating func add(_ offset: UInt64, _ error: CacheError) {
        count += 1
        if first == nil { first = (offset, error.message) }
    }

    /// A sentence for whoever is told of damage; empty if all could be read.
    var advice: String {
        guard let first else { return "" }
        return " \(count) block\(count == 1 ? "" : "s") of metadata could not be read, the first "
            + "at byte \(first.offset) (\(first.reason)) If the device may get well again, nothing "
            + "was changed: try again then."
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
}
