/// A fixed number of I/O buffers of one size, page aligned, handed out by index.
///
/// Exhaustion is `nil`, a normal answer; releasing a buffer twice traps, since two requests would
/// then write into each other.
struct BufferArena: ~Copyable {
    let bufferBytes: Int
    let count: Int
    private let memory: MappedMemory
    private let free: UnsafeMutablePointer<UInt32>
    private let isUsed: UnsafeMutablePointer<Bool>
    private(set) var freeCount: Int

    /// nil when the system has no room for `count` buffers of `bufferBytes`.
    init?(bufferBytes: Int, count: Int) {
        precondition(bufferBytes > 0 && bufferBytes % 4096 == 0 && count > 0)
        guard let memory = MappedMemory(byteCount: bufferBytes * count) else { return nil }
        self.memory = memory
        self.bufferBytes = bufferBytes
        self.count = count
        free = .allocate(capacity: count)
        isUsed = .allocate(capacity: count)
        isUsed.initialize(repeating: false, count: count)
        for index in 0..<count { free[index] = UInt32(count - 1 - index) }
        freeCount = count
    }

    deinit {
        free.deallocate()
        isUsed.deallocate()
    }

    mutating func acquire() -> UInt32? {
        guard freeCount > 0 else { return nil }
        freeCount -= 1
        let index = free[freeCount]
        isUsed[Int(index)] = true
        return index
    }

    mutating func release(_ index: UInt32) {
        precondition(index < count && isUsed[Int(index)], "buffer released twice")
        isUsed[Int(index)] = false
        free[freeCount] = index
        freeCount += 1
    }

    func address(_ index: UInt32) -> UnsafeMutableRawPointer {
        precondition(index < count)
        return memory.base + Int(index) * bufferBytes
    }
}
