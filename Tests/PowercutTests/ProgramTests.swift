import Glibc
import Testing

/// A folder with one stream of each kind, written and checked by the program as it was built.
private final class Folder {
    let path: String

    init() throws {
        var template = Array("/tmp/ublk-cas-powercut-XXXXXX".utf8CString)
        try #require(mkdtemp(&template) != nil)
        path = template.withUnsafeBufferPointer {
            String(cString: $0.baseAddress.unsafelyUnwrapped)
        }
        for name in ["seen", "slots", "log"] { mkdir("\(path)/\(name)", 0o700) }
        let area = open("\(path)/area", O_RDWR | O_CREAT, 0o600)
        ftruncate(area, 1000 * 512)
        close(area)
    }

    deinit { _ = try? run("/bin/rm", ["-rf", path], output: "/dev/null") }

    var streams: [String] {
        ["buffered:area:\(path)/area:8:900", "slots:slots:\(path)/slots:8", "log:log:\(path)/log"]
    }

    /// Runs a program; its exit code.
    @discardableResult
    func run(_ program: String, _ words: [String], output: String) throws -> Int32 {
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        posix_spawn_file_actions_addopen(
            &actions, 1, output, O_WRONLY | O_CREAT | O_APPEND, 0o600)
        defer { posix_spawn_file_actions_destroy(&actions) }
        let arguments = ([program] + words).map { strdup($0) } + [nil]
        defer { arguments.forEach { free($0) } }
        var child: pid_t = 0
        let spawned = posix_spawn(&child, program, &actions, nil, arguments, environ)
        try #require(spawned == 0, "\(program) is not there")
        var status: Int32 = 0
        while waitpid(child, &status, 0) < 0, errno == EINTR {}
        return status & 0x7f == 0 ? status >> 8 & 0xff : -1
    }

    private func powercut(_ words: [String], output: String) throws -> Int32 {
        let own = try #require(realpath("/proc/self/exe", nil))
        defer { free(own) }
        let text = String(cString: own)
        let end = try #require(text.lastIndex(of: "/"))
        return try run(text[...end] + "powercut", words, output: "\(path)/\(output)")
    }

    /// Does steps of a round; the exit code.
    func write(
        _ stream: String, round: Int, _ steps: ClosedRange<Int> = 1...80
    ) throws -> Int32 {
        try powercut(
            [
                "write", "--seed", "5", "--round", "\(round)", "--seen", "\(path)/seen",
                "--from", "\(steps.lowerBound)", "--to", "\(steps.upperBound)", stream,
            ], output: "promises.\(round)")
    }

    func check(round: Int, promisesOf rounds: [Int]) throws -> (code: Int32, text: String) {
        unlink("\(path)/answer")
        let promises = rounds.flatMap { ["--promises", "\(path)/promises.\($0)"] }
        let code = try powercut(
            ["check", "--seed", "5", "--round", "\(round)", "--seen", "\(path)/seen"] + promises
                + streams, output: "answer")
        return (code, text("answer"))
    }

    func text(_ name: String) -> String {
        var bytes = [UInt8](repeating: 0, count: 1 << 16)
        let file = open("\(path)/\(name)", O_RDONLY)
        defer { close(file) }
        let count = read(file, &bytes, bytes.count)
        return String(decoding: bytes.prefix(max(0, count)), as: UTF8.self)
    }

    /// Overwrites sectors with zeroes.
    func erase(_ name: String, sectors: Range<Int>) {
        let file = open("\(path)/\(name)", O_RDWR)
        defer { close(file) }
        let zeroes = [UInt8](repeating: 0, count: sectors.count * 512)
        pwrite(file, zeroes, zeroes.count, off_t(sectors.lowerBound) * 512)
    }
}

@Suite struct ProgramTests {
    @Test func whatWasWrittenIsFoundRoundAfterRound() throws {
        let folder = try Folder()
        for round in 0..<3 {
            for stream in folder.streams { #expect(try folder.write(stream, round: round) == 0) }
            let check = try folder.check(round: round + 1, promisesOf: [round])
            #expect(check.code == 0, "\(check.text)")
        }
        // Nothing was promised since, and nothing has changed.
        let check = try folder.check(round: 4, promisesOf: [])
        #expect(check.code == 0 && check.text.hasPrefix("0 promises, 8 files, "), "\(check.text)")
    }

    /// A writer that goes on within its round knows what is there already: it compares what it reads.
    @Test func aWriterGoesOn() throws {
        let folder = try Folder()
        #expect(try folder.write(folder.streams[0], round: 0, 1...50) == 0)
        #expect(try folder.write(folder.streams[0], round: 0, 51...100) == 0)
        let check = try folder.check(round: 1, promisesOf: [0])
        #expect(check.code == 0, "\(check.text)")
        #expect(!folder.text("promises.0").contains("wrong"))
    }

    @Test func aLostSectorIsNoticed() throws {
        let folder = try Folder()
        for stream in folder.streams { #expect(try folder.write(stream, round: 0) == 0) }
        folder.erase("log/log.0", sectors: 2..<3)
        let log = try folder.check(round: 1, promisesOf: [0])
        #expect(log.code == 1 && log.text.contains("LOST: log log.0: record 2 of "), "\(log.text)")
        folder.erase("area", sectors: 0..<1000)
        let area = try folder.check(round: 1, promisesOf: [0])
        #expect(area.code == 1 && area.text.contains("LOST: area sector "), "\(area.text)")
    }

    @Test func aLostFileIsNoticed() throws {
        let folder = try Folder()
        #expect(try folder.write(folder.streams[1], round: 0) == 0)
        for slot in 0..<8 { unlink("\(folder.path)/slots/slot.\(slot)") }
        let check = try folder.check(round: 1, promisesOf: [0])
        #expect(check.code == 1 && check.text.contains(" was durable"), "\(check.text)")
    }

    /// What a check has seen is a promise: rule 6 of the design.
    @Test func whatWasSeenIsMissed() throws {
        let folder = try Folder()
        #expect(try folder.write(folder.streams[0], round: 0) == 0)
        #expect(try folder.check(round: 1, promisesOf: []).code == 0)
        folder.erase("area", sectors: 0..<1000)
        #expect(try folder.check(round: 2, promisesOf: []).code == 1)
    }

    @Test func aReadOfWrongContentIsTold() throws {
        let folder = try Folder()
        #expect(try folder.write(folder.streams[0], round: 0) == 0)
        #expect(try folder.check(round: 1, promisesOf: [0]).code == 0)
        folder.erase("area", sectors: 0..<1000)
        #expect(try folder.write(folder.streams[0], round: 1) == 1)
        #expect(folder.text("promises.1").contains("wrong area round 1: sector "))
    }
}
