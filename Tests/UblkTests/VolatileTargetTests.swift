import Glibc
import Testing
import Ublk

/// A volatile disk over a file that has no name, and what a power cut would leave of it.
private final class Disk {
    let target: VolatileTarget
    private let file: Int32

    init(lieInterval: UInt64 = 0) throws {
        var path = Array("/tmp/ublk-cas-volatile-XXXXXX".utf8CString)
        file = mkstemp(&path)
        try #require(file >= 0)
        unlink(path)
        ftruncate(file, 64 << 10)
        target = VolatileTarget(
            descriptor: file, parameters: DeviceParameters(sectorCount: 128, maxSectors: 64),
            behaviour: VolatileTarget.Behaviour(
                seed: 1, writeBackPercent: 0, sectorLimit: 64, lieInterval: lieInterval))
    }

    deinit { close(file) }

    private func request(
        _ operation: IODescriptor.Operation, _ first: UInt64, flags: UInt32 = 0
    ) -> IODescriptor {
        IODescriptor(
            operationAndFlags: UInt32(operation.rawValue) | flags, sectorCount: 1,
            startSector: first)
    }

    private func serve(_ request: IODescriptor, _ bytes: inout [UInt8]) -> Int32 {
        #expect(target.step(request) == .inMemory)
        return bytes.withUnsafeMutableBytes { target.serve(request, $0) }
    }

    func write(_ sector: UInt64, _ byte: UInt8, durably: Bool = false) -> Int32 {
        var bytes = [UInt8](repeating: byte, count: 512)
        return serve(request(.write, sector, flags: durably ? 1 << 13 : 0), &bytes)
    }

    func flush() -> Int32 {
        var none: [UInt8] = []
        return serve(request(.flush, 0), &none)
    }

    func read(_ sector: UInt64) -> UInt8? {
        var bytes = [UInt8](repeating: 0xEE, count: 512)
        guard serve(request(.read, sector), &bytes) == 0 else { return nil }
        return bytes.allSatisfy { $0 == bytes[0] } ? bytes[0] : nil
    }

    func afterACut(_ sector: UInt64) -> UInt8 {
        var byte: UInt8 = 0xEE
        pread(file, &byte, 1, off_t(sector) * 512)
        return byte
    }
}

@Suite struct VolatileTargetTests {
    @Test func itTellsTheKernelWhatItIs() throws {
        let parameters = try Disk().target.parameters
        #expect(parameters.attributes.isSuperset(of: [.volatileCache, .forceUnitAccess]))
        #expect(parameters.discard == nil && parameters.physicalBlockBytes == 512)
    }

    @Test func whatWasFlushedSurvivesAndTheRestDoesNot() throws {
        let disk = try Disk()
        #expect(disk.write(3, 1) == 0 && disk.read(3) == 1 && disk.afterACut(3) == 0)
        #expect(disk.flush() == 0 && disk.afterACut(3) == 1)
        #expect(disk.write(3, 2) == 0 && disk.read(3) == 2 && disk.afterACut(3) == 1)
    }

    @Test func aDurableWriteIsDurableAlone() throws {
        let disk = try Disk()
        #expect(disk.write(3, 1) == 0 && disk.write(4, 2, durably: true) == 0)
        #expect(disk.afterACut(3) == 0 && disk.afterACut(4) == 2)
        #expect(disk.read(3) == 1 && disk.read(4) == 2)
    }

    @Test func everySecondFlushIsALieIfThatIsWanted() throws {
        let disk = try Disk(lieInterval: 2)
        #expect(disk.write(1, 1) == 0 && disk.flush() == 0 && disk.afterACut(1) == 1)
        #expect(disk.write(1, 2) == 0 && disk.flush() == 0)
        #expect(disk.afterACut(1) == 1 && disk.read(1) == 2)
        #expect(disk.flush() == 0 && disk.afterACut(1) == 2)
    }

    @Test func errorsOfTheFileAreAnswered() throws {
        let disk = VolatileTarget(
            descriptor: -1, parameters: DeviceParameters(sectorCount: 128, maxSectors: 64),
            behaviour: VolatileTarget.Behaviour(seed: 1, writeBackPercent: 0, sectorLimit: 64))
        let read = IODescriptor(operationAndFlags: 0, sectorCount: 1, startSector: 0)
        let flush = IODescriptor(operationAndFlags: 2, sectorCount: 0, startSector: 0)
        var bytes = [UInt8](repeating: 0, count: 512)
        #expect(bytes.withUnsafeMutableBytes { disk.serve(read, $0) } == -EBADF)
        #expect(bytes.withUnsafeMutableBytes { disk.serve(flush, $0) } == -EBADF)
    }

    @Test func whatItDoesNotKnowIsRefused() throws {
        for operation in [.discard, .writeZeroes, .writeSame] as [IODescriptor.Operation] {
            let request = IODescriptor(
                operationAndFlags: UInt32(operation.rawValue), sectorCount: 8, startSector: 0)
            #expect(try Disk().target.step(request) == .done(-EOPNOTSUPP))
        }
    }
}
