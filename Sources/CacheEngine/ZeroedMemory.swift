import CBytes

/// Memory that begins as zeroes and costs nothing before it is touched, however much it is.
struct ZeroedMemory {
    /// On a cache line of its own.
    let base: UnsafeMutableRawPointer
    private let allocation: UnsafeMutableRawPointer

    init(byteCount: Int, alignment: Int = 64) {
        precondition(byteCount > 0)
        guard let allocation = ucas_allocate_zeroed(byteCount + alignment) else {
            preconditionFailure("no memory")
        }
        self.allocation = allocation
        base = allocation.alignedUp(toMultipleOf: alignment)
    }

    func deallocate() { ucas_deallocate(allocation) }
}
