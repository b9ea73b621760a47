import Glibc
import Testing
import Uring

/// What cannot be seen from results: how durable a write is asked to be.
@Suite(.needsRing) struct EntryTests {
    @Test func onlyADurableWriteIsSentWithDSYNC() async {
        await #expect(processExitsWith: .success) {
            let file = ScratchFile(byteCount: 4096)
            var ring = try Ring.over(file)
            let entries = try SubmissionEntries()
            let buffer = Buffer(4096)
            for isDurable in [false, true, false] {
                _ = ring.prepareWrite(
                    file: 2, from: buffer.base, byteCount: 512, offset: 1 << 40,
                    isDurable: isDurable, userData: 1)
            }
            _ = ring.prepareFlush(file: 2, userData: 2)
            #expect((0..<3).map { entries[$0].operationFlags } == [0, 2, 0])
            for index in 0..<3 {
                // IORING_OP_WRITE with IOSQE_FIXED_FILE.
                #expect(entries[index].opcode == 23 && entries[index].flags == 1)
                #expect(entries[index].descriptor == 2 && entries[index].offset == 1 << 40)
                #expect(entries[index].address == UInt64(UInt(bitPattern: buffer.base)))
                #expect(entries[index].byteCount == 512)
            }
            // IORING_OP_FSYNC with IORING_FSYNC_DATASYNC.
            #expect(entries[3].opcode == 3 && entries[3].operationFlags == 1)
        }
    }

    /// BLOCK_URING_CMD_DISCARD: start in `addr`, length in `addr3`.
    @Test func aDiscardIsTheBlockLayersCommand() async {
        await #expect(processExitsWith: .success) {
            let file = ScratchFile(byteCount: 4096)
            var ring = try Ring.over(file)
            let entries = try SubmissionEntries()
            _ = ring.prepareDiscard(file: 1, offset: 1 << 41, byteCount: 1 << 33, userData: 9)
            #expect(entries[0].opcode == 46 && entries[0].flags == 1)
            #expect(entries[0].offset & 0xffff_ffff == 0x1200)
            #expect(entries[0].address == 1 << 41)
            #expect(entries[0].base.load(fromByteOffset: 48, as: UInt64.self) == 1 << 33)
        }
    }
}

/// The entries of this process's only ring, as the kernel sees them. For exit tests: in other
/// processes there may be more rings.
struct SubmissionEntries {
    struct Entry {
        let base: UnsafeRawPointer

        var opcode: UInt8 { base.load(as: UInt8.self) }
        var flags: UInt8 { base.load(fromByteOffset: 1, as: UInt8.self) }
        var descriptor: Int32 { base.load(fromByteOffset: 4, as: Int32.self) }
        var address: UInt64 { base.load(fromByteOffset: 16, as: UInt64.self) }
        var byteCount: UInt32 { base.load(fromByteOffset: 24, as: UInt32.self) }
        /// RWF_DSYNC, or what fsync and fallocate are told.
        var operationFlags: UInt32 { base.load(fromByteOffset: 28, as: UInt32.self) }
        var offset: UInt64 { base.load(fromByteOffset: 8, as: UInt64.self) }
    }

    private let base: UnsafeRawPointer

    init() throws {
        let sqesOffset: off_t = 0x1000_0000  // IORING_OFF_SQES
        let mapped = try #require(
            mmap(nil, 4096, PROT_READ, MAP_SHARED, try Self.ringDescriptor(), sqesOffset))
        try #require(mapped != MAP_FAILED)
        base = UnsafeRawPointer(mapped)
    }

    private static func ringDescriptor() throws -> Int32 {
        let found = (Int32(0)..<256).filter { descriptor in
            var target = [CChar](repeating: 0, count: 64)
            let count = readlink("/proc/self/fd/\(descriptor)", &target, target.count)
            let bytes = target.prefix(max(0, count)).map(UInt8.init(bitPattern:))
            return String(decoding: bytes, as: UTF8.self).contains("[io_uring]")
        }
        try #require(found.count == 1)
        return found[0]
    }

    subscript(_ index: Int) -> Entry { Entry(base: base + index * 64) }
}
