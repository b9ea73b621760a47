import CBytes

/// The place of a field: bytes from the start of its structure, and its length in bytes.
package typealias FieldPlace = (offset: Int, size: Int)

/// The one place that reads and writes integers on the cache device: little endian, at any
/// alignment, never outside the bytes.
package struct ByteFields {
    package let bytes: UnsafeMutableRawBufferPointer

    package init(_ bytes: UnsafeMutableRawBufferPointer) { self.bytes = bytes }

    package func load<Value: FixedWidthInteger & BitwiseCopyable>(_ place: FieldPlace) -> Value {
        load(Value.self, place)
    }

    package func load<Value: FixedWidthInteger & BitwiseCopyable>(
        _: Value.Type, _ place: FieldPlace
    ) -> Value {
        precondition(MemoryLayout<Value>.size == place.size, "a field of another size")
        precondition(place.offset >= 0 && place.offset + place.size <= bytes.count)
        return Value(
            littleEndian: bytes.loadUnaligned(fromByteOffset: place.offset, as: Value.self))
    }

    package func store<Value: FixedWidthInteger & BitwiseCopyable>(
        _ value: Value, _ place: FieldPlace
    ) {
        precondition(MemoryLayout<Value>.size == place.size, "a field of another size")
        precondition(place.offset >= 0 && place.offset + place.size <= bytes.count)
        bytes.storeBytes(of: value.littleEndian, toByteOffset: place.offset, as: Value.self)
    }

    package func isZero(_ place: FieldPlace) -> Bool {
        bytes[place.offset..<place.offset + place.size].allSatisfy { $0 == 0 }
    }

    /// CRC-32C of all bytes, those of `field` (4 bytes) taken as zero.
    package func checksum(without field: FieldPlace) -> UInt32 {
        let zero: [UInt8] = [0, 0, 0, 0]
        let after = field.offset + field.size
        var sum = ucas_crc32c(0, bytes.baseAddress, field.offset)
        sum = ucas_crc32c(sum, zero, field.size)
        return ucas_crc32c(sum, bytes.baseAddress.map { $0 + after }, bytes.count - after)
    }
}

/// CRC-32C of some bytes.
package func crc32c(_ bytes: UnsafeRawBufferPointer) -> UInt32 {
    ucas_crc32c(0, bytes.baseAddress, bytes.count)
}
