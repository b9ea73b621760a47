/// The tags of one queue that one thread serves.
struct TagShare: Equatable, Sendable {
    let queue: UInt16
    let tags: [UInt16]
    /// Many at a time: this thread tells the driver of the tags, which all threads of the queue
    /// serve.
    var preparesTags = false
}

/// How the tags of a device are divided among threads.
///
/// Every fetch and commit of a tag has to come from the thread that fetched it first; before Linux
/// 6.16 (`Features.perIODaemon`) this holds for whole queues.
public struct ThreadPlan: Equatable, Sendable {
    /// Threads in all; nil: one for each queue.
    public var threadCount: UInt16?
    /// Every thread serves some tags of every queue, so that the requests of one busy CPU are
    /// spread over all of them. Without it a queue's threads serve that queue alone.
    public var spreadsEveryQueue = false

    public init(threadCount: UInt16? = nil, spreadsEveryQueue: Bool = false) {
        self.threadCount = threadCount
        self.spreadsEveryQueue = spreadsEveryQueue
    }

    /// Each tag of each queue with exactly one thread; no thread without one. Nil if so many
    /// threads cannot be divided among the queues.
    func shares(queueCount: UInt16, queueDepth: UInt16) -> [[TagShare]]? {
        let threads = Int(threadCount ?? queueCount)
        let (queues, depth) = (Int(queueCount), Int(queueDepth))
        guard threads >= 1 else { return nil }
        if spreadsEveryQueue {
            guard threads <= queues * depth else { return nil }
            return (0..<threads).map { thread in
                (0..<queues).compactMap { queue in
                    share(queue) { tag in (queue * depth + tag) % threads == thread }
                }
            }
        }
        guard threads.isMultiple(of: queues), threads / queues <= depth else { return nil }
        let perQueue = threads / queues
        return (0..<threads).map { thread in
            [thread / perQueue].compactMap { queue in
                share(queue) { tag in tag % perQueue == thread % perQueue }
            }
        }

        func share(_ queue: Int, _ isMine: (Int) -> Bool) -> TagShare? {
            let tags = (0..<depth).filter(isMine).map { UInt16($0) }
            return tags.isEmpty ? nil : TagShare(queue: UInt16(queue), tags: tags)
        }
    }

    /// Where tags are fetched many at a time: whoever of a queue's threads asks next gets the next
    /// requests. Where there are more queues than threads, a thread serves several. Nil if every
    /// thread is to serve tags of every queue.
    func sharesOfBatches(queueCount: UInt16, queueDepth: UInt16) -> [[TagShare]]? {
        let threads = Int(threadCount ?? queueCount)
        guard threads >= 1, !spreadsEveryQueue else { return nil }
        let tags = Array(0..<queueDepth)
        return (0..<threads).map { thread in
            guard threads < queueCount else {
                let queue = UInt16(thread % Int(queueCount))
                return [TagShare(queue: queue, tags: tags, preparesTags: thread < queueCount)]
            }
            return (0..<queueCount).filter { Int($0) % threads == thread }.map {
                TagShare(queue: $0, tags: tags, preparesTags: true)
            }
        }
    }

    /// The kernel has to let a queue be served by several threads.
    func needsPerTagThreads(queueCount: UInt16) -> Bool {
        let threads = threadCount ?? queueCount
        return threads > 1 && (spreadsEveryQueue || threads > queueCount)
    }
}
