/// Where the bytes of a device's requests are, in the data modes that have them in memory: a buffer
/// for each tag. What was never used takes no memory.
final class TagBuffers: @unchecked Sendable {
    /// Nil in the other modes.
    let base: UnsafeMutableRawPointer?
    let byteCount: Int
    let queueDepth: Int

    init(_ info: DeviceInfo) {
        byteCount = Int(info.requestBytesMax)
        queueDepth = Int(info.queueDepth)
        let tagCount = Int(info.queueCount) * queueDepth
        base =
            DataMode(info.features).hasBuffers
            ? .allocate(byteCount: byteCount * tagCount, alignment: 4096) : nil
    }

    deinit { base?.deallocate() }
}
