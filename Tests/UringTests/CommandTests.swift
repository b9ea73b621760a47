import Glibc
import Testing
import Uring

/// Commands for drivers. /dev/null takes any and answers 0 (kernel 6.1), a UDP socket tells with
/// command 0 how many bytes wait in it (kernel 6.7).
@Suite(.needsRing) struct CommandTests {
    private static let bytesWaiting: UInt32 = 0

    /// A socket with one datagram of so many bytes in it.
    private final class Inbox {
        let descriptor = socket(AF_INET, Int32(SOCK_DGRAM.rawValue), 0)

        init(byteCount: Int) throws {
            var address = sockaddr_in()
            address.sin_family = sa_family_t(AF_INET)
            address.sin_addr.s_addr = UInt32(0x7f00_0001).bigEndian
            var length = socklen_t(MemoryLayout<sockaddr_in>.size)
            let message = [UInt8](repeating: 1, count: byteCount)
            let sent = withUnsafeMutablePointer(to: &address) { pointer in
                pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                    guard bind(descriptor, $0, length) == 0,
                        getsockname(descriptor, $0, &length) == 0
                    else { return -1 }
                    return sendto(descriptor, message, byteCount, 0, $0, length)
                }
            }
            try #require(sent == byteCount)
        }

        deinit { close(descriptor) }
    }

    @Test func aCommandReachesItsDriverAndBringsItsResultBack() throws {
        let inbox = try Inbox(byteCount: 123)
        var ring = try Ring(entries: 4, completions: 8)
        let isQueued = ring.prepareCommand(
            descriptor: inbox.descriptor, operation: Self.bytesWaiting, low: 0, high: 0,
            userData: 77)
        ring.submit(waitFor: 1)
        let ends = ring.take()
        #expect(isQueued)
        #expect(
            ends == [End(userData: 77, result: 123)]
                || ends == [End(userData: 77, result: -EOPNOTSUPP)])
    }

    @Test func aDriverThatTakesNoCommandsSaysSo() throws {
        let file = ScratchFile(byteCount: 4096)
        var ring = try Ring(entries: 4, completions: 8)
        _ = ring.prepareCommand(
            descriptor: file.descriptor, operation: 1, low: 1, high: 2, userData: 1)
        let result = ring.run()
        #expect(result == -EOPNOTSUPP)
    }

    /// An entry keeps nothing of whoever had its place before.
    @Test func anEntryIsWrittenAnew() throws {
        let file = ScratchFile(byteCount: 4096)
        var ring = try Ring.over(file, entries: 1, completions: 2)
        let buffer = Buffer(512, 3)
        _ = ring.prepareWrite(
            file: 0, from: buffer.base, byteCount: 512, offset: 0, isDurable: true, userData: 1)
        _ = ring.run()
        let null = open("/dev/null", O_RDWR | O_CLOEXEC)
        defer { close(null) }
        // With the flag of registered files left over this would be nobody's file.
        _ = ring.prepareCommand(
            descriptor: null, operation: 5, low: .max, high: .max, userData: 2)
        let result = ring.run()
        #expect(result == 0 || result == -EOPNOTSUPP)
    }

    // MARK: - Rings with entries of 128 bytes

    private static func run(
        _ descriptor: Int32, _ operation: UInt32, payload: [UInt8] = [], seconds: Int = 5
    ) -> Int32 {
        payload.withUnsafeBytes {
            ControlRing.run(
                descriptor: descriptor, operation: operation, payload: $0, seconds: seconds)
        }
    }

    @Test(arguments: [0, 1, 32, 80])
    func aLongCommandReachesItsDriver(payload: Int) throws {
        let inbox = try Inbox(byteCount: 45)
        let result = Self.run(
            inbox.descriptor, Self.bytesWaiting, payload: [UInt8](repeating: 0xa5, count: payload))
        #expect(result == 45 || result == -EOPNOTSUPP)
    }

    @Test func errorsOfALongCommandAreItsResult() {
        let file = ScratchFile(byteCount: 4096)
        #expect(Self.run(file.descriptor, 1, payload: [1, 2, 3]) == -EOPNOTSUPP)
        #expect(Self.run(1 << 20, 1) == -EBADF)
    }

    @Test func aPayloadThatDoesNotFitTraps() async {
        await #expect(processExitsWith: .failure) {
            let payload = [UInt8](repeating: 0, count: 81)
            _ = payload.withUnsafeBytes {
                ControlRing.run(descriptor: 0, operation: 0, payload: $0, seconds: 1)
            }
        }
    }

    private static func rings() -> Int {
        (0..<64).count { descriptor in
            var target = [CChar](repeating: 0, count: 64)
            let count = readlink("/proc/self/fd/\(descriptor)", &target, target.count)
            let bytes = target.prefix(max(0, count)).map(UInt8.init(bitPattern:))
            return String(decoding: bytes, as: UTF8.self).contains("[io_uring]")
        }
    }

    /// The kernel's helper of a thread must not end between two commands; see `ControlRing`.
    @Test func aThreadKeepsItsRingUntilItEnds() async {
        await #expect(processExitsWith: .success) {
            for _ in 0..<3 { _ = Self.run(0, 1) }
            #expect(Self.rings() == 1)
            var thread = pthread_t()
            pthread_create(
                &thread, nil,
                { _ in
                    for _ in 0..<3 { _ = CommandTests.run(0, 1) }
                    // The first thread's and this one's.
                    precondition(CommandTests.rings() == 2)
                    return nil
                }, nil)
            pthread_join(thread, nil)
            #expect(Self.rings() == 1)
        }
    }

    @Test func commandsOfSeveralThreadsDoNotMeet() async throws {
        await withTaskGroup(of: Bool.self) { group in
            for task in 1...4 {
                group.addTask {
                    guard let inbox = try? Inbox(byteCount: task * 10) else { return false }
                    return (0..<50).allSatisfy { _ in
                        let result = Self.run(inbox.descriptor, Self.bytesWaiting)
                        return result == Int32(task * 10) || result == -EOPNOTSUPP
                    }
                }
            }
            for await isRight in group { #expect(isRight) }
        }
    }
}
