import CLinux
import Glibc
import Synchronization

/// Messages from any thread to one worker.
///
/// The worker pays one relaxed load a turn. The event counter, which the worker's ring waits for,
/// is written only when the mailbox stops being empty.
package final class Mailbox<Message: Sendable>: Sendable {
    /// Becomes readable when there is something to drain.
    package let eventDescriptor: Int32
    private let pending = Mutex<[Message]>([])
    private let isFilled = Atomic<Bool>(false)

    package init() throws(CacheError) {
        eventDescriptor = ucas_event_create()
        guard eventDescriptor >= 0 else {
            throw CacheError(
                .kernel, "Creating an event counter failed: \(errorText(-eventDescriptor)).")
        }
    }

    deinit { close(eventDescriptor) }

    package func post(_ message: Message) {
        pending.withLock { $0.append(message) }
        ring()
    }

    /// Makes the worker look, whether there is a message or not.
    /// True if that took a system call.
    @discardableResult
    package func ring() -> Bool {
        guard !isFilled.exchange(true, ordering: .acquiringAndReleasing) else { return false }
        var one: UInt64 = 1
        while write(eventDescriptor, &one, 8) < 0 && errno == EINTR {}
        return true
    }

    /// Takes what is there; nil if nothing was posted since the last time.
    ///
    /// The flag falls before the queue is taken: a post in between costs a spurious turn, never a
    /// lost message.
    package func drain() -> [Message]? {
        guard isFilled.load(ordering: .relaxed) else { return nil }
        _ = isFilled.exchange(false, ordering: .acquiringAndReleasing)
        return pending.withLock { queue in
            let taken = queue
            queue.removeAll()
            return taken
        }
    }
}

/// The answer to a message: set once by a worker, awaited by a control thread.
package final class Reply: Sendable {
    private let eventDescriptor: Int32
    private let value = Atomic<Int32>(0)
    private let isSet = Atomic<Bool>(false)

    package init() throws(CacheError) {
        eventDescriptor = ucas_event_create()
        guard eventDescriptor >= 0 else {
            throw CacheError(
                .kernel, "Creating an event counter failed: \(errorText(-eventDescriptor)).")
        }
    }

    deinit { close(eventDescriptor) }

    /// `result` is 0 or -errno.
    package func set(_ result: Int32) {
        value.store(result, ordering: .relaxed)
        precondition(!isSet.exchange(true, ordering: .releasing), "a message is answered twice")
        var one: UInt64 = 1
        while write(eventDescriptor, &one, 8) < 0 && errno == EINTR {}
    }

    /// Waits at most so long; nil if there is no answer yet.
    package func wait(milliseconds: Int32) -> Int32? {
        if !isSet.load(ordering: .acquiring) {
            var waiting = pollfd(fd: eventDescriptor, events: Int16(POLLIN), revents: 0)
            _ = poll(&waiting, 1, milliseconds)
        }
        return isSet.load(ordering: .acquiring) ? value.load(ordering: .relaxed) : nil
    }

    package func wait() -> Int32 {
        while true {
            if let result = wait(milliseconds: 1000) { return result }
        }
    }
}
