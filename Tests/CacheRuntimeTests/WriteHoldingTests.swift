import CacheEngine
import CacheFormat
import Testing

@testable import CacheRuntime

/// Which writes are copied although they need not be.
@Suite struct WriteHoldingTests {
    private final class Cache {
        let shared: SharedCache
        private let pages = UnsafeMutableRawPointer.allocate(byteCount: 4096, alignment: 4096)

        init(_ mode: EngineMode) throws {
            let geometry = try #require(
                Geometry(lineBytes: 4096, setCount: 1, journalBlockCount: 256))
            shared = SharedCache(geometry: geometry, pages: pages, workerCount: 1)
            shared.mode = mode
        }

        deinit {
            shared.deallocate()
            pages.deallocate()
        }
    }

    /// Whether writes of so many KiB are held, one after the other.
    private func held(
        _ kib: [UInt32], _ holding: inout WriteHolding, _ cache: Cache,
        forceUnitAccess: Bool = false
    ) -> [Bool] {
        kib.map {
            let write = Request(
                .write, core: 1, sectorCount: $0 * 2, forceUnitAccess: forceUnitAccess)
            return holding.holds(write, cache.shared)
        }
    }

    @Test func asManyBytesOfACommitAsAreWorthAFlush() throws {
        let cache = try Cache(.writeBack)
        var holding = WriteHolding()
        let first = held([512, 512, 4], &holding, cache)
        #expect(first == [true, true, false])
        // Somebody is told that it is durable at the answer: for that one it is.
        let durable = held([4], &holding, cache, forceUnitAccess: true)
        #expect(durable == [true])
        let next = held([4], &holding, cache)
        #expect(next == [false])
    }

    @Test func whatBothDevicesGetIsHeld() throws {
        let cache = try Cache(.writeThrough)
        var holding = WriteHolding()
        let through = held([512, 512, 512], &holding, cache)
        #expect(through == [true, true, true])
        cache.shared.mode = .writeBack
        let back = held([512, 512, 512], &holding, cache)
        #expect(back == [true, true, false])
        // A removal, or a change of the mode, wants an end of dirty lines.
        cache.shared.freezeDirty()
        let frozen = held([512], &holding, cache)
        #expect(frozen == [true])
        cache.shared.thawDirty()
        let thawed = held([512], &holding, cache)
        #expect(thawed == [false])
    }

    @Test func whatIsDurableAtTheAnswerIsHeld() throws {
        let cache = try Cache(.writeBack)
        cache.shared.durability = .write
        var holding = WriteHolding()
        let all = held([512, 512, 512], &holding, cache)
        #expect(all == [true, true, true])
    }

    @Test func whatIsNotInsertedIsNotHeld() throws {
        let cache = try Cache(.passThrough)
        var holding = WriteHolding()
        let none = held([4], &holding, cache)
        #expect(none == [false])
    }
}
