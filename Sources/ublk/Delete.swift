import ArgumentParser
import Glibc
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
    /// device: one that does neither in time is killed, and then both succeed.
    private func delete(_ control: ControlDevice, _ id: UInt32) throws {
        let isKnown = access("/dev/ublkc\(id)", F_OK) == 0
        guard isKnown else { throw Failure("there is no ublk device \(id)") }
        // Of a device that was never started stopping may fail, for example.
        let refusal = patiently(.stop, control, id)
        if let failure = patiently(.delete, control, id) { throw refusal ?? failure }
        DeviceRecord.remove(id)
    }

    private enum Step { case stop, delete }

    private func patiently(_ step: Step, _ control: ControlDevice, _ id: UInt32) -> UblkError? {
        let failure = attempt(step, control, id)
        guard failure?.errno == ETIME, killServer(control, id) else { return failure }
        let second = attempt(step, control, id)
        // The call that was not waited for may have done it meanwhile.
        return second?.errno == ENODEV ? nil : second
    }

    private func attempt(_ step: Step, _ control: ControlDevice, _ id: UInt32) -> UblkError? {
        do throws(UblkError) {
            switch step {
            case .stop: try control.stop(device: id, seconds: patience)
            case .delete: try control.delete(device: id, async: async, seconds: patience)
            }
            return nil
        } catch {
            return error
        }
    }

    private func killServer(_ control: ControlDevice, _ id: UInt32) -> Bool {
        guard let info = try? control.info(device: id), info.serverPID > 0 else { return false }
        let killed = kill(info.serverPID, SIGKILL) == 0
        if killed {
            complain(
                "the server of device \(id), process \(info.serverPID), did not let go in "
                    + "\(patience) s, and was killed")
        }
        return killed
    }
}
