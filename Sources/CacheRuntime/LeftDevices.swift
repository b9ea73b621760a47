import Glibc
import Synchronization
import Ublk

/// The exported devices that a dead server of a cache has left, on their way to the next one.
///
/// The kernel needs some time to notice the end of a server. That is waited for here, for each
/// device on a thread of its own, while the cache's own device is waited for.
final class LeftDevices: Sendable {
    private final class Entry: Sendable {
        let info: DeviceInfo
        let result = Mutex<UblkError?>(nil)
        let thread = Mutex<NativeThread?>(nil)

        init(_ info: DeviceInfo) { self.info = info }

        func begin(_ control: ControlDevice) throws(CacheError) {
            let started = try NativeThread(name: "cas recovery") { [self] in
                do throws(UblkError) {
                    try LeftDevices.beginRecovery(of: info.id, control)
                } catch {
                    result.withLock { $0 = error }
                }
            }
            thread.withLock { $0 = started }
        }

        func end() throws(UblkError) {
            thread.withLock { $0.take() }?.join()
            if let error = result.withLock({ $0 }) { throw error }
        }
    }

    private let entries: Mutex<[UInt64: Entry]>

    /// Looks for the cache's devices. What the server has left half made or half ended is deleted.
    init(cacheUUID: UInt128, _ control: ControlDevice) throws(CacheError) {
        var found: [UInt64: Entry] = [:]
        for info in ExportedDevice.devices(ExportedTag(cacheUUID: cacheUUID, core: 0), control) {
            if info.state == .dead {
                try? control.delete(device: info.id)
            } else {
                let entry = Entry(info)
                try entry.begin(control)
                found[info.serverFlags] = entry
            }
        }
        entries = Mutex(found)
    }

    deinit { for entry in entries.withLock({ Array($0.values) }) { try? entry.end() } }

    /// The device with this tag, once, ready for a new server; nil if there is none.
    func take(_ tag: ExportedTag) throws(UblkError) -> DeviceInfo? {
        guard let entry = entries.withLock({ $0.removeValue(forKey: tag.rawValue) }) else {
            return nil
        }
        try entry.end()
        return entry.info
    }

    /// On kernels before 6.15 it takes 30 seconds, if the dead server had all tags of a queue; see
    /// `ExportedDevice.keepOneTagFree`.
    private static func beginRecovery(
        of device: UInt32, _ control: ControlDevice
    ) throws(UblkError) {
        let deadline = monotonicNanoseconds() + 60_000_000_000
        while true {
            do throws(UblkError) {
                return try control.startRecovery(device: device)
            } catch {
                guard error.errno == EBUSY, monotonicNanoseconds() < deadline else { throw error }
                usleep(2000)
            }
        }
    }
}
