import CacheFormat
import Testing

@testable import CacheEngine

/// A world that the test writes down beforehand, and what the loop did to it.
private struct ScriptedBackend: TurnBackend, ~Copyable {
    var events: [TurnEvent] = []
    var requests: [(Request, UInt64)] = []
    var room = Int.max
    var prepared: [Command] = []
    var slots: [UInt64: UInt32] = [:]
    var offered = 0
    /// Of each hand-over, whether it could have slept.
    var sleeps: [Bool] = []
    var refused: [UInt16] = []
    /// Answers that needed no command.
    var answered: [(slot: UInt32, result: Int32, keepsBuffer: Bool)] = []

    mutating func nextEvent(acceptsRequests: Bool) -> TurnEvent? {
        if !events.isEmpty { return events.removeFirst() }
        guard acceptsRequests, !requests.isEmpty else { return nil }
        let (request, origin) = requests.removeFirst()
        return .request(request, origin: origin)
    }

    mutating func accepted(origin: UInt64, slot: UInt32) { slots[origin] = slot }

    mutating func prepare(_ command: UnsafePointer<Command>) -> Bool {
        offered += 1
        guard prepared.count < room else { return false }
        prepared.append(command.pointee)
        return true
    }

    mutating func answer(slot: UInt32, result: Int32, keepsBuffer: Bool) {
        answered.append((slot, result, keepsBuffer))
    }
    mutating func submit(mayWait: Bool) { sleeps.append(mayWait) }
    mutating func flushRefused(core: UInt16) { refused.append(core) }
}

@Suite struct TurnLoopTests {
    private static func loop(
        _ bench: Bench, requestSlots: Int = 64, eventMax: Int = 256
    ) -> TurnLoop<ScriptedBackend> {
        var limits = EngineLimits()
        limits.requestSlots = requestSlots
        return TurnLoop(
            engine: Engine(shared: bench.shared, worker: 0, limits: limits),
            backend: ScriptedBackend(), eventMax: eventMax)
    }

    private static func write(_ sector: UInt64) -> Request {
        Request(.write, core: 1, startSector: sector, sectorCount: 8)
    }

    @Test func aTurnTakesEventsThenCommandsThenHandsOverOnce() throws {
        let bench = try Bench(.writeBack)
        var loop = Self.loop(bench)
        loop.backend.requests = [(Self.write(0), 100), (Self.write(80), 101)]
        let didSomething = loop.turn(mayWait: true)
        #expect(didSomething)
        let (slots, prepared, sleeps) = (
            loop.backend.slots, loop.backend.prepared, loop.backend.sleeps
        )
        #expect(Set(slots.keys) == [100, 101])
        #expect(prepared.map(\.kind) == [.writeCache, .writeCache])
        #expect(prepared.map(\.buffer.index) == [slots[100], slots[101]])
        #expect(sleeps == [true])
    }

    @Test func aTurnIsBoundedAndDoesNotSleepWithEventsLeft() throws {
        let bench = try Bench(.writeBack)
        var loop = Self.loop(bench, eventMax: 3)
        loop.backend.requests = (UInt64(0)..<7).map { (Self.write($0 * 80), $0) }
        var prepared: [Int] = []
        for _ in 0..<3 {
            loop.turn(mayWait: true)
            prepared.append(loop.backend.prepared.count)
        }
        let sleeps = loop.backend.sleeps
        #expect(prepared == [3, 6, 7])
        #expect(sleeps == [false, false, true])
    }

    @Test func commandsThatDoNotFitComeLaterInOrder() throws {
        let bench = try Bench(.writeBack)
        var loop = Self.loop(bench)
        loop.backend.requests = (UInt64(0)..<5).map { (Self.write($0 * 80), $0) }
        loop.backend.room = 2
        loop.turn(mayWait: true)
        let first = loop.backend.sleeps
        #expect(first == [false])
        loop.backend.room = 4
        loop.turn(mayWait: true)
        loop.backend.room = 5
        loop.turn(mayWait: true)
        let (slots, prepared, sleeps) = (
            loop.backend.slots, loop.backend.prepared, loop.backend.sleeps
        )
        #expect(prepared.map(\.buffer.index) == (UInt64(0)..<5).map { slots[$0] })
        #expect(sleeps == [false, false, true])
    }

    @Test func aFullRingIsWaitedForOnceNothingElseGoesOn() throws {
        let bench = try Bench(.writeBack)
        var loop = Self.loop(bench)
        loop.backend.requests = [(Self.write(0), 1)]
        loop.backend.room = 0
        loop.turn(mayWait: true)
        let didSomething = loop.turn(mayWait: true)
        let sleeps = loop.backend.sleeps
        // Only a completion makes room: the second turn may sleep until one comes.
        #expect(!didSomething && sleeps == [false, true])
    }

    @Test func aRequestTheEngineCannotTakeIsKeptAndNoOtherIsAskedFor() throws {
        let bench = try Bench(.writeBack)
        var loop = Self.loop(bench, requestSlots: 1)
        loop.backend.requests = [(Self.write(0), 1), (Self.write(80), 2), (Self.write(160), 3)]
        loop.turn(mayWait: true)
        let (slots, left, isQuiet) = (
            loop.backend.slots, loop.backend.requests.map(\.1), loop.isQuiescent
        )
        #expect(Set(slots.keys) == [1] && left == [3] && !isQuiet)
        let token = loop.backend.prepared[0].token
        loop.backend.events = [.completion(token, result: 4096)]
        loop.turn(mayWait: true)
        loop.turn(mayWait: true)
        let later = loop.backend.slots
        #expect(Set(later.keys) == [1, 2])
    }

    @Test func aLongDiscardIsFollowedByTurnsThatDoNotSleep() throws {
        let bench = try Bench(.writeBack, setCount: 640, canDiscard: false)
        var loop = Self.loop(bench)
        let discard = Request(.discard, core: 1, startSector: 0, sectorCount: 300 * 128)
        loop.backend.requests = [(discard, 1)]
        var turns = 0
        while loop.backend.prepared.isEmpty, turns < 50 {
            loop.turn(mayWait: true)
            turns += 1
        }
        let sleeps = loop.backend.sleeps
        #expect(turns > 5 && turns < 50)
        #expect(sleeps.dropLast().allSatisfy { !$0 })
    }

    @Test func aFlushThatCannotBeStartedIsToldSo() throws {
        let bench = try Bench(.writeBack)
        var loop = Self.loop(bench)
        loop.backend.events = [.beginFlush(core: 1), .beginFlush(core: 5)]
        loop.turn(mayWait: false)
        let (refused, prepared) = (loop.backend.refused, loop.backend.prepared)
        #expect(refused == [5])
        #expect(prepared.map(\.kind) == [.flushEnded])
    }

    @Test func theEndOfWritesIsToldWhenTheLastOneHasEnded() throws {
        let bench = try Bench(.writeBack)
        var loop = Self.loop(bench)
        loop.backend.requests = [(Self.write(0), 1)]
        loop.turn(mayWait: false)
        loop.backend.events = [.beginSettling]
        loop.turn(mayWait: false)
        let before = loop.backend.prepared.map(\.kind)
        #expect(before == [.writeCache])
        let token = loop.backend.prepared[0].token
        loop.backend.events = [.completion(token, result: 4096)]
        loop.turn(mayWait: false)
        let after = loop.backend.prepared.map(\.kind)
        #expect(after == [.writeCache, .answer, .writesSettled])
        let isQuiet = loop.isQuiescent
        #expect(isQuiet)
    }

    /// A part that waits for a line of another worker goes on when that one says so.
    @Test func whatAnotherWorkerReleasedIsTriedAgain() throws {
        let bench = try Bench(.writeThrough, workerCount: 2)
        var loop = Self.loop(bench)
        try bench.write(0, 8, 1, worker: 1)
        bench.take(worker: 1)
        loop.backend.requests = [(Self.write(0), 1)]
        loop.turn(mayWait: false)
        let before = loop.backend.prepared.map(\.kind)
        #expect(before == [])
        bench.finish("writeCache", worker: 1)
        let told = bench.finish("writeCore", worker: 1)
        #expect(told == ["answer 0", "wakeWorker 0 set 0"])
        loop.backend.events = [.setReleased(0)]
        loop.turn(mayWait: false)
        let after = loop.backend.prepared.map(\.kind)
        #expect(after == [.writeCache, .writeCore])
    }

    @Test func aHitIsAnsweredInTheSameTurnAndWithoutACommand() throws {
        let bench = try Bench(.writeThrough)
        try bench.write(0, 8, 1)
        bench.finishAll()
        var loop = Self.loop(bench, requestSlots: 1)
        let read = Request(.read, core: 1, startSector: 2, sectorCount: 4)
        loop.backend.requests = [(read, 1)]
        loop.turn(mayWait: false)
        let (slot, token) = (loop.backend.slots[1], loop.backend.prepared[0].token)
        // The slot is free at once: the next request of the same turn has it.
        loop.backend.events = [.completion(token, result: 2048)]
        loop.backend.requests = [(read, 2)]
        loop.turn(mayWait: false)
        let answered = loop.backend.answered
        let kinds = loop.backend.prepared.map(\.kind)
        let next = loop.backend.slots[2]
        #expect(answered.map(\.slot) == [slot] && next == slot)
        #expect(answered.allSatisfy { $0.result == 0 && !$0.keepsBuffer })
        #expect(kinds == [.readCache, .readCache])
    }
}
