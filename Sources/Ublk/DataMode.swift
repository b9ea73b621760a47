/// How the bytes of reads and writes come to a device's server and go back.
public enum DataMode: Equatable, Sendable {
    /// The driver copies between the request and a buffer of the tag's.
    case copy
    /// The server copies, by reading and writing /dev/ublkc*N* (Linux 6.5).
    case userCopy
    /// The server puts the request's pages into its ring's buffer table and takes them out again:
    /// nothing is copied, and the server never sees the bytes (Linux 6.15).
    case zeroCopy
    /// The driver does that by itself whenever it delivers a request (Linux 6.16).
    ///
    /// - `fallsBack`: a request that could not be registered is delivered all the same, and the
    ///   server does it as in `zeroCopy`; otherwise such a request fails.
    case automatic(fallsBack: Bool)

    /// What a device has to be made with.
    public var features: Features {
        switch self {
        case .copy: []
        case .userCopy: .userCopy
        case .zeroCopy: .supportZeroCopy
        case .automatic(let fallsBack):
            fallsBack ? [.autoBufferRegistration, .supportZeroCopy] : .autoBufferRegistration
        }
    }

    /// The mode that a device was made for.
    public init(_ features: Features) {
        if features.contains(.autoBufferRegistration) {
            self = .automatic(fallsBack: features.contains(.supportZeroCopy))
        } else if features.contains(.supportZeroCopy) {
            self = .zeroCopy
        } else {
            self = features.contains(.userCopy) ? .userCopy : .copy
        }
    }

    /// The mode to choose where nobody asks for one: registered by the driver where it can, else
    /// copied by it. In user copy each request costs one operation more.
    ///
    /// - Parameter seesData: the server has to have the bytes in memory.
    public static func best(kernel: Features, seesData: Bool) -> DataMode {
        let registered = DataMode.automatic(fallsBack: true)
        return seesData || !kernel.isSuperset(of: registered.features) ? .copy : registered
    }

    /// The server has the bytes in memory, in a buffer for each tag.
    var hasBuffers: Bool { self == .copy || self == .userCopy }
}
