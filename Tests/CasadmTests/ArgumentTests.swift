import ControlProtocol
import Testing

@testable import CasadmCore

@Suite struct ArgumentTests {
    private func order(_ line: String) throws -> Order {
        let words = line.split(separator: " ").map(String.init)
        guard
            case .run(let command, let options) = try ArgumentFront.invocation(words, isRoot: true)
        else { throw UsageError("no request") }
        return try Order.parsed(command.name, options)
    }

    private func complaint(_ line: String, isRoot: Bool = true) -> [String] {
        let words = line.split(separator: " ").map(String.init)
        do {
            guard
                case .run(let command, let options) = try ArgumentFront.invocation(
                    words, isRoot: isRoot)
            else { return [] }
            _ = try Order.parsed(command.name, options)
            return []
        } catch {
            return error.lines
        }
    }

    static let equivalents: [(String, String, Request)] = [
        (
            "-S -d /dev/a -i 7 -f -c wb -x 64",
            "--start-cache --cache-line-size 64 --cache-mode wb --force --cache-id 7 "
                + "--cache-device /dev/a",
            .start(
                StartOptions(
                    cacheDevice: "/dev/a", cacheID: 7, mode: .writeBack, lineKiB: 64, force: true))
        ),
        (
            "-S -l -d a", "--start-cache --load --cache-device a",
            .start(StartOptions(cacheDevice: "a", load: true))
        ),
        ("-T -i 1", "--stop-cache --cache-id 1", .stop(cache: 1, flush: true)),
        (
            "-T -n -i 16384", "--stop-cache --no-data-flush --cache-id 16384",
            .stop(cache: 16384, flush: false)
        ),
        (
            "-Q -c wt -i 1 -f yes",
            "--set-cache-mode --cache-mode wt --cache-id 1 --flush-cache yes",
            .setMode(cache: 1, mode: .writeThrough, flush: true)
        ),
        (
            "-Q -c pt -i 1 -f no", "--set-cache-mode --flush-cache no -c pt -i 1",
            .setMode(cache: 1, mode: .passThrough, flush: false)
        ),
        (
            "-Q -c wo -i 1", "--set-cache-mode --cache-mode wo -i 1",
            .setMode(cache: 1, mode: .writeOnly, flush: nil)
        ),
        (
            "-A -i 1 -d /dev/b", "--add-core --cache-id 1 --core-device /dev/b",
            .addCore(cache: 1, core: nil, device: "/dev/b")
        ),
        (
            "-A -i 1 -j 4095 -d /dev/b", "--add-core --core-id 4095 -i 1 --core-device /dev/b",
            .addCore(cache: 1, core: 4095, device: "/dev/b")
        ),
        (
            "-R -i 1 -j 0", "--remove-core --cache-id 1 --core-id 0",
            .removeCore(cache: 1, core: 0, flush: true)
        ),
        (
            "-R -i 1 -j 2 -f", "--remove-core --force --cache-id 1 --core-id 2",
            .removeCore(cache: 1, core: 2, flush: false)
        ),
        ("-L", "--list-caches", .list(byIDPath: false)),
        ("-L -b", "--list-caches --by-id-path", .list(byIDPath: true)),
        ("-P -i 3", "--stats --cache-id 3", .stats(StatsRequest(cache: 3))),
        (
            "-P -i 3 -j 2 -f conf,req -b",
            "--stats --filter conf,req --core-id 2 --by-id-path --cache-id 3",
            .stats(
                StatsRequest(
                    cache: 3, core: 2, filter: [.configuration, .requests], byIDPath: true))
        ),
        (
            "-P -d -i 3", "--stats --cache-id 3 --io-class-id",
            .stats(StatsRequest(cache: 3, ioClass: .all))
        ),
        (
            "-P -i 3 -d 33", "--stats --io-class-id 33 --cache-id 3",
            .stats(StatsRequest(cache: 3, ioClass: .one(33)))
        ),
        ("--upgrade -i 1", "--upgrade --cache-id 1", .upgrade(cache: 1)),
        ("-Z -i 1", "--reset-counters --cache-id 1", .resetCounters(cache: 1, core: nil)),
        (
            "-Z -i 1 -j 5", "--reset-counters --core-id 5 --cache-id 1",
            .resetCounters(cache: 1, core: 5)
        ),
        ("-F -i 1", "--flush-cache --cache-id 1", .flush(cache: 1, core: nil)),
        ("-F -i 1 -j 9", "--flush-cache --core-id 9 --cache-id 1", .flush(cache: 1, core: 9)),
        ("-V", "--version", .version),
        (
            "--zero-metadata -d /dev/a", "--zero-metadata --device /dev/a",
            .zeroMetadata(device: "/dev/a", force: false)
        ),
        (
            "--zero-metadata -f -d /dev/a", "--zero-metadata --device /dev/a --force",
            .zeroMetadata(device: "/dev/a", force: true)
        ),
    ]

    @Test(arguments: equivalents)
    func shortAndLongOptionsAskForTheSame(short: String, long: String, request: Request) throws {
        #expect(try order(short) == Order(request: request))
        #expect(try order(long) == Order(request: request))
    }

    @Test(arguments: equivalents)
    func everyCommandCanAnswerInJSON(short: String, long: String, request: Request) throws {
        #expect(try order(short + " -o json") == Order(request: request, format: .json))
        #expect(
            try order(long + " --output-format json") == Order(request: request, format: .json))
    }

    static let trailer = "Error during options handling"

    @Test(arguments: [
        ("", ["No command given."]),
        ("-Y", ["Unrecognized command -Y"]),
        ("--nonsense", ["Unrecognized command --nonsense"]),
        ("nonsense", ["Unrecognized command nonsense"]),
        ("-SL", ["Unrecognized command -SL"]),
        ("-", ["Unrecognized command -"]),
        ("--1", ["Unrecognized command --1"]),
        ("-S", ["Missing required option -d/--cache-device"]),
        ("-S -i 1 -q", ["Missing required option -d/--cache-device"]),
        ("-Q -i 1", ["Missing required option -c/--cache-mode"]),
        ("--zero-metadata", ["Missing required option -d/--device"]),
        ("-L -b -b", ["Option supplied more than once -b/--by-id-path"]),
        ("-T -i 1 --cache-id 2", ["Option supplied more than once -i/--cache-id"]),
        ("-T -i", ["Missing required argument in -i"]),
        ("-T --cache-id -n", ["Missing required argument in --cache-id"]),
        ("-T -i 1 2", ["Invalid number of arguments for -i"]),
        ("-P -i 1 -d 1 2", ["Invalid number of arguments for -d"]),
        ("-T -i 1 -q", ["Unrecognized option -q"]),
        ("-T -i 1 --cache-id=1", ["Unrecognized option --cache-id=1"]),
        ("-T 1 -i 1", ["Invalid format 1"]),
        ("-T -nn -i 1", ["Invalid format -nn"]),
        ("-F -i 1 -j", ["Missing required argument in -j"]),
        ("-T -i one", ["Invalid cache id, must be a correct unsigned decimal integer.", trailer]),
        ("-T -i 0x1", ["Invalid cache id, must be a correct unsigned decimal integer.", trailer]),
        ("-T -i 0", ["Invalid cache id, must be in the range 1-16384.", trailer]),
        ("-T -i 16385", ["Invalid cache id, must be in the range 1-16384.", trailer]),
        (
            "-T -i 99999999999999999999",
            ["Invalid cache id, must be in the range 1-16384.", trailer]
        ),
        ("-R -i 1 -j 4096", ["Invalid core id, must be in the range 0-4095.", trailer]),
        ("-P -i 1 -d 34", ["Invalid IO class id, must be in the range 0-33.", trailer]),
        ("-S -d a -x 2", ["Invalid cache line size, must be in the range 4-64.", trailer]),
        ("-S -d a -x 24", ["Invalid cache line size, must be a power of 2.", trailer]),
        (
            "-S -d a -c WB",
            ["Invalid cache mode WB, must be one of: wt, wb, wa, pt, wo.", trailer]
        ),
        (
            "-P -i 1 -f conf,",
            [
                "Invalid filter conf,, must be a comma-separated list of: "
                    + "all, conf, usage, req, blk, err.", trailer,
            ]
        ),
        ("-L -o xml", ["Invalid output format xml, must be table, csv or json.", trailer]),
        (
            "-Q -c wt -i 1 -f maybe",
            ["Error: 'yes' or 'no' required as an argument for -f option.", trailer]
        ),
        (
            "-S -l -d a -f",
            [
                "Use of 'load' with 'force', 'cache-id', 'cache-mode', 'cache-line-size' or "
                    + "'durability' simultaneously is forbidden."
            ]
        ),
    ])
    func badCommandLinesGetOpenCASWords(line: String, expected: [String]) {
        #expect(complaint(line) == expected)
    }

    @Test func aBadCommandLineFailsWithAHint() async {
        let run = await Run.casadm("-T -i 0")
        #expect(run.exitCode == 1)
        #expect(run.output == "Try `casadm --help | -H' for more information.\n")
        #expect(run.complaints.hasSuffix("Error during options handling\n"))
    }

    @Test(arguments: ["-S -d a", "-T -i 1", "-L", "-P -i 1", "--zero-metadata -d a", "-F"])
    func onlyRootMayDoThings(line: String) async {
        let run = await Run.casadm(line, isRoot: false)
        #expect(run.exitCode == 1)
        #expect(run.complaints == "Must be run as root.\n")
    }

    @Test(arguments: ["-V", "-H", "--help", "-S --help", "-P -H"])
    func anybodyMayReadHelpAndVersion(line: String) async {
        let run = await Run.casadm(line, isRoot: false)
        #expect(run.exitCode == 0)
        #expect(run.complaints.isEmpty)
        #expect(!run.output.isEmpty)
    }
}

@Suite struct HelpTests {
    @Test(arguments: [
        "Usage: casadm <command> [option...]",
        "   -S  --start-cache              Start new cache instance or load using metadata",
        "   -T  --stop-cache               Stop cache instance",
        "   -Q  --set-cache-mode           Set cache mode",
        "   -A  --add-core                 Add core device to cache instance",
        "   -R  --remove-core              Remove active core device from cache instance",
        "   -L  --list-caches              List all cache instances and core devices",
        "   -P  --stats                    Print statistics for cache instance",
        "   -F  --flush-cache              "
            + "Flush all dirty data from the caching device to core devices",
        "   -V  --version                  Print CAS version",
        "   -H  --help                     Print help",
        "       --zero-metadata            Clear metadata from caching device",
        "   casadm --start-cache --help",
    ])
    func generalHelpHas(line: String) async {
        #expect(await Run.casadm("-H").output.split(separator: "\n").contains(Substring(line)))
    }

    @Test(arguments: [
        ("-S", "Usage: casadm --start-cache --cache-device <DEVICE> [option...]"),
        ("-S", "Options that are valid with --start-cache (-S) are:"),
        ("-S", "   -d  --cache-device <DEVICE>          Caching device to be used"),
        ("-S", "   -f  --force                          Force the creation of cache instance"),
        (
            "-S",
            "   -x  --cache-line-size <NUMBER>       Set cache line size in kibibytes: "
                + "{4}[KiB] (default: 4)"
        ),
        ("-Q", "Usage: casadm --set-cache-mode --cache-mode <NAME> --cache-id <ID> [option...]"),
        ("-A", "Usage: casadm --add-core --cache-id <ID> --core-device <DEVICE> [option...]"),
        ("-R", "Usage: casadm --remove-core --cache-id <ID> --core-id <ID> [option...]"),
        ("-P", "   -d  --io-class-id [<ID>]             Display per IO class statistics"),
        (
            "-F",
            "   -j  --core-id [<ID>]                 Identifier of core <0-4095> within given "
                + "cache instance"
        ),
        ("--zero-metadata", "Options that are valid with --zero-metadata are:"),
        ("-H", "Usage: casadm --help"),
    ])
    func commandHelpHas(command: String, line: String) async {
        let help = await Run.casadm("\(command) --help").output
        #expect(help.split(separator: "\n").contains(Substring(line)))
    }
}
