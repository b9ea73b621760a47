import ArgumentParser
import Glibc

/// What one writer works on, as a word on the command line: KIND:NAME:PATH[:NUMBERS].
struct Stream: ExpressibleByArgument {
    enum Kind: Equatable {
        /// Sectors `first`, … of a device or file; with O_DIRECT or through the page cache.
        case area(isDirect: Bool, first: Int, count: Int)
        /// Files PATH/slot.N, replaced as a whole.
        case slots(count: Int)
        /// A file PATH/log.ROUND, appended to.
        case log
    }

    let kind: Kind
    let name: String
    let path: String

    init?(argument: String) {
        let words = argument.split(separator: ":", omittingEmptySubsequences: false)
        guard words.count >= 3, words.allSatisfy({ !$0.isEmpty && !$0.contains(" ") }) else {
            return nil
        }
        let numbers = words.dropFirst(3).compactMap { Int($0) }
        guard numbers.count == words.count - 3, numbers.allSatisfy({ $0 >= 0 }) else { return nil }
        name = String(words[1])
        path = String(words[2])
        switch (words[0], numbers.count) {
        case ("direct", 2) where numbers[1] >= 256:
            kind = .area(isDirect: true, first: numbers[0], count: numbers[1])
        case ("buffered", 2) where numbers[1] >= 256:
            kind = .area(isDirect: false, first: numbers[0], count: numbers[1])
        case ("slots", 1) where numbers[0] > 0: kind = .slots(count: numbers[0])
        case ("log", 0): kind = .log
        default: return nil
        }
    }
}

/// What the last check saw, in a file: a number for each sector or slot.
struct SeenFile {
    let path: String

    init(folder: String, stream: Stream) { path = "\(folder)/\(stream.name).seen" }

    /// Nil if there was no check.
    func read(count: Int) throws(Complaint) -> [UInt64]? {
        guard access(path, F_OK) == 0 else { return nil }
        let file = try File(path, O_RDONLY)
        var numbers = [UInt64](repeating: 0, count: count)
        let failure: Complaint? = numbers.withUnsafeMutableBytes { bytes in
            do throws(Complaint) {
                guard try file.byteCount == bytes.count else {
                    throw Complaint("\(path) is of another size: not of this stream")
                }
                try file.read(bytes, at: 0)
                return nil
            } catch {
                return error
            }
        }
        if let failure { throw failure }
        return numbers
    }

    /// Replaces the file as a whole, durably.
    func write(_ numbers: [UInt64]) throws(Complaint) {
        let file = try File(path + ".new", O_WRONLY | O_CREAT | O_TRUNC)
        let failure: Complaint? = numbers.withUnsafeBytes { bytes in
            do throws(Complaint) {
                try file.write(bytes, at: 0)
                return nil
            } catch {
                return error
            }
        }
        if let failure { throw failure }
        try file.makeDurable()
        guard rename(path + ".new", path) == 0 else { throw File.failure("renaming", path) }
    }
}
