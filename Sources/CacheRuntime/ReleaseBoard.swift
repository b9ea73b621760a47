import Synchronization

/// Set numbers on their way from worker to worker: "something in this set was released".
///
/// One ring of fixed size for each pair of workers, written by one and read by the other, so that
/// nothing is locked and nothing is allocated. A full ring is reported to the writer, who offers
/// the number again later; the reader empties its rings on every turn, whatever it is waiting
/// for, so two full rings cannot wait for each other.
final class ReleaseBoard: @unchecked Sendable {
    private static let ringCount: UInt32 = 1024
    /// Head and tail on lines of their own: reader and writer do not share them.
    private static let wordsBefore = 32

    private let workerCount: Int
    private let words: UnsafeMutablePointer<Atomic<UInt32>>
    private let stride = ReleaseBoard.wordsBefore + Int(ReleaseBoard.ringCount)

    init(workerCount: Int) {
        self.workerCount = workerCount
        let count = workerCount * workerCount * stride
        words = .allocate(capacity: count)
        for index in 0..<count { (words + index).initialize(to: Atomic(0)) }
    }

    deinit {
        words.deinitialize(count: workerCount * workerCount * stride)
        words.deallocate()
    }

    private func ring(from: Int, to: Int) -> UnsafeMutablePointer<Atomic<UInt32>> {
        words + (to * workerCount + from) * stride
    }

    /// False if the ring is full.
    func post(_ set: UInt32, from: Int, to: Int) -> Bool {
        let ring = ring(from: from, to: to)
        let tail = ring[16].load(ordering: .relaxed)
        guard tail &- ring[0].load(ordering: .acquiring) < Self.ringCount else { return false }
        ring[Self.wordsBefore + Int(tail % Self.ringCount)].store(set, ordering: .relaxed)
        ring[16].store(tail &+ 1, ordering: .releasing)
        return true
    }

    /// The next set number for worker `to`, from whomever.
    func take(to: Int) -> UInt32? {
        for from in 0..<workerCount where from != to {
            let ring = ring(from: from, to: to)
            let head = ring[0].load(ordering: .relaxed)
            if head == ring[16].load(ordering: .acquiring) { continue }
            let set = ring[Self.wordsBefore + Int(head % Self.ringCount)].load(ordering: .relaxed)
            ring[0].store(head &+ 1, ordering: .releasing)
            return set
        }
        return nil
    }
}
