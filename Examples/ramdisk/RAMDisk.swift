import Glibc
import Ublk

/// A disk in memory: what is on it is gone with its server.
///
/// Requests that overlap and are under way at the same time race, as they do on any disk.
final class RAMDisk: Target, @unchecked Sendable {
    let parameters: DeviceParameters
    /// `serve` is asked for: this target has to have the bytes in memory.
    let seesData = true
    private let bytes: UnsafeMutableRawPointer

    init(byteCount: Int) {
        parameters = DeviceParameters(sectorCount: UInt64(byteCount / 512), maxSectors: 1024)
        bytes = .allocate(byteCount: byteCount, alignment: 4096)
        bytes.initializeMemory(as: UInt8.self, repeating: 0, count: byteCount)
    }

    deinit { bytes.deallocate() }

    func step(_ request: IODescriptor) -> Step {
        switch request.operation {
        case .read, .write: .inMemory
        case .flush: .done(0)
        default: .done(-EOPNOTSUPP)
        }
    }

    func serve(_ request: IODescriptor, _ data: UnsafeMutableRawBufferPointer) -> Int32 {
        let place = UnsafeMutableRawBufferPointer(
            start: bytes + Int(request.startSector) * 512, count: data.count)
        if request.operation == .read {
            data.copyMemory(from: UnsafeRawBufferPointer(place))
        } else {
            place.copyMemory(from: UnsafeRawBufferPointer(data))
        }
        return 0
    }
}

@main
struct Program {
    static func main() throws {
        for refusal in ServerHygiene.apply() { print(refusal) }
        let server = try DeviceServer(
            control: try ControlDevice(), backend: RAMDisk(byteCount: 64 << 20),
            wish: DeviceInfo(
                id: nil, queueCount: 1, queueDepth: 128, requestBytesMax: 512 << 10, features: []))
        print("/dev/ublkb\(server.info.id)")
        fflush(nil)
        server.waitUntilStopped()
    }
}
