import Glibc

/// A whole plain device: made, and served by threads of its own until somebody stops it; whoever
/// does deletes it.
public final class DeviceServer: Sendable {
    /// How a device is served.
    public struct Plan: Equatable, Sendable {
        public var threads = ThreadPlan()
        /// Each thread on one CPU of its queue's, which is faster than to be moved about among all
        /// of them. Threads that serve several queues run anywhere.
        public var pinsToOneCPU = true
        /// In `DataMode.automatic(fallsBack: true)` the driver can register nothing, so that every
        /// request falls back: to try that.
        public var forcesFallback = false

        public init() {}
    }

    public let info: DeviceInfo
    public let threads: [ServingThread]
    private let control: ControlDevice
    private let crew: ServerCrew

    /// Makes the device, starts its threads, then the device itself. Whatever fails, no device is
    /// left.
    ///
    /// - Parameters:
    ///   - wish: what the device is to be; it fails if the kernel gives less features.
    ///   - beforeStart: called when all but the block device is there: what whoever sees that one
    ///     appear may want to know, has to be told here.
    public init(
        control: ControlDevice, backend: some Target, wish: DeviceInfo, plan: Plan = Plan(),
        beforeStart: (DeviceInfo, [ServingThread]) -> Void = { _, _ in }
    ) throws(UblkError) {
        let made = try control.add(wish)
        do throws(UblkError) {
            let missing = wish.features.subtracting(made.features)
            guard missing.isEmpty else {
                throw UblkError("making a device with \(missing.text)", errno: EOPNOTSUPP)
            }
            var parameters = backend.parameters
            if DataMode(made.features).hasBuffers { parameters.memoryAlignmentBytes = nil }
            try control.setParameters(parameters, device: made.id)
            let crew = try ServerCrew(made)
            do throws(UblkError) {
                threads = try Self.start(crew, control, backend, made, plan)
                beforeStart(made, threads)
                try control.start(device: made.id)
            } catch {
                try? control.stop(device: made.id)
                crew.waitUntilStopped()
                throw error
            }
            self.crew = crew
        } catch {
            try? control.delete(device: made.id)
            throw error
        }
        self.control = control
        info = made
        chooseNoScheduler()
    }

    /// Takes over a device whose server is gone. Its parameters, features and queues are those that
    /// it was made with. If it fails, the device waits for the next server, from the end of this
    /// process on.
    public init(
        control: ControlDevice, backend: some Target, recovering device: UInt32,
        plan: Plan = Plan()
    ) throws(UblkError) {
        try Self.beginRecovery(control, device)
        info = try control.info(device: device)
        crew = try ServerCrew(info)
        threads = try Self.start(crew, control, backend, info, plan)
        try control.endRecovery(device: device)
        self.control = control
    }

    /// The kernel frees the old server's queues a little after its death.
    private static func beginRecovery(
        _ control: ControlDevice, _ device: UInt32
    ) throws(UblkError) {
        for attempt in 0... {
            do throws(UblkError) {
                try control.startRecovery(device: device)
                return
            } catch {
                guard error.errno == EBUSY, attempt < 300 else { throw error }
                usleep(100_000)
            }
        }
    }

    private static func start(
        _ crew: ServerCrew, _ control: ControlDevice, _ backend: some Target, _ info: DeviceInfo,
        _ plan: Plan
    ) throws(UblkError) -> [ServingThread] {
        guard !backend.seesData || DataMode(info.features).hasBuffers else {
            throw UblkError("serving from memory without copying", errno: EINVAL)
        }
        let shares = try shares(plan.threads, info)
        let cpus = try chooseCPUs(shares, control, info, plan)
        return try crew.start(
            backend, shares, cpus: cpus, forcesFallback: plan.forcesFallback)
    }

    static func shares(
        _ plan: ThreadPlan, _ info: DeviceInfo
    ) throws(UblkError) -> [[TagShare]] {
        let isBatched = info.features.contains(.batchIO)
        let (queues, depth) = (info.queueCount, info.queueDepth)
        guard
            let shares = isBatched
                ? plan.sharesOfBatches(queueCount: queues, queueDepth: depth)
                : plan.shares(queueCount: queues, queueDepth: depth)
        else {
            throw UblkError(
                "dividing \(plan.threadCount ?? 0) threads among \(queues) queues", errno: EINVAL)
        }
        if !isBatched, plan.needsPerTagThreads(queueCount: queues),
            !info.features.contains(.perIODaemon)
        {
            throw UblkError("serving a queue with several threads", errno: EOPNOTSUPP)
        }
        let most = shares.map { $0.reduce(0) { $0 + $1.tags.count } }.max() ?? 0
        guard most <= TagServer.tagsMax else {
            throw UblkError(
                "giving \(most) requests to one thread (\(TagServer.tagsMax) at most)",
                errno: EINVAL)
        }
        return shares
    }

    /// For each thread the CPUs it is put on. Threads of one queue get different ones, as long as
    /// there are.
    private static func chooseCPUs(
        _ shares: [[TagShare]], _ control: ControlDevice, _ info: DeviceInfo, _ plan: Plan
    ) throws(UblkError) -> [[UInt32]] {
        var chosen: [[UInt32]] = []
        var threadsOfQueue = [Int](repeating: 0, count: Int(info.queueCount))
        for share in shares {
            guard share.count == 1 else {
                chosen.append([])
                continue
            }
            let queue = share[0].queue
            let allowed = try control.affinity(device: info.id, queue: queue).map { UInt32($0) }
            let number = threadsOfQueue[Int(queue)]
            threadsOfQueue[Int(queue)] += 1
            if plan.pinsToOneCPU, !allowed.isEmpty {
                chosen.append([allowed[number % allowed.count]])
            } else {
                chosen.append(allowed)
            }
        }
        return chosen
    }

    /// Waits until the device was stopped, by us or anybody, and lets go of it.
    public func waitUntilStopped() { crew.waitUntilStopped() }

    /// Requests of one queue need no sorting before they reach a server that sorts itself.
    private func chooseNoScheduler() {
        let file = open("/sys/block/ublkb\(info.id)/queue/scheduler", O_WRONLY | O_CLOEXEC)
        guard file >= 0 else { return }
        let text: StaticString = "none"
        _ = write(file, text.utf8Start, text.utf8CodeUnitCount)
        close(file)
    }
}
