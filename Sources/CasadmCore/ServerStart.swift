import CSpawn
import ControlProtocol
import FoundationEssentials
import Glibc

/// Starts the server of a cache and waits until it is ready.
struct ServerStart {
    let session: Session
    /// A path, or a name to look for.
    var program = "casd"

    /// Environment variable that names another directory for the log.
    static let logDirectoryOverride = "UBLK_CAS_LOG_DIR"

    /// Returns what the server says about itself; fails where it could not be started or ended
    /// without a word.
    func run(_ options: StartOptions) throws(Failure) -> Readiness {
        try run(arguments: options.arguments(readyDescriptor: nil))
    }

    /// The same for anything that `casd` does and reports.
    func run(arguments: [String]) throws(Failure) -> Readiness {
        var ends: [Int32] = [-1, -1]
        let code = cspawn_pipe(&ends)
        guard code == 0 else { throw Failure("Cannot make a pipe: \(Self.reason(code)).") }
        defer { close(ends[0]) }
        let log = openLog()
        let process: pid_t
        do {
            defer {
                close(ends[1])
                if log.descriptor >= 0 { close(log.descriptor) }
            }
            process = try spawn(programPath(), arguments, ready: ends[1], log: log.descriptor)
        }
        guard let line = Self.firstLine(ends[0]) else { throw silence(process, log.path) }
        do {
            return try JSONDecoder().decode(Readiness.self, from: Data(line))
        } catch {
            let text = String(decoding: line, as: UTF8.self)
            throw Failure("casd answered \"\(text)\", which this casadm does not understand.")
        }
    }

    private func spawn(_ path: String, _ arguments: [String], ready: Int32, log: Int32)
        throws(Failure) -> pid_t
    {
        let arguments = [path] + arguments + ["--ready-fd", String(CSPAWN_READY_DESCRIPTOR)]
        let variables = session.environment.map { "\($0.key)=\($0.value)" }
        var process: pid_t = 0
        let code = Self.withCStrings(arguments) { argv in
            Self.withCStrings(variables) { envp in
                cspawn_server(&process, path, argv, envp, log, ready)
            }
        }
        guard code == 0 else {
            throw Failure(
                "Cannot start \(path): \(Self.reason(code)). "
                    + "It belongs beside casadm or in a directory of PATH.")
        }
        return process
    }

    /// Beside this program, else wherever PATH leads.
    func programPath() -> String {
        guard !program.contains("/"), let own = Devices.resolved("/proc/self/exe"),
            let slash = own.lastIndex(of: "/")
        else { return program }
        let beside = own[...slash] + program
        return access(String(beside), X_OK) == 0 ? String(beside) : program
    }

    private func openLog() -> (path: String, descriptor: Int32) {
        let directory = session.environment[Self.logDirectoryOverride] ?? "/var/log/ublk-cas"
        mkdir(directory, 0o755)
        let path = "\(directory)/casd.log"
        let descriptor = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0o640)
        if descriptor < 0 {
            session.complain([
                "WARNING: Cannot write \(path) (\(Self.reason(errno))): the server keeps no log."
            ])
        }
        return (path, descriptor)
    }

    private func silence(_ id: pid_t, _ log: String) -> Failure {
        var status: Int32 = 0
        let hint = "The end of \(log) may say why."
        guard waitpid(id, &status, 0) == id else {
            return Failure("casd gave up without a word. \(hint)")
        }
        let signal = status & 0x7F
        let end =
            signal == 0 ? "ended with exit code \(status >> 8 & 0xFF)" : "died of signal \(signal)"
        return Failure("casd \(end) before it was ready. \(hint)")
    }

    /// The bytes before the first line feed; nil where the writer is gone before it.
    private static func firstLine(_ descriptor: Int32) -> [UInt8]? {
        var line: [UInt8] = []
        var byte: UInt8 = 0
        while true {
            let count = read(descriptor, &byte, 1)
            if count < 0, errno == EINTR { continue }
            guard count == 1 else { return nil }
            if byte == UInt8(ascii: "\n") { return line }
            line.append(byte)
        }
    }

    private static func withCStrings<R>(
        _ strings: [String], _ body: ([UnsafeMutablePointer<CChar>?]) -> R
    ) -> R {
        let pointers = strings.map { strdup($0) }
        defer { pointers.forEach { free($0) } }
        return body(pointers + [nil])
    }

    static func reason(_ code: Int32) -> String {
        String(cString: strerror(code))
    }
}
