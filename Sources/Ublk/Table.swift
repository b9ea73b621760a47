/// As many elements as there ever will be, in memory of its owner's: nothing is counted, and
/// nothing copied, when one is changed.
struct Table<Element>: ~Copyable {
    private let base: UnsafeMutablePointer<Element>
    let count: Int

    init(_ elements: [Element]) {
        count = elements.count
        base = .allocate(capacity: elements.count)
        base.initialize(from: elements, count: elements.count)
    }

    deinit {
        base.deinitialize(count: count)
        base.deallocate()
    }

    var isEmpty: Bool { count == 0 }
    var indices: Range<Int> { 0..<count }

    subscript(_ place: Int) -> Element {
        @inline(__always) _read {
            precondition(place >= 0 && place < count, "a place outside of a table")
            yield base[place]
        }
        @inline(__always) _modify {
            precondition(place >= 0 && place < count, "a place outside of a table")
            yield &base[place]
        }
    }
}
