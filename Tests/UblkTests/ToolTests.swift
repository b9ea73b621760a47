import Glibc
import Testing
import Ublk

/// A run of the `ublk` program that was built beside these tests.
private struct ToolRun {
    var code: Int32 = -1
    var output = ""
    var complaint = ""

    init(_ words: String...) throws { try self.init(words: words) }

    init(words: [String]) throws {
        let (out, err) = (try Self.scratch(), try Self.scratch())
        defer { for descriptor in [out, err] { close(descriptor) } }
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0)
        posix_spawn_file_actions_adddup2(&actions, out, 1)
        posix_spawn_file_actions_adddup2(&actions, err, 2)
        defer { posix_spawn_file_actions_destroy(&actions) }
        let arguments = (["ublk"] + words).map { strdup($0) } + [nil]
        defer { arguments.forEach { free($0) } }
        var child: pid_t = 0
        let spawned = posix_spawn(&child, try Self.path(), &actions, nil, arguments, environ)
        try #require(spawned == 0, "the ublk program is not beside the tests")
        var status: Int32 = 0
        while waitpid(child, &status, 0) < 0, errno == EINTR {}
        code = status & 0x7f == 0 ? status >> 8 & 0xff : -1
        output = Self.text(out)
        complaint = Self.text(err)
    }

    private static func path() throws -> String {
        let own = try #require(realpath("/proc/self/exe", nil))
        defer { free(own) }
        let text = String(cString: own)
        let end = try #require(text.lastIndex(of: "/"))
        return text[...end] + "ublk"
    }

    private static func scratch() throws -> Int32 {
        var path = Array("/tmp/ublk-cas-tool-XXXXXX".utf8CString)
        let descriptor = mkstemp(&path)
        try #require(descriptor >= 0)
        unlink(path)
        return descriptor
    }

    private static func text(_ descriptor: Int32) -> String {
        var bytes = [UInt8](repeating: 0, count: 65536)
        let count = pread(descriptor, &bytes, bytes.count, 0)
        return String(decoding: bytes.prefix(max(0, count)), as: UTF8.self)
    }

    /// Refused: exit code 1, nothing on standard output, and a sentence with `text`.
    func isRefusal(_ text: String) -> Bool {
        code == 1 && output.isEmpty && complaint.hasPrefix("ublk: ") && complaint.contains(text)
    }
}

/// Arguments of the `ublk` tool; none of these runs gets as far as a device.
@Suite struct ToolArgumentTests {
    @Test func unknownTargetsAreRefused() throws {
        let run = try ToolRun("add", "-t", "zero")
        #expect(
            run.isRefusal("Unknown target type 'zero'; null, loop and volatile are there."),
            "\(run)")
    }

    /// "-1" is the value of -n, not an option.
    @Test(arguments: ["-n", "--number"])
    func minusOneIsANumber(option: String) throws {
        let run = try ToolRun("add", "-t", "zero", option, "-1")
        #expect(run.isRefusal("Unknown target type 'zero'"), "\(run)")
    }

    @Test func aLoopNeedsAFile() throws {
        #expect(try ToolRun("add", "-t", "loop").isRefusal("loop needs a file: -f FILE."))
    }

    @Test func aVolatileDiskNeedsAFileAndHasLimits() throws {
        let disk = ["add", "-t", "volatile"]
        #expect(try ToolRun(words: disk).isRefusal("volatile needs a file: -f FILE."))
        let file = disk + ["-f", "/dev/null"]
        let recovery = try ToolRun(words: file + ["-r", "1"])
        #expect(recovery.isRefusal("A volatile disk cannot be recovered"), "\(recovery)")
        for percent in ["101", "-1"] {
            let run = try ToolRun(words: file + ["--write-back=\(percent)"])
            #expect(run.isRefusal("Writing back is 0 to 100 of a hundred."), "\(run)")
        }
        let memory = try ToolRun(words: file + ["--memory", "0"])
        #expect(memory.isRefusal("A volatile disk's memory is 1 to 1024 MiB."), "\(memory)")
    }

    @Test func theTypeIsNeeded() throws {
        #expect(try ToolRun("add").isRefusal("-t"))
    }

    @Test(arguments: ["0", "4097"])
    func depthsAreLimited(depth: String) throws {
        let run = try ToolRun("add", "-t", "null", "-d", depth)
        #expect(run.isRefusal("Depth is 1 to 4096."), "\(run)")
    }

    @Test func thereIsAtLeastOneQueue() throws {
        #expect(try ToolRun("add", "-t", "null", "-q", "0").isRefusal("At least one queue."))
    }

    @Test(arguments: ["0", "2048", "5000", "33558528"])
    func theLongestRequestIsLimited(bytes: String) throws {
        let run = try ToolRun("add", "-t", "null", "--max_io_buf_bytes", bytes)
        #expect(
            run.isRefusal("The longest request is 4096 bytes to 32 MiB, in pages."), "\(run)")
    }

    @Test func numbersAreNumbers() throws {
        #expect(try ToolRun("add", "-t", "null", "-d", "many").isRefusal("many"))
        #expect(try ToolRun("list", "-n", "one").isRefusal("one"))
        #expect(try ToolRun("del", "-n", "-5").code == 1)
    }

    @Test func aDeletionIsOfOneDeviceOrOfAll() throws {
        #expect(try ToolRun("del").isRefusal("Either -n ID or -a."))
        #expect(try ToolRun("del", "-n", "3", "-a").isRefusal("Either -n ID or -a."))
    }

    /// rublk names the type without an option, and has other short options.
    @Test func rublksWordsAreUnderstood() throws {
        #expect(try ToolRun("add", "zero").isRefusal("Unknown target type 'zero'"))
        #expect(try ToolRun("add", "zero", "-r", "-n", "-1").isRefusal("Unknown target type"))
        #expect(try ToolRun("add", "null", "-b", "5000").isRefusal("The longest request is"))
        #expect(try ToolRun("add", "null", "-b", "33M").isRefusal("The longest request is"))
        let size = try ToolRun("add", "null", "-b", "32M", "--logical-block-size", "5000")
        #expect(size.isRefusal("A block size is a power of two from 512."), "\(size)")
    }

    @Test(arguments: ["", "K", "1Q", "-1", "18446744073709551615K", "1.5M"])
    func whatIsNoNumberOfBytesIsRefused(bytes: String) throws {
        let run = try ToolRun("add", "-t", "null", "--max_io_buf_bytes=\(bytes)")
        #expect(run.isRefusal("max_io_buf_bytes"), "\(run)")
    }

    /// They become the names of links.
    @Test(arguments: ["a b", "a/b", "é", String(repeating: "x", count: 65)])
    func serialsAreNamesOfFiles(serial: String) throws {
        let run = try ToolRun("add", "-t", "null", "--serial=\(serial)")
        #expect(run.isRefusal("A serial is 1 to 64 letters, digits"), "\(run)")
    }

    @Test(arguments: ["123e4567", "123e4567-e89b-12d3-a456-42661417400g"])
    func uuidsHaveTheirForm(uuid: String) throws {
        let run = try ToolRun("add", "-t", "null", "--uuid=\(uuid)")
        #expect(run.isRefusal("A uuid is as in"), "\(run)")
    }

    @Test func udevAsksOnlyForUblkDevices() throws {
        #expect(try ToolRun("udev-names", "sda").isRefusal("'sda' is no ublk device"))
        #expect(try ToolRun("udev-names", "ublkb").isRefusal("'ublkb' is no ublk device"))
        let unknown = try ToolRun("udev-names", "ublkb999999p1")
        #expect(unknown.code == 0 && unknown.output.isEmpty)
    }

    @Test func oneDataModeAtATime() throws {
        for modes in [
            ["--copy", "-u"], ["-u", "-z"], ["--copy", "--auto_zc"], ["-u", "--auto_zc"],
        ] {
            let run = try ToolRun(words: ["add", "-t", "null"] + modes)
            #expect(run.isRefusal("One data mode at a time"), "\(run)")
        }
        let volatile = try ToolRun("add", "-t", "volatile", "-f", "/dev/null", "-z")
        #expect(volatile.isRefusal("A volatile disk has to see its data: --copy or -u."))
    }

    @Test func recoveryIsOneOfThree() throws {
        let null = ["add", "-t", "null"]
        #expect(try ToolRun(words: null + ["-r", "2"]).isRefusal("-r, -i and -e are 0 or 1."))
        let both = try ToolRun(words: null + ["-r", "1", "-i", "1", "-e", "1"])
        #expect(both.isRefusal("Requests are sent again (-i 1) or fail (-e 1), not both."))
    }

    @Test func thereIsAtLeastOneThread() throws {
        let run = try ToolRun("add", "-t", "null", "--nthreads", "0")
        #expect(run.isRefusal("At least one thread."), "\(run)")
    }

    @Test func waitingHasLimits() throws {
        #expect(try ToolRun("del", "-a", "--patience", "0").isRefusal("Patience is 1 to 3600"))
        let quiesce = try ToolRun("quiesce", "-n", "0", "--timeout", "26")
        #expect(quiesce.isRefusal("The timeout is 1 to 25 seconds."), "\(quiesce)")
    }

    @Test func aRecoveryNeedsItsDevice() throws {
        #expect(try ToolRun("recover").isRefusal("-n"))
    }

    @Test func unknownWordsAreRefused() throws {
        #expect(try ToolRun("frobnicate").isRefusal("frobnicate"))
        #expect(try ToolRun("list", "--frobnicate").isRefusal("--frobnicate"))
    }

    @Test func helpNamesTheCommandsAndIsNoFailure() throws {
        let run = try ToolRun("--help")
        #expect(run.code == 0 && run.complaint.isEmpty)
        for command in [
            "add", "del", "list", "features", "recover", "stop", "quiesce", "update_size",
            "set_affinity", "start-all",
        ] {
            #expect(run.output.contains("  \(command)"), "\(command)")
        }
        let add = try ToolRun("add", "--help")
        #expect(add.code == 0)
        for option in [
            "-t,", "-n,", "-q,", "-d,", "-f,", "-u,", "-r,", "-i,", "-e,", "--max_io_buf_bytes",
            "--copy", "-z,", "--auto_zc", "--nthreads", "--per_io_tasks", "--buffered_io",
            "--foreground", "--seed", "--write-back", "--memory", "--lie-about-flush",
        ] {
            #expect(add.output.contains(option), "\(option)")
        }
        #expect(!add.output.contains("ready-fd") && !add.output.contains("recovers"))
    }

    @Test(
        .enabled(if: access("/dev/ublk-control", F_OK) != 0, "there is ublk here"),
        arguments: [
            ["list"], ["features"], ["add", "-t", "null"], ["del", "-n", "0"], ["del", "-a"],
            ["recover", "-n", "0"], ["stop", "-n", "0"], ["quiesce", "-n", "0"],
            ["update_size", "-n", "0", "-s", "4096"], ["set_affinity", "-n", "0", "-q", "0"],
            ["start-all"],
            ["add", "-t", "null", "--foreground"],
        ])
    func withoutUblkEachCommandSaysWhatToDo(words: [String]) throws {
        let run = try ToolRun(words: words)
        #expect(run.isRefusal(ControlDevice.missingAdvice), "\(run)")
    }
}
