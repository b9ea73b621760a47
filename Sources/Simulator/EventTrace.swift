/// The last events of a run, each with the sectors of an exported device it concerns.
///
/// A failing seed is played again with a trace, and prints what happened to its sector.
final class EventTrace {
    private struct Event {
        /// Nil: every core's.
        let core: UInt16?
        let sectors: Range<Int>
        let text: String
    }

    private var events: [Event] = []
    private static let countMax = 200_000

    func note(core: UInt16, sectors: Range<Int>, _ text: String) {
        if events.count >= Self.countMax { events.removeFirst(Self.countMax / 2) }
        events.append(Event(core: core, sectors: sectors, text: text))
    }

    /// Something that concerns every sector.
    func noteForAll(_ text: String) {
        events.append(Event(core: nil, sectors: 0..<Int.max, text: text))
    }

    /// The last events that concern the sector, oldest first.
    func lines(core: UInt16, sector: Int, most: Int = 400) -> [String] {
        events.filter { ($0.core ?? core) == core && $0.sectors.contains(sector) }.suffix(most).map(
            \.text)
    }
}
