import Glibc
import Testing

@testable import CacheRuntime

@Suite struct MailboxTests {
    private func isReadable(_ descriptor: Int32) -> Bool {
        var waiting = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
        return poll(&waiting, 1, 0) == 1
    }

    @Test func theEventIsWrittenOnTheFirstMessageOnly() throws {
        let mailbox = try Mailbox<Int>()
        #expect(mailbox.drain() == nil)
        #expect(!isReadable(mailbox.eventDescriptor))
        mailbox.post(1)
        mailbox.post(2)
        var counter: UInt64 = 0
        #expect(read(mailbox.eventDescriptor, &counter, 8) == 8)
        #expect(counter == 1)
        #expect(mailbox.drain() == [1, 2])
        #expect(mailbox.drain() == nil)
        mailbox.post(3)
        #expect(isReadable(mailbox.eventDescriptor))
        #expect(mailbox.drain() == [3])
    }

    @Test func nothingIsLostBetweenThreads() throws {
        let mailbox = try Mailbox<Int>()
        let senders = 4
        let perSender = 20_000
        var threads: [NativeThread] = []
        for sender in 0..<senders {
            let thread = try NativeThread(name: "sender \(sender)") {
                for index in 0..<perSender { mailbox.post(sender * perSender + index) }
            }
            threads.append(thread)
        }
        var seen = Set<Int>()
        while seen.count < senders * perSender {
            var waiting = pollfd(fd: mailbox.eventDescriptor, events: Int16(POLLIN), revents: 0)
            try #require(poll(&waiting, 1, 10_000) == 1, "a message was posted without a wake")
            var counter: UInt64 = 0
            _ = read(mailbox.eventDescriptor, &counter, 8)
            for message in mailbox.drain() ?? [] { #expect(seen.insert(message).inserted) }
        }
        for thread in threads { thread.join() }
    }

    @Test func aReplyIsHeard() throws {
        let reply = try Reply()
        #expect(reply.wait(milliseconds: 0) == nil)
        let thread = try NativeThread(name: "answering") { reply.set(-5) }
        #expect(reply.wait() == -5)
        thread.join()
    }
}

@Suite struct BufferArenaTests {
    @Test func buffersAreDistinctAndAligned() {
        guard var arena = BufferArena(bufferBytes: 8192, count: 3) else {
            Issue.record("no memory for three buffers")
            return
        }
        var indices: [UInt32] = []
        while let index = arena.acquire() {
            indices.append(index)
            memset(arena.address(index), Int32(index) + 1, 8192)
        }
        #expect(Set(indices) == [0, 1, 2])
        for index in indices {
            #expect(Int(bitPattern: arena.address(index)) % 4096 == 0)
            let bytes = UnsafeRawBufferPointer(start: arena.address(index), count: 8192)
            let isOwn = bytes.allSatisfy { $0 == UInt8(index) + 1 }
            #expect(isOwn)
        }
        arena.release(1)
        #expect(arena.acquire() == 1)
        #expect(arena.acquire() == nil)
    }

    @Test func aSecondReleaseTraps() async {
        await #expect(processExitsWith: .failure) {
            guard var arena = BufferArena(bufferBytes: 4096, count: 2) else { return }
            guard let index = arena.acquire() else { return }
            arena.release(index)
            arena.release(index)
        }
    }
}

@Suite struct ReleaseBoardTests {
    @Test func numbersArriveInOrderAndAFullRingSaysSo() {
        let board = ReleaseBoard(workerCount: 2)
        #expect(board.take(to: 1) == nil)
        var posted: UInt32 = 0
        while board.post(posted, from: 0, to: 1) { posted += 1 }
        #expect(posted == 1024)
        #expect(board.take(to: 0) == nil)
        #expect(board.take(to: 1) == 0)
        #expect(board.post(posted, from: 0, to: 1))
        for expected in 1...posted { #expect(board.take(to: 1) == expected) }
        #expect(board.take(to: 1) == nil)
    }
}
