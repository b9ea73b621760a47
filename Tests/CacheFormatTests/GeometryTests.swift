import CacheFormat
import Testing

@Suite struct GeometryTests {
    private static let block = UInt64(Geometry.blockBytes)

    private static func geometry(
        lineBytes: UInt32 = 65536, setCount: UInt64, journalBlockCount: UInt64 = 256
    ) throws -> Geometry {
        try #require(
            Geometry(
                lineBytes: lineBytes, setCount: setCount, journalBlockCount: journalBlockCount))
    }

    // MARK: - Sets

    @Test(
        arguments: [
            1, 2, 3, 5, 7, 10, 255, 256, 257, 641, 65_535, 65_536, 1_000_003, 1 << 31,
            (1 << 31) + 1, (1 << 32) - 1,
        ] as [UInt64])
    func theSetIsTheExactRemainder(setCount: UInt64) throws {
        // With lines as long as extents a line number is an extent number.
        let geometry = try Self.geometry(setCount: setCount)
        func check(_ number: UInt64) {
            #expect(
                geometry.set(ofCoreLine: number, coreOffset: 0) == number % setCount,
                "\(number) of \(setCount) sets")
        }
        for number in UInt64(0)..<100 {
            check(number)
            check(.max - number)
            check(1 << 46 - 1 - number)
        }
        for _ in 0..<300 {
            let multiple = UInt64.random(in: 1...UInt64.max / setCount) * setCount
            check(multiple)
            check(multiple - 1)
            check(multiple &+ 1)
            check(UInt64.random(in: .min ... .max))
        }
    }

    @Test func theOffsetOfTheCoreIsAdded() throws {
        let offsets: [UInt32] = [0, 1, 639, .max - 1, .max]
        for setCount in [1, 3, 640, 1 << 32 - 1] as [UInt64] {
            let geometry = try Self.geometry(setCount: setCount)
            for offset in offsets {
                let lines: [UInt64] = [0, 1, 12345, 1 << 46 - 1, .max - UInt64(offset)]
                for line in lines {
                    let expected = (line + UInt64(offset)) % setCount
                    #expect(geometry.set(ofCoreLine: line, coreOffset: offset) == expected)
                }
            }
        }
    }

    @Test(arguments: [4096, 8192, 16384, 32768, 65536] as [UInt32])
    func theLinesOfAnExtentLieInOneSet(lineBytes: UInt32) throws {
        let geometry = try Self.geometry(lineBytes: lineBytes, setCount: 640)
        let perExtent = UInt64(65536 / lineBytes)
        #expect(UInt64(geometry.linesPerExtent) == perExtent)
        for line in UInt64(0)..<2000 {
            let expected = (line / perExtent + 17) % 640
            #expect(geometry.set(ofCoreLine: line, coreOffset: 17) == expected)
        }
    }

    // MARK: - Granules

    @Test func aGranuleIsASixteenthOfALineButAtLeastASector() throws {
        for (lineBytes, granule, count) in [
            (4096, 512, 8), (8192, 512, 16), (16384, 1024, 16), (32768, 2048, 16),
            (65536, 4096, 16),
        ] as [(UInt32, UInt32, UInt32)] {
            let geometry = try Self.geometry(lineBytes: lineBytes, setCount: 1)
            #expect(geometry.granuleBytes == granule)
            #expect(geometry.granulesPerLine == count)
        }
    }

    // MARK: - Regions

    private static func regions(_ geometry: Geometry) -> [Range<UInt64>] {
        let configurationBytes = UInt64(Geometry.configurationBytesMax)
        var regions: [Range<UInt64>] = []
        func add(_ from: UInt64, _ count: UInt64) { regions.append(from..<from + count) }
        add(Geometry.superblockOffsets.0, block)
        add(Geometry.configurationOffsets.0, configurationBytes)
        add(Geometry.superblockOffsets.1, block)
        add(Geometry.configurationOffsets.1, configurationBytes)
        add(Geometry.journalOffset, geometry.journalBlockCount * block)
        for slot in 0...1 {
            for set in 0..<geometry.setCount {
                add(geometry.setPageOffset(set: set, slot: slot), block)
            }
        }
        for set in 0..<UInt32(geometry.setCount) {
            for way in 0..<SetPageLayout.ways {
                add(geometry.cacheOffset(set: set, way: way), UInt64(geometry.lineBytes))
            }
        }
        return regions.sorted { $0.lowerBound < $1.lowerBound }
    }

    @Test(arguments: [4096, 8192, 65536] as [UInt32])
    func noTwoRegionsOverlapAndAllLieInsideTheDevice(lineBytes: UInt32) throws {
        for (setCount, journalBlockCount) in [(1, 1), (2, 255), (5, 256), (37, 1000)]
            as [(UInt64, UInt64)]
        {
            let geometry = try Self.geometry(
                lineBytes: lineBytes, setCount: setCount, journalBlockCount: journalBlockCount)
            let regions = Self.regions(geometry)
            for (one, next) in zip(regions, regions.dropFirst()) where one.overlaps(next) {
                Issue.record("\(one) and \(next) overlap in \(geometry)")
            }
            #expect(regions.allSatisfy { $0.lowerBound % Self.block == 0 })
            #expect(regions.last?.upperBound == geometry.requiredBytes)
            #expect(geometry.dataOffset % (1 << 20) == 0)
            #expect(geometry.lineCount == setCount * 224)
        }
    }

    @Test func whatDoesNotDescribeACacheIsRefused() {
        func isPossible(_ lineBytes: UInt32, _ setCount: UInt64, _ journal: UInt64) -> Bool {
            Geometry(lineBytes: lineBytes, setCount: setCount, journalBlockCount: journal) != nil
        }
        #expect(isPossible(4096, 1, 1))
        #expect(isPossible(65536, 1 << 32 - 1, 1 << 32 - 1))
        for lineBytes in [UInt32(0), 512, 2048, 4095, 4097, 12288, 65537, 131_072, .max] {
            #expect(!isPossible(lineBytes, 1, 1), "\(lineBytes)")
        }
        for count in [UInt64(0), 1 << 32, .max] {
            #expect(!isPossible(4096, count, 1))
            #expect(!isPossible(4096, 1, count))
        }
    }

    // MARK: - New caches

    @Test(arguments: [4096, 8192, 16384, 32768, 65536] as [UInt32])
    func aNewCacheUsesItsDeviceUpButNeverMore(lineBytes: UInt32) throws {
        let setBytes = 224 * UInt64(lineBytes) + 2 * Self.block
        var sizes: [UInt64] = [40 << 20, (40 << 20) + 1, 1 << 30, (1 << 40) - 1, 100 << 40]
        for _ in 0..<200 { sizes.append(.random(in: (40 << 20)...(64 << 40))) }
        for size in sizes {
            let geometry = try #require(Geometry.forDevice(byteCount: size, lineBytes: lineBytes))
            #expect(geometry.requiredBytes <= size)
            // What is left over is less than a set and the rounding up to a mebibyte.
            #expect(size < geometry.requiredBytes + setBytes + 2 << 20, "\(size)")
        }
    }

    @Test func theJournalGetsA64thOfTheDeviceWithinLimits() throws {
        func journalBytes(_ size: UInt64) throws -> UInt64 {
            let geometry = try #require(Geometry.forDevice(byteCount: size, lineBytes: 4096))
            return geometry.journalBlockCount * Self.block
        }
        #expect(try journalBytes(40 << 20) == 1 << 20)
        #expect(try journalBytes(64 << 20) == 1 << 20)
        #expect(try journalBytes(8 << 30) == 128 << 20)
        #expect(try journalBytes(256 << 30) == 4 << 30)
        #expect(try journalBytes(100 << 40) == 4 << 30)
    }

    @Test func journalBlocksGoRoundTheirPlaces() throws {
        let geometry = try Self.geometry(setCount: 2, journalBlockCount: 10)
        let places = (UInt64(0)..<10).map { geometry.journalOffset(sequence: $0) }
        #expect(places == (UInt64(0)..<10).map { Geometry.journalOffset + $0 * Self.block })
        #expect(places.last == geometry.setPagesOffset - Self.block)
        for sequence in [10, 11, 19, 20, 12345, .max - 7] as [UInt64] {
            #expect(geometry.journalOffset(sequence: sequence) == places[Int(sequence % 10)])
        }
    }

    @Test func devicesThatAreTooSmallOrTooLargeAreRefused() {
        #expect(Geometry.forDevice(byteCount: 0, lineBytes: 4096) == nil)
        #expect(Geometry.forDevice(byteCount: (40 << 20) - 1, lineBytes: 4096) == nil)
        #expect(Geometry.forDevice(byteCount: 1 << 30, lineBytes: 0) == nil)
        #expect(Geometry.forDevice(byteCount: 1 << 30, lineBytes: 5000) == nil)
        #expect(Geometry.forDevice(byteCount: 1 << 30, lineBytes: .max) == nil)
        #expect(Geometry.forDevice(byteCount: .max, lineBytes: 4096) == nil)
    }
}
