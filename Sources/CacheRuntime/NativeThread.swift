import CLinux
import Glibc

/// A thread of the operating system, bound to one CPU if asked: ublk queues and deferred ring work
/// belong to the thread that began them.
package final class NativeThread: @unchecked Sendable {
    private let thread: pthread_t
    private var isJoined = false

    private final class Start: Sendable {
        let name: String
        let cpu: UInt32?
        let body: @Sendable () -> Void

        init(_ name: String, _ cpu: UInt32?, _ body: @escaping @Sendable () -> Void) {
            self.name = name
            self.cpu = cpu
            self.body = body
        }
    }

    /// Runs `body` on a thread called `name` (15 bytes are shown at the most).
    package init(
        name: String, cpu: UInt32? = nil, _ body: @escaping @Sendable () -> Void
    ) throws(CacheError) {
        thread = try Self.create(Start(name, cpu, body))
    }

    private static func create(_ start: Start) throws(CacheError) -> pthread_t {
        let retained = Unmanaged.passRetained(start)
        var thread = pthread_t()
        let result = pthread_create(&thread, nil, { NativeThread.run($0) }, retained.toOpaque())
        guard result == 0 else {
            retained.release()
            throw CacheError(.memory, "Starting a thread failed: \(errorText(result)).")
        }
        return thread
    }

    private static func run(_ pointer: UnsafeMutableRawPointer?) -> UnsafeMutableRawPointer? {
        guard let pointer else { preconditionFailure("a thread without a start") }
        let start = Unmanaged<Start>.fromOpaque(pointer).takeRetainedValue()
        _ = ucas_name_thread(String(decoding: start.name.utf8.prefix(15), as: UTF8.self))
        // A CPU that has gone away meanwhile is no reason not to serve.
        if let cpu = start.cpu { _ = ucas_pin_thread(cpu) }
        start.body()
        return nil
    }

    /// Waits for the end of the thread; exactly once.
    package func join() {
        precondition(!isJoined, "a thread is joined twice")
        isJoined = true
        pthread_join(thread, nil)
    }

    /// The CPUs this process may use.
    package static func allowedCPUs() -> [UInt32] {
        var cpus = [UInt32](repeating: 0, count: 1024)
        let count = ucas_allowed_cpus(&cpus, UInt32(cpus.count))
        return count > 0 ? Array(cpus[0..<Int(count)]) : [0]
    }
}
