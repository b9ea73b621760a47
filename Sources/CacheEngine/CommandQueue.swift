/// Commands waiting to be taken, in order: a ring in fixed memory.
///
/// Its last command may still grow: neighbouring core transfers of one request become one.
struct CommandQueue: ~Copyable {
    private let commands: UnsafeMutablePointer<Command>
    private let capacity: Int
    private var head = 0
    private(set) var count = 0

    init(capacity: Int) {
        precondition(capacity > 0 && capacity & (capacity - 1) == 0, "not a power of two")
        self.capacity = capacity
        commands = .allocate(capacity: capacity)
        commands.initialize(repeating: Command(.answer), count: capacity)
    }

    deinit { commands.deinitialize(count: capacity).deallocate() }

    var room: Int { capacity - count }

    @inline(__always) mutating func append(_ command: Command) {
        precondition(count < capacity, "the command queue overflows")
        commands[(head &+ count) & (capacity - 1)] = command
        count += 1
    }

    @inline(__always) var first: Command? { count > 0 ? commands[head] : nil }

    @inline(__always) mutating func removeFirst() -> Command {
        precondition(count > 0, "a command is taken that nobody gave")
        let command = commands[head]
        head = (head &+ 1) & (capacity - 1)
        count -= 1
        return command
    }

    /// The command appended last, if nobody has taken it.
    @inline(__always) var last: UnsafeMutablePointer<Command>? {
        count > 0 ? commands + ((head &+ count &- 1) & (capacity - 1)) : nil
    }
}
