import Glibc
import SystemFiles
import Ublk

func complain(_ text: String) {
    let bytes = Array("ublk: \(text)\n".utf8)
    _ = write(2, bytes, bytes.count)
}

/// The ids of all ublk devices, by the control nodes that are there.
func deviceIDs() -> [UInt32] {
    (namesInDirectory("/dev") ?? []).filter { $0.hasPrefix("ublkc") }
        .compactMap { UInt32($0.dropFirst("ublkc".count)) }.sorted()
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
