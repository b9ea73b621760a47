import Glibc

/// Where the bytes of a device's requests are, in the data modes that have them in memory: a buffer
/// for each tag. What was never used takes no memory.
final class TagBuffers: @unchecked Sendable {
    /// Nil in the other modes.
    let base: UnsafeMutableRawPointer?
    /// Of each buffer.
    let byteCount: Int
    let queueDepth: Int
    private let mappedBytes: Int

    init(_ info: DeviceInfo) throws(UblkError) {
        byteCount = Int(info.requestBytesMax)
        queueDepth = Int(info.queueDepth)
        mappedBytes = byteCount * Int(info.queueCount) * queueDepth
        guard DataMode(info.features).hasBuffers else {
            base = nil
            return
        }
        let mapped = mmap(
            nil, mappedBytes, PROT_READ | PROT_WRITE,
            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
        guard let mapped, mapped != MAP_FAILED else {
            throw UblkError(
                "reserving \(mappedBytes >> 20) MiB for the requests of \(info.queueCount) queues",
                errno: errno)
        }
        base = mapped
    }

    deinit {
        if let base { munmap(base, mappedBytes) }
    }
}
