import Glibc
import Ublk

func complain(_ text: String) {
    let bytes = Array("ublk: \(text)\n".utf8)
    _ = write(2, bytes, bytes.count)
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
