/// Commands waiting to be taken, in order.
///
/// It starts with room for what any ordinary load leaves waiting, and doubles when somebody needs
/// more: a device that is slow to take commands, and many completions at a time that each lead to
/// hundreds, must not stop the cache. That is the one place where a turn may allocate; the memory
/// stays, so a load does it a few times and then never again. Emptied, it begins at its start
/// again, so that the same few cache lines are used over and over.
///
/// Its last command may still grow: neighbouring core transfers of one request become one.
/// Its owner calls `deallocate`; a noncopyable type with a deinit of its own cannot be seen by
/// inlined code of other modules (Swift 6.3 fails to compile it).
@usableFromInline struct CommandQueue {
    @usableFromInline var commands: UnsafeMutablePointer<Command>
    /// The first place in use, and the first behind those in use.
    @usableFromInline var head: UInt32 = 0
    @usableFromInline var tail: UInt32 = 0
    private(set) var capacity: UInt32

    init(capacity: Int) {
        precondition(capacity > 1)
        self.capacity = UInt32(capacity)
        commands = .allocate(capacity: capacity)
    }

    // Commands are plain numbers: there is nothing to deinitialise.
    func deallocate() { commands.deallocate() }

    @inlinable var count: Int { Int(tail &- head) }

    /// A new last command with nothing but its kind, to be filled in where it is, before the next
    /// one is appended.
    @inline(__always) mutating func append(_ kind: Command.Kind) -> UnsafeMutablePointer<Command> {
        append(Command(kind))
        return commands + Int(tail &- 1)
    }

    @inline(__always) mutating func append(_ command: Command) {
        if tail == capacity { makeRoom() }
        (commands + Int(tail)).initialize(to: command)
        tail &+= 1
    }

    /// Moves what is there to the beginning, or, if that would not help for long, to more memory.
    @inline(never) private mutating func makeRoom() {
        let old = commands
        if head < capacity / 2 {
            precondition(capacity < 1 << 30, "a billion commands wait")
            capacity *= 2
            commands = .allocate(capacity: Int(capacity))
        }
        commands.update(from: old + Int(head), count: count)
        if commands != old { old.deallocate() }
        tail -= head
        head = 0
    }

    @inlinable @inline(__always) var first: UnsafePointer<Command>? {
        head == tail ? nil : oldest
    }

    /// What `first` gives if there is one.
    @inlinable @inline(__always) var oldest: UnsafePointer<Command> {
        UnsafePointer(commands + Int(head))
    }

    /// Ends the life of what `first` gave; its place stays as it is until the next `append`.
    @inlinable @inline(__always) mutating func removeFirst() {
        precondition(head != tail, "a command is taken that nobody gave")
        head &+= 1
    }

    /// Begins at the start again. Nothing may be waiting.
    mutating func restart() {
        precondition(head == tail)
        head = 0
        tail = 0
    }

    /// The command appended last, if nobody has taken it.
    @inline(__always) var last: UnsafeMutablePointer<Command>? {
        head == tail ? nil : commands + Int(tail &- 1)
    }
}
