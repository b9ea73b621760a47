import Testing

/// The rules see what they are for, and nothing else.
@Suite struct RulesTests {
    private func lines(_ rule: (SourceText) -> [Violation], _ text: String, in module: String)
        -> [Int]
    {
        rule(SourceText(path: "Sources/\(module)/File.swift", text: text)).map(\.line)
    }

    @Test func longLines() {
        let long = String(repeating: "a", count: 101)
        #expect(lines(Rules.lineLength, "a\n\(long)\n\(long.dropLast())", in: "Ublk") == [2])
    }

    @Test func longFiles() {
        let longest = String(repeating: "a\n", count: 600)
        #expect(lines(Rules.fileLength, longest, in: "Ublk") == [])
        #expect(lines(Rules.fileLength, longest + "a", in: "Ublk") == [601])
    }

    @Test func longFunctions() {
        let body = String(repeating: "    step()\n", count: 68)
        let function = "func f(_ g: () -> Void = {}) {\n\(body)}\n"
        #expect(lines(Rules.functionLength, function, in: "Ublk") == [])
        let long = "func f(_ g: () -> Void = {}) {\n    let x = \"}\" // }\n\(body)}\n"
        #expect(lines(Rules.functionLength, long, in: "Ublk") == [1])
        #expect(lines(Rules.functionLength, "\ninit(\(long.dropFirst(7))", in: "Ublk") == [2])
    }

    @Test func requirementsHaveNoBody() {
        let text = "protocol P {\n    func f()\n    init(a: Int)\n}\nfunc g() {\n    f.init()\n}\n"
        let source = SourceText(path: "Sources/Ublk/P.swift", text: text)
        #expect(functions(in: source.code) == [FunctionPlace(firstLine: 4, lastLine: 6)])
    }

    @Test func importsOfPureModules() {
        let text = "import CBytes\ninternal import Glibc\nimport struct Foundation.Data\n"
        #expect(lines(Rules.pureImports, text, in: "CacheEngine") == [2, 3])
        #expect(lines(Rules.pureImports, text, in: "CacheRuntime") == [])
    }

    @Test func wordsInLibrariesAndPrograms() {
        let text = """
            let a = try! f()
            let b = c as! Int
            print("x")
            let d = "print(\\(e["try!"]))"  // as! Int
            blueprint(d)
            document.print(d)
            """
        #expect(lines(Rules.forbiddenWords, text, in: "Ublk") == [1, 2, 3])
        #expect(lines(Rules.forbiddenWords, text, in: "casadm") == [1, 2])
    }

    @Test func leftovers() {
        let mark = "TO" + "DO"
        #expect(lines(Rules.leftovers, "a\n// \(mark): b\n// x\(mark)", in: "Ublk") == [2])
    }

    @Test func rawAndLongLiterals() {
        let text = """
            let a = #"as! "b" \\(c)"#
            let b = \"\"\"
                as! "
                \"\"\"
            let c = d as! E
            """
        #expect(lines(Rules.forbiddenWords, text, in: "Ublk") == [5])
    }
}
