import ControlProtocol
import Foundation
import Testing

@testable import CasadmCore

/// Tests that write and start programs or send signals: one at a time.
@Suite(.serialized) struct ProcessTests {}

extension ProcessTests {
    /// Starting a server: a shell script stands for `casd`.
    @Suite(.serialized) struct StartTests {
        private let folder: TemporaryFolder

        init() throws {
            folder = try TemporaryFolder()
        }

        private func start(_ script: String, _ options: StartOptions) throws -> Readiness {
            let program = try folder.file("casd", "#!/bin/sh\n\(script)\n", mode: 0o755)
            let environment = [
                ServerStart.logDirectoryOverride: folder.path + "/log", "PATH": "/usr/bin:/bin",
            ]
            let session = Recorder().session(environment: environment)
            defer { takeLeaveOfServers() }
            return try ServerStart(session: session, program: program).run(options)
        }

        /// casadm leaves the servers it started to the system. Here they would be children that
        /// nobody waits for, and hide the ends of others from the test library.
        private func takeLeaveOfServers() {
            let processes = try? FileManager.default.contentsOfDirectory(atPath: "/proc")
            for pid in (processes ?? []).compactMap({ pid_t($0) }) {
                let text = try? String(contentsOfFile: "/proc/\(pid)/stat", encoding: .utf8)
                guard let text, text.contains(" (casd) ") else { continue }
                let fields = text.split(separator: " ")
                if fields[3] == "\(getpid())" { waitpid(pid, nil, 0) }
            }
        }

        @Test func theServerGetsOptionsAndSaysItIsReady() throws {
            let options = StartOptions(
                cacheDevice: "/dev/a b", cacheID: 3, mode: .writeBack, lineKiB: 4, force: true)
            let readiness = try start(
                "for word; do echo \"<$word>\"; done; echo '{\"ok\":true,\"cacheId\":3}' >&3",
                options)
            #expect(readiness == .ready(cacheID: 3))
            let log = try String(contentsOfFile: folder.path + "/log/casd.log", encoding: .utf8)
            #expect(
                log.split(separator: "\n") == [
                    "<--cache-device>", "</dev/a b>", "<--cache-id>", "<3>", "<--cache-mode>",
                    "<wb>",
                    "<--cache-line-size>", "<4>", "<--force>", "<--ready-fd>", "<3>",
                ])
        }

        @Test func theServerIsOnItsOwn() throws {
            let script = """
                ls /proc/self/fd | tr '\\n' ' '; pwd; readlink /proc/self/fd/0
                cut -d' ' -f1,6 /proc/$$/stat | tr ' ' '\\n' | uniq | wc -l
                echo '{"ok":true,"cacheId":1}' >&3
                """
            _ = try start(script, StartOptions(cacheDevice: "a"))
            let log = try String(contentsOfFile: folder.path + "/log/casd.log", encoding: .utf8)
            // Descriptor 4 is the directory that ls reads; process and session share a number.
            #expect(log == "0 1 2 3 4 /\n/dev/null\n1\n")
        }

        @Test func theReasonOfAFailureIsPassedOn() throws {
            let readiness = try start(
                "echo '{\"ok\":false,\"message\":\"Too small.\"}' >&3; exit 1",
                StartOptions(cacheDevice: "a"))
            #expect(!readiness.ok)
            #expect(readiness.message == "Too small.")
        }

        @Test func aSilentDeathIsReported() throws {
            let log = folder.path + "/log/casd.log"
            #expect(
                throws: Failure(
                    "casd ended with exit code 7 before it was ready. "
                        + "The end of \(log) may say why."
                )
            ) { try start("exit 7", StartOptions(cacheDevice: "a")) }
            #expect(
                throws: Failure(
                    "casd died of signal 9 before it was ready. The end of \(log) may say why.")
            ) { try start("kill -9 $$", StartOptions(cacheDevice: "a")) }
        }

        @Test func nonsenseIsReported() throws {
            #expect(
                throws: Failure("casd answered \"hello\", which this casadm does not understand.")
            ) { try start("echo hello >&3", StartOptions(cacheDevice: "a")) }
        }

        @Test func aMissingServerIsReported() {
            let start = ServerStart(
                session: Recorder().session(
                    environment: [ServerStart.logDirectoryOverride: folder.path]),
                program: folder.path + "/nothing")
            #expect(
                throws: Failure(
                    "Cannot start \(folder.path)/nothing: No such file or directory. "
                        + "It belongs beside casadm or in a directory of PATH.")
            ) { try start.run(StartOptions(cacheDevice: "a")) }
        }
    }
}
