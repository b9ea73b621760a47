import Testing
import Ublk

@Suite struct TargetTests {
    private static func request(
        _ operation: IODescriptor.Operation, flags: UInt32 = 0
    ) -> IODescriptor {
        IODescriptor(
            operationAndFlags: UInt32(operation.rawValue) | flags, sectorCount: 16,
            startSector: 1 << 33)
    }

    private static let unknown = IODescriptor(
        operationAndFlags: 99, sectorCount: 16, startSector: 0)
    private static let offset = UInt64(1) << 42
    private static let forceUnitAccess: UInt32 = 1 << 13
    private static let noUnmap: UInt32 = 1 << 15

    private static func file(isBlockDevice: Bool) -> FileTarget {
        FileTarget(
            descriptor: 3, isBlockDevice: isBlockDevice,
            parameters: DeviceParameters(sectorCount: 1 << 34, maxSectors: 1024))
    }

    @Test func theNullTargetAnswersAtOnceWhatItKnows() {
        let target = NullTarget(maxSectors: 1024)
        for operation in [.read, .write, .flush, .discard, .writeZeroes]
            as [IODescriptor.Operation]
        {
            #expect(target.step(Self.request(operation)) == .done(0))
        }
        #expect(target.step(Self.unknown) == .done(-95))
        #expect(target.descriptor == nil)
        #expect(target.parameters.sectorCount == 250 << 21 && target.parameters.discard != nil)
    }

    @Test(arguments: [false, true])
    func readsWritesAndFlushesGoToTheFileAtTheirOffset(isBlockDevice: Bool) {
        let target = Self.file(isBlockDevice: isBlockDevice)
        #expect(target.descriptor == 3)
        #expect(target.step(Self.request(.read)) == .read(offset: Self.offset))
        #expect(
            target.step(Self.request(.write)) == .write(offset: Self.offset, durable: false))
        #expect(
            target.step(Self.request(.write, flags: Self.forceUnitAccess))
                == .write(offset: Self.offset, durable: true))
        #expect(target.step(Self.request(.flush)) == .flush)
        #expect(target.step(Self.request(.writeSame)) == .done(-95))
        #expect(target.step(Self.unknown) == .done(-95))
    }

    @Test func aDiscardOfAFileIsAHole() {
        #expect(
            Self.file(isBlockDevice: false).step(Self.request(.discard))
                == .punchHole(offset: Self.offset, byteCount: 8192))
        #expect(
            Self.file(isBlockDevice: true).step(Self.request(.discard))
                == .discard(offset: Self.offset, byteCount: 8192))
    }

    @Test(arguments: [false, true])
    func zeroesKeepTheirSpaceIfTheyMust(isBlockDevice: Bool) {
        let target = Self.file(isBlockDevice: isBlockDevice)
        #expect(
            target.step(Self.request(.writeZeroes))
                == .punchHole(offset: Self.offset, byteCount: 8192))
        #expect(
            target.step(Self.request(.writeZeroes, flags: Self.noUnmap))
                == .zeroRange(offset: Self.offset, byteCount: 8192))
    }
}

@Suite struct ServerHygieneTests {
    /// In a process of its own, for it changes the whole process. What is refused here depends on
    /// the privileges; each refusal is a sentence.
    @Test func whatIsRefusedIsTold() async {
        await #expect(processExitsWith: .success) {
            let refusals = ServerHygiene.apply()
            #expect(refusals.count <= 4)
            #expect(refusals.allSatisfy { $0.contains(" was refused: ") })
        }
    }
}
