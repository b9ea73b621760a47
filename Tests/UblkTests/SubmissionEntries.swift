import Glibc
import Testing
import Uring

extension Trait where Self == ConditionTrait {
    /// Skips where no ring can be made for want of permission, and says why.
    static var needsRing: ConditionTrait {
        let nothing = UnsafeRawBufferPointer(start: nil, count: 0)
        let result = ControlRing.run(descriptor: -1, operation: 0, payload: nothing, seconds: 1)
        return .enabled(
            if: result != -EPERM && result != -ENOSYS, "io_uring is missing or not permitted here")
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
        var commandOperation: UInt32 { base.load(fromByteOffset: 8, as: UInt32.self) }
        var address: UInt64 { base.load(fromByteOffset: 16, as: UInt64.self) }
        /// IORING_URING_CMD_*.
        var commandFlags: UInt32 { base.load(fromByteOffset: 28, as: UInt32.self) }
        /// The place in the buffer table, or the group of provided buffers.
        var bufferPlace: UInt16 { base.load(fromByteOffset: 40, as: UInt16.self) }
        var userData: UInt64 { base.load(fromByteOffset: 32, as: UInt64.self) }
        /// 16 bytes for the driver.
        var payload: [UInt64] {
            [48, 56].map { base.load(fromByteOffset: $0, as: UInt64.self) }
        }
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
