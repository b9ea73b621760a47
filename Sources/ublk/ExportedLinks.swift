import Glibc

/// The exported devices of caches: /dev/cas*X*-*Y* leads to each. They are their cache's to stop,
/// and may be the only way to data that are nowhere else.
enum ExportedLinks {
    /// By the number of the ublk device, for example "/dev/cas1-2".
    static func all() -> [UInt32: String] {
        guard let directory = opendir("/dev") else { return [:] }
        defer { closedir(directory) }
        var links: [UInt32: String] = [:]
        while let entry = readdir(directory) {
            let name = withUnsafeBytes(of: entry.pointee.d_name) {
                String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self)
            }
            guard name.hasPrefix("cas"), let device = target("/dev/" + name) else { continue }
            links[device] = "/dev/" + name
        }
        return links
    }

    private static func target(_ link: String) -> UInt32? {
        var target = [CChar](repeating: 0, count: 64)
        let count = readlink(link, &target, target.count)
        guard count > 0 else { return nil }
        let bytes = target.prefix(count).map(UInt8.init(bitPattern:))
        let name = String(decoding: bytes, as: UTF8.self).split(separator: "/").last
        guard let name, name.hasPrefix("ublkb") else { return nil }
        return UInt32(name.dropFirst(5))
    }
}

/// Throws if the device is the exported device of a cache.
func refuseExported(_ device: UInt32, _ verb: String, canBeForced: Bool = true) throws {
    guard let link = ExportedLinks.all()[device] else { return }
    guard canBeForced else {
        throw Failure(
            "device \(device) is \(link), the exported device of a cache: only casd can \(verb) it")
    }
    throw Failure(
        "device \(device) is \(link), the exported device of a cache: stop the cache with 'casadm "
            + "--stop-cache', or \(verb) it with --force")
}
