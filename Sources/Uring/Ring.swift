import CLiburing

/// Why a ring could not be made or used.
public struct RingError: Error, Equatable, Sendable {
    /// The step that failed, for example "set up".
    public let step: String
    public let errno: Int32

    public init(step: String, errno: Int32) {
        self.step = step
        self.errno = errno
    }
}

/// How an entry ended.
public struct Completion: BitwiseCopyable, Sendable {
    public let userData: UInt64
    /// What the operation gives, or -errno.
    public let result: Int32
    /// IORING_CQE_F_*.
    public let flags: UInt32

    /// The same entry will complete again.
    public var isFollowed: Bool { flags & 1 << 1 != 0 }
    /// The provided buffer that the kernel took for the result.
    public var buffer: UInt16? { flags & 1 != 0 ? UInt16(truncatingIfNeeded: flags >> 16) : nil }
}

/// One io_uring, made and used by one thread.
public struct Ring: ~Copyable {
    let ring: UnsafeMutablePointer<io_uring>
    private var files: [Bool] = []
    var provided: ProvidedBuffers?
    /// System calls made to hand over entries or to wait.
    package private(set) var enterCount: UInt64 = 0

    public init(entries: UInt32, completions: UInt32) throws(RingError) {
        let memory = UnsafeMutablePointer<io_uring>.allocate(capacity: 1)
        var parameters = io_uring_params()
        let result = Self.setUp(memory, entries, completions, &parameters)
        guard result == 0 else {
            memory.deallocate()
            throw RingError(step: "set up", errno: -result)
        }
        // Not before: `deinit` takes apart what is here.
        ring = memory
        _ = io_uring_register_ring_fd(ring)
    }

    private static func setUp(
        _ ring: UnsafeMutablePointer<io_uring>, _ entries: UInt32, _ completions: UInt32,
        _ parameters: inout io_uring_params
    ) -> Int32 {
        let owned = UInt32(IORING_SETUP_CQSIZE) | 1 << 8 | 1 << 12 | 1 << 13
        parameters.flags = owned
        parameters.cq_entries = completions
        let result = io_uring_queue_init_params(entries, ring, &parameters)
        guard result == -22 else { return result }
        parameters = io_uring_params()
        parameters.flags = UInt32(IORING_SETUP_CQSIZE)
        parameters.cq_entries = completions
        return io_uring_queue_init_params(entries, ring, &parameters)
    }

    deinit {
        // The kernel takes a ring apart some time later; whoever closes a device now wants it
        // closed.
        if !files.isEmpty { _ = io_uring_unregister_files(ring) }
        io_uring_queue_exit(ring)
        ring.deallocate()
        provided?.deallocate()
    }

    public mutating func registerFiles(count: UInt32) throws(RingError) {
        let result = io_uring_register_files_sparse(ring, count)
        guard result >= 0 else { throw RingError(step: "register files", errno: -result) }
        files = [Bool](repeating: false, count: Int(count))
    }

    public func freeFile(from first: UInt32) -> UInt32? {
        (Int(first)..<files.count).first { !files[$0] }.map { UInt32($0) }
    }

    /// A table of so many places for buffers, all empty: the kernel's ublk driver puts the pages of
    /// requests into them (zero copy), or a runner its own.
    public mutating func registerBuffers(count: UInt32) throws(RingError) {
        let result = io_uring_register_buffers_sparse(ring, count)
        guard result >= 0 else { throw RingError(step: "register buffers", errno: -result) }
    }

    /// 0 or -errno; a buffer of no bytes empties the place.
    public mutating func setBuffer(_ place: UInt32, _ bytes: UnsafeMutableRawBufferPointer) -> Int32
    {
        var buffer = iovec(iov_base: bytes.baseAddress, iov_len: bytes.count)
        var tag: UInt64 = 0
        return min(io_uring_register_buffers_update_tag(ring, place, &buffer, &tag, 1), 0)
    }

    /// 0 or -errno; -1 empties the place.
    public mutating func setFile(_ file: UInt32, descriptor: Int32) -> Int32 {
        var descriptor = descriptor
        let result = io_uring_register_files_update(ring, file, &descriptor, 1)
        if result >= 0 { files[Int(file)] = descriptor >= 0 }
        return min(result, 0)
    }

    /// Makes room for so many entries: if there is none, those prepared are handed over, at the
    /// price of a system call. For callers who cannot keep what does not fit.
    @inline(__always) public mutating func makeRoom(_ count: UInt32) {
        if io_uring_sq_space_left(ring) < count { makeRoomBySubmitting(count) }
    }

    @inline(never) private mutating func makeRoomBySubmitting(_ count: UInt32) {
        precondition(count <= ring.pointee.sq.ring_entries, "more entries than the ring has")
        while io_uring_sq_space_left(ring) < count { submit(waitFor: 0) }
    }

    /// Entries prepared and not handed over.
    public var preparedCount: UInt32 { io_uring_sq_ready(ring) }

    private func next() -> UnsafeMutablePointer<io_uring_sqe>? { io_uring_get_sqe(ring) }

    public mutating func prepareRead(
        file: UInt32, into address: UnsafeMutableRawPointer, byteCount: UInt32, offset: UInt64,
        userData: UInt64
    ) -> Bool {
        guard let sqe = next() else { return false }
        io_uring_prep_read(sqe, Int32(file), address, byteCount, offset)
        return finish(sqe, userData)
    }

    /// Into the buffer at `place` of the buffer table; `address` lies in that buffer.
    public mutating func prepareFixedRead(
        file: UInt32, place: UInt16, into address: UnsafeMutableRawPointer, byteCount: UInt32,
        offset: UInt64, userData: UInt64
    ) -> Bool {
        guard let sqe = next() else { return false }
        io_uring_prep_read_fixed(sqe, Int32(file), address, byteCount, offset, Int32(place))
        return finish(sqe, userData)
    }

    /// As `prepareRead`, into pages that a driver put at `place` of the buffer table, from their
    /// byte `start` on.
    public mutating func prepareRead(
        file: UInt32, place: UInt16, start: UInt32, byteCount: UInt32, offset: UInt64,
        userData: UInt64
    ) -> Bool {
        guard let sqe = next() else { return false }
        io_uring_prep_read_fixed(sqe, Int32(file), nil, byteCount, offset, Int32(place))
        sqe.pointee.addr = UInt64(start)
        return finish(sqe, userData)
    }

    /// As `prepareWrite`, from pages that a driver put at `place` of the buffer table, from their
    /// byte `start` on.
    public mutating func prepareWrite(
        file: UInt32, place: UInt16, start: UInt32, byteCount: UInt32, offset: UInt64,
        isDurable: Bool, userData: UInt64
    ) -> Bool {
        guard let sqe = next() else { return false }
        io_uring_prep_write_fixed(sqe, Int32(file), nil, byteCount, offset, Int32(place))
        sqe.pointee.addr = UInt64(start)
        if isDurable { sqe.pointee.rw_flags = 2 }  // RWF_DSYNC
        return finish(sqe, userData)
    }

    /// A read that may wait for long, of a file that is not registered: see `prepareCommand`.
    public mutating func prepareLongRead(
        descriptor: Int32, into address: UnsafeMutableRawPointer, byteCount: UInt32,
        userData: UInt64
    ) -> Bool {
        guard let sqe = next() else { return false }
        io_uring_prep_read(sqe, descriptor, address, byteCount, .max)
        sqe.pointee.user_data = userData
        return true
    }

    public mutating func prepareWrite(
        file: UInt32, from address: UnsafeMutableRawPointer, byteCount: UInt32, offset: UInt64,
        isDurable: Bool, userData: UInt64
    ) -> Bool {
        guard let sqe = next() else { return false }
        io_uring_prep_write(sqe, Int32(file), address, byteCount, offset)
        if isDurable { sqe.pointee.rw_flags = 2 }  // RWF_DSYNC
        return finish(sqe, userData)
    }

    public mutating func prepareFlush(file: UInt32, userData: UInt64) -> Bool {
        guard let sqe = next() else { return false }
        io_uring_prep_fsync(sqe, Int32(file), 1)  // IORING_FSYNC_DATASYNC
        return finish(sqe, userData)
    }

    /// The block layer's discard command (kernels from 6.12).
    public mutating func prepareDiscard(
        file: UInt32, offset: UInt64, byteCount: UInt64, userData: UInt64
    ) -> Bool {
        guard let sqe = next() else { return false }
        io_uring_prep_nop(sqe)
        sqe.pointee.opcode = UInt8(IORING_OP_URING_CMD.rawValue)
        sqe.pointee.fd = Int32(file)
        sqe.pointee.cmd_op = 0x1200  // BLOCK_URING_CMD_DISCARD
        sqe.pointee.addr = offset
        sqe.pointee.addr3 = byteCount
        return finish(sqe, userData)
    }

    public mutating func preparePunchHole(
        file: UInt32, offset: UInt64, byteCount: UInt64, userData: UInt64
    ) -> Bool {
        guard let sqe = next() else { return false }
        let punchHoleKeepSize: Int32 = 3
        io_uring_prep_fallocate(
            sqe, Int32(file), punchHoleKeepSize, __off_t(offset), __off_t(byteCount))
        return finish(sqe, userData)
    }

    /// Zeroes, with the space staying allocated.
    public mutating func prepareZeroRange(
        file: UInt32, offset: UInt64, byteCount: UInt64, userData: UInt64
    ) -> Bool {
        guard let sqe = next() else { return false }
        let zeroRangeKeepSize: Int32 = 0x11
        io_uring_prep_fallocate(
            sqe, Int32(file), zeroRangeKeepSize, __off_t(offset), __off_t(byteCount))
        return finish(sqe, userData)
    }

    @inline(__always)
    private func finish(_ sqe: UnsafeMutablePointer<io_uring_sqe>, _ userData: UInt64) -> Bool {
        sqe.pointee.flags |= 1  // IOSQE_FIXED_FILE
        sqe.pointee.user_data = userData
        return true
    }

    /// The next entry begins when the one prepared last has ended, however it ends. Both have to be
    /// handed over at once: `makeRoom` first.
    public mutating func linkLast() {
        let last = ring.pointee.sq.sqe_tail &- 1
        precondition(io_uring_sq_ready(ring) > 0, "there is no entry to link")
        let index = Int(last & ring.pointee.sq.ring_mask)
        ring.pointee.sq.sqes[index].flags |= 1 << 3  // IOSQE_IO_HARDLINK
    }

    /// Hands over what was prepared and waits for so many completions.
    public mutating func submit(waitFor count: UInt32) {
        while true {
            enterCount &+= 1
            let result =
                count > 0
                ? io_uring_submit_and_wait(ring, count) : io_uring_submit_and_get_events(ring)
            if result >= 0 { return }
            switch -result {
            case 4, 11, 16, 62:  // EINTR, EAGAIN, EBUSY, ETIME
                if count == 0 { return }
            default: preconditionFailure("io_uring_enter failed: \(-result)")
            }
            if io_uring_cq_ready(ring) > 0 { return }
        }
    }

    /// The same, for so long at most: fewer may have come then.
    public mutating func submit(waitFor count: UInt32, secondsMax: Int64) {
        var limit = __kernel_timespec(tv_sec: secondsMax, tv_nsec: 0)
        var first: UnsafeMutablePointer<io_uring_cqe>?
        enterCount &+= 1
        let result = io_uring_submit_and_wait_timeout(ring, &first, count, &limit, nil)
        switch -result {
        case ...0, 4, 11, 16, 62: return  // EINTR, EAGAIN, EBUSY, ETIME
        default: preconditionFailure("io_uring_enter failed: \(-result)")
        }
    }

    /// Takes completions, as many as there are and fit.
    public mutating func drain(
        into taken: UnsafeMutablePointer<Completion>, capacity: Int
    ) -> Int {
        var count = 0
        var head: UInt32 = ring.pointee.cq.khead.pointee
        let ready = io_uring_cq_ready(ring)
        let mask = ring.pointee.cq.ring_mask
        while count < min(Int(ready), capacity) {
            let cqe = ring.pointee.cq.cqes + Int(head & mask)
            taken[count] = Completion(
                userData: cqe.pointee.user_data, result: cqe.pointee.res, flags: cqe.pointee.flags)
            head &+= 1
            count += 1
        }
        io_uring_cq_advance(ring, UInt32(count))
        return count
    }
}

// MARK: - Driver commands

extension Ring {
    /// A command for the driver behind `descriptor`, with 16 bytes of payload: `low` first. Some
    /// drivers also look at the entry's own `address`.
    ///
    /// It is not a registered file: such a command may wait for long, and before Linux 6.13 a
    /// registered file that was taken out of the table, whichever it is, stays open as long as any
    /// request waits that was sent earlier with a registered file.
    public mutating func prepareCommand(
        descriptor: Int32, operation: UInt32, low: UInt64, high: UInt64, address: UInt64 = 0,
        userData: UInt64
    ) -> Bool {
        guard let sqe = io_uring_get_sqe(ring) else { return false }
        fill(sqe, descriptor: descriptor, operation: operation, low: low, high: high)
        sqe.pointee.addr = address
        sqe.pointee.user_data = userData
        return true
    }

    @inline(__always)
    func fill(
        _ sqe: UnsafeMutablePointer<io_uring_sqe>, descriptor: Int32, operation: UInt32,
        low: UInt64, high: UInt64
    ) {
        let bytes = UnsafeMutableRawPointer(sqe)
        bytes.initializeMemory(as: UInt64.self, repeating: 0, count: 8)
        sqe.pointee.opcode = UInt8(IORING_OP_URING_CMD.rawValue)
        sqe.pointee.fd = descriptor
        sqe.pointee.cmd_op = operation
        bytes.storeBytes(of: low, toByteOffset: 48, as: UInt64.self)
        bytes.storeBytes(of: high, toByteOffset: 56, as: UInt64.self)
    }
}
