import CacheFormat
import Foundation
import Glibc
import Testing

@testable import CasadmCore

extension ProcessTests {
    @Suite(.serialized) struct ZeroMetadataTests {
        private let folder: TemporaryFolder
        private let device: String

        init() throws {
            folder = try TemporaryFolder()
            device = try folder.file("disk", "")
            truncate(device, off_t(Geometry.deviceBytesMin))
        }

        private func write(
            slot: Int, generation: UInt64 = 1, state: Superblock.State = .cleanlyStopped,
            dirtyLines: UInt64 = 0, flipping byte: Int? = nil
        ) throws {
            let geometry = try #require(
                Geometry.forDevice(byteCount: Geometry.deviceBytesMin, lineBytes: 4096))
            var superblock = Superblock(
                cacheUUID: 1, epoch: 2, session: 3, geometry: geometry, cacheID: 4, state: state)
            superblock.generation = generation
            superblock.dirtyLineCount = dirtyLines
            var content = [UInt8](repeating: 0, count: 4096)
            content.withUnsafeMutableBytes { buffer in
                superblock.encode(into: DiskBytes(base: buffer.baseAddress!, count: 4096))
            }
            if let byte { content[byte] ^= 1 }
            try put(content, at: slot == 0 ? 0 : 512 << 10)
        }

        private func put(_ content: [UInt8], at offset: UInt64) throws {
            let file = try #require(FileHandle(forWritingAtPath: device))
            try file.seek(toOffset: offset)
            try file.write(contentsOf: content)
            try file.close()
        }

        private func isZero() throws -> Bool {
            try Data(contentsOf: URL(fileURLWithPath: device)).allSatisfy { $0 == 0 }
        }

        @Test func bothSlotsAreWipedAndNothingElse() async throws {
            try write(slot: 0, generation: 8)
            try write(slot: 1, generation: 7)
            try put([42], at: 4096)
            let run = await Run.casadm("--zero-metadata -d \(device)")
            #expect(run.exitCode == 0)
            #expect(run.complaints.isEmpty)
            #expect(
                run.output == "OpenCAS's metadata wiped successfully from device '\(device)'.\n")
            #expect(!(try isZero()))
            try put([0], at: 4096)
            #expect(try isZero())
            let again = await Run.casadm("--zero-metadata -d \(device)")
            #expect(again.exitCode == 1)
            #expect(
                again.complaints == "Device '\(device)' does not contain OpenCAS's metadata.\n")
        }

        @Test func dirtyDataNeedsForce() async throws {
            try write(slot: 0, generation: 1)
            try write(slot: 1, generation: 2, dirtyLines: 5)
            let run = await Run.casadm("--zero-metadata -d \(device)")
            #expect(run.exitCode == 1)
            #expect(
                run.complaints == """
                    Cache instance contains dirty data. Clearing metadata will result in loss of \
                    dirty data.
                    Please load cache instance and flush dirty data in order to preserve them on \
                    the core device.
                    Alternatively, if you wish to clear metadata anyway, please use '--force' \
                    option.

                    """)
            #expect(!(try isZero()))
            let forced = await Run.casadm("--zero-metadata -f -d \(device)")
            #expect(forced.exitCode == 0)
            #expect(
                forced.complaints
                    == "Clearing metadata for dirty pages - dirty cache data is being discarded.\n"
            )
            #expect(try isZero())
        }

        @Test func onlyTheNewestSlotTellsWhetherDataIsDirty() async throws {
            try write(slot: 0, generation: 1, state: .inUse, dirtyLines: 5)
            try write(slot: 1, generation: 2)
            #expect(await Run.casadm("--zero-metadata -d \(device)").exitCode == 0)
        }

        @Test func anUncleanEndNeedsForce() async throws {
            try write(slot: 0, state: .inUse)
            let run = await Run.casadm("--zero-metadata -d \(device)")
            #expect(run.exitCode == 1)
            #expect(run.complaints.hasPrefix("Cache instance did not shut down cleanly."))
            #expect(await Run.casadm("--zero-metadata --force -d \(device)").exitCode == 0)
            #expect(try isZero())
        }

        @Test func damagedMetadataNeedsForce() async throws {
            try write(slot: 1, flipping: 2000)
            #expect(await Run.casadm("--zero-metadata -d \(device)").exitCode == 1)
            #expect(await Run.casadm("--zero-metadata -f -d \(device)").exitCode == 0)
            #expect(try isZero())
        }

        @Test func aDeviceInUseIsLeftAlone() async throws {
            try write(slot: 0)
            let holder = open(device, O_RDWR)
            defer { close(holder) }
            #expect(flock(holder, LOCK_EX) == 0)
            let run = await Run.casadm("--zero-metadata -f -d \(device)")
            #expect(run.exitCode == 1)
            #expect(
                run.complaints == """
                    Error while opening '\(device)'exclusively. This can be due to
                    cache instance running on this device. In such case please stop the cache and \
                    try again.

                    """)
            #expect(!(try isZero()))
        }
    }
}
