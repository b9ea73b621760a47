/// The write cache of a disk that forgets: sectors that were written and that its store lacks.
///
/// - A read sees the newest write of each sector, whether the store has it or not.
/// - A sector leaves only when the store has taken it. So the store alone, which is all that a
///   power cut leaves, has of each sector what it was at the last flush or something written since.
/// - When a flush answers 0, the store was given every sector. It has to keep them by itself.
/// - Which sectors reach the store between flushes, and in which order, is the seed's choice.
///
/// `store` takes whole sectors, from the number of the first one on: 0 or -errno.
public struct VolatileCache: ~Copyable {
    public typealias Store = (_ first: UInt64, _ bytes: UnsafeRawBufferPointer) -> Int32

    public static let sectorBytes = 512
    /// The longest piece that the store is given at once, in sectors.
    private static let runLimit = 128

    private let sectorLimit: Int
    private let writeBackPercent: Int
    private var random: SectorRandom
    /// Sectors are in the places 0 ..< `sectors.count`; the last one fills a gap.
    private let places: UnsafeMutableRawPointer
    private let staging: UnsafeMutableRawPointer
    private var sectors: [UInt64] = []
    private var arrivals: [UInt64] = []
    private var placeOf: [UInt64: Int] = [:]
    /// Sectors in the order of their arrival, and among them those that have left since.
    private var queue: [(sector: UInt64, arrival: UInt64)] = []
    private var queueStart = 0
    private var arrivalCount: UInt64 = 0

    /// - Parameter writeBackPercent: of a hundred writes, how many are followed by writing back a
    ///   few sectors that nobody asked for.
    public init(sectorLimit: Int, writeBackPercent: Int, seed: UInt64) {
        precondition(sectorLimit > 0 && (0...100).contains(writeBackPercent))
        self.sectorLimit = sectorLimit
        self.writeBackPercent = writeBackPercent
        random = SectorRandom(state: seed)
        places = .allocate(byteCount: sectorLimit * Self.sectorBytes, alignment: 4096)
        staging = .allocate(byteCount: Self.runLimit * Self.sectorBytes, alignment: 4096)
    }

    deinit {
        places.deallocate()
        staging.deallocate()
    }

    /// Sectors that the store lacks.
    public var sectorCount: Int { sectors.count }

    // MARK: Requests

    /// Takes sectors. What has no room makes room: the sectors that wait longest go to the store.
    public mutating func write(
        _ first: UInt64, _ bytes: UnsafeRawBufferPointer, store: Store
    ) -> Int32 {
        for index in 0..<Self.count(bytes) {
            let sector = first + UInt64(index)
            let result = placeOf[sector] == nil ? makeRoom(store) : 0
            guard result == 0 else { return result }
            put(sector, Self.sector(index, of: bytes))
        }
        if random.below(100) < writeBackPercent { writeBackSome(store) }
        return 0
    }

    /// Gives sectors to the store at once, and no others.
    public mutating func writeThrough(
        _ first: UInt64, _ bytes: UnsafeRawBufferPointer, store: Store
    ) -> Int32 {
        let result = store(first, bytes)
        guard result == 0 else { return result }
        for index in 0..<Self.count(bytes) { drop(first + UInt64(index)) }
        return 0
    }

    /// Lays what the store lacks over what it has.
    public func overlay(_ first: UInt64, _ bytes: UnsafeMutableRawBufferPointer) {
        for index in 0..<Self.count(UnsafeRawBufferPointer(bytes)) {
            guard let place = placeOf[first + UInt64(index)] else { continue }
            let start = index * Self.sectorBytes
            UnsafeMutableRawBufferPointer(rebasing: bytes[start..<start + Self.sectorBytes])
                .copyMemory(from: content(place))
        }
    }

    /// Gives all sectors to the store, in pieces and in no order: a power cut in the midst of a
    /// flush leaves any of them behind.
    public mutating func flush(store: Store) -> Int32 {
        for run in shuffledRuns() {
            let result = writeBack(run, store)
            guard result == 0 else { return result }
        }
        return 0
    }

    private static func count(_ bytes: UnsafeRawBufferPointer) -> Int {
        precondition(bytes.count.isMultiple(of: sectorBytes), "not whole sectors")
        return bytes.count / sectorBytes
    }

    private static func sector(
        _ index: Int, of bytes: UnsafeRawBufferPointer
    ) -> UnsafeRawBufferPointer {
        let start = index * sectorBytes
        return UnsafeRawBufferPointer(rebasing: bytes[start..<start + sectorBytes])
    }
}

// MARK: - Which sectors go to the store, and when

extension VolatileCache {
    private mutating func makeRoom(_ store: Store) -> Int32 {
        while sectors.count >= sectorLimit {
            let oldest = queue[queueStart]
            if let place = placeOf[oldest.sector], arrivals[place] == oldest.arrival {
                let result = writeBack(oldest.sector..<oldest.sector + 1, store)
                guard result == 0 else { return result }
            }
            queueStart += 1
        }
        return 0
    }

    /// Nobody asked for it, so nobody is told if it fails: what the store refuses stays here.
    private mutating func writeBackSome(_ store: Store) {
        for _ in 0...random.below(32) where !sectors.isEmpty {
            let sector = sectors[random.below(sectors.count)]
            _ = writeBack(sector..<sector + 1, store)
        }
    }

    /// Neighbours together, but cut here and there: any sector may be the last to be written.
    private mutating func shuffledRuns() -> [Range<UInt64>] {
        var runs: [Range<UInt64>] = []
        for sector in sectors.sorted() {
            if let last = runs.last, last.upperBound == sector, last.count < Self.runLimit,
                random.below(16) > 0
            {
                runs[runs.count - 1] = last.lowerBound..<sector + 1
            } else {
                runs.append(sector..<sector + 1)
            }
        }
        runs.shuffle(using: &random)
        return runs
    }

    private mutating func writeBack(_ run: Range<UInt64>, _ store: Store) -> Int32 {
        let bytes = UnsafeMutableRawBufferPointer(
            start: staging, count: run.count * Self.sectorBytes)
        overlay(run.lowerBound, bytes)
        let result = store(run.lowerBound, UnsafeRawBufferPointer(bytes))
        guard result == 0 else { return result }
        for sector in run { drop(sector) }
        return 0
    }
}

// MARK: - Places

extension VolatileCache {
    private func content(_ place: Int) -> UnsafeRawBufferPointer {
        UnsafeRawBufferPointer(
            start: places + place * Self.sectorBytes, count: Self.sectorBytes)
    }

    private mutating func put(_ sector: UInt64, _ bytes: UnsafeRawBufferPointer) {
        let place = placeOf[sector] ?? sectors.count
        if place == sectors.count {
            arrivalCount += 1
            sectors.append(sector)
            arrivals.append(arrivalCount)
            placeOf[sector] = place
            if queue.count >= 4 * sectorLimit { forgetThoseThatLeft() }
            queue.append((sector, arrivalCount))
        }
        (places + place * Self.sectorBytes).copyMemory(
            from: bytes.baseAddress.unsafelyUnwrapped, byteCount: Self.sectorBytes)
    }

    private mutating func drop(_ sector: UInt64) {
        guard let place = placeOf.removeValue(forKey: sector) else { return }
        let last = sectors.count - 1
        if place != last {
            (places + place * Self.sectorBytes).copyMemory(
                from: places + last * Self.sectorBytes, byteCount: Self.sectorBytes)
            sectors[place] = sectors[last]
            arrivals[place] = arrivals[last]
            placeOf[sectors[place]] = place
        }
        sectors.removeLast()
        arrivals.removeLast()
        if sectors.isEmpty {
            queue.removeAll(keepingCapacity: true)
            queueStart = 0
        }
    }

    private mutating func forgetThoseThatLeft() {
        queue = queue[queueStart...].filter { entry in
            placeOf[entry.sector].map { arrivals[$0] } == entry.arrival
        }
        queueStart = 0
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014): the same on every machine.
private struct SectorRandom: RandomNumberGenerator {
    var state: UInt64

    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var z = state
        z = (z ^ z >> 30) &* 0xBF58_476D_1CE4_E5B9
        z = (z ^ z >> 27) &* 0x94D0_49BB_1331_11EB
        return z ^ z >> 31
    }

    /// 0 to `count` - 1.
    mutating func below(_ count: Int) -> Int { Int(next() % UInt64(count)) }
}
