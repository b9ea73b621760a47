/// Commands waiting to be taken, in order: a ring in fixed memory.
///
/// Its last command may still grow: neighbouring core transfers of one request become one.
/// Its owner calls `deallocate`; a noncopyable type with a deinit of its own cannot be seen by
/// inlined code of other modules (Swift 6.3 fails to compile it).
@usableFromInline struct CommandQueue {
    @usableFromInline let commands: UnsafeMutablePointer<Command>
    @usableFromInline let mask: UInt32
    /// Commands taken, and commands given, so far: they wrap around.
    @usableFromInline var head: UInt32 = 0
    @usableFromInline var tail: UInt32 = 0
    /// Places that only `appendHit` may use.
    let reserve: UInt32

    init(capacity: Int, reserve: Int) {
        precondition(capacity > reserve && capacity & (capacity - 1) == 0, "not a power of two")
        mask = UInt32(capacity - 1)
        self.reserve = UInt32(reserve)
        commands = .allocate(capacity: capacity)
        commands.initialize(repeating: Command(.answer), count: capacity)
    }

    func deallocate() { commands.deinitialize(count: Int(mask) + 1).deallocate() }

    @inlinable var count: Int { Int(tail &- head) }
    /// How many `append` can take.
    @inline(__always) var room: Int { Int(mask) - Int(reserve) - count }

    @inline(__always) private func place(_ number: UInt32) -> UnsafeMutablePointer<Command> {
        commands + Int(number & mask)
    }

    /// A new last command with nothing but its kind, to be filled in where it is.
    @inline(__always) mutating func append(_ kind: Command.Kind) -> UnsafeMutablePointer<Command> {
        append(Command(kind))
        return place(tail &- 1)
    }

    @inline(__always) mutating func append(_ command: Command) {
        precondition(room > 0, "the command queue overflows")
        appendHit(command)
    }

    /// At most `reserve` of these are in the queue, so there is always room.
    @inline(__always) mutating func appendHit(_ command: Command) {
        place(tail).initialize(to: command)
        tail &+= 1
    }

    @inlinable @inline(__always) var first: UnsafePointer<Command>? {
        head == tail ? nil : oldest
    }

    /// What `first` gives if there is one.
    @inlinable @inline(__always) var oldest: UnsafePointer<Command> {
        UnsafePointer(commands + Int(head & mask))
    }

    /// Ends the life of what `first` gave; its place stays as it is until the next `append`.
    @inlinable @inline(__always) mutating func removeFirst() {
        precondition(head != tail, "a command is taken that nobody gave")
        head &+= 1
    }

    /// The command appended last, if nobody has taken it.
    @inline(__always) var last: UnsafeMutablePointer<Command>? {
        head == tail ? nil : place(tail &- 1)
    }
}
