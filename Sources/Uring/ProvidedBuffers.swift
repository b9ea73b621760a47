import CLiburing

// Memory that the kernel takes for what a multishot command delivers, and that whoever read it
// gives back. A command that finds none left ends with ENOBUFS, and nothing is lost: it is sent
// again.

/// A ring's provided buffers: all of one length, in one group.
struct ProvidedBuffers {
    static let group: UInt16 = 0

    private let ring: UnsafeMutablePointer<io_uring_buf_ring>
    private let memory: UnsafeMutableRawPointer
    private let count: UInt16
    private let byteCount: Int

    /// - Parameter count: a power of two up to 32768.
    init(
        _ owner: UnsafeMutablePointer<io_uring>, count: UInt16, byteCount: Int
    ) throws(RingError) {
        precondition(count.nonzeroBitCount == 1, "the buffers of a ring are a power of two")
        let ringBytes = Int(count) * MemoryLayout<io_uring_buf>.stride
        let pages = UnsafeMutableRawPointer.allocate(byteCount: ringBytes, alignment: 4096)
        pages.initializeMemory(as: UInt8.self, repeating: 0, count: ringBytes)
        var registration = io_uring_buf_reg()
        registration.ring_addr = UInt64(UInt(bitPattern: pages))
        registration.ring_entries = UInt32(count)
        registration.bgid = Self.group
        let result = io_uring_register_buf_ring(owner, &registration, 0)
        guard result == 0 else {
            pages.deallocate()
            throw RingError(step: "register provided buffers", errno: -result)
        }
        ring = pages.bindMemory(to: io_uring_buf_ring.self, capacity: 1)
        memory = .allocate(byteCount: Int(count) * byteCount, alignment: 64)
        self.count = count
        self.byteCount = byteCount
        for buffer in 0..<count { add(buffer) }
    }

    subscript(_ buffer: UInt16) -> UnsafeMutableRawPointer {
        precondition(buffer < count, "a provided buffer that is not there")
        return memory + Int(buffer) * byteCount
    }

    func add(_ buffer: UInt16) {
        io_uring_buf_ring_add(
            ring, self[buffer], UInt32(byteCount), buffer, Int32(count) - 1, 0)
        io_uring_buf_ring_advance(ring, 1)
    }

    /// Not before the ring is gone.
    func deallocate() {
        UnsafeMutableRawPointer(ring).deallocate()
        memory.deallocate()
    }
}

extension Ring {
    /// - Parameters:
    ///   - count: a power of two up to 32768.
    ///   - byteCount: of each.
    public mutating func provideBuffers(count: UInt16, byteCount: Int) throws(RingError) {
        precondition(provided == nil, "a ring has one group of provided buffers")
        provided = try ProvidedBuffers(ring, count: count, byteCount: byteCount)
    }

    /// What the kernel put into the buffer of a completion.
    public func providedBuffer(_ buffer: UInt16) -> UnsafeRawPointer {
        guard let provided else { preconditionFailure("this ring has no provided buffers") }
        return UnsafeRawPointer(provided[buffer])
    }

    /// Lets the kernel take the buffer again.
    public mutating func giveBack(_ buffer: UInt16) { provided?.add(buffer) }

    /// As `prepareCommand`, for one that completes many times, each time with a provided buffer
    /// (IORING_URING_CMD_MULTISHOT, Linux 6.18).
    public mutating func prepareMultishotCommand(
        descriptor: Int32, operation: UInt32, low: UInt64, userData: UInt64
    ) -> Bool {
        guard let sqe = io_uring_get_sqe(ring) else { return false }
        fill(sqe, descriptor: descriptor, operation: operation, low: low, high: 0)
        sqe.pointee.flags = 1 << 5  // IOSQE_BUFFER_SELECT
        sqe.pointee.buf_group = ProvidedBuffers.group
        sqe.pointee.rw_flags = 1 << 1  // uring_cmd_flags: IORING_URING_CMD_MULTISHOT
        sqe.pointee.user_data = userData
        return true
    }
}
