/// What writers said of themselves, a line each, when a system call had returned:
///
///     promise STREAM ROUND STEP   all steps of the round up to this one are durable
///     durable STREAM ROUND STEP   this step is durable
///     wrong STREAM WHAT           a writer saw something that must not be
///
/// Lines that begin with `state` or `change` are for the scripts around the writers. The cut may
/// have torn the last line, which then says nothing.
struct Promises {
    /// By round: the last step of which all before are durable.
    private(set) var upTo: [String: [UInt32: UInt32]] = [:]
    private(set) var single: [String: [Version]] = [:]
    private(set) var complaints: [String] = []
    private(set) var count = 0

    mutating func add(_ text: some StringProtocol) throws(Complaint) {
        let lines = text.split(separator: "\n", omittingEmptySubsequences: false)
        for line in lines.dropLast() where !line.isEmpty { try add(line: Substring(line)) }
    }

    private mutating func add(line: Substring) throws(Complaint) {
        let words = line.split(separator: " ")
        if words.first == "state" || words.first == "change" { return }
        if words.first == "wrong" {
            complaints.append(String(line))
            return
        }
        guard words.count == 4, let round = UInt32(words[2]), let step = UInt32(words[3]) else {
            throw Complaint("a line that no writer wrote: \(line)")
        }
        let stream = String(words[1])
        switch words[0] {
        case "promise": upTo[stream, default: [:]][round, default: 0].raise(to: step)
        case "durable":
            single[stream, default: []].append(Version(round: round, step: step))
        default: throw Complaint("a line that no writer wrote: \(line)")
        }
        count += 1
    }

    /// The last round in which the stream promised anything.
    func lastRound(_ stream: String) -> UInt32? { upTo[stream]?.keys.max() }

    /// The steps of a stream that are durable.
    func steps(_ stream: String) -> [Version] {
        let ranges = (upTo[stream] ?? [:]).flatMap { round, last in
            (0..<last).map { Version(round: round, step: $0 + 1) }
        }
        return ranges + (single[stream] ?? [])
    }
}

/// A sentence for whoever runs the test.
struct Complaint: Error, CustomStringConvertible {
    let description: String
    init(_ description: String) { self.description = description }
}

extension UInt32 {
    fileprivate mutating func raise(to value: UInt32) { self = Swift.max(self, value) }
}
