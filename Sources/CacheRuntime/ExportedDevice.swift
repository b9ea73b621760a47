import CLinux
import Glibc
import SystemFiles
import Ublk

/// How a request's data get from the kernel to the cache's buffers and back.
package enum DataMovement: String, Sendable, CaseIterable {
    /// The kernel copies into a buffer that belongs to the tag.
    case copy
    /// This process reads and writes the request's pages through /dev/ublkc*N*.
    case userCopy = "user-copy"
    /// The devices read and write the request's pages; what must not change goes by user copy.
    case automatic

    /// The best that a kernel with these features has.
    static func best(_ features: Features) -> DataMovement {
        features.isSuperset(of: automaticFeatures) ? .automatic : .copy
    }

    /// What a device was made with.
    init(of device: DeviceInfo) {
        if device.features.contains(.autoBufferRegistration) {
            self = .automatic
        } else {
            self = device.features.contains(.userCopy) ? .userCopy : .copy
        }
    }

    /// What the device must have for it.
    var features: Features {
        switch self {
        case .copy: []
        case .userCopy: .userCopy
        case .automatic: Self.automaticFeatures
        }
    }

    private static let automaticFeatures: Features = [.autoBufferRegistration, .userCopy]
}

/// The 64 bits that the kernel keeps with an exported device, also beyond its server's death: whose
/// it is. 52 bits of the cache's UUID, mixed, and the core's id.
struct ExportedTag: Equatable {
    let rawValue: UInt64

    init(cacheUUID: UInt128, core: UInt16) {
        precondition(core < 4096)
        let folded = UInt64(truncatingIfNeeded: cacheUUID) ^ UInt64(cacheUUID >> 64)
        rawValue = (folded &* 0x9E37_79B9_7F4A_7C15) & ~0xfff | UInt64(core)
    }

    init(rawValue: UInt64) { self.rawValue = rawValue }

    var core: UInt16 { UInt16(rawValue & 0xfff) }

    func isOfSameCache(as other: ExportedTag) -> Bool { rawValue >> 12 == other.rawValue >> 12 }
}

/// The block device that users of a core see: /dev/ublkb*N*, and /dev/cas*X*-*Y* that leads to it.
///
/// It outlives its server: the kernel then keeps what is asked of it, and what the server has not
/// answered, for the next one, which takes the device over.
///
/// All calls are for control threads, and wait.
final class ExportedDevice: Sendable {
    let number: UInt32
    let core: UInt16
    /// For example "/dev/cas1-2".
    let link: String
    private let control: ControlDevice
    private let features: Features
    private let descriptor: Int32
    private let workers: [Worker]

    /// The node's name in /dev.
    var name: String { "ublkb\(number)" }

    struct Plan {
        var core: UInt16
        var tag: ExportedTag
        var link: String
        var limits: ExportedLimits
        var queueDepth: UInt16
        var movement: DataMovement
    }

    /// Makes the device; on return it can be opened by both names. Nothing is left of a failure.
    init(
        _ plan: Plan, control: ControlDevice, features: Features, workers: [Worker]
    ) throws(CacheError) {
        var wish = DeviceInfo(
            id: nil, queueCount: UInt16(workers.count), queueDepth: plan.queueDepth,
            requestBytesMax: ExportedLimits.requestBytesMax,
            features: Self.features(plan, offered: features))
        wish.serverFlags = plan.tag.rawValue
        let info = try Self.explained(plan) { () throws(UblkError) in try control.add(wish) }
        number = info.id
        core = plan.core
        link = plan.link
        self.control = control
        self.features = features
        // The kernel gives no more queues than there are CPUs; each queue has its worker.
        self.workers = Array(workers.prefix(Int(info.queueCount)))
        var opened: Int32 = -1
        do throws(CacheError) {
            opened = try Self.prepare(info, plan, control)
        } catch {
            try? control.delete(device: info.id)
            throw error
        }
        descriptor = opened
        do throws(CacheError) {
            try serve(info, plan)
        } catch {
            try? withdraw()
            throw error
        }
    }

    /// Sent again to the next server is what this one has not answered; a write twice is a write.
    private static let recovery: Features = [.userRecovery, .userRecoveryReissue]

    private static func features(_ plan: Plan, offered: Features) -> Features {
        var wanted = recovery.union(plan.movement.features)
        if offered.contains(.quiesce) { wanted.insert(.quiesce) }
        return wanted
    }

    /// Takes over a device whose recovery has begun; on return it is served. After a failure it
    /// still waits for a server.
    init(
        resuming info: DeviceInfo, _ plan: Plan, control: ControlDevice, features: Features,
        workers: [Worker]
    ) throws(CacheError) {
        guard workers.count >= Int(info.queueCount) else {
            throw CacheError(
                .kernel,
                "Taking over the exported device '\(plan.link)' failed: it has \(info.queueCount) "
                    + "queues, and this server only \(workers.count) workers.")
        }
        number = info.id
        core = plan.core
        link = plan.link
        self.control = control
        self.features = features
        self.workers = Array(workers.prefix(Int(info.queueCount)))
        descriptor = try Self.explained(plan) { () throws(UblkError) in
            try ControlDevice.openQueueDevice(info.id)
        }
        var plan = plan
        plan.movement = DataMovement(of: info)
        try serveQueues(info, plan)
        try Self.explained(plan) { () throws(UblkError) in
            try control.endRecovery(device: info.id)
        }
        try makeLink()
    }

    /// All ublk devices of a cache.
    static func devices(_ tag: ExportedTag, _ control: ControlDevice) -> [DeviceInfo] {
        (namesInDirectory("/dev") ?? []).compactMap { name in
            guard name.hasPrefix("ublkc"), let number = UInt32(name.dropFirst(5)),
                let info = try? control.info(device: number),
                ExportedTag(rawValue: info.serverFlags).isOfSameCache(as: tag)
            else { return nil }
            return info
        }
    }

    /// Ends a device that waits for a server: whoever uses it gets errors.
    static func withdraw(_ tag: ExportedTag, _ control: ControlDevice) throws(UblkError) {
        for info in devices(tag, control) where info.serverFlags == tag.rawValue {
            try control.stop(device: info.id)
            try control.delete(device: info.id)
        }
    }

    /// The same for all devices of a cache that nobody serves, and their links. A copy of a cache
    /// in use has the same tags: what is alive stays.
    static func withdrawAll(
        cacheUUID: UInt128, _ control: ControlDevice, link: (UInt16) -> String
    ) throws(UblkError) {
        for info in devices(ExportedTag(cacheUUID: cacheUUID, core: 0), control)
        where info.state != .live {
            try control.stop(device: info.id)
            try control.delete(device: info.id)
            unlink(link(ExportedTag(rawValue: info.serverFlags).core))
        }
    }

    /// Turns a failure of ublk into the user's sentence.
    private static func explained<Value>(
        _ plan: Plan, _ body: () throws(UblkError) -> Value
    ) throws(CacheError) -> Value {
        do throws(UblkError) {
            return try body()
        } catch {
            let hint =
                error.errno == EACCES
                ? " The limit of ublk devices may be reached: see the parameter ublks_max of the "
                    + "module ublk_drv." : ""
            throw CacheError(
                .kernel, "Making the exported device '\(plan.link)' failed: \(error).\(hint)")
        }
    }

    /// Everything up to the opened /dev/ublkc*N*.
    private static func prepare(
        _ info: DeviceInfo, _ plan: Plan, _ control: ControlDevice
    ) throws(CacheError) -> Int32 {
        guard info.requestBytesMax >= ExportedLimits.requestBytesMax,
            info.features.isSuperset(of: recovery.union(plan.movement.features))
        else {
            throw CacheError(
                .kernel,
                "Making the exported device '\(plan.link)' failed: this kernel's ublk does not "
                    + "offer requests of \(ExportedLimits.requestBytesMax >> 10) KiB by "
                    + "\(plan.movement.rawValue), with recovery.")
        }
        return try explained(plan) { () throws(UblkError) in
            var parameters = plan.limits.parameters
            if plan.movement == .automatic {
                parameters.memoryAlignmentBytes = plan.limits.memoryAlignmentBytes
            }
            try control.setParameters(parameters, device: info.id)
            let wanted = DeviceParameters.basicType | DeviceParameters.discardType
            let taken = try control.parameterTypes(device: info.id)
            guard taken & wanted == wanted else {
                throw UblkError("setting the parameters of ublk device \(info.id)", errno: EINVAL)
            }
            return try ControlDevice.openQueueDevice(info.id)
        }
    }

    private func serve(_ info: DeviceInfo, _ plan: Plan) throws(CacheError) {
        try serveQueues(info, plan)
        try Self.explained(plan) { () throws(UblkError) in try control.start(device: number) }
        try awaitNode()
        // A scheduler between the block layer and a cache only adds time.
        writeText("none", to: "/sys/block/\(name)/queue/scheduler")
        if plan.movement == .automatic, plan.limits.needsStableData {
            writeText("1", to: "/sys/block/\(name)/queue/stable_writes")
        }
        keepOneTagFree(depth: info.queueDepth)
        try makeLink()
    }

    /// A server that dies with every tag of a queue has no command left by whose cancellation the
    /// kernel, before 6.15, would notice: it would take 30 seconds. So one tag is never used.
    private func keepOneTagFree(depth: UInt16) {
        writeText("\(depth - 1)", to: "/sys/block/\(name)/queue/nr_requests")
    }

    private func serveQueues(_ info: DeviceInfo, _ plan: Plan) throws(CacheError) {
        let results = try ask { worker, reply in
            .attachQueue(
                QueueSetup(
                    device: number, core: core, descriptor: descriptor, queue: UInt16(worker),
                    depth: info.queueDepth, requestBytesMax: info.requestBytesMax,
                    movement: plan.movement), reply)
        }
        if let failed = results.firstIndex(where: { $0 != 0 }) {
            throw CacheError(
                .kernel,
                "Making the exported device '\(plan.link)' failed: serving its queue \(failed): "
                    + "\(errorText(-results[failed])).")
        }
    }

    /// Sends every worker its message and collects the answers, in their order.
    private func ask(
        _ message: (_ worker: Int, Reply) -> WorkerMessage
    ) throws(CacheError) -> [Int32] {
        var replies: [Reply] = []
        for _ in workers { replies.append(try Reply()) }
        for (number, worker) in workers.enumerated() {
            worker.post(message(number, replies[number]))
        }
        return replies.map { $0.wait() }
    }

    private func awaitNode() throws(CacheError) {
        for _ in 0..<500 {
            if access("/dev/\(name)", F_OK) == 0 { return }
            usleep(10_000)
        }
        throw CacheError(
            .kernel,
            "The kernel made \(name), but '/dev/\(name)' did not appear within 5 seconds: is udev "
                + "running, or /dev a devtmpfs?")
    }

    /// The link is put in place at once, over one that a dead server left.
    private func makeLink() throws(CacheError) {
        if leadsHere { return }
        let temporary = "\(link).new"
        unlink(temporary)
        guard symlink(name, temporary) == 0, rename(temporary, link) == 0 else {
            let code = errno
            unlink(temporary)
            throw CacheError(
                .inputOutput, "Making the link '\(link)' failed: \(errorText(code)).")
        }
    }

    private func removeLink() {
        if leadsHere { unlink(link) }
    }

    private var leadsHere: Bool {
        linkTarget(link) == name
    }
}

// MARK: - Use and end

extension ExportedDevice {
    /// Who uses the device or one of its partitions.
    func uses() -> [DeviceUse.Use] {
        var uses = DeviceUse.uses(ofDisk: name)
        if uses.isEmpty, isClaimed { uses.append(DeviceUse.Use(device: name, purpose: "in use")) }
        return uses
    }

    /// Whether somebody has the device, or a partition of it, exclusively: every mount has, in
    /// whatever mount namespace.
    private var isClaimed: Bool {
        let opened = ucas_open_read_only("/dev/\(name)", 0, 1)
        if opened >= 0 { close(opened) }
        return opened == -EBUSY
    }

    /// Takes the device away from its users' sight and ends it. Requests under way are served.
    ///
    /// Where the kernel can tell, a device that somebody has open is not ended.
    func end() throws(CacheError) {
        if features.contains(.safeStop) {
            try stopUnlessOpen()
        } else {
            do throws(UblkError) {
                try control.stop(device: number)
            } catch {
                throw endFailed(error)
            }
        }
        try withdraw()
    }

    /// udev looks at devices for some milliseconds when it pleases.
    private func stopUnlessOpen() throws(CacheError) {
        for attempt in 0... {
            do throws(UblkError) {
                return try control.tryStop(device: number)
            } catch {
                guard error.errno == EBUSY, attempt < 20 else { throw endFailed(error) }
                usleep(100_000)
            }
        }
    }

    private func endFailed(_ error: UblkError) -> CacheError {
        guard error.errno == EBUSY else {
            return CacheError(.kernel, "Ending the exported device '\(link)' failed: \(error).")
        }
        return CacheError(
            .mounted,
            "Device opens or mount are pending to this cache: '\(link)' (\(name)) is open.")
    }

    /// Stops whatever of the device is running, and deletes it.
    private func withdraw() throws(CacheError) {
        removeLink()
        do throws(UblkError) {
            try control.stop(device: number)
        } catch {
            throw endFailed(error)
        }
        let results = try ask { _, reply in .detachQueue(device: number, reply) }
        precondition(results.allSatisfy { $0 == 0 }, "a worker cannot let go of a queue")
        close(descriptor)
        do throws(UblkError) {
            try control.delete(device: number)
        } catch {
            throw endFailed(error)
        }
    }
}

extension ExportedLimits {
    /// As ublk wants to know them.
    var parameters: DeviceParameters {
        var parameters = DeviceParameters(sectorCount: sectorCount, maxSectors: maxSectors)
        parameters.attributes = [.volatileCache, .forceUnitAccess]
        parameters.logicalBlockBytes = logicalBlockBytes
        parameters.physicalBlockBytes = physicalBlockBytes
        parameters.ioMinBytes = ioMinBytes
        parameters.ioOptBytes = ioOptBytes
        var discard = DeviceParameters.Discard(
            granularityBytes: discardGranularityBytes, maxSectors: discardMaxSectors)
        discard.alignmentBytes = discardAlignmentBytes
        parameters.discard = discard
        return parameters
    }
}
