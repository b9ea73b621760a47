import SystemFiles

/// The exported devices of caches: /dev/cas*X*-*Y* leads to each. They are their cache's to stop,
/// and may be the only way to data that are nowhere else.
enum ExportedLinks {
    /// By the number of the ublk device, for example "/dev/cas1-2".
    static func all() -> [UInt32: String] {
        var links: [UInt32: String] = [:]
        for name in namesInDirectory("/dev") ?? [] where name.hasPrefix("cas") {
            let target = linkTarget("/dev/" + name)?.split(separator: "/").last ?? ""
            guard target.hasPrefix("ublkb"), let id = UInt32(target.dropFirst("ublkb".count))
            else { continue }
            links[id] = "/dev/" + name
        }
        return links
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
