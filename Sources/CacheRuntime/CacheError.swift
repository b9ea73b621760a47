/// Why a management operation was refused or failed: `message` is the sentence the user sees.
package struct CacheError: Error, Equatable, Sendable, CustomStringConvertible {
    package enum Code: String, Sendable {
        case invalidArgument, permission, notFound, notBlockDevice, busy, tooSmall, incompatible
        case foreignContent, oldMetadata, noMetadata, otherVersion, damaged, sizeMismatch
        case notCleanlyStopped, cleanlyStopped
        case cacheExists, coreExists, noSuchCore, tooMany, mounted, interrupted
        case flushRunning, kernel, memory, inputOutput
    }

    package let code: Code
    package let message: String

    package init(_ code: Code, _ message: String) {
        self.code = code
        self.message = message
    }

    package var description: String { message }
}

/// What the numbers of failed system calls mean to somebody who does not know them.
package func errorText(_ errno: Int32) -> String {
    switch errno {
    case 1, 13: "permission denied"
    case 2: "it does not exist"
    case 5: "input/output error"
    case 6, 19: "no such device"
    case 12: "out of memory"
    case 16: "it is in use"
    case 22: "the device does not support it"
    case 28: "no space left"
    case 30: "it is read-only"
    case 95: "the device does not support it"
    default: "error \(errno)"
    }
}
