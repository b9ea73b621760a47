import Glibc
import Ublk

func complain(_ text: String) {
    let bytes = Array("ublk: \(text)\n".utf8)
    _ = write(2, bytes, bytes.count)
}

/// The two lines that test suites take apart: `state` is the 11th word, `pid` the 7th of the
/// second, and neither word occurs elsewhere.
func listLines(_ info: DeviceInfo, blockBytes: UInt32, sectorCount: UInt64) -> String {
    let flags = String(info.features.rawValue, radix: 16)
    return """
        dev id \(info.id): nr_hw_queues \(info.queueCount) queue_depth \(info.queueDepth) \
        block size \(blockBytes) dev_capacity \(sectorCount)
        \tmax rq size \(info.requestBytesMax) daemon pid \(info.serverPID) flags 0x\(flags) \
        state \(stateName(info.state))
        """
}

private func stateName(_ state: DeviceInfo.State) -> String {
    switch state {
    case .dead: "DEAD"
    case .live: "LIVE"
    case .quiesced: "QUIESCED"
    case .failIO: "FAIL_IO"
    }
}

/// Prints a device as the kernel knows it now.
func printDevice(_ control: ControlDevice, _ id: UInt32) throws {
    let info = try control.info(device: id)
    let basic = try control.basicParameters(device: id)
    print(listLines(info, blockBytes: basic.blockBytes, sectorCount: basic.sectorCount))
}

/// The ids of all ublk devices, by the control nodes that are there.
func deviceIDs() -> [UInt32] {
    guard let directory = opendir("/dev") else { return [] }
    defer { closedir(directory) }
    var ids: [UInt32] = []
    while let entry = readdir(directory) {
        let name = withUnsafeBytes(of: entry.pointee.d_name) {
            String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self)
        }
        if name.hasPrefix("ublkc"), let id = UInt32(name.dropFirst(5)) { ids.append(id) }
    }
    return ids.sorted()
}

/// Opens the control device, with advice.
func openControl() throws -> ControlDevice {
    do {
        return try ControlDevice()
    } catch {
        switch error.errno {
        case ENOENT:
            throw Failure(ControlDevice.missingAdvice)
        case EACCES, EPERM: throw Failure("\(ControlDevice.path) is for root only.")
        default: throw Failure("\(error)")
        }
    }
}
