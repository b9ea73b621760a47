/// One file of the project's sources, as the rules see it.
struct SourceText {
    /// Relative to the repository.
    let path: String
    let lines: [Substring]
    /// The same lines with comments and the contents of string literals blanked out.
    let code: [Substring]

    init(path: String, text: String) {
        self.path = path
        lines = text.split(separator: "\n", omittingEmptySubsequences: false)
        var blanking = Blanking(characters: Array(text))
        code = String(blanking.codeOnly()).split(separator: "\n", omittingEmptySubsequences: false)
    }

    /// The module the file belongs to: the folder below Sources.
    var module: Substring {
        let parts = path.split(separator: "/")
        return parts.count > 1 ? parts[1] : ""
    }

    var isSwift: Bool { path.hasSuffix(".swift") }
}

/// Blanks comments and string literals, which may hold anything, so that rules can look for words.
private struct Blanking {
    let characters: [Character]
    var result: [Character]
    var position = 0

    init(characters: [Character]) {
        self.characters = characters
        result = characters
    }

    mutating func codeOnly() -> [Character] {
        while position < characters.count {
            step()
        }
        return result
    }

    private func starts(_ text: String) -> Bool {
        var index = position
        for character in text {
            guard index < characters.count, characters[index] == character else { return false }
            index += 1
        }
        return true
    }

    private mutating func blank(_ count: Int) {
        for _ in 0..<count where position < characters.count {
            if characters[position] != "\n" { result[position] = " " }
            position += 1
        }
    }

    /// Passes one character of code, or a whole comment or literal.
    private mutating func step() {
        if starts("//") {
            while position < characters.count, characters[position] != "\n" { blank(1) }
        } else if starts("/*") {
            while position < characters.count, !starts("*/") { blank(1) }
            blank(2)
        } else if let hashes = literalStart() {
            blankLiteral(hashes: hashes)
        } else {
            position += 1
        }
    }

    /// The number of `#` before a string literal that starts here; nil if none does.
    private func literalStart() -> Int? {
        var index = position
        while index < characters.count, characters[index] == "#" { index += 1 }
        return index < characters.count && characters[index] == "\"" ? index - position : nil
    }

    private mutating func blankLiteral(hashes: Int) {
        let fence = String(repeating: "#", count: hashes)
        blank(hashes)
        let quotes = starts("\"\"\"") ? "\"\"\"" : "\""
        blank(quotes.count)
        while position < characters.count, !starts(quotes + fence) {
            if starts("\\" + fence + "(") {
                blank(2 + hashes)
                blankInterpolation()
            } else {
                blank(starts("\\" + fence) ? 2 + hashes : 1)
            }
        }
        blank(quotes.count + hashes)
    }

    /// Up to the parenthesis that closes the interpolation; literals may be nested in it.
    private mutating func blankInterpolation() {
        var depth = 1
        while position < characters.count, depth > 0 {
            if let hashes = literalStart() {
                blankLiteral(hashes: hashes)
                continue
            }
            if characters[position] == "(" { depth += 1 }
            if characters[position] == ")" { depth -= 1 }
            blank(1)
        }
    }
}
