import CLiburing

/// One uring command of 80 bytes of payload (128-byte SQE), sent and waited for.
///
/// Each call makes a small ring of its own: calls from several threads do not meet, and a command
/// that never ends keeps nothing but its ring.
public enum ControlRing {
    /// The command's result, or -ETIME when the kernel has not answered in time; then the ring is
    /// left to the kernel.
    public static func run(
        descriptor: Int32, operation: UInt32, payload: UnsafeRawBufferPointer, seconds: Int
    ) -> Int32 {
        precondition(payload.count <= 80)
        let ring = UnsafeMutablePointer<io_uring>.allocate(capacity: 1)
        var parameters = io_uring_params()
        parameters.flags = 1 << 10  // IORING_SETUP_SQE128
        let made = io_uring_queue_init_params(4, ring, &parameters)
        guard made == 0 else {
            ring.deallocate()
            return made
        }
        guard let sqe = io_uring_get_sqe(ring) else { preconditionFailure("a new ring is full") }
        let bytes = UnsafeMutableRawPointer(sqe)
        bytes.initializeMemory(as: UInt8.self, repeating: 0, count: 128)
        sqe.pointee.opcode = UInt8(IORING_OP_URING_CMD.rawValue)
        sqe.pointee.fd = descriptor
        sqe.pointee.cmd_op = operation
        (bytes + 48).copyMemory(
            from: payload.baseAddress ?? UnsafeRawPointer(bytes), byteCount: payload.count)
        let result = submitAndWait(ring, seconds: seconds)
        if result == -62 { return result }  // ETIME: the kernel still has the ring.
        io_uring_queue_exit(ring)
        ring.deallocate()
        return result
    }

    private static func submitAndWait(_ ring: UnsafeMutablePointer<io_uring>, seconds: Int) -> Int32
    {
        var submitted = io_uring_submit(ring)
        while submitted == -4 || submitted == -11 { submitted = io_uring_submit(ring) }
        guard submitted >= 0 else { return submitted }
        var limit = __kernel_timespec(tv_sec: Int64(seconds), tv_nsec: 0)
        var cqe: UnsafeMutablePointer<io_uring_cqe>?
        while true {
            let waited = io_uring_wait_cqe_timeout(ring, &cqe, &limit)
            if waited == -4 { continue }  // EINTR
            guard waited == 0, let cqe else { return waited == 0 ? -5 : waited }
            let result = cqe.pointee.res
            io_uring_cqe_seen(ring, cqe)
            return result
        }
    }
}
