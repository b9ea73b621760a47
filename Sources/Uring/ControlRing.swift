import CLiburing
import Glibc

/// One uring command of 80 bytes of payload (128-byte SQE), sent and waited for.
///
/// Each thread has a ring for it, kept until the thread ends: calls from several threads do not
/// meet. The kernel hands such a command to a helper thread, which from Linux 6.18 on ends whenever
/// its process's thread has no ring open any more; a ring made anew for each command would meet the
/// helper while it ends, and a command may be forgotten then.
public enum ControlRing {
    /// The command's result, or -ETIME when the kernel has not answered in time; then the ring is
    /// left to the kernel, and the thread gets another one.
    public static func run(
        descriptor: Int32, operation: UInt32, payload: UnsafeRawBufferPointer, seconds: Int
    ) -> Int32 {
        precondition(payload.count <= 80)
        let (ring, made) = ThreadRing.get()
        guard let ring else { return made }
        guard let sqe = io_uring_get_sqe(ring) else { preconditionFailure("an idle ring is full") }
        let bytes = UnsafeMutableRawPointer(sqe)
        bytes.initializeMemory(as: UInt8.self, repeating: 0, count: 128)
        sqe.pointee.opcode = UInt8(IORING_OP_URING_CMD.rawValue)
        sqe.pointee.fd = descriptor
        sqe.pointee.cmd_op = operation
        sqe.pointee.user_data = Self.command
        (bytes + 48).copyMemory(
            from: payload.baseAddress ?? UnsafeRawPointer(bytes), byteCount: payload.count)
        let result = submit(ring)
        guard result >= 0 else {
            // The command may be in the ring still.
            ThreadRing.abandon()
            return result
        }
        return wait(ring, seconds: seconds)
    }

    private static var command: UInt64 { 1 }
    private static var nudge: UInt64 { 2 }

    private static func submit(_ ring: UnsafeMutablePointer<io_uring>) -> Int32 {
        while true {
            let submitted = io_uring_submit(ring)
            if submitted != -EINTR && submitted != -EAGAIN { return submitted }
        }
    }

    private static func wait(_ ring: UnsafeMutablePointer<io_uring>, seconds: Int) -> Int32 {
        var secondsLeft = seconds
        while true {
            var second = __kernel_timespec(tv_sec: 1, tv_nsec: 0)
            var cqe: UnsafeMutablePointer<io_uring_cqe>?
            let waited = io_uring_wait_cqe_timeout(ring, &cqe, &second)
            if waited == -EINTR { continue }
            if waited == -ETIME {
                secondsLeft -= 1
                if secondsLeft > 0, nudgeHelper(ring) { continue }
            }
            guard waited == 0, let cqe else {
                ThreadRing.abandon()
                return waited == 0 ? -EIO : waited
            }
            let (result, isCommand) = (cqe.pointee.res, cqe.pointee.user_data == command)
            io_uring_cqe_seen(ring, cqe)
            // Others are of nudges, maybe for an earlier command.
            if isCommand { return result }
        }
    }

    /// Gives the kernel's helper thread something else to do, so that it looks at all there is.
    /// Seen on Linux 7.2: a command was queued for it, and there was no helper thread.
    private static func nudgeHelper(_ ring: UnsafeMutablePointer<io_uring>) -> Bool {
        guard let sqe = io_uring_get_sqe(ring) else { return true }
        UnsafeMutableRawPointer(sqe).initializeMemory(as: UInt8.self, repeating: 0, count: 128)
        sqe.pointee.opcode = UInt8(IORING_OP_NOP.rawValue)
        sqe.pointee.flags = 1 << 4  // IOSQE_ASYNC
        sqe.pointee.user_data = nudge
        return submit(ring) >= 0
    }
}

/// The calling thread's ring.
private enum ThreadRing {
    /// Its value in each thread is the ring's address.
    private static let key: pthread_key_t = {
        var key = pthread_key_t()
        let made = pthread_key_create(&key) { ring in
            guard let ring else { return }
            let held = ring.assumingMemoryBound(to: io_uring.self)
            io_uring_queue_exit(held)
            held.deallocate()
        }
        precondition(made == 0, "no room for another thread-specific value")
        return key
    }()

    /// Nil and -errno if none can be made.
    static func get() -> (ring: UnsafeMutablePointer<io_uring>?, error: Int32) {
        if let held = pthread_getspecific(key) {
            return (held.assumingMemoryBound(to: io_uring.self), 0)
        }
        let ring = UnsafeMutablePointer<io_uring>.allocate(capacity: 1)
        var parameters = io_uring_params()
        parameters.flags = 1 << 10  // IORING_SETUP_SQE128
        let made = io_uring_queue_init_params(16, ring, &parameters)
        guard made == 0 else {
            ring.deallocate()
            return (nil, made)
        }
        pthread_setspecific(key, ring)
        return (ring, 0)
    }

    /// Leaves the ring to the kernel, which may still write to it.
    static func abandon() { pthread_setspecific(key, nil) }
}
