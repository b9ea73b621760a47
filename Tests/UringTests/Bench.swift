import Glibc
import Testing
import Uring

/// Why no ring can be made here, if that is for want of permission; nil if one can be made.
let whyNoRing: String? = {
    let nothing = UnsafeRawBufferPointer(start: nil, count: 0)
    switch -ControlRing.run(descriptor: -1, operation: 0, payload: nothing, seconds: 1) {
    case ENOSYS: return "this kernel has no io_uring"
    case EPERM: return "io_uring is not permitted here (kernel.io_uring_disabled, or seccomp)"
    default: return nil
    }
}()

extension Trait where Self == ConditionTrait {
    /// Skips where no ring can be made for want of permission, and says why.
    static var needsRing: ConditionTrait {
        .enabled(if: whyNoRing == nil, Comment(rawValue: whyNoRing ?? ""))
    }
}

/// An open file without a name.
final class ScratchFile {
    let descriptor: Int32

    init(byteCount: Int) {
        var path = Array("/tmp/ublk-cas-uring-XXXXXX".utf8CString)
        descriptor = mkstemp(&path)
        precondition(descriptor >= 0, "no temporary file could be made")
        unlink(path)
        precondition(ftruncate(descriptor, off_t(byteCount)) == 0)
    }

    deinit { close(descriptor) }

    var byteCount: Int {
        var status = stat()
        fstat(descriptor, &status)
        return Int(status.st_size)
    }

    func bytes(_ count: Int, at offset: Int) -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: count)
        precondition(pread(descriptor, &bytes, count, off_t(offset)) == count)
        return bytes
    }

    func fill(_ byte: UInt8, count: Int) {
        let bytes = [UInt8](repeating: byte, count: count)
        precondition(pwrite(descriptor, bytes, count, 0) == count)
    }
}

/// Memory for transfers.
final class Buffer {
    let base: UnsafeMutableRawPointer
    let count: Int

    init(_ count: Int, _ byte: UInt8 = 0) {
        self.count = count
        base = .allocate(byteCount: count, alignment: 4096)
        base.initializeMemory(as: UInt8.self, repeating: byte, count: count)
    }

    deinit { base.deallocate() }

    var bytes: [UInt8] { Array(UnsafeRawBufferPointer(start: base, count: count)) }
}

struct End: Equatable {
    var userData: UInt64
    var result: Int32
}

extension Ring {
    /// A ring with one registered file.
    static func over(
        _ file: ScratchFile, entries: UInt32 = 8, completions: UInt32 = 16
    ) throws -> Ring {
        var ring = try Ring(entries: entries, completions: completions)
        try ring.registerFiles(count: 4)
        let result = ring.setFile(0, descriptor: file.descriptor)
        try #require(result == 0)
        return ring
    }

    /// Takes completions, `capacity` at the most.
    mutating func take(_ capacity: Int = 256) -> [End] {
        let ends = UnsafeMutablePointer<Completion>.allocate(capacity: capacity)
        defer { ends.deallocate() }
        let count = drain(into: ends, capacity: capacity)
        return (0..<count).map { End(userData: ends[$0].userData, result: ends[$0].result) }
    }

    /// Hands over what was prepared and takes so many completions, or as many as come in 10 s.
    mutating func collect(_ count: Int) -> [End] {
        var ends: [End] = []
        for _ in 0..<100_000 {
            submit(waitFor: 0)
            ends += take()
            if ends.count >= count { break }
            usleep(100)
        }
        return ends
    }

    /// Hands over what was prepared, waits for one completion and takes it.
    mutating func run() -> Int32? {
        submit(waitFor: 1)
        let ends = take()
        return ends.count == 1 ? ends[0].result : nil
    }
}
