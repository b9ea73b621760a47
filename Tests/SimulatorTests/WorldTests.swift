import CacheEngine
import CacheFormat
import Testing

@testable import Simulator

/// The simulator fails when it should.
@Suite struct JudgeTests {
    @Test func whatIsAsItShouldBePasses() {
        let stage = Stage()
        stage.play(.write, 8, 16)
        stage.play(.read, 0, 32)
        stage.play(.flush)
        stage.play(.discard, 8, 4)
        stage.play(.read, 0, 32)
        #expect(stage.violation == nil)
        #expect(stage.world.underWay.isEmpty)
    }

    @Test func aWrongReadIsFound() {
        let stage = Stage()
        stage.pretend(.read, 5, 2, content: 4711)
        #expect(stage.violation?.hasPrefix("core 0 sector 5 was read as 4711") == true)
    }

    @Test func bytesNobodyPutIntoTheBufferAreFound() {
        let stage = Stage()
        stage.pretend(.read, 5, 2)
        #expect(stage.violation?.hasPrefix("core 0 sector 5 was read as \(UInt64.max)") == true)
    }

    @Test func aFailedReadIsNotJudgedByItsContent() {
        let stage = Stage { $0.errorPerMille = 1 }
        stage.pretend(.read, 5, 2, content: 4711, result: -5)
        #expect(stage.violation == nil)
    }

    @Test func anErrorWithoutAFailingDeviceIsFound() {
        let stage = Stage()
        stage.pretend(.write, 5, 2, result: -5)
        #expect(stage.violation?.contains("failed with -5 although no device did") == true)
    }

    @Test func aStaleReadAfterACompletedWriteIsFound() {
        let stage = Stage()
        stage.play(.write, 8, 8)
        #expect(stage.violation == nil)
        // The only copy of what was written is dropped: the core still has zeroes.
        #expect(stage.world.shared.dropLines(core: 0) == .done)
        stage.play(.read, 8, 8)
        #expect(stage.violation?.contains("sector 8 was read as 0") == true)
    }

    @Test func aCacheDeviceThatForgetsIsFound() {
        let stage = Stage()
        stage.play(.write, 8, 8)
        for sector in Int(stage.world.geometry.dataOffset / 512)..<stage.world.cacheDevice.count {
            stage.world.cacheDevice.write(sector, 0, durably: true)
        }
        stage.play(.read, 9, 2)
        #expect(stage.violation?.contains("sector 9 was read as 0") == true)
    }

    // The data is in the cache alone, or on the core alone.
    @Test(arguments: [EngineMode.writeBack, .writeThrough, .passThrough])
    func aFlushThatFlushesNothingIsFound(mode: EngineMode) {
        let stage = Stage { $0.mode = mode }
        stage.play(.write, 8, 8)
        stage.pretend(.flush)
        #expect(stage.violation?.contains("would be 0 after a power cut") == true)
    }

    @Test(arguments: [EngineMode.writeBack, .writeThrough, .passThrough])
    func aFlushThatFlushesIsNoViolation(mode: EngineMode) {
        let stage = Stage { $0.mode = mode }
        stage.play(.write, 8, 8)
        stage.play(.flush)
        stage.pretend(.flush)
        #expect(stage.violation == nil)
    }

    @Test func whatWasWrittenAfterTheFlushBeganNeedNotBeDurable() {
        let stage = Stage()
        stage.world.submit(Request(.flush, core: 0), stage.core)
        let flush = stage.world.requests[0].removeFirst()
        stage.play(.write, 8, 8)
        stage.world.underWay[flush.origin] = flush
        stage.world.answered(flush, result: 0)
        #expect(stage.violation == nil)
    }

    @Test func aSecondAnswerIsFound() {
        let stage = Stage()
        stage.world.submit(Request(.read, core: 0, startSector: 0, sectorCount: 1), stage.core)
        let client = stage.world.requests[0].removeFirst()
        client.buffer.stamps[0] = 0
        stage.world.underWay[client.origin] = client
        stage.world.answered(client, result: 0)
        #expect(stage.violation == nil)
        stage.world.answered(client, result: 0)
        #expect(stage.violation == "a request was answered twice")
    }

    @Test func theCoresContentIsJudgedAtTheEnd() {
        let clean = Stage { $0.mode = .writeThrough }
        clean.play(.write, 8, 8)
        clean.play(.flush)
        clean.world.checkCoreContents(clean.core)
        #expect(clean.violation == nil)
        let dirty = Stage()
        dirty.play(.write, 8, 8)
        dirty.world.checkCoreContents(dirty.core)
        #expect(dirty.violation?.contains("sector 8 holds 0 on the core") == true)
        let volatile = Stage { $0.mode = .writeThrough }
        volatile.play(.write, 8, 8)
        volatile.world.checkCoreContents(volatile.core)
        #expect(volatile.violation?.contains("sector 8 is not durable") == true)
    }

    @Test func theFirstViolationIsTheOneThatIsTold() {
        let stage = Stage()
        stage.world.fail("one")
        stage.world.fail("two")
        #expect(stage.world.violation?.description == "seed 1: one")
    }
}

@Suite struct SimulatedTransferTests {
    private static func command(
        _ kind: Command.Kind, device: UInt64, byteCount: UInt32, buffer: UInt32 = 0
    ) -> Command {
        var command = Command(kind)
        command.deviceOffset = device
        command.byteCount = byteCount
        command.bufferOffset = buffer
        return command
    }

    private static func violation(_ command: Command, sectors: Int = 8) -> String? {
        let stage = Stage()
        stage.world.begin(
            SimulatedTransfer(command, worker: 0, buffer: SimulatedBuffer(sectorCount: sectors)))
        return stage.violation
    }

    @Test func aTransferOutsideItsDeviceOrBufferIsFound() {
        let geometry = Stage().world.geometry
        let end = geometry.requiredBytes
        let good = [
            Self.command(.readCache, device: geometry.dataOffset, byteCount: 4096),
            Self.command(.writeCache, device: end - 4096, byteCount: 4096),
            Self.command(.readCore, device: 4095 * 512, byteCount: 512, buffer: 7 * 512),
        ]
        for command in good { #expect(Self.violation(command) == nil) }
        let before = Self.command(.writeCache, device: geometry.dataOffset - 512, byteCount: 512)
        #expect(Self.violation(before) == "a cache transfer outside the data area")
        let behind = Self.command(.readCache, device: end - 512, byteCount: 1024)
        #expect(Self.violation(behind) == "a cache transfer outside the data area")
        let core = Self.command(.writeCore, device: 4095 * 512, byteCount: 1024)
        #expect(Self.violation(core) == "a core transfer behind the end of the core")
        let buffer = Self.command(.readCore, device: 0, byteCount: 1024, buffer: 7 * 512)
        #expect(Self.violation(buffer) == "a transfer behind the end of its buffer")
    }

    @Test func aWriteOfAnEmptyBufferIsFound() {
        let stage = Stage()
        let command = Self.command(.writeCore, device: 0, byteCount: 4096)
        stage.world.begin(
            SimulatedTransfer(command, worker: 0, buffer: SimulatedBuffer(sectorCount: 8)))
        while !stage.world.transfers.isEmpty { stage.world.stepTransfer() }
        #expect(stage.violation == "a write of bytes nobody put into its buffer")
    }

    @Test func aTransferMovesEachSectorOnceAndReportsItsEnd() {
        let stage = Stage()
        let buffer = SimulatedBuffer(sectorCount: 64)
        for index in buffer.stamps.indices { buffer.stamps[index] = UInt64(index + 1) }
        let command = Self.command(.writeCore, device: 100 * 512, byteCount: 64 * 512)
        stage.world.begin(SimulatedTransfer(command, worker: 0, buffer: buffer))
        while !stage.world.transfers.isEmpty { stage.world.stepTransfer() }
        let device = stage.core.device
        #expect((0..<64).map { device.read(100 + $0) } == buffer.stamps)
        #expect(device.read(99) == 0 && device.read(164) == 0)
        #expect(stage.world.inboxes[0].count == 1)
        guard case .completion(_, let result) = stage.world.inboxes[0][0] else {
            Issue.record("no completion")
            return
        }
        #expect(result == 64 * 512)
    }

    @Test func onlyWhatWasFlushedSurvivesAPowerCut() {
        let device = SimulatedDevice(name: "core", sectorCount: 10)
        device.write(1, 11, durably: false)
        device.write(2, 12, durably: true)
        #expect(device.durable[1] == 0 && device.durable[2] == 12 && device.read(1) == 11)
        let atTheBeginning = device.unflushed
        #expect(atTheBeginning == [1])
        device.write(3, 13, durably: false)
        device.makeDurable(atTheBeginning)
        #expect(device.durable == [0, 11, 12, 0, 0, 0, 0, 0, 0, 0])
        #expect(device.unflushed == [3])
    }

    @Test func aFlushMakesDurableWhatWasWrittenBeforeItBegan() {
        let stage = Stage()
        let device = stage.core.device
        device.write(1, 11, durably: false)
        stage.world.begin(SimulatedTransfer(Command(.flushCore), worker: 0, buffer: nil))
        device.write(2, 12, durably: false)
        #expect(device.durable[1] == 0)
        while !stage.world.transfers.isEmpty { stage.world.stepTransfer() }
        #expect(device.durable[1] == 11 && device.durable[2] == 0)
    }

    @Test func devicesFailOnlyWhereTheScenarioSaysSo() {
        let failing = Stage { $0.errorPerMille = 1000 }
        failing.world.begin(SimulatedTransfer(Command(.flushCore), worker: 0, buffer: nil))
        #expect(failing.world.transfers[0].willFail)
        failing.core.device.write(1, 11, durably: false)
        while !failing.world.transfers.isEmpty { failing.world.stepTransfer() }
        #expect(failing.core.device.durable[1] == 0)
        for kinds in [.cacheFlushes, .reads] as [TransferKinds] {
            let elsewhere = Stage {
                $0.errorPerMille = 1000
                $0.failing = kinds
            }
            elsewhere.world.begin(SimulatedTransfer(Command(.flushCore), worker: 0, buffer: nil))
            #expect(!elsewhere.world.transfers[0].willFail)
        }
        let sound = Stage()
        sound.world.begin(SimulatedTransfer(Command(.flushCore), worker: 0, buffer: nil))
        #expect(!sound.world.transfers[0].willFail)
    }
}

extension SimulatedDevice {
    var count: Int { current.count }
}
