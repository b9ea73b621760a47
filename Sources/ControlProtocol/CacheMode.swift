/// How a cache treats writes and reads; the raw value is the name Open CAS prints and accepts.
package enum CacheMode: String, Codable, Sendable, CaseIterable {
    case writeThrough = "wt"
    case writeBack = "wb"
    case writeAround = "wa"
    case passThrough = "pt"
    case writeOnly = "wo"

    /// Whether an acknowledged write may be on the cache device only, so that leaving the mode
    /// asks the admin what to do with dirty data.
    package var isLazyWrite: Bool {
        self == .writeBack || self == .writeOnly
    }
}

extension CacheMode {
    /// The name in sentences, as Open CAS spells it.
    package var longName: String {
        switch self {
        case .writeThrough: "Write-Through"
        case .writeBack: "Write-Back"
        case .writeAround: "Write-Around"
        case .passThrough: "Pass-Through"
        case .writeOnly: "Write-Only"
        }
    }
}
