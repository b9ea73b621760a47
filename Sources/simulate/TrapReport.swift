import Glibc

private let replayCapacity = 128
nonisolated(unsafe) private let replayLine = UnsafeMutablePointer<CChar>.allocate(
    capacity: replayCapacity)

/// Tells, when an invariant traps and the process dies of it, how that run is played again.
enum TrapReport {
    static func install() {
        replayLine.initialize(repeating: 0, count: replayCapacity)
        for number in [SIGILL, SIGTRAP, SIGABRT, SIGSEGV, SIGBUS] {
            signal(number) { number in
                _ = write(STDOUT_FILENO, replayLine, strlen(replayLine))
                signal(number, SIG_DFL)
                raise(number)
            }
        }
    }

    static func note(replay: String) {
        _ = strncpy(replayLine, "replay: simulate \(replay)\n", replayCapacity - 1)
    }
}
