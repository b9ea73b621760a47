import CacheFormat

/// What a cache's metadata are written to: the cache device, or what a test puts in its place.
package protocol StoreMedium: AnyObject, Sendable {
    var path: String { get }
    var byteCount: UInt64 { get }
    func read(into bytes: UnsafeMutableRawBufferPointer, at offset: UInt64) throws(CacheError)
    /// Not durable before `flush`.
    func write(_ bytes: UnsafeRawBufferPointer, at offset: UInt64) throws(CacheError)
    func flush() throws(CacheError)
}

extension DeviceFile: StoreMedium {
    package var byteCount: UInt64 { limits.bytes }
}

/// Page-aligned memory for one reading or writing.
final class AlignedBytes {
    let bytes: UnsafeMutableRawBufferPointer

    init(count: Int) {
        bytes = .allocate(byteCount: count, alignment: 4096)
        bytes.initializeMemory(as: UInt8.self, repeating: 0)
    }

    deinit { bytes.deallocate() }

    var readOnly: UnsafeRawBufferPointer { UnsafeRawBufferPointer(bytes) }

    func address(_ offset: Int) -> UnsafeMutableRawPointer {
        precondition(offset < bytes.count)
        guard let base = bytes.baseAddress else { preconditionFailure("no bytes at all") }
        return base + offset
    }

    var diskBytes: DiskBytes {
        guard let base = bytes.baseAddress else { preconditionFailure("no bytes at all") }
        return DiskBytes(base: base, count: bytes.count)
    }
}
