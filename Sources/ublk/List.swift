import ArgumentParser
import CLinux
import FoundationEssentials
import Glibc
import Ublk

struct List: ParsableCommand {
    static let configuration = CommandConfiguration(abstract: "Show devices.")

    enum Format: String, CaseIterable, ExpressibleByArgument { case text, json }

    @Option(name: [.customShort("n"), .customLong("number")], help: "Device id.")
    var number: UInt32?

    @Flag(name: [.customShort("v"), .customLong("verbose")], help: "Show queues, too.")
    var verbose = false

    @Flag(name: [.customShort("a"), .customLong("all")], help: "All devices: the default.")
    var all = false

    @Option(
        name: [.customShort("o"), .customLong("output-format")], help: "text or json.")
    var format = Format.text

    func run() throws {
        let control = try openControl()
        let ids = number.map { [$0] } ?? deviceIDs()
        var listed: [ListedDevice] = []
        for id in ids {
            do throws(UblkError) {
                listed.append(try ListedDevice(control, id))
            } catch {
                guard number == nil else { throw error }
                // One that went away meanwhile is none; one that hangs does not hide the others.
                if error.errno != ENODEV { complain("\(error)") }
            }
        }
        switch format {
        case .json: print(try ListedDevice.json(listed))
        case .text: for device in listed { print(device.text(withQueues: verbose)) }
        }
    }
}

/// What is told of a device.
struct ListedDevice: Encodable {
    struct Queue: Encodable {
        let number: UInt16
        /// Whose requests come to it.
        let cpus: [Int]
        let threads: [Thread]
    }

    struct Thread: Encodable {
        let id: Int32
        /// Where it may run now; none: it is gone.
        let cpus: [UInt32]
    }

    let id: UInt32
    let state: String
    let blockDevice: String
    let serverPID: Int32
    let blockBytes: UInt32
    let sectors: UInt64
    let queueDepth: UInt16
    let requestBytesMax: UInt32
    let flags: UInt64
    let features: [String]
    let arguments: [String]?
    let cacheDevice: String?
    let queues: [Queue]

    init(_ control: ControlDevice, _ id: UInt32) throws(UblkError) {
        let info = try control.info(device: id)
        let basic = try control.basicParameters(device: id)
        let known = DeviceRecord.read(info)
        let record = known?.server == info.serverPID ? known : nil
        let queues = try Self.queues(control, info, record?.threads ?? [])
        self.id = id
        state = stateName(info.state)
        blockDevice = "/dev/ublkb\(id)"
        serverPID = info.serverPID
        blockBytes = basic.blockBytes
        sectors = basic.sectorCount
        queueDepth = info.queueDepth
        requestBytesMax = info.requestBytesMax
        flags = info.features.rawValue
        features = info.features.names
        arguments = known?.arguments
        cacheDevice = ExportedLinks.all()[id]
        self.queues = queues
    }

    private static func queues(
        _ control: ControlDevice, _ info: DeviceInfo, _ threads: [DeviceRecord.Thread]
    ) throws(UblkError) -> [Queue] {
        var queues: [Queue] = []
        for number in 0..<info.queueCount {
            let cpus = try control.affinity(device: info.id, queue: number)
            var serving: [Thread] = []
            for thread in threads where thread.queues.contains(number) {
                serving.append(Thread(id: thread.id, cpus: cpusOfThread(thread.id)))
            }
            queues.append(Queue(number: number, cpus: cpus, threads: serving))
        }
        return queues
    }

    /// The two lines that test suites take apart: `state` is the 11th word, `pid` the 7th of the
    /// second, and neither word occurs elsewhere.
    func text(withQueues: Bool) -> String {
        var text = """
            dev id \(id): nr_hw_queues \(queues.count) queue_depth \(queueDepth) \
            block size \(blockBytes) dev_capacity \(sectors)
            \tmax rq size \(requestBytesMax) daemon pid \(serverPID) flags \
            0x\(String(flags, radix: 16)) state \(state)
            """
        guard withQueues else { return text }
        for queue in queues {
            if queue.threads.isEmpty {
                text += "\n\tqueue \(queue.number): affinity(\(words(queue.cpus)))"
            }
            for thread in queue.threads {
                text +=
                    "\n\tqueue \(queue.number): tid \(thread.id) affinity(\(words(thread.cpus)))"
            }
        }
        return text
    }

    private func words(_ numbers: [some BinaryInteger]) -> String {
        numbers.map { "\($0)" }.joined(separator: " ")
    }

    static func json(_ devices: [ListedDevice]) throws -> String {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]
        return String(decoding: try encoder.encode(devices), as: UTF8.self)
    }
}

private func cpusOfThread(_ id: Int32) -> [UInt32] {
    var cpus = [UInt32](repeating: 0, count: 1024)
    let count = ucas_cpus_of(id, &cpus, UInt32(cpus.count))
    return Array(cpus.prefix(max(0, Int(count))))
}

private func stateName(_ state: DeviceInfo.State) -> String {
    switch state {
    case .dead: "DEAD"
    case .live: "LIVE"
    case .quiesced: "QUIESCED"
    case .failIO: "FAIL_IO"
    }
}
