import Glibc
import Synchronization

/// A whole plain device: made, served by a thread for each queue, and deleted when it has stopped.
public final class DeviceServer<Backend: Target>: Sendable {
    public let info: DeviceInfo
    private let control: ControlDevice
    private let backend: Backend
    private let descriptor: Int32
    private let threads = Mutex<[QueueThread]>([])

    /// Makes the device, starts its queues, then the device itself. Whatever fails, a device made
    /// here is deleted; one taken over is stopped and stays.
    ///
    /// - Parameter recovers: take over the existing device `wish.id`, whose server is gone.
    public init(
        control: ControlDevice, backend: Backend, wish: DeviceInfo, recovers: Bool
    ) throws(UblkError) {
        self.control = control
        self.backend = backend
        if recovers {
            try Self.waitForRecovery(control, wish.id)
            info = try control.info(device: wish.id)
        } else {
            info = try control.add(wish)
        }
        do throws(UblkError) {
            if !recovers { try control.setParameters(backend.parameters, device: info.id) }
            descriptor = try ControlDevice.openQueueDevice(info.id)
        } catch {
            if !recovers { try? control.delete(device: info.id) }
            throw error
        }
        do throws(UblkError) {
            try startQueues()
            if recovers {
                try control.endRecovery(device: info.id)
            } else {
                try control.start(device: info.id)
            }
        } catch {
            try? control.stop(device: info.id)
            waitUntilStopped()
            if !recovers { try? control.delete(device: info.id) }
            throw error
        }
        chooseNoScheduler()
    }

    /// The kernel frees the old server's queues a little after its death.
    private static func waitForRecovery(_ control: ControlDevice, _ id: UInt32) throws(UblkError) {
        for attempt in 0... {
            do throws(UblkError) {
                try control.startRecovery(device: id)
                return
            } catch {
                guard error.errno == EBUSY, attempt < 300 else { throw error }
                usleep(100_000)
            }
        }
    }

    private func startQueues() throws(UblkError) {
        for number in 0..<info.queueCount {
            let backend = self.backend
            let descriptor = self.descriptor
            let info = self.info
            let thread = try QueueThread { ready in
                do throws(UblkError) {
                    var server = try QueueServer(
                        backend: backend, deviceDescriptor: descriptor, number: number, info: info)
                    server.fetchAll()
                    ready(nil)
                    server.serve()
                } catch {
                    ready(error)
                }
            }
            if let failure = thread.waitUntilReady() {
                thread.join()
                throw failure
            }
            threads.withLock { $0.append(thread) }
        }
    }

    /// Waits until the device was stopped, by us or anybody, and lets go of it.
    public func waitUntilStopped() {
        let running = threads.withLock { threads in
            defer { threads = [] }
            return threads
        }
        for thread in running { thread.join() }
        close(descriptor)
    }

    /// Requests of one queue need no sorting before they reach a server that sorts itself.
    private func chooseNoScheduler() {
        let file = open("/sys/block/ublkb\(info.id)/queue/scheduler", O_WRONLY | O_CLOEXEC)
        guard file >= 0 else { return }
        let text: StaticString = "none"
        _ = write(file, text.utf8Start, text.utf8CodeUnitCount)
        close(file)
    }
}

/// A thread that reports once whether it could begin.
private final class QueueThread: @unchecked Sendable {
    typealias Report = @Sendable (UblkError?) -> Void

    private var thread = pthread_t()
    private let body: @Sendable (Report) -> Void
    private let semaphore: UnsafeMutablePointer<sem_t>
    private let failure = Mutex<UblkError?>(nil)

    init(_ body: @escaping @Sendable (Report) -> Void) throws(UblkError) {
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
        body { failure in
            self.failure.withLock { $0 = failure }
            sem_post(self.semaphore)
        }
    }

    func waitUntilReady() -> UblkError? {
        while sem_wait(semaphore) != 0 {}
        return failure.withLock { $0 }
    }

    func join() { pthread_join(thread, nil) }
}
