import ControlProtocol
import Foundation
import Testing

@testable import ControlPlane

/// A worker process as its supervisor sees it; a shell script stands for it.
@Suite(.serialized) struct WorkerLinkTests {
    private let folder = TemporaryFolder()

    private func link(_ script: String) throws -> WorkerLink {
        let path = folder.path + "/casd"
        try writeProgram("#!/bin/sh\n\(script)\n", at: path)
        let link = WorkerLink()
        try link.start(StartOptions(cacheDevice: "/dev/x"), waits: true, program: path)
        return link
    }

    /// By another process: a child that another test starts meanwhile would hold the file open for
    /// writing for a moment, and what is open for writing cannot be started.
    private func writeProgram(_ text: String, at path: String) throws {
        let shell = Process()
        shell.executableURL = URL(fileURLWithPath: "/bin/sh")
        shell.arguments = ["-c", #"printf %s "$1" >"$2" && chmod 755 "$2""#, "sh", text, path]
        try shell.run()
        shell.waitUntilExit()
        try #require(shell.terminationStatus == 0)
    }

    @Test func aSpareWorkerTellsItsVersionsWhenItWaits() async throws {
        let text = #"{"memoryImage":9,"control":8,"program":"7"}"#
        let link = try link(
            "echo 'waiting \(text)' >&3; read line <&3; echo \"$line\" >&2; exec sleep 9")
        #expect(await eventually { link.isWaiting })
        #expect(link.versions?.memoryImage == 9 && link.versions?.control == 8)
        #expect(!link.takeReadiness())
        link.end()
    }

    @Test func oneThatTellsNoneIsKnown() async throws {
        let link = try link("echo 'waiting ' >&3; exec sleep 9")
        #expect(await eventually { link.isWaiting })
        #expect(link.versions == nil)
        link.end()
    }

    @Test func itsLastWordsAreHeard() async throws {
        let link = try link(#"echo '{"ok":false,"message":"No ublk."}' >&3; exit 1"#)
        #expect(link.lastWords == " No ublk.")
        #expect(!link.isWaiting)
        // A child that nobody takes leave of hides the ends of later ones from the test library.
        waitpid(link.pid, nil, 0)
    }

    @Test func theSparesOwnAnnouncementIsUnderstood() throws {
        var ends: [Int32] = [-1, -1]
        try #require(pipe(&ends) == 0)
        WaitingPlace(descriptor: ends[1]).announce()
        let line = try #require(readLine(from: ends[0]))
        ends.forEach { close($0) }
        #expect(line.starts(with: WaitingPlace.announcement.utf8))
        let text = Data(line.dropFirst(WaitingPlace.announcement.utf8.count))
        #expect(
            try JSONDecoder().decode(ServerVersions.self, from: text) == RuntimeService.versions)
    }
}
