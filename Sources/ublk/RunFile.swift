import Glibc

/// What is needed to start a device's server again: its command line, a word a line.
enum RunFile {
    static let directory = "/run/ublk-cas-devices"

    static func path(_ id: UInt32) -> String { "\(directory)/\(id)" }

    static func write(_ id: UInt32, _ words: [String]) {
        mkdir(directory, 0o700)
        guard let file = fopen(path(id), "w") else { return }
        fputs(words.joined(separator: "\n") + "\n", file)
        fclose(file)
    }

    static func read(_ id: UInt32) -> [String]? {
        guard let file = fopen(path(id), "r") else { return nil }
        defer { fclose(file) }
        var words: [String] = []
        var line: UnsafeMutablePointer<CChar>?
        var capacity = 0
        defer { free(line) }
        while getline(&line, &capacity, file) > 0, let line {
            words.append(String(String(cString: line).dropLast()))
        }
        return words
    }

    static func remove(_ id: UInt32) { unlink(path(id)) }
}
