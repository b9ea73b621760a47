import Glibc
import Synchronization

/// Ctrl-C while something long goes on: noticed instead of ending the program.
enum Interruption {
    private static let count = Atomic<Int>(0)
    /// After so many the program ends, should the server not react at all.
    private static let patience = 4

    static var isRequested: Bool { count.load(ordering: .relaxed) > 0 }

    /// From here on the first interrupts are counted only.
    static func watch() {
        count.store(0, ordering: .relaxed)
        signal(SIGINT) { _ in
            let before = Interruption.count.add(1, ordering: .relaxed).oldValue
            if before + 1 >= Interruption.patience { signal(SIGINT, SIG_DFL) }
        }
    }

    static func unwatch() {
        signal(SIGINT, SIG_DFL)
    }
}
