import CLinux
import Glibc
import Synchronization

/// A thread that serves queues: it reports once whether it could begin.
final class QueueThread: @unchecked Sendable {
    typealias Report = @Sendable (UblkError?) -> Void

    private var thread = pthread_t()
    private let cpus: [UInt32]
    private let body: @Sendable (Report) -> Void
    private let semaphore: UnsafeMutablePointer<sem_t>
    private let outcome = Mutex<(failure: UblkError?, id: Int32)>((nil, 0))

    /// - Parameter cpus: the CPUs to run on; none: anywhere.
    init(cpus: [UInt32], _ body: @escaping @Sendable (Report) -> Void) throws(UblkError) {
        self.cpus = cpus
        self.body = body
        semaphore = .allocate(capacity: 1)
        sem_init(semaphore, 0, 0)
        let context = Unmanaged.passRetained(self)
        let code = pthread_create(
            &thread, nil,
            { context in
                guard let context else { return nil }
                Unmanaged<QueueThread>.fromOpaque(context).takeRetainedValue().run()
                return nil
            }, context.toOpaque())
        guard code == 0 else {
            context.release()
            throw UblkError("starting a queue's thread", errno: code)
        }
    }

    deinit { semaphore.deallocate() }

    private func run() {
        // Before the body allocates anything: memory comes from where the thread runs. A CPU that
        // has gone meanwhile is no reason not to serve.
        if !cpus.isEmpty { _ = ucas_run_on(0, cpus, UInt32(cpus.count)) }
        let id = ucas_thread_id()
        body { failure in
            self.outcome.withLock { $0 = (failure, id) }
            sem_post(self.semaphore)
        }
    }

    /// The kernel's number of the thread; throws why it could not begin.
    func waitUntilReady() throws(UblkError) -> Int32 {
        while sem_wait(semaphore) != 0 {}
        let (failure, id) = outcome.withLock { $0 }
        if let failure { throw failure }
        return id
    }

    func join() { pthread_join(thread, nil) }
}
