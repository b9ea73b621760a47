import Glibc
import Synchronization

/// A thread that serves a device.
public struct ServingThread: Equatable, Sendable {
    /// The kernel's number of it.
    public let id: Int32
    /// The queues it serves, wholly or in part.
    public let queues: [UInt16]
    /// The CPUs it was put on; none: it runs anywhere.
    public let cpus: [UInt32]
}

/// The threads of one device, and its open /dev/ublkc*N*. They end when the device stops or is
/// quiesced, and not otherwise.
final class ServerCrew: Sendable {
    private let info: DeviceInfo
    private let descriptor: Int32
    private let running = Mutex<[QueueThread]>([])
    private let ending: Ending
    private let buffers: TagBuffers

    init(_ info: DeviceInfo) throws(UblkError) {
        self.info = info
        ending = try Ending()
        buffers = try TagBuffers(info)
        descriptor = try ControlDevice.openQueueDevice(info.id)
    }

    /// Starts the threads; each has fetched its tags then. If one cannot, the others serve on.
    func start(
        _ backend: some Target, _ shares: [[TagShare]], cpus: [[UInt32]], forcesFallback: Bool
    ) throws(UblkError) -> [ServingThread] {
        var serving: [ServingThread] = []
        for (share, cpus) in zip(shares, cpus) {
            let thread = try startThread(
                backend, share, cpus, forcesFallback: forcesFallback)
            running.withLock { $0.append(thread) }
            let id = try thread.waitUntilReady()
            serving.append(ServingThread(id: id, queues: share.map(\.queue), cpus: cpus))
        }
        return serving
    }

    private func startThread(
        _ backend: some Target, _ shares: [TagShare], _ cpus: [UInt32], forcesFallback: Bool
    ) throws(UblkError) -> QueueThread {
        let (descriptor, info, ending, buffers) = (descriptor, info, ending, buffers)
        let target = TargetCalls(backend)
        return try QueueThread(cpus: cpus) { ready in
            do throws(UblkError) {
                var server = try TagServer(
                    target: target, deviceDescriptor: descriptor, info: info, shares: shares,
                    buffers: buffers, ending: ending, forcesFallback: forcesFallback)
                do throws(UblkError) {
                    try server.fetchAll()
                } catch {
                    ready(error)
                    // What was fetched before is with the kernel until the device stops.
                    server.serve()
                    return
                }
                ready(nil)
                server.serve()
            } catch {
                ready(error)
            }
        }
    }

    /// Waits until the device has stopped, and lets go of it.
    func waitUntilStopped() {
        let threads = running.withLock { threads in
            defer { threads = [] }
            return threads
        }
        for thread in threads { thread.join() }
        close(descriptor)
    }
}
