/// The line that shows how far a flush is, drawn as Open CAS draws it.
struct ProgressBar {
    let name: String
    /// Percent; the bar never goes back.
    private var reached = 0.0
    private var wheel = 0

    static let erase = "\r\u{1B}[K"
    private static let percentPerCharacter = 2

    init(name: String) {
        self.name = name
    }

    /// The next picture. `part` of one is nil while it is unknown how much there is to do.
    mutating func text(part: Double?, elapsedSeconds: Double) -> String {
        let percent = (part ?? 0) * 100
        guard percent >= 0.01, percent <= 99.99 else { return wheelText() }
        reached = max(reached, percent)
        let steps = Int(reached) / Self.percentPerCharacter
        let half = Int(reached) % Self.percentPerCharacter > 0 ? "-" : ""
        let bar = String(repeating: "=", count: steps) + half
        let remaining = Int((100 - reached) * elapsedSeconds / reached)
        let seconds = remaining % 60
        let time =
            remaining >= 60
            ? "\(remaining / 60)m\(seconds < 10 ? "0" : "")\(seconds)s" : "\(seconds)s"
        let percentText = Decimals.percent(reached / 100)
        return "\r\(name)... [\(bar.padded(to: 100 / Self.percentPerCharacter))] "
            + "\(percentText)% [\(time) remaining]\u{1B}[K"
    }

    private mutating func wheelText() -> String {
        let spokes = ["|", "/", "-", "\\"]
        defer { wheel += 1 }
        return "\r\(name)... [\(spokes[wheel % spokes.count])]\u{1B}[K"
    }
}
