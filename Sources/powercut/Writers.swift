import Glibc

/// Does the steps of the plan, one after the other, and says what is durable only when the system
/// call that makes it so has returned. Ends by being killed, or after the last of `steps`.
struct WriterRun {
    let stream: Stream
    let writer: Writer
    let round: UInt32
    let steps: ClosedRange<UInt32>
    /// The device keeps what it has answered: each write is a promise.
    let eachWriteCounts: Bool
    let seenFolder: String

    func run() throws(Complaint) {
        switch stream.kind {
        case .area(let isDirect, let first, let count):
            try writeArea(isDirect: isDirect, first: first, count: count)
        case .slots(let count): try writeSlots(count)
        case .log: try writeLog()
        }
    }

    private func promise(_ step: UInt32) { say("promise \(stream.name) \(round) \(step)") }

    // MARK: Areas

    private func writeArea(isDirect: Bool, first: Int, count: Int) throws(Complaint) {
        let file = isDirect ? try File(direct: stream.path) : try File(stream.path, O_RDWR)
        let seen = try SeenFile(folder: seenFolder, stream: stream).read(count: count)
        var current = seen ?? [UInt64](repeating: 0, count: count)
        for number in 1..<steps.lowerBound {
            let version = Version(round: round, step: number)
            let step = AreaStep(writer, version, sectorCount: count)
            guard step.writes else { continue }
            for sector in step.sectors { current[sector] = version.rawValue }
        }
        let buffer = SectorBuffer(sectorCount: 128)
        for number in steps {
            let version = Version(round: round, step: number)
            let step = AreaStep(writer, version, sectorCount: count)
            let bytes = buffer.first(step.sectors.count)
            let offset = (first + step.sectors.lowerBound) * SectorContent.byteCount
            if step.writes {
                for (index, sector) in step.sectors.enumerated() {
                    SectorContent.write(
                        writer, sector: UInt64(sector), version, to: buffer.sector(index))
                    current[sector] = version.rawValue
                }
                let isDurable = step.kind == .durableWrite
                try file.write(UnsafeRawBufferPointer(bytes), at: offset, durably: isDurable)
                if isDurable || eachWriteCounts { say("durable \(stream.name) \(round) \(number)") }
            } else {
                try file.read(bytes, at: offset)
                try compare(buffer, step.sectors, current)
            }
            if step.flushes || number == steps.upperBound {
                try file.makeDurable()
                promise(number)
            }
        }
    }

    private func compare(
        _ buffer: SectorBuffer, _ sectors: Range<Int>, _ current: [UInt64]
    ) throws(Complaint) {
        for (index, sector) in sectors.enumerated() {
            let content = buffer.content(index, writer, sector: UInt64(sector))
            let version = Version(rawValue: current[sector])
            let expected: SectorContent = version == .never ? .zeroes : .version(version)
            guard content == expected else {
                throw Complaint("sector \(sector): read \(content), written was \(expected)")
            }
        }
    }

    // MARK: Files

    private func writeSlots(_ count: Int) throws(Complaint) {
        for number in steps {
            let version = Version(round: round, step: number)
            let step = SlotStep(writer, version, slotCount: count)
            let path = "\(stream.path)/slot.\(step.slot)"
            if let sectorCount = step.sectorCount {
                let new = path + ".new"
                try writeFile(new, sectorCount, version, slot: step.slot)
                guard rename(new, path) == 0 else { throw File.failure("renaming", new) }
            } else if unlink(path) != 0, errno != ENOENT {
                throw File.failure("removing", path)
            }
            try makeNamesDurable(stream.path)
            promise(number)
        }
    }

    private func writeFile(
        _ path: String, _ sectorCount: Int, _ version: Version, slot: Int
    ) throws(Complaint) {
        let file = try File(path, O_WRONLY | O_CREAT | O_TRUNC)
        let buffer = SectorBuffer(sectorCount: sectorCount)
        for index in 0..<sectorCount {
            SectorContent.write(
                writer, sector: UInt64(slot) << 32 | UInt64(index), version,
                to: buffer.sector(index))
        }
        try file.write(UnsafeRawBufferPointer(buffer.bytes), at: 0)
        try file.makeDurable()
    }

    private func writeLog() throws(Complaint) {
        let file = try File("\(stream.path)/log.\(round)", O_WRONLY | O_CREAT | O_TRUNC)
        try file.makeDurable()
        try makeNamesDurable(stream.path)
        let buffer = SectorBuffer(sectorCount: 16)
        var length = 0
        for number in steps {
            let step = LogStep(writer, Version(round: round, step: number))
            for index in 0..<step.recordCount {
                SectorContent.write(
                    writer, sector: UInt64(length + index), Version(round: round, step: 1),
                    to: buffer.sector(index))
            }
            try file.write(
                UnsafeRawBufferPointer(buffer.first(step.recordCount)),
                at: length * SectorContent.byteCount)
            length += step.recordCount
            if step.flushes || number == steps.upperBound {
                try file.makeDurable()
                promise(UInt32(length))
            }
        }
    }
}
