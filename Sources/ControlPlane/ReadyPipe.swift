package import ControlProtocol
import Foundation
import Glibc

/// Where a starting server tells whether it is ready: one line, then it is closed.
package struct ReadyPipe {
    private let descriptor: Int32?

    package init(descriptor: Int32?) { self.descriptor = descriptor }

    /// Tells, once. Whoever asked may be gone: that is not our trouble.
    package func report(_ readiness: Readiness) {
        guard let descriptor else { return }
        if let line = try? JSONEncoder().encode(readiness) {
            relay(Array(line))
        } else {
            close(descriptor)
        }
    }

    /// Passes on a line from somebody else, without its line feed.
    package func relay(_ line: [UInt8]) {
        guard let descriptor else { return }
        send(line)
        close(descriptor)
    }

    /// Says something, and stays open.
    func say(_ text: String) { send(Array(text.utf8)) }

    private func send(_ line: [UInt8]) {
        guard let descriptor else { return }
        var left = (line + [UInt8(ascii: "\n")])[...]
        while !left.isEmpty {
            let count = left.withUnsafeBytes { write(descriptor, $0.baseAddress, $0.count) }
            if count < 0, errno == EINTR { continue }
            guard count > 0 else { break }
            left = left.dropFirst(count)
        }
    }
}

/// Bytes up to the first line feed; nil if the writers are gone before it.
func readLine(from descriptor: Int32) -> [UInt8]? {
    var line: [UInt8] = []
    var byte: UInt8 = 0
    while true {
        let count = read(descriptor, &byte, 1)
        if count < 0, errno == EINTR { continue }
        guard count == 1 else { return nil }
        if byte == UInt8(ascii: "\n") { return line }
        line.append(byte)
    }
}
