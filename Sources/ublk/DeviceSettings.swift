import ArgumentParser
import Ublk

// Groups of a device's options. Long options have every name that they have in kublk, ublksrv and
// rublk.

/// How data move; names of kublk, ublksrv and rublk.
struct DataOptions: ParsableArguments {
    @Flag(help: "The driver copies.")
    var copy = false

    @Flag(
        name: [
            .customShort("u"), .customLong("usercopy"), .customLong("user_copy"),
            .customLong("user-copy"),
        ], help: "The server copies, by pread and pwrite.")
    var userCopy = false

    @Flag(
        name: [.customShort("z"), .customLong("zero_copy"), .customLong("zero-copy")],
        help: "Nothing is copied: the server registers each request's pages.")
    var zeroCopy = false

    @Flag(
        name: .customLong("auto_zc"),
        help: "Nothing is copied: the driver registers the pages. With -z as its fallback.")
    var automatic = false

    @Flag(
        name: .customLong("auto_zc_fallback"),
        help: "-z --auto_zc in which every request falls back: to try that.")
    var automaticFallback = false

    /// Nil: none is asked for.
    var mode: DataMode? {
        if automaticFallback || automatic && zeroCopy { return .automatic(fallsBack: true) }
        if automatic { return .automatic(fallsBack: false) }
        if zeroCopy { return .zeroCopy }
        if userCopy { return .userCopy }
        return copy ? .copy : nil
    }

    mutating func validate() throws {
        let registers = automatic || automaticFallback || zeroCopy
        guard [copy, userCopy, registers].count(where: { $0 }) <= 1 else {
            throw ValidationError("One data mode at a time: --copy, -u, -z or --auto_zc.")
        }
    }

    func arguments() -> [String] {
        switch mode {
        case _ where automaticFallback: ["--auto_zc_fallback"]
        case nil: []
        case .copy: ["--copy"]
        case .userCopy: ["-u"]
        case .zeroCopy: ["-z"]
        case .automatic(fallsBack: false): ["--auto_zc"]
        case .automatic(fallsBack: true): ["-z", "--auto_zc"]
        }
    }
}

/// Who serves the tags.
struct ThreadOptions: ParsableArguments {
    @Flag(
        name: [.customShort("b"), .customLong("batch")],
        help: "Requests are fetched and given back many at a time (Linux 7.0).")
    var inBatches = false

    @Option(
        name: .customLong("nthreads"),
        help:
            "Threads in all: a multiple of the queues, or with -b any number. Default: one a queue."
    )
    var count: UInt16?

    @Flag(
        name: .customLong("per_io_tasks"),
        help: "Each thread serves some tags of every queue; any number of threads.")
    var spreadsEveryQueue = false

    @Flag(
        name: [.customLong("multi_cpus_affinity"), .customLong("multi-cpus-affinity")],
        help: "A thread runs on all CPUs of its queue, not on one of them.")
    var usesAllCPUs = false

    mutating func validate() throws {
        guard count != 0 else { throw ValidationError("At least one thread.") }
        guard !(inBatches && spreadsEveryQueue) else {
            throw ValidationError(
                "With -b no tag belongs to a thread: --per_io_tasks is without it.")
        }
    }

    var plan: DeviceServer.Plan {
        var plan = DeviceServer.Plan()
        plan.threads = ThreadPlan(threadCount: count, spreadsEveryQueue: spreadsEveryQueue)
        plan.pinsToOneCPU = !usesAllCPUs
        return plan
    }

    func arguments() -> [String] {
        (inBatches ? ["-b"] : [])
            + (count.map { ["--nthreads", "\($0)"] } ?? [])
            + (spreadsEveryQueue ? ["--per_io_tasks"] : [])
            + (usesAllCPUs ? ["--multi_cpus_affinity"] : [])
    }
}

/// What happens to a device and its requests when its server dies.
struct RecoveryOptions: ParsableArguments {
    @Option(
        name: [.customShort("r"), .customLong("user_recovery"), .customLong("recovery")],
        help: "1: the device stays, and requests wait for the next server.")
    var recovery = 0

    @Option(
        name: [
            .customShort("i"), .customLong("user_recovery_reissue"),
            .customLong("recovery_reissue"),
        ], help: "1: with -r 1, requests that were being served are sent again.")
    var reissue = 0

    @Option(
        name: [
            .customShort("e"), .customLong("user_recovery_fail_io"),
            .customLong("recovery_fail_io"),
        ], help: "1: with -r 1, requests fail until the next server is there.")
    var failIO = 0

    mutating func validate() throws {
        guard [recovery, reissue, failIO].allSatisfy({ $0 == 0 || $0 == 1 }) else {
            throw ValidationError("-r, -i and -e are 0 or 1.")
        }
        guard reissue + failIO < 2 else {
            throw ValidationError("Requests are sent again (-i 1) or fail (-e 1), not both.")
        }
    }

    var features: Features {
        var features: Features = []
        if recovery == 1 { features.insert(.userRecovery) }
        if reissue == 1 { features.formUnion([.userRecovery, .userRecoveryReissue]) }
        if failIO == 1 { features.formUnion([.userRecovery, .userRecoveryFailIO]) }
        return features
    }

    func arguments() -> [String] {
        ["-r", "\(recovery)", "-i", "\(reissue)", "-e", "\(failIO)"]
    }
}

/// How a volatile disk behaves.
struct VolatileOptions: ParsableArguments {
    @Option(help: "Decides what reaches the file without being flushed.")
    var seed: UInt64 = 0

    @Option(
        help: "Of a hundred writes, how many are followed by writing back random sectors, 0 to 100."
    )
    var writeBack = 5

    @Option(help: "MiB kept in memory, 1 to 1024; beyond, the oldest sectors are written back.")
    var memory = 64

    @Option(help: "Answer every so many FLUSHes without doing them, to see a loss; 0: none.")
    var lieAboutFlush: UInt64 = 0

    mutating func validate() throws {
        guard (0...100).contains(writeBack) else {
            throw ValidationError("Writing back is 0 to 100 of a hundred.")
        }
        guard (1...1024).contains(memory) else {
            throw ValidationError("A volatile disk's memory is 1 to 1024 MiB.")
        }
    }

    var behaviour: VolatileTarget.Behaviour {
        VolatileTarget.Behaviour(
            seed: seed, writeBackPercent: writeBack, sectorLimit: memory << 11,
            lieInterval: lieAboutFlush)
    }

    func arguments() -> [String] {
        [
            "--seed", "\(seed)", "--write-back", "\(writeBack)", "--memory", "\(memory)",
            "--lie-about-flush", "\(lieAboutFlush)",
        ]
    }
}
