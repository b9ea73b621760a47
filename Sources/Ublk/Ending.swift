import CLinux
import Glibc
import Synchronization

/// Whether the driver has told any thread of a device that it ends; wakes the others then.
///
/// Of a device that is quiesced the driver tells it through the tags that it holds at that moment:
/// a thread whose tags were all being served would never hear of it.
final class Ending: Sendable {
    private enum Stage {
        static let serving = 0
        static let told = 1
        static let failed = 2
    }

    private let stage = Atomic(Stage.serving)
    /// Reading from it waits, and ends when the end has begun.
    let reading: Int32
    private let writing: Int32

    init() throws(UblkError) {
        var ends: [Int32] = [-1, -1]
        let result = ucas_pipe(&ends)
        guard result == 0 else {
            throw UblkError("making a pipe for the threads of a device", errno: -result)
        }
        (reading, writing) = (ends[0], ends[1])
    }

    deinit {
        if !hasBegun { close(writing) }
        close(reading)
    }

    var hasBegun: Bool { stage.load(ordering: .acquiring) != Stage.serving }

    /// A thread cannot serve any longer: no other waits for the driver to tell.
    var hasFailed: Bool { stage.load(ordering: .acquiring) == Stage.failed }

    /// The driver has told it.
    func begin() { advance(to: Stage.told) }

    func fail() { advance(to: Stage.failed) }

    private func advance(to later: Int) {
        let earlier = stage.max(later, ordering: .acquiringAndReleasing).oldValue
        if earlier == Stage.serving { close(writing) }
    }
}
