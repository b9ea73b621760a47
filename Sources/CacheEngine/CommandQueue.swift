/// Commands waiting to be taken, in order: a ring in fixed memory.
///
/// Its last command may still grow: neighbouring core transfers of one request become one.
/// Its owner calls `deallocate`; a noncopyable type with a deinit of its own cannot be seen by
/// inlined code of other modules (Swift 6.3 fails to compile it).
@usableFromInline struct CommandQueue {
    @usableFromInline let commands: UnsafeMutablePointer<Command>
    @usableFromInline let capacity: Int
    @usableFromInline var head = 0
    @usableFromInline var count = 0

    init(capacity: Int) {
        precondition(capacity > 0 && capacity & (capacity - 1) == 0, "not a power of two")
        self.capacity = capacity
        commands = .allocate(capacity: capacity)
        commands.initialize(repeating: Command(.answer), count: capacity)
    }

    func deallocate() { commands.deinitialize(count: capacity).deallocate() }

    var room: Int { capacity - count }

    /// A new last command with nothing but its kind, to be filled in where it is.
    @inline(__always) mutating func append(_ kind: Command.Kind) -> UnsafeMutablePointer<Command> {
        precondition(count < capacity, "the command queue overflows")
        let place = commands + ((head &+ count) & (capacity &- 1))
        place.pointee = Command(kind)
        count &+= 1
        return place
    }

    @inlinable var first: UnsafePointer<Command>? {
        count > 0 ? UnsafePointer(commands + head) : nil
    }

    /// The place stays as it is until the next `append`.
    @inlinable mutating func removeFirst() -> UnsafePointer<Command> {
        precondition(count > 0, "a command is taken that nobody gave")
        let place = UnsafePointer(commands + head)
        head = (head &+ 1) & (capacity &- 1)
        count &-= 1
        return place
    }

    /// The command appended last, if nobody has taken it.
    @inline(__always) var last: UnsafeMutablePointer<Command>? {
        count > 0 ? commands + ((head &+ count &- 1) & (capacity - 1)) : nil
    }
}
