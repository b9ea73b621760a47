import Foundation
import Testing

/// The sources keep the house rules; a violation is told as file:line.
@Suite struct TidyTests {
    private static let repository = URL(filePath: #filePath)
        .deletingLastPathComponent().deletingLastPathComponent().deletingLastPathComponent()

    private static func sources() throws -> [SourceText] {
        let folder = repository.appending(path: "Sources")
        let paths = try FileManager.default.subpathsOfDirectory(atPath: folder.path)
        return try paths.sorted()
            .filter { path in [".swift", ".c", ".h"].contains { path.hasSuffix($0) } }
            .map { path in
                let text = try String(contentsOf: folder.appending(path: path), encoding: .utf8)
                return SourceText(path: "Sources/\(path)", text: text)
            }
    }

    @Test func sourcesKeepTheRules() throws {
        let sources = try Self.sources()
        #expect(sources.contains { $0.module == "CacheEngine" && $0.isSwift })
        for violation in sources.flatMap({ source in Rules.all.flatMap { $0(source) } }) {
            Issue.record("\(violation)")
        }
    }
}
