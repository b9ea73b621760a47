/// A place that breaks a rule, told as compilers tell it: file:line: what is wrong.
struct Violation: CustomStringConvertible {
    let path: String
    /// Counted from 1.
    let line: Int
    let message: String

    var description: String { "\(path):\(line): \(message)" }
}

/// The rules that neither the compiler nor the formatter checks.
enum Rules {
    static let maximumColumns = 100
    static let maximumFunctionLines = 70
    static let maximumFileLines = 600
    /// The modules that know no operating system: they run in the simulator as in the product.
    static let pureModules: Set<Substring> = ["CacheEngine", "CacheFormat"]
    static let programs: Set<Substring> = [
        "casadm", "casd", "ublk", "bench", "powercut", "simulate",
    ]
    static let systemModules: Set<Substring> = [
        "Foundation", "FoundationEssentials", "Glibc", "Musl", "Darwin", "CLinux", "CLiburing",
    ]

    static func lineLength(_ source: SourceText) -> [Violation] {
        source.lines.enumerated().compactMap { index, line in
            guard line.count > maximumColumns else { return nil }
            return Violation(
                path: source.path, line: index + 1,
                message: "\(line.count) columns; at most \(maximumColumns)")
        }
    }

    static func fileLength(_ source: SourceText) -> [Violation] {
        let count = source.lines.last == "" ? source.lines.count - 1 : source.lines.count
        guard count > maximumFileLines else { return [] }
        let message = "\(count) lines; at most \(maximumFileLines)"
        return [Violation(path: source.path, line: count, message: message)]
    }

    static func functionLength(_ source: SourceText) -> [Violation] {
        guard source.isSwift else { return [] }
        return functions(in: source.code).compactMap { function in
            let count = function.lastLine - function.firstLine + 1
            guard count > maximumFunctionLines else { return nil }
            return Violation(
                path: source.path, line: function.firstLine + 1,
                message: "a function of \(count) lines; at most \(maximumFunctionLines)")
        }
    }

    static func pureImports(_ source: SourceText) -> [Violation] {
        guard source.isSwift, pureModules.contains(source.module) else { return [] }
        return source.code.enumerated().compactMap { index, line in
            let words = line.split { $0 == " " || $0 == "." }
            guard let place = words.firstIndex(of: "import"),
                words[(place + 1)...].contains(where: systemModules.contains)
            else { return nil }
            return Violation(
                path: source.path, line: index + 1,
                message: "\(source.module) is pure: it imports no part of the system")
        }
    }

    static func forbiddenWords(_ source: SourceText) -> [Violation] {
        guard source.isSwift else { return [] }
        let mayPrint = programs.contains(source.module)
        let words = mayPrint ? ["try!", "as!"] : ["try!", "as!", "print("]
        return violations(of: words, in: source.code, path: source.path) {
            "`\($0)` is not for the module \(source.module)"
        }
    }

    /// Work left undone belongs in the tracker.
    static func leftovers(_ source: SourceText) -> [Violation] {
        violations(of: ["FIXME", "TODO", "XXX"], in: source.lines, path: source.path) {
            "\($0) left in the file"
        }
    }

    static let all: [@Sendable (SourceText) -> [Violation]] = [
        lineLength, fileLength, functionLength, pureImports, forbiddenWords, leftovers,
    ]

    private static func violations(
        of words: [String], in lines: [Substring], path: String, message: (String) -> String
    ) -> [Violation] {
        var result: [Violation] = []
        for (index, line) in lines.enumerated() {
            for word in words where line.containsWord(word) {
                result.append(Violation(path: path, line: index + 1, message: message(word)))
            }
        }
        return result
    }
}

extension Substring {
    /// Whether `word` stands in the line on its own: not as the end of a longer name or as a
    /// member, nor, if it ends in a letter, as the start of a longer name.
    fileprivate func containsWord(_ word: String) -> Bool {
        let endsInName = word.last?.isPartOfName ?? false
        var rest = self
        var before: Character = " "
        while let first = rest.first {
            if rest.hasPrefix(word), !before.isPartOfName, before != "." {
                let after = rest.dropFirst(word.count).first ?? " "
                if !endsInName || !after.isPartOfName { return true }
            }
            before = first
            rest = rest.dropFirst()
        }
        return false
    }
}

extension Character {
    var isPartOfName: Bool { isLetter || isNumber || self == "_" }
}
