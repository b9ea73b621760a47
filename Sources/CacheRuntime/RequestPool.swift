/// Buffers for requests, in two sizes, each held by one or two users at a time.
///
/// Most requests are short: they get short buffers while there are some, so that the few long
/// buffers are there for long requests.
struct RequestPool: ~Copyable {
    /// No buffer.
    static let none = UInt32.max
    private static let longBit: UInt32 = 0x8000_0000
    static let shortBytes = 64 << 10

    private var short: BufferArena
    private var long: BufferArena
    private let holds: UnsafeMutablePointer<UInt8>

    /// nil when the system has no room.
    init?(shortCount: Int, longCount: Int, longBytes: Int) {
        guard let short = BufferArena(bufferBytes: Self.shortBytes, count: shortCount),
            let long = BufferArena(bufferBytes: max(longBytes, Self.shortBytes), count: longCount)
        else { return nil }
        self.short = short
        self.long = long
        holds = .allocate(capacity: shortCount + longCount)
        holds.initialize(repeating: 0, count: shortCount + longCount)
    }

    deinit { holds.deallocate() }

    private func index(_ buffer: UInt32) -> Int {
        buffer & Self.longBit == 0
            ? Int(buffer) : short.count + Int(buffer & ~Self.longBit)
    }

    func hasRoom(byteCount: Int) -> Bool {
        long.freeCount > 0 || byteCount <= Self.shortBytes && short.freeCount > 0
    }

    /// A buffer of at least so many bytes, held once; nil if there is none now.
    mutating func acquire(byteCount: Int) -> UInt32? {
        precondition(byteCount <= long.bufferBytes, "a request longer than announced")
        var buffer: UInt32?
        if byteCount <= Self.shortBytes { buffer = short.acquire() }
        if buffer == nil { buffer = long.acquire().map { $0 | Self.longBit } }
        guard let buffer else { return nil }
        holds[index(buffer)] = 1
        return buffer
    }

    mutating func retain(_ buffer: UInt32) {
        precondition(holds[index(buffer)] == 1, "a buffer nobody, or everybody, holds")
        holds[index(buffer)] = 2
    }

    /// True if that was the last hold.
    @discardableResult mutating func release(_ buffer: UInt32) -> Bool {
        let place = index(buffer)
        precondition(holds[place] > 0, "a buffer is released that nobody holds")
        holds[place] -= 1
        guard holds[place] == 0 else { return false }
        if buffer & Self.longBit == 0 {
            short.release(buffer)
        } else {
            long.release(buffer & ~Self.longBit)
        }
        return true
    }

    func address(_ buffer: UInt32) -> UnsafeMutableRawPointer {
        buffer & Self.longBit == 0
            ? short.address(buffer) : long.address(buffer & ~Self.longBit)
    }
}
