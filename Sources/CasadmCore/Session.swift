import ControlProtocol
import FoundationEssentials
import Glibc

/// What a run of casadm has around it; tests put something else in its place.
package struct Session: Sendable {
    package var environment: [String: String]
    package var isRoot: Bool
    /// All three standard streams are a terminal: there is somebody to show progress to.
    package var isTerminal: Bool
    package var print: @Sendable (String) -> Void
    package var printError: @Sendable (String) -> Void

    package init(
        environment: [String: String], isRoot: Bool, isTerminal: Bool,
        print: @escaping @Sendable (String) -> Void,
        printError: @escaping @Sendable (String) -> Void
    ) {
        self.environment = environment
        self.isRoot = isRoot
        self.isTerminal = isTerminal
        self.print = print
        self.printError = printError
    }

    /// The process this runs in.
    package static func ofProcess() -> Session {
        Session(
            environment: ProcessInfo.processInfo.environment, isRoot: geteuid() == 0,
            isTerminal: isatty(0) == 1 && isatty(1) == 1 && isatty(2) == 1,
            print: { Self.write($0, to: STDOUT_FILENO) },
            printError: { Self.write($0, to: STDERR_FILENO) })
    }

    /// All of it, or as much as the reader takes: a closed pipe is no reason to complain.
    private static func write(_ text: String, to descriptor: Int32) {
        var bytes = Array(text.utf8)[...]
        while !bytes.isEmpty {
            let count = bytes.withUnsafeBytes { Glibc.write(descriptor, $0.baseAddress, $0.count) }
            if count < 0, errno == EINTR { continue }
            guard count > 0 else { return }
            bytes = bytes.dropFirst(count)
        }
    }

    /// Where the sockets of running caches are.
    var runDirectory: String {
        let override = environment[RunDirectory.override] ?? ""
        return override.isEmpty ? RunDirectory.standard : override
    }

    func say(_ lines: [String]) {
        guard !lines.isEmpty else { return }
        self.print(lines.joined(separator: "\n") + "\n")
    }

    func complain(_ lines: [String]) {
        guard !lines.isEmpty else { return }
        printError(lines.joined(separator: "\n") + "\n")
    }
}

/// What a carried out request has to say.
struct Answer: Equatable {
    /// For standard output, unless JSON is wanted.
    var lines: [String] = []
    /// For standard error.
    var warnings: [String] = []
    /// What a program would want to know; sentences are left to people.
    var json = JSONText.object([])
}

/// Why a request was not carried out, for standard error.
struct Failure: Error, Equatable {
    enum ExitCode: Int32 {
        case failure = 1
        /// The admin interrupted what was going on; the cache works as before.
        case interrupted = 2
    }

    var lines: [String]
    var exitCode: ExitCode

    init(_ lines: String..., exitCode: ExitCode = .failure) {
        self.lines = lines
        self.exitCode = exitCode
    }
}
