import Glibc
import Uring

/// The results of one queue that one thread gives back many at a time (UBLK_F_BATCH_IO, Linux 7.0).
///
/// One list of results at most is with the kernel; those that come meanwhile wait in the other, and
/// go next. A tag has one result at a time: lists as long as the queue is deep are enough.
struct BatchCommands {
    /// How an element of a list looks, which the data mode decides.
    private struct Format {
        /// struct ublk_elem_header: tag, place in the buffer table, result; in copy mode the
        /// address of the tag's buffer follows.
        let byteCount: Int
        /// UBLK_BATCH_F_*.
        let flags: UInt16

        init(_ mode: DataMode) {
            byteCount = mode == .copy ? 16 : 8
            flags = mode == .copy ? 1 << 1 : mode == .automatic(fallsBack: true) ? 1 << 2 : 0
        }
    }

    private let format: Format
    private var waiting: UnsafeMutableRawPointer
    private var waitingCount = 0
    private var sent: UnsafeMutableRawPointer
    private var sentCount = 0
    /// Elements of `sent` that the kernel has taken.
    private var takenCount = 0
    /// A command with the list `sent` is with the kernel.
    private var isSending = false
    private let capacity: Int

    /// Tags that the kernel may put into one buffer at a time (MAX_NR_TAG of its driver).
    static let tagsInBuffer = 128
    /// Provided buffers of a thread: one that finds none is given its tags a turn later.
    static let bufferCount: UInt16 = 16

    init(_ mode: DataMode, depth: UInt16) {
        format = Format(mode)
        capacity = Int(depth)
        let bytes = capacity * format.byteCount
        waiting = .allocate(byteCount: bytes, alignment: 16)
        sent = .allocate(byteCount: bytes, alignment: 16)
    }

    func deallocate() {
        waiting.deallocate()
        sent.deallocate()
    }

    /// Every result has come to the driver.
    var isEmpty: Bool { waitingCount == 0 && sentCount == 0 }

    mutating func add(tag: UInt16, result: Int32, data: TagData) {
        precondition(waitingCount < capacity, "more results than the queue has tags")
        let element = waiting + waitingCount * format.byteCount
        element.storeBytes(of: tag, as: UInt16.self)
        element.storeBytes(of: 0, toByteOffset: 2, as: UInt16.self)
        element.storeBytes(of: result, toByteOffset: 4, as: Int32.self)
        switch data {
        case .memory(let address):
            element.storeBytes(of: address, toByteOffset: 8, as: UInt64.self)
        case .place(let place, _): element.storeBytes(of: place, toByteOffset: 2, as: UInt16.self)
        case .none: break
        }
        waitingCount += 1
    }

    /// The next list to go, if none is with the kernel: its address, and the command's low word.
    mutating func next(queue: UInt16) -> (address: UInt64, low: UInt64)? {
        guard !isSending else { return nil }
        if sentCount == 0 {
            guard waitingCount > 0 else { return nil }
            swap(&waiting, &sent)
            (sentCount, waitingCount) = (waitingCount, 0)
        }
        isSending = true
        let address = sent + takenCount * format.byteCount
        let low =
            UInt64(queue) | UInt64(format.flags) << 16 | UInt64(sentCount - takenCount) << 32
            | UInt64(format.byteCount) << 48
        return (UInt64(UInt(bitPattern: address)), low)
    }

    /// Takes the end of the command: the bytes of the list that are the driver's now, or -errno.
    /// Returns the errno if it would not have a result, which is left out then, else 0.
    mutating func ended(_ result: Int32) -> Int32 {
        precondition(isSending, "the end of a list that was not sent")
        isSending = false
        if result == -EAGAIN || result == -EINTR || result == -ENOMEM { return 0 }
        precondition(Int(max(result, 0)) % format.byteCount == 0, "a part of a result was taken")
        takenCount += result > 0 ? Int(result) / format.byteCount : 1
        precondition(takenCount <= sentCount, "more results were taken than sent")
        if takenCount == sentCount { (sentCount, takenCount) = (0, 0) }
        return result > 0 ? 0 : result == 0 ? EIO : -result
    }

    /// Takes the end of the list that tells the driver about the tags: all or none. 0 or the errno.
    mutating func prepared(_ result: Int32) -> Int32 {
        precondition(isSending && takenCount == 0, "the end of a list that was not sent")
        isSending = false
        sentCount = 0
        return max(-result, 0)
    }
}
