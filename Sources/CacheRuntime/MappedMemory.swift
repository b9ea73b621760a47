import Glibc

/// Anonymous memory straight from the kernel: page aligned, zeroed, touched only when used.
struct MappedMemory: ~Copyable {
    let base: UnsafeMutableRawPointer
    let byteCount: Int

    /// nil when the system has no room.
    init?(byteCount: Int) {
        precondition(byteCount > 0)
        let mapped = mmap(
            nil, byteCount, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
        guard let mapped, mapped != MAP_FAILED else { return nil }
        base = mapped
        self.byteCount = byteCount
        // Fewer page-table walks; a kernel without huge pages refuses and nothing is lost.
        madvise(mapped, byteCount, Int32(MADV_HUGEPAGE))
    }

    deinit { munmap(base, byteCount) }
}
