import CLinux
import Testing
import Ublk

/// What the kernel is told of a device, byte by byte.
@Suite struct ParameterTests {
    /// Bytes put down field by field, in the machine's order.
    private struct Bytes {
        var all: [UInt8] = []
        mutating func put<T: FixedWidthInteger>(_ value: T) {
            withUnsafeBytes(of: value.littleEndian) { all.append(contentsOf: $0) }
        }
    }

    private static func bytes(_ parameters: DeviceParameters) -> [UInt8] {
        withUnsafeBytes(of: parameters.encoded) { Array($0) }
    }

    @Test func theKernelsStructureIsFilledFieldByField() {
        var parameters = DeviceParameters(sectorCount: 0x0123_4567_89ab_cdef, maxSectors: 1024)
        parameters.attributes = [.volatileCache, .forceUnitAccess]
        parameters.logicalBlockBytes = 512
        parameters.physicalBlockBytes = 4096
        parameters.ioMinBytes = 8192
        parameters.ioOptBytes = 65536
        parameters.discard = DeviceParameters.Discard(
            granularityBytes: 16384, maxSectors: 0x1122_3344)
        parameters.discard?.alignmentBytes = 512
        parameters.discard?.maxWriteZeroesSectors = 0x5566_7788
        var expected = Bytes()
        expected.put(UInt32(152))  // len
        expected.put(UInt32(0b11))  // types: basic, discard
        expected.put(UInt32(0b1100))  // attrs: volatile cache, FUA
        // Shifts: logical, physical, io_opt, io_min.
        for shift in [9, 12, 16, 13] as [UInt8] { expected.put(shift) }
        expected.put(UInt32(1024))  // max_sectors
        expected.put(UInt32(0))  // chunk_sectors
        expected.put(UInt64(0x0123_4567_89ab_cdef))  // dev_sectors
        expected.put(UInt64(0))  // virt_boundary_mask
        expected.put(UInt32(512))  // discard_alignment
        expected.put(UInt32(16384))  // discard_granularity
        expected.put(UInt32(0x1122_3344))  // max_discard_sectors
        expected.put(UInt32(0x5566_7788))  // max_write_zeroes_sectors
        expected.put(UInt16(1))  // max_discard_segments
        expected.put(UInt16(0))
        #expect(expected.all.count == 60)
        #expect(Self.bytes(parameters) == expected.all + [UInt8](repeating: 0, count: 92))
    }

    @Test func withoutDiscardTheKernelIsNotToldOfIt() {
        let bytes = Self.bytes(DeviceParameters(sectorCount: 8, maxSectors: 8))
        #expect(Array(bytes[4..<8]) == [1, 0, 0, 0])
        #expect(bytes[40...].allSatisfy { $0 == 0 })
    }

    /// A mask, at offset 108.
    @Test func theAlignmentOfMemoryIsAMask() {
        var parameters = DeviceParameters(sectorCount: 8, maxSectors: 8)
        parameters.memoryAlignmentBytes = 512
        let bytes = Self.bytes(parameters)
        #expect(Array(bytes[4..<8]) == [1 | 1 << 4, 0, 0, 0])
        #expect(Array(bytes[108..<112]) == [0xff, 1, 0, 0])
        #expect(bytes[40..<108].allSatisfy { $0 == 0 } && bytes[112...].allSatisfy { $0 == 0 })
    }

    @Test func noBlockOrHintIsSmallerThanTheLogicalBlock() {
        var parameters = DeviceParameters(sectorCount: 8, maxSectors: 8)
        parameters.logicalBlockBytes = 4096
        parameters.physicalBlockBytes = 512
        parameters.ioMinBytes = 512
        parameters.ioOptBytes = 512
        #expect(Array(Self.bytes(parameters)[12..<16]) == [12, 12, 12, 12])
    }

    @Test(
        arguments: [
            (.readOnly, 1), (.rotational, 2), (.volatileCache, 4), (.forceUnitAccess, 8),
        ] as [(DeviceParameters.Attributes, UInt8)])
    func eachAttributeHasTheKernelsBit(attribute: DeviceParameters.Attributes, bit: UInt8) {
        var parameters = DeviceParameters(sectorCount: 8, maxSectors: 8)
        parameters.attributes = attribute
        #expect(Array(Self.bytes(parameters)[8..<12]) == [bit, 0, 0, 0])
    }

    @Test func sizesThatAreNoPowersOfTwoTrap() async {
        await #expect(processExitsWith: .failure) {
            var parameters = DeviceParameters(sectorCount: 8, maxSectors: 8)
            parameters.ioOptBytes = 12288
            _ = parameters.encoded
        }
        await #expect(processExitsWith: .failure) {
            var parameters = DeviceParameters(sectorCount: 8, maxSectors: 8)
            parameters.discard = DeviceParameters.Discard(granularityBytes: 3000, maxSectors: 8)
            _ = parameters.encoded
        }
    }

    /// The layouts of the kernel's header <linux/ublk_cmd.h>.
    @Test func theStructuresLieAsTheKernelsDo() {
        typealias Control = ucas_ublk_control_command
        #expect(MemoryLayout<Control>.size == 32)
        #expect(
            [
                MemoryLayout<Control>.offset(of: \.device),
                MemoryLayout<Control>.offset(of: \.queue),
                MemoryLayout<Control>.offset(of: \.length),
                MemoryLayout<Control>.offset(of: \.address),
                MemoryLayout<Control>.offset(of: \.data),
                MemoryLayout<Control>.offset(of: \.path_length),
            ] == [0, 4, 6, 8, 16, 24])
        typealias Info = ucas_ublk_device_info
        #expect(MemoryLayout<Info>.size == 64)
        #expect(
            [
                MemoryLayout<Info>.offset(of: \.queue_count),
                MemoryLayout<Info>.offset(of: \.queue_depth),
                MemoryLayout<Info>.offset(of: \.state),
                MemoryLayout<Info>.offset(of: \.request_bytes_max),
                MemoryLayout<Info>.offset(of: \.device),
                MemoryLayout<Info>.offset(of: \.server_pid),
                MemoryLayout<Info>.offset(of: \.flags),
                MemoryLayout<Info>.offset(of: \.server_flags),
            ] == [0, 2, 4, 8, 12, 16, 24, 32])
        typealias IO = ucas_ublk_io_command
        #expect(MemoryLayout<IO>.size == 16)
        #expect(
            [
                MemoryLayout<IO>.offset(of: \.queue), MemoryLayout<IO>.offset(of: \.tag),
                MemoryLayout<IO>.offset(of: \.result), MemoryLayout<IO>.offset(of: \.address),
            ] == [0, 2, 4, 8])
    }
}

@Suite struct FeatureTests {
    @Test func eachFeatureHasTheKernelsBit() {
        let bits: [(Features, Int)] = [
            (.supportZeroCopy, 0), (.completeInTask, 1), (.needGetData, 2), (.userRecovery, 3),
            (.userRecoveryReissue, 4), (.unprivileged, 5), (.commandIoctlEncode, 6),
            (.userCopy, 7), (.zoned, 8), (.userRecoveryFailIO, 9), (.updateSize, 10),
            (.autoBufferRegistration, 11), (.quiesce, 12), (.perIODaemon, 13),
            (.bufferRegistrationOffDaemon, 14), (.batchIO, 15), (.integrity, 16), (.safeStop, 17),
            (.noAutoPartitionScan, 18), (.sharedMemoryZeroCopy, 19), (.descriptorSize, 20),
        ]
        for (feature, bit) in bits { #expect(feature.rawValue == 1 << UInt64(bit)) }
        let named = Features(rawValue: .max).names.prefix { $0 != "unknown" }
        #expect(bits.map(\.1) == Array(0..<named.count))
        #expect(Features([.userCopy, .userRecovery]).text == "USER_RECOVERY, USER_COPY")
    }

    @Test func bitsHaveTheKernelsNames() {
        #expect(Features.name(bit: 3) == "USER_RECOVERY")
        #expect(Features.name(bit: 6) == "CMD_IOCTL_ENCODE")
        #expect(Features.name(bit: 7) == "USER_COPY")
        #expect(Features.name(bit: 17) == "SAFE_STOP_DEV")
        #expect(Features.name(bit: 20) == "IO_DESC_SIZE")
        #expect(Features.name(bit: 21) == "unknown" && Features.name(bit: 63) == "unknown")
    }

    @Test func aDeviceToBeAddedIsOfNoIdUntilTheKernelChoosesOne() {
        let any = DeviceInfo(
            id: nil, queueCount: 2, queueDepth: 64, requestBytesMax: 4096, features: .userCopy)
        #expect(any.id == .max && any.serverPID == -1 && any.state == .dead)
        let wanted = DeviceInfo(
            id: 7, queueCount: 2, queueDepth: 64, requestBytesMax: 4096, features: .userCopy)
        #expect(wanted.id == 7 && wanted.features == [.userCopy])
        #expect(
            DeviceInfo.State(rawValue: 1) == .live && DeviceInfo.State(rawValue: 2) == .quiesced)
        #expect(DeviceInfo.State(rawValue: 3) == .failIO)
    }
}

@Suite struct ErrorTests {
    @Test func anErrorIsASentenceWithItsNumber() {
        #expect(
            "\(UblkError("adding the ublk device", errno: 13))"
                == "adding the ublk device failed: Permission denied (error 13)")
    }

    @Test func aKernelThatDoesNotAnswerIsNotCalledATimer() {
        #expect(
            "\(UblkError("stopping ublk device 3", errno: 62))"
                == "stopping ublk device 3 failed: the kernel did not answer in time (error 62)")
    }

    @Test func theAdviceTellsWhatToLoadAndWhatToInstall() {
        for part in ["/dev/ublk-control", "modprobe ublk_drv", "6.5", "linux-image"] {
            #expect(ControlDevice.missingAdvice.contains(part))
        }
    }
}
