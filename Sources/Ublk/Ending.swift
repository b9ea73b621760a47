import Glibc
import Synchronization

/// Whether the driver has told any thread of a device that it ends; wakes the others then.
///
/// Of a device that is quiesced the driver tells it through the tags, or the fetches, that it holds
/// at that moment: a thread whose tags were all being served would never hear of it.
final class Ending: Sendable {
    private let flag = Atomic(false)
    /// Reading from it waits, and ends when the end has begun.
    let reading: Int32
    private let writing: Int32

    init() throws(UblkError) {
        var ends: [Int32] = [-1, -1]
        guard pipe(&ends) == 0 else {
            throw UblkError("making a pipe for the threads of a device", errno: errno)
        }
        for end in ends { _ = fcntl(end, F_SETFD, FD_CLOEXEC) }
        (reading, writing) = (ends[0], ends[1])
    }

    deinit {
        if !hasBegun { close(writing) }
        close(reading)
    }

    var hasBegun: Bool { flag.load(ordering: .acquiring) }

    func begin() {
        if !flag.exchange(true, ordering: .acquiringAndReleasing) { close(writing) }
    }
}
