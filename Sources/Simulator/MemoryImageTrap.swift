import CStoreTrap
import CacheEngine
import CacheFormat

/// The memory image of the cache as a process leaves it that dies between two stores.
///
/// Death comes between two instructions, and what was stored before is there: the machine goes on.
/// So every store to the image is a place to die at.
final class MemoryImageTrap {
    private let regions: [ucas_region]

    /// Regions aligned to pages, and made of whole ones.
    init(_ regions: [UnsafeMutableRawBufferPointer]) {
        self.regions = regions.map {
            let copy = UnsafeMutableRawPointer.allocate(byteCount: $0.count, alignment: 4096)
            return ucas_region(memory: $0.baseAddress, copy: copy, byte_count: $0.count)
        }
    }

    deinit {
        for region in regions { region.copy.deallocate() }
    }

    static var works: Bool { ucas_store_trap_works() != 0 }

    /// Runs `body`, and leaves the image as it was after `stores` stores of it, or at its end.
    /// False if it ended before.
    func run(untilStores stores: UInt64, _ body: () -> Void) -> Bool {
        ucas_store_trap_begin(regions, regions.count, stores)
        body()
        let counted = ucas_store_trap_end()
        for region in regions {
            region.memory.copyMemory(from: region.copy, byteCount: region.byte_count)
        }
        return counted > stores
    }
}
