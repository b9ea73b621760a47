import CLinux
import Glibc

/// An open file. Every transfer is whole, or an error that names the file.
final class File {
    let path: String
    let descriptor: Int32

    init(_ path: String, _ flags: Int32) throws(Complaint) {
        self.path = path
        descriptor = open(path, flags | O_CLOEXEC, 0o600)
        guard descriptor >= 0 else { throw Self.failure("opening", path) }
    }

    /// Reading and writing past the page cache.
    init(direct path: String) throws(Complaint) {
        self.path = path
        descriptor = ucas_open_device(path, 1, 0)
        guard descriptor >= 0 else {
            throw Complaint("opening \(path): \(String(cString: strerror(-descriptor)))")
        }
    }

    deinit { close(descriptor) }

    func read(_ bytes: UnsafeMutableRawBufferPointer, at offset: Int) throws(Complaint) {
        try transfer(bytes.count, "reading") { done in
            pread(
                descriptor, bytes.baseAddress.unsafelyUnwrapped + done, bytes.count - done,
                off_t(offset + done))
        }
    }

    /// - Parameter durably: it is durable when this returns, whatever else is not.
    func write(
        _ bytes: UnsafeRawBufferPointer, at offset: Int, durably: Bool = false
    ) throws(Complaint) {
        try transfer(bytes.count, "writing") { done in
            let start = bytes.baseAddress.unsafelyUnwrapped + done
            let left = bytes.count - done
            guard durably else { return pwrite(descriptor, start, left, off_t(offset + done)) }
            let result = ucas_write_durably(
                descriptor, start, UInt64(left), UInt64(offset + done))
            if result < 0 { errno = Int32(-result) }
            return Int(result)
        }
    }

    func makeDurable() throws(Complaint) {
        guard fsync(descriptor) == 0 else { throw Self.failure("synchronising", path) }
    }

    var byteCount: Int {
        get throws(Complaint) {
            let end = lseek(descriptor, 0, SEEK_END)
            guard end >= 0 else { throw Self.failure("measuring", path) }
            return Int(end)
        }
    }

    private func transfer(
        _ byteCount: Int, _ what: String, _ step: (_ done: Int) -> Int
    ) throws(Complaint) {
        var done = 0
        while done < byteCount {
            let count = step(done)
            if count < 0, errno == EINTR { continue }
            if count == 0 { throw Complaint("\(what) \(path): it ends too early") }
            guard count > 0 else { throw Self.failure(what, path) }
            done += count
        }
    }

    static func failure(_ what: String, _ path: String) -> Complaint {
        Complaint("\(what) \(path): \(String(cString: strerror(errno)))")
    }
}

/// Sectors in memory, as O_DIRECT wants them.
final class SectorBuffer {
    let bytes: UnsafeMutableRawBufferPointer

    init(sectorCount: Int) {
        bytes = .allocate(byteCount: sectorCount * SectorContent.byteCount, alignment: 4096)
        bytes.initializeMemory(as: UInt8.self, repeating: 0)
    }

    deinit { bytes.deallocate() }

    func first(_ count: Int) -> UnsafeMutableRawBufferPointer {
        UnsafeMutableRawBufferPointer(rebasing: bytes[..<(count * SectorContent.byteCount)])
    }

    func sector(_ index: Int) -> UnsafeMutableRawBufferPointer {
        let start = index * SectorContent.byteCount
        return UnsafeMutableRawBufferPointer(
            rebasing: bytes[start..<start + SectorContent.byteCount])
    }

    func content(_ index: Int, _ writer: Writer, sector: UInt64) -> SectorContent {
        SectorContent(UnsafeRawBufferPointer(self.sector(index)), writer: writer, sector: sector)
    }
}

/// Changes of names in the folder are durable after this.
func makeNamesDurable(_ folder: String) throws(Complaint) {
    try File(folder, O_RDONLY | O_DIRECTORY).makeDurable()
}

/// Says a line in one piece, so that the lines of several writers do not mix.
func say(_ line: String) {
    let bytes = Array("\(line)\n".utf8)
    _ = write(1, bytes, bytes.count)
}
