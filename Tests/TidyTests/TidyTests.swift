import Foundation
import Testing

/// The sources keep the house rules; a violation is told as file:line.
@Suite struct TidyTests {
    private static let repository = URL(filePath: #filePath)
        .deletingLastPathComponent().deletingLastPathComponent().deletingLastPathComponent()

    private static func sources(in name: String = "Sources") throws -> [SourceText] {
        let folder = repository.appending(path: name)
        let paths = try FileManager.default.subpathsOfDirectory(atPath: folder.path)
        return try paths.sorted()
            .filter { path in [".swift", ".c", ".h"].contains { path.hasSuffix($0) } }
            .map { path in
                let text = try String(contentsOf: folder.appending(path: path), encoding: .utf8)
                return SourceText(path: "\(name)/\(path)", text: text)
            }
    }

    @Test func sourcesKeepTheRules() throws {
        let sources = try Self.sources()
        #expect(sources.contains { $0.module == "CacheEngine" && $0.isSwift })
        for violation in sources.flatMap({ source in Rules.all.flatMap { $0(source) } }) {
            Issue.record("\(violation)")
        }
    }

    /// A test that a hazard names is there.
    @Test func hazardsNameTestsThatExist() throws {
        let document = Self.repository.appending(path: "Docs/Hazards.md")
        let named = try String(contentsOf: document, encoding: .utf8)
            .matches(of: /`(\w+Tests)`/).map { String($0.output.1) }
        #expect(named.count > 10)
        let tests = try Self.sources(in: "Tests").flatMap(\.lines).joined(separator: "\n")
        for name in Set(named).sorted() where !tests.contains("struct \(name) ") {
            Issue.record("Docs/Hazards.md names \(name), which is no suite")
        }
    }

    /// What the library's page shows is what is compiled and run.
    @Test func theLibrarysExampleIsTheOneThatRuns() throws {
        let page = try Self.text("Docs/UblkLibrary.md")
        let example = try Self.text("Examples/ramdisk/RAMDisk.swift")
        #expect(page.contains("```swift\n\(example)```"))
        #expect(example.split(separator: "\n").count < 60)
    }

    private static func text(_ path: String) throws -> String {
        try String(contentsOf: repository.appending(path: path), encoding: .utf8)
    }
}
