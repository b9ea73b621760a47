import ArgumentParser
import Glibc
import SystemFiles
import Ublk

struct Delete: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "del", abstract: "Stop and delete a device, or all.")

    @Option(name: [.customShort("n"), .customLong("number")], help: "Device id.")
    var number: UInt32?

    @Flag(name: [.customShort("a"), .customLong("all")], help: "All but those of caches.")
    var all = false

    @Flag(help: "Do not wait until the device is gone.")
    var async = false

    @Flag(help: "Also the exported device of a cache.")
    var force = false

    @Option(help: "Seconds after which a server that does not let go is killed.")
    var patience = 10

    mutating func validate() throws {
        guard all != (number != nil) else { throw ValidationError("Either -n ID or -a.") }
        guard (1...3600).contains(patience) else {
            throw ValidationError("Patience is 1 to 3600 seconds.")
        }
    }

    func run() throws {
        let control = try openControl()
        let exported = ExportedLinks.all()
        var failed = false
        for id in number.map({ [$0] }) ?? deviceIDs() {
            do {
                if number == nil, !force, let link = exported[id] {
                    complain("device \(id) is \(link), a cache's: it stays")
                    continue
                }
                if !force { try refuseExported(id, "delete") }
                try delete(control, id)
            } catch {
                complain("\(error)")
                failed = true
            }
        }
        if failed { throw ExitCode(1) }
    }

    /// Stopping needs the server to answer what is under way, and deleting needs it to close the
    /// device: one that does neither is killed, and then both succeed.
    private func delete(_ control: ControlDevice, _ id: UInt32) throws {
        let isKnown = access("/dev/ublkc\(id)", F_OK) == 0
        guard isKnown else { throw Failure("there is no ublk device \(id)") }
        // The kernel forgets it when the device has stopped.
        let server = ServerHold(device: id, process: try control.info(device: id).serverPID)
        // Of a device that was never started stopping may fail, for example.
        let refusal = patiently(.stop, control, id, server)
        if let failure = patiently(.delete, control, id, server) { throw refusal ?? failure }
        DeviceRecord.remove(id, server: server.process)
    }

    private enum Step { case stop, delete }

    private func patiently(
        _ step: Step, _ control: ControlDevice, _ id: UInt32, _ server: ServerHold
    ) -> UblkError? {
        var served = server.requestsServed
        while true {
            let failure = attempt(step, control, id, seconds: patience)
            guard failure?.errno == ETIME else { return failure }
            // Writing back what is in the page cache may take long; each call waits for it.
            let now = server.requestsServed
            guard now == served else {
                served = now
                continue
            }
            guard server.kill() else { return failure }
            complain(
                "the server of device \(id), process \(server.process), did not let go in "
                    + "\(patience) s, and was killed")
            // Linux before 6.15 may need 30 s to notice the death.
            let second = attempt(step, control, id, seconds: max(patience, 45))
            // The call that was not waited for may have done it meanwhile.
            return second?.errno == ENODEV ? nil : second
        }
    }

    private func attempt(
        _ step: Step, _ control: ControlDevice, _ id: UInt32, seconds: Int
    ) -> UblkError? {
        do throws(UblkError) {
            switch step {
            case .stop: try control.stop(device: id, seconds: seconds)
            case .delete: try control.delete(device: id, async: async, seconds: seconds)
            }
            return nil
        } catch {
            return error
        }
    }
}

/// The server of a device, as long as it has it open.
struct ServerHold {
    let device: UInt32
    let process: Int32

    /// Counts up while the server answers: the times the block layer has read and written.
    var requestsServed: String {
        let statistics = readBytes("/sys/block/ublkb\(device)/stat") ?? []
        let fields = String(decoding: statistics, as: UTF8.self).split(separator: " ")
        // Reads, writes, discards and flushes done; the other fields also change while nothing is.
        return [0, 4, 11, 15].map { $0 < fields.count ? String(fields[$0]) : "" }
            .joined(separator: " ")
    }

    /// False if the process has not got the device open: the number may be another's by now. The
    /// server of a cache serves others, too, and is never killed.
    func kill() -> Bool {
        guard process > 0, ExportedLinks.all()[device] == nil, holdsDevice else { return false }
        return Glibc.kill(process, SIGKILL) == 0
    }

    private var holdsDevice: Bool {
        let (folder, node) = ("/proc/\(process)/fd", "/dev/ublkc\(device)")
        return (namesInDirectory(folder) ?? []).contains { name in
            // The node may be gone already.
            let target = linkTarget(folder + "/" + name)
            return target == node || target == node + " (deleted)"
        }
    }
}
