/// Where a function stands: line numbers counted from 0, both inclusive.
struct FunctionPlace: Equatable {
    let firstLine: Int
    let lastLine: Int
}

/// A word, a brace or another character of code, with its line.
private struct Token {
    let text: Substring
    let line: Int
    let followsDot: Bool
}

/// The functions and initialisers that have a body, in `code` without comments and literals.
func functions(in code: [Substring]) -> [FunctionPlace] {
    let tokens = code.enumerated().flatMap { tokenize($1, line: $0) }
    return tokens.indices.compactMap { index in
        guard ["func", "init", "deinit"].contains(tokens[index].text), !tokens[index].followsDot,
            let end = bodyEnd(of: index, in: tokens)
        else { return nil }
        return FunctionPlace(firstLine: tokens[index].line, lastLine: tokens[end].line)
    }
}

private func tokenize(_ line: Substring, line number: Int) -> [Token] {
    var result: [Token] = []
    var rest = line
    var afterDot = false
    while let first = rest.first {
        let word = first.isPartOfName ? rest.prefix(while: \.isPartOfName) : rest.prefix(1)
        if first != " " {
            result.append(Token(text: word, line: number, followsDot: afterDot))
        }
        afterDot = first == "."
        rest = rest.dropFirst(word.count)
    }
    return result
}

/// The brace that ends the body of the function whose keyword is at `start`; nil if it has none, as
/// a protocol's requirement: then the next declaration, or the end of the protocol, comes first.
private func bodyEnd(of start: Int, in tokens: [Token]) -> Int? {
    let declarations: Set<Substring> = [
        "func", "init", "deinit", "var", "let", "static", "associatedtype", "subscript",
        "mutating", "case", "struct", "class", "enum",
    ]
    var parentheses = 0
    var braces = 0
    for index in tokens.indices[(start + 1)...] {
        let token = tokens[index]
        switch token.text {
        case "(", "[": parentheses += 1
        case ")", "]": parentheses -= 1
        case "{" where parentheses == 0 || braces > 0: braces += 1
        case "}" where braces > 0:
            braces -= 1
            if braces == 0 { return index }
        case "}" where parentheses == 0: return nil
        default:
            guard braces == 0, parentheses == 0, !token.followsDot else { continue }
            if declarations.contains(token.text) { return nil }
        }
    }
    return nil
}
