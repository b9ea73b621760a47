import Glibc

/// Compares what is there after a cut with what was promised before it.
struct Check {
    let seed: UInt64
    /// The round that begins after this check.
    let round: UInt32
    let promises: Promises
    let seenFolder: String
    private(set) var fileCount = 0
    private(set) var sectorCount = 0
    private(set) var losses: [String] = []

    init(seed: UInt64, round: UInt32, promises: Promises, seenFolder: String) {
        self.seed = seed
        self.round = round
        self.promises = promises
        self.seenFolder = seenFolder
        losses = promises.complaints
    }

    mutating func run(_ stream: Stream) throws(Complaint) {
        let writer = Writer(seed: seed, name: stream.name)
        switch stream.kind {
        case .area(_, let first, let count): try checkArea(stream, writer, first, count)
        case .slots(let count): try checkSlots(stream, writer, count)
        case .log: try checkLog(stream, writer)
        }
    }

    private mutating func lost(_ stream: Stream, _ place: String, _ what: Complaint) {
        losses.append("\(stream.name) \(place): \(what)")
    }

    // MARK: Areas

    private mutating func checkArea(
        _ stream: Stream, _ writer: Writer, _ first: Int, _ count: Int
    ) throws(Complaint) {
        let file = try File(direct: stream.path)
        let seenFile = SeenFile(folder: seenFolder, stream: stream)
        var seen = try seenFile.read(count: count) ?? [UInt64](repeating: 0, count: count)
        var bounds = AreaBounds(writer: writer, seen: seen.map { Version(rawValue: $0) })
        bounds.apply(promises.steps(stream.name))
        let buffer = SectorBuffer(sectorCount: 512)
        var start = 0
        while start < count {
            let length = min(512, count - start)
            try file.read(buffer.first(length), at: (first + start) * SectorContent.byteCount)
            for index in 0..<length {
                let sector = start + index
                let content = buffer.content(index, writer, sector: UInt64(sector))
                switch bounds.judge(content, sector: sector) {
                case .success(let version): seen[sector] = version.rawValue
                case .failure(let what): lost(stream, "sector \(sector)", what)
                }
            }
            start += length
        }
        sectorCount += count
        try seenFile.write(seen)
    }

    // MARK: Files

    private static let absentBit = UInt64(1) << 63

    private mutating func checkSlots(
        _ stream: Stream, _ writer: Writer, _ count: Int
    ) throws(Complaint) {
        let seenFile = SeenFile(folder: seenFolder, stream: stream)
        let initial = [UInt64](repeating: Self.absentBit, count: count)
        var seen = try seenFile.read(count: count) ?? initial
        let bounds = SlotBounds(
            writer: writer,
            seen: seen.map {
                SlotState(
                    version: Version(rawValue: $0 & ~Self.absentBit),
                    isAbsent: $0 & Self.absentBit != 0)
            }, promises: promises.upTo[stream.name] ?? [:], endRound: round)
        for slot in 0..<count {
            let path = "\(stream.path)/slot.\(slot)"
            fileCount += 1
            guard access(path, F_OK) == 0 else {
                if let what = bounds.judgeAbsence(slot: slot) { lost(stream, "slot \(slot)", what) }
                seen[slot] = Version(round: round, step: 0).rawValue | Self.absentBit
                continue
            }
            do throws(Complaint) {
                let (version, length) = try wholeFile(path, writer, slot)
                if let what = bounds.judge(version, sectorCount: length, slot: slot) { throw what }
                seen[slot] = version.rawValue
            } catch {
                lost(stream, "slot \(slot)", error)
            }
        }
        try seenFile.write(seen)
    }

    /// The version of a file all of whose sectors have the same.
    private mutating func wholeFile(
        _ path: String, _ writer: Writer, _ slot: Int
    ) throws(Complaint) -> (Version, sectorCount: Int) {
        let contents = try contents(of: path, writer) { UInt64(slot) << 32 | UInt64($0) }
        guard case .version(let version)? = contents.first else {
            throw Complaint("its first sector: \(contents.first ?? .zeroes)")
        }
        for (index, content) in contents.enumerated() where content != .version(version) {
            throw Complaint("a file of \(version), but its sector \(index) is \(content)")
        }
        return (version, contents.count)
    }

    private mutating func contents(
        of path: String, _ writer: Writer, sector: (Int) -> UInt64
    ) throws(Complaint) -> [SectorContent] {
        let file = try File(path, O_RDONLY)
        let byteCount = try file.byteCount
        guard byteCount > 0, byteCount.isMultiple(of: SectorContent.byteCount) else {
            throw Complaint("a length of \(byteCount) bytes")
        }
        let count = byteCount / SectorContent.byteCount
        let buffer = SectorBuffer(sectorCount: count)
        try file.read(buffer.bytes, at: 0)
        sectorCount += count
        return (0..<count).map { buffer.content($0, writer, sector: sector($0)) }
    }

    /// The records that were promised are there. What follows is a record, or was never written.
    private mutating func checkLog(_ stream: Stream, _ writer: Writer) throws(Complaint) {
        guard let last = promises.lastRound(stream.name),
            let promised = promises.upTo[stream.name]?[last]
        else { return }
        fileCount += 1
        let path = "\(stream.path)/log.\(last)"
        do throws(Complaint) {
            let contents = try contents(of: path, writer) { UInt64($0) }
            guard contents.count >= promised else {
                throw Complaint("\(contents.count) records, but \(promised) were durable")
            }
            let record = SectorContent.version(Version(round: last, step: 1))
            for (index, content) in contents.enumerated() where content != record {
                guard content == .zeroes, index >= promised else {
                    throw Complaint("record \(index) of \(promised) durable ones is \(content)")
                }
            }
        } catch {
            lost(stream, "log.\(last)", error)
        }
    }
}
