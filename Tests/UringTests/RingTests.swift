import Glibc
import Testing
import Uring

@Suite(.needsRing) struct RingTransferTests {
    @Test func whatIsWrittenIsInTheFileAndIsReadAgain() throws {
        let file = ScratchFile(byteCount: 65536)
        var ring = try Ring.over(file)
        let source = Buffer(4096)
        for index in 0..<4096 {
            source.base.storeBytes(of: UInt8(index % 251), toByteOffset: index, as: UInt8.self)
        }
        let isWriteQueued = ring.prepareWrite(
            file: 0, from: source.base, byteCount: 4096, offset: 8192, isDurable: false,
            userData: 1)
        let written = ring.run()
        #expect(isWriteQueued && written == 4096)
        #expect(file.bytes(4096, at: 8192) == source.bytes)
        #expect(file.bytes(4096, at: 4096).allSatisfy { $0 == 0 })
        let target = Buffer(4096, 0xee)
        let isReadQueued = ring.prepareRead(
            file: 0, into: target.base + 100, byteCount: 1000, offset: 8192 + 500, userData: 2)
        let read = ring.run()
        #expect(isReadQueued && read == 1000)
        #expect(Array(target.bytes[100..<1100]) == Array(source.bytes[500..<1500]))
        #expect(target.bytes[..<100].allSatisfy { $0 == 0xee })
        #expect(target.bytes[1100...].allSatisfy { $0 == 0xee })
    }

    @Test func aDurableWriteAndAFlushSucceed() throws {
        let file = ScratchFile(byteCount: 4096)
        var ring = try Ring.over(file)
        let source = Buffer(4096, 7)
        _ = ring.prepareWrite(
            file: 0, from: source.base, byteCount: 4096, offset: 0, isDurable: true, userData: 1)
        let written = ring.run()
        #expect(written == 4096)
        _ = ring.prepareFlush(file: 0, userData: 2)
        let flushed = ring.run()
        #expect(flushed == 0)
        #expect(file.bytes(4096, at: 0) == source.bytes)
    }

    @Test func atTheEndOfTheFileAReadIsShortAndBehindItEmpty() throws {
        let file = ScratchFile(byteCount: 1000)
        var ring = try Ring.over(file)
        let target = Buffer(4096)
        _ = ring.prepareRead(
            file: 0, into: target.base, byteCount: 4096, offset: 600, userData: 1)
        let short = ring.run()
        _ = ring.prepareRead(
            file: 0, into: target.base, byteCount: 4096, offset: 5000, userData: 1)
        let none = ring.run()
        #expect(short == 400 && none == 0)
    }

    @Test func errorsAreNegativeResultsOfTheirTransferAlone() throws {
        let file = ScratchFile(byteCount: 4096)
        var ring = try Ring.over(file)
        let target = Buffer(4096)
        // No file was put into place 3.
        _ = ring.prepareRead(file: 3, into: target.base, byteCount: 512, offset: 0, userData: 1)
        _ = ring.prepareRead(file: 0, into: target.base, byteCount: 512, offset: 0, userData: 2)
        ring.submit(waitFor: 2)
        let ends = ring.take().sorted { $0.userData < $1.userData }
        #expect(ends == [End(userData: 1, result: -EBADF), End(userData: 2, result: 512)])
    }

    @Test(arguments: [0, 1, 1 << 31, 1 << 32, 1 << 63, 0x0123_4567_89ab_cdef, .max] as [UInt64])
    func userDataComesBackWhole(userData: UInt64) throws {
        let file = ScratchFile(byteCount: 4096)
        var ring = try Ring.over(file)
        let target = Buffer(512)
        _ = ring.prepareRead(
            file: 0, into: target.base, byteCount: 512, offset: 0, userData: userData)
        _ = ring.prepareFlush(file: 0, userData: ~userData)
        ring.submit(waitFor: 2)
        let ends = ring.take()
        #expect(Set(ends.map(\.userData)) == [userData, ~userData])
        #expect(ends.first { $0.userData == userData }?.result == 512)
    }

    @Test func aPunchedHoleReadsAsZeroesAndTheSizeStays() throws {
        let file = ScratchFile(byteCount: 0)
        file.fill(9, count: 65536)
        var ring = try Ring.over(file)
        _ = ring.preparePunchHole(file: 0, offset: 8192, byteCount: 4096, userData: 1)
        let result = ring.run()
        try #require(result == 0)
        #expect(file.bytes(4096, at: 8192).allSatisfy { $0 == 0 })
        #expect(file.bytes(1, at: 8191) == [9] && file.bytes(1, at: 12288) == [9])
        #expect(file.byteCount == 65536)
    }

    @Test func aZeroedRangeReadsAsZeroesAndTheSizeStays() throws {
        let file = ScratchFile(byteCount: 0)
        file.fill(9, count: 65536)
        var ring = try Ring.over(file)
        _ = ring.prepareZeroRange(file: 0, offset: 61440, byteCount: 8192, userData: 1)
        let result = ring.run()
        // Not every filesystem can.
        if result == -EOPNOTSUPP { return }
        #expect(result == 0)
        #expect(file.bytes(4096, at: 61440).allSatisfy { $0 == 0 })
        #expect(file.bytes(1, at: 61439) == [9])
        #expect(file.byteCount == 65536)
    }

    @Test func aFileIsNoBlockDeviceAndDoesNotTakeItsDiscard() throws {
        let file = ScratchFile(byteCount: 0)
        file.fill(9, count: 8192)
        var ring = try Ring.over(file)
        _ = ring.prepareDiscard(file: 0, offset: 0, byteCount: 4096, userData: 1)
        let result = ring.run()
        #expect(result == -EOPNOTSUPP || result == -EINVAL)
        #expect(file.bytes(8192, at: 0).allSatisfy { $0 == 9 })
    }
}

@Suite(.needsRing) struct RingQueueTests {
    @Test func aBatchIsHandedOverAndWaitedForInOneCall() throws {
        let file = ScratchFile(byteCount: 65536)
        var ring = try Ring.over(file, entries: 64, completions: 128)
        let source = Buffer(64 * 512)
        for index in 0..<64 {
            (source.base + index * 512).initializeMemory(
                as: UInt8.self, repeating: UInt8(index), count: 512)
            let isQueued = ring.prepareWrite(
                file: 0, from: source.base + index * 512, byteCount: 512,
                offset: UInt64(63 - index) * 512, isDurable: false, userData: UInt64(index))
            #expect(isQueued)
        }
        let (prepared, before) = (ring.preparedCount, ring.enterCount)
        #expect(prepared == 64 && before == 0)
        ring.submit(waitFor: 64)
        let ends = ring.take()
        let (left, after) = (ring.preparedCount, ring.enterCount)
        #expect(left == 0 && after == 1)
        #expect(Set(ends.map(\.userData)) == Set(0..<64))
        #expect(ends.allSatisfy { $0.result == 512 })
        #expect((0..<64).allSatisfy { file.bytes(1, at: $0 * 512) == [UInt8(63 - $0)] })
    }

    @Test func completionsAreTakenOnceAsManyAsFit() throws {
        let file = ScratchFile(byteCount: 4096)
        var ring = try Ring.over(file)
        for number in UInt64(0)..<8 { _ = ring.prepareFlush(file: 0, userData: number) }
        ring.submit(waitFor: 8)
        let pieces = [ring.take(3), ring.take(1), ring.take(0), ring.take(256), ring.take(256)]
        #expect(pieces.map(\.count) == [3, 1, 0, 4, 0])
        #expect(Set(pieces.joined().map(\.userData)) == Set(0..<8))
    }

    @Test func aFullRingSaysSoAndHasRoomAgainAfterTheHandOver() throws {
        let file = ScratchFile(byteCount: 4096)
        var ring = try Ring.over(file, entries: 4)
        let target = Buffer(512)
        var queued = (0..<4).map { ring.prepareFlush(file: 0, userData: UInt64($0)) }
        #expect(queued == [true, true, true, true])
        queued = [
            ring.prepareFlush(file: 0, userData: 9),
            ring.prepareRead(file: 0, into: target.base, byteCount: 1, offset: 0, userData: 9),
            ring.prepareLongRead(descriptor: 0, into: target.base, byteCount: 1, userData: 9),
            ring.prepareWrite(
                file: 0, from: target.base, byteCount: 1, offset: 0, isDurable: false, userData: 9),
            ring.prepareDiscard(file: 0, offset: 0, byteCount: 1, userData: 9),
            ring.preparePunchHole(file: 0, offset: 0, byteCount: 1, userData: 9),
            ring.prepareZeroRange(file: 0, offset: 0, byteCount: 1, userData: 9),
            ring.prepareCommand(descriptor: 0, operation: 0, low: 0, high: 0, userData: 9),
        ]
        #expect(queued.allSatisfy { !$0 })
        let prepared = ring.preparedCount
        #expect(prepared == 4)
        ring.submit(waitFor: 4)
        let isQueued = ring.prepareFlush(file: 0, userData: 4)
        let ends = ring.collect(5)
        #expect(isQueued && Set(ends.map(\.userData)) == Set(0..<5))
    }

    @Test func makingRoomHandsOverOnlyIfThereIsNone() throws {
        let file = ScratchFile(byteCount: 4096)
        var ring = try Ring.over(file, entries: 8, completions: 64)
        for number in UInt64(0)..<6 { _ = ring.prepareFlush(file: 0, userData: number) }
        ring.makeRoom(2)
        let before = (ring.preparedCount, ring.enterCount)
        #expect(before == (6, 0))
        ring.makeRoom(3)
        let after = (ring.preparedCount, ring.enterCount)
        #expect(after == (0, 1))
        for number in UInt64(6)..<14 { _ = ring.prepareFlush(file: 0, userData: number) }
        ring.submit(waitFor: 8)
        let ends = ring.collect(14)
        #expect(Set(ends.map(\.userData)) == Set(0..<14) && ends.count == 14)
    }

    @Test func moreRoomThanTheRingHasTraps() async {
        await #expect(processExitsWith: .failure) {
            var ring = try Ring(entries: 4, completions: 8)
            _ = ring.prepareCommand(descriptor: 0, operation: 0, low: 0, high: 0, userData: 1)
            ring.makeRoom(5)
        }
    }

    /// More ends than the completion queue holds: the kernel keeps them until there is room.
    @Test func noCompletionIsLostIfNobodyTakesThem() throws {
        let file = ScratchFile(byteCount: 4096)
        var ring = try Ring.over(file, entries: 8, completions: 8)
        for round in UInt64(0)..<10 {
            for number in 0..<8 {
                _ = ring.prepareFlush(file: 0, userData: round * 8 + UInt64(number))
            }
            ring.submit(waitFor: 0)
        }
        let ends = ring.collect(80)
        #expect(ends.count == 80 && Set(ends.map(\.userData)) == Set(0..<80))
    }

    @Test func handingOverNothingReturns() throws {
        var ring = try Ring(entries: 4, completions: 8)
        ring.submit(waitFor: 0)
        let ends = ring.take()
        #expect(ends == [])
    }

    @Test func aLongReadEndsWhenThereIsSomething() throws {
        var ring = try Ring(entries: 4, completions: 8)
        var pipeEnds: [Int32] = [-1, -1]
        try #require(pipe(&pipeEnds) == 0)
        let (readEnd, writeEnd) = (pipeEnds[0], pipeEnds[1])
        defer { for descriptor in [readEnd, writeEnd] { close(descriptor) } }
        let target = Buffer(8)
        _ = ring.prepareLongRead(
            descriptor: readEnd, into: target.base, byteCount: 8, userData: 5)
        ring.submit(waitFor: 0)
        let before = ring.take()
        #expect(before == [])
        try #require(write(writeEnd, "abcdefgh", 8) == 8)
        ring.submit(waitFor: 1)
        let after = ring.take()
        #expect(after == [End(userData: 5, result: 8)])
        #expect(target.bytes == Array("abcdefgh".utf8))
    }

    /// Impossible with the flags a worker wants, and without them.
    private static let impossibleSizes: [(UInt32, UInt32)] = [
        (0, 8), (1 << 20, 1 << 21), (8, 4), (8, 1 << 24),
    ]

    @Test func impossibleSizesAreRefused() async {
        await #expect(processExitsWith: .success) {
            for (entries, completions) in RingQueueTests.impossibleSizes {
                do throws(RingError) {
                    _ = try Ring(entries: entries, completions: completions)
                    exit(2)
                } catch {
                    precondition(error == RingError(step: "set up", errno: EINVAL))
                }
            }
        }
    }
}

@Suite(.needsRing) struct RingFileTests {
    @Test func placesAreGivenOutFromTheFirstFreeOne() throws {
        let file = ScratchFile(byteCount: 4096)
        var ring = try Ring(entries: 4, completions: 8)
        let none = ring.freeFile(from: 0)
        #expect(none == nil)
        try ring.registerFiles(count: 3)
        let results = [0, 2].map { ring.setFile($0, descriptor: file.descriptor) }
        #expect(results == [0, 0])
        let free = (ring.freeFile(from: 0), ring.freeFile(from: 1), ring.freeFile(from: 2))
        #expect(free == (1, 1, nil))
        let emptied = ring.setFile(2, descriptor: -1)
        let freeAgain = ring.freeFile(from: 2)
        #expect(emptied == 0 && freeAgain == 2)
    }

    @Test func aFileTakenOutIsNotReachedAnyMore() throws {
        let file = ScratchFile(byteCount: 4096)
        var ring = try Ring.over(file)
        _ = ring.setFile(0, descriptor: -1)
        _ = ring.prepareFlush(file: 0, userData: 1)
        let result = ring.run()
        #expect(result == -EBADF)
    }

    @Test func aPlaceOutsideTheTableOrAClosedFileIsRefused() throws {
        let file = ScratchFile(byteCount: 4096)
        var ring = try Ring.over(file)
        let outside = ring.setFile(4, descriptor: file.descriptor)
        let closed = ring.setFile(1, descriptor: 1 << 20)
        let free = ring.freeFile(from: 1)
        #expect(outside == -EINVAL && closed == -EBADF && free == 1)
    }

    @Test func filesAreRegisteredOnce() throws {
        var ring = try Ring(entries: 4, completions: 8)
        try ring.registerFiles(count: 3)
        do throws(RingError) {
            try ring.registerFiles(count: 3)
            Issue.record("registered twice")
        } catch {
            #expect(error == RingError(step: "register files", errno: EBUSY))
        }
    }

    /// The reader of a pipe hears of its end as soon as the ring is gone.
    @Test func aRingThatIsGoneHoldsNoFile() throws {
        var pipeEnds: [Int32] = [-1, -1]
        try #require(pipe(&pipeEnds) == 0)
        defer { close(pipeEnds[0]) }
        do {
            var ring = try Ring(entries: 4, completions: 8)
            try ring.registerFiles(count: 1)
            let result = ring.setFile(0, descriptor: pipeEnds[1])
            close(pipeEnds[1])
            #expect(result == 0)
            var wait = pollfd(fd: pipeEnds[0], events: Int16(POLLIN), revents: 0)
            #expect(poll(&wait, 1, 0) == 0)
        }
        var wait = pollfd(fd: pipeEnds[0], events: Int16(POLLIN), revents: 0)
        #expect(poll(&wait, 1, 10) == 1)
        #expect(wait.revents & Int16(POLLHUP) != 0)
    }
}

@Suite(.needsRing) struct RingBufferTests {
    @Test func aTransferUsesABufferOfTheTable() throws {
        let file = ScratchFile(byteCount: 4096)
        file.fill(0x5a, count: 4096)
        let buffer = Buffer(4096)
        var ring = try Ring.over(file)
        try ring.registerBuffers(count: 2)
        let put = ring.setBuffer(1, UnsafeMutableRawBufferPointer(start: buffer.base, count: 4096))
        #expect(put == 0)
        _ = ring.prepareFixedRead(
            file: 0, place: 1, into: buffer.base + 1024, byteCount: 512, offset: 0, userData: 1)
        let read = ring.run()
        #expect(read == 512)
        #expect(buffer.bytes[1024..<1536].allSatisfy { $0 == 0x5a })
        #expect(buffer.bytes[..<1024].allSatisfy { $0 == 0 })
    }

    @Test func anEmptyPlaceIsNotUsed() throws {
        let file = ScratchFile(byteCount: 4096)
        let buffer = Buffer(4096)
        var ring = try Ring.over(file)
        try ring.registerBuffers(count: 2)
        let all = UnsafeMutableRawBufferPointer(start: buffer.base, count: 4096)
        let results = [ring.setBuffer(1, all), ring.setBuffer(2, all)]
        #expect(results == [0, -EINVAL])
        let emptied = ring.setBuffer(1, UnsafeMutableRawBufferPointer(start: nil, count: 0))
        #expect(emptied == 0)
        _ = ring.prepareFixedRead(
            file: 0, place: 1, into: buffer.base, byteCount: 512, offset: 0, userData: 1)
        let read = ring.run()
        #expect(read == -EFAULT)
    }
}
