import Ublk

/// A tag of a served queue: where its request is.
struct TagState {
    enum Phase: UInt8 {
        /// With the kernel.
        case fetching
        /// Waits for a buffer of the pool.
        case waiting
        /// To be offered to the engine.
        case ready
        case serving
    }

    var phase = Phase.fetching
    /// Automatic: the request's pages are in the tag's place of the ring's buffer table.
    var isRegistered = false
    /// Not in copy mode: a buffer of the pool.
    var buffer = RequestPool.none
    /// The next in the list of waiting or of ready tags.
    var next = UInt32.max
}

/// Tags in order of arrival, linked through their states.
struct TagList {
    private(set) var first = UInt32.max
    private var last = UInt32.max

    var isEmpty: Bool { first == .max }

    private func state(
        _ origin: UInt32, _ queues: UnsafeMutablePointer<ServedQueue>
    ) -> UnsafeMutablePointer<TagState> {
        queues[Int(origin >> 16)].tags + Int(origin & 0xffff)
    }

    mutating func append(_ origin: UInt32, _ queues: UnsafeMutablePointer<ServedQueue>) {
        state(origin, queues).pointee.next = .max
        if last == .max {
            first = origin
        } else {
            state(last, queues).pointee.next = origin
        }
        last = origin
    }

    mutating func removeFirst(_ queues: UnsafeMutablePointer<ServedQueue>) -> UInt32? {
        guard first != .max else { return nil }
        let origin = first
        first = state(origin, queues).pointee.next
        if first == .max { last = .max }
        return origin
    }
}

/// The buffers of a queue's tags.
private final class TagBuffers {
    let memory: MappedMemory

    init?(byteCount: Int) {
        guard let memory = MappedMemory(byteCount: byteCount) else { return nil }
        self.memory = memory
    }
}

/// One queue of an exported device as its worker sees it.
struct ServedQueue: ~Copyable {
    let setup: QueueSetup
    var queue: Queue
    /// Automatic: of the first tag in the ring's buffer table; the others follow.
    private let firstPlace: Int
    let tags: UnsafeMutablePointer<TagState>
    /// Copy mode: each tag's buffer.
    private let buffers: TagBuffers?
    private let base: UnsafeMutableRawPointer?
    /// 0, or why fetching a tag failed.
    var failure: Int32 = 0
    var attaching: Reply?
    /// The ring was handed over so often when the tags were fetched.
    var attachedAtSubmit: UInt64 = 0
    var detaching: Reply?

    /// nil when the system has no room for the buffers.
    init?(_ setup: QueueSetup, queue: Queue, number: Int) {
        firstPlace = number * Int(setup.depth)
        if setup.movement != .copy {
            buffers = nil
            base = nil
        } else {
            let byteCount = Int(setup.depth) * Int(setup.requestBytesMax)
            guard let made = TagBuffers(byteCount: byteCount) else { return nil }
            buffers = made
            base = made.memory.base
        }
        self.setup = setup
        self.queue = queue
        tags = .allocate(capacity: Int(setup.depth))
        tags.initialize(repeating: TagState(), count: Int(setup.depth))
    }

    deinit { tags.deallocate() }

    /// Copy mode: the tag's own buffer.
    func address(_ tag: UInt16) -> UnsafeMutableRawPointer {
        guard let base else { preconditionFailure("a tag's buffer where tags have none") }
        return base + Int(tag) * Int(setup.requestBytesMax)
    }

    /// What a fetch or commit tells the driver.
    func data(_ tag: UInt16) -> TagData {
        switch setup.movement {
        case .copy: .memory(UInt64(UInt(bitPattern: address(tag))))
        case .userCopy: .none
        case .automatic: .place(place(tag), fallsBack: true)
        }
    }

    /// Automatic: the tag's place. One beyond the table's end is like a registration that fails:
    /// the request comes without.
    func place(_ tag: UInt16) -> UInt16 { UInt16(clamping: firstPlace + Int(tag)) }
}
