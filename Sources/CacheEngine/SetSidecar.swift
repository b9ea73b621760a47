import CSpin
import Synchronization

/// What a set needs at run time and must not outlive the process: never part of the memory image.
///
/// One fixed-size record a set, in one array. All of it is guarded by the set's lock, which is its
/// first word and is held for the length of one engine step, never over an I/O.
///
/// A process begins with all of it zero, whatever the set's page says: the set is *not adopted*.
/// Who locks it first counts what the page has (`SharedCache.adopt`), so that a start costs nothing
/// for sets that nobody asks for, and a lock nothing more once it is adopted.
///
/// | offset | bytes | field |
/// | --- | --- | --- |
/// | 0 | 4 | lock: 0 not adopted, 1 held, 2 free |
/// | 4 | 1 | occupied ways |
/// | 5 | 1 | of them with dirty granules |
/// | 6 | 1 | of the occupied in the small part |
/// | 7 | 1 | flags |
/// | 8 | 8 | workers with a part parked on this set, a bit each |
/// | 16 | 2 | next place in the ghost |
/// | 18 | 1 | its page is being written (guarded by the journal's lock) |
/// | 19 | 1 | listed since before this process (guarded by the journal's lock) |
/// | 20 | 4 | next set in the journal's list (guarded by the journal's lock) |
/// | 24 | 8 | commit of its newest journal record |
/// | 32 | 32 | writes to absent lines on their way to a core, counted by line hash |
/// | 64 | 224 | way uses, a byte a way |
/// | 288 | 400 | ghost: 16-bit fingerprints of lines lately evicted from the small part |
/// | 688 | 8 | journal block of the first record since the page was last copied |
public struct SetSidecar {
    static let byteCount = 704
    static let ghostCapacity = 200
    static let directSlotCount = 32

    let base: UnsafeMutableRawPointer
    /// For the adoption of the set; nothing else here looks at it.
    let shared: SharedCache

    @inline(__always) init(_ base: UnsafeMutableRawPointer, of shared: SharedCache) {
        self.base = base
        self.shared = shared
    }

    private static let notAdopted: UInt32 = 0
    private static let held: UInt32 = 1
    private static let free: UInt32 = 2

    private static let lockOffset = 0
    private static let occupiedOffset = 4
    private static let dirtyOffset = 5
    private static let smallOffset = 6
    private static let flagsOffset = 7
    private static let waitersOffset = 8
    private static let ghostNextOffset = 16
    private static let lastCommitOffset = 24
    private static let directOffset = 32
    private static let usesOffset = 64
    private static let ghostOffset = 288
}

extension SetSidecar {
    private var lockWord: UnsafeMutablePointer<Atomic<UInt32>> {
        (base + Self.lockOffset).assumingMemoryBound(to: Atomic<UInt32>.self)
    }

    @inline(__always) func lock() {
        let before = lockWord.pointee.exchange(Self.held, ordering: .acquiring)
        if before != Self.free { lockSlowly(before) }
    }

    /// Spins for about a microsecond, then gives the processor away: the holder may not be running.
    @inline(never) private func lockSlowly(_ first: UInt32) {
        var before = first
        while before == Self.held {
            for _ in 0..<64 where before == Self.held {
                if lockWord.pointee.load(ordering: .relaxed) == Self.held {
                    ucas_pause()
                } else {
                    before = lockWord.pointee.exchange(Self.held, ordering: .acquiring)
                }
            }
            if before == Self.held { ucas_yield() }
        }
        if before == Self.notAdopted { shared.adopt(self) }
    }

    @inline(__always) func unlock() {
        lockWord.pointee.store(Self.free, ordering: .releasing)
    }

    /// Whether nobody has locked the set since the process began.
    var isNotAdopted: Bool { lockWord.pointee.load(ordering: .relaxed) == Self.notAdopted }
    /// Whether nobody is adopting it, either.
    var isFree: Bool { lockWord.pointee.load(ordering: .acquiring) == Self.free }

    @inline(__always) private func byte(_ offset: Int) -> UnsafeMutablePointer<UInt8> {
        (base + offset).assumingMemoryBound(to: UInt8.self)
    }

    var occupied: Int {
        get { Int(byte(Self.occupiedOffset).pointee) }
        nonmutating set { byte(Self.occupiedOffset).pointee = UInt8(newValue) }
    }
    var dirty: Int {
        get { Int(byte(Self.dirtyOffset).pointee) }
        nonmutating set { byte(Self.dirtyOffset).pointee = UInt8(newValue) }
    }
    var small: Int {
        get { Int(byte(Self.smallOffset).pointee) }
        nonmutating set { byte(Self.smallOffset).pointee = UInt8(newValue) }
    }
    var waiters: UInt64 {
        get { base.load(fromByteOffset: Self.waitersOffset, as: UInt64.self) }
        nonmutating set {
            base.storeBytes(of: newValue, toByteOffset: Self.waitersOffset, as: UInt64.self)
        }
    }

    private func flag(_ bit: UInt8) -> Bool { byte(Self.flagsOffset).pointee & bit != 0 }
    private func setFlag(_ bit: UInt8, _ on: Bool) {
        if on {
            byte(Self.flagsOffset).pointee |= bit
        } else {
            byte(Self.flagsOffset).pointee &= ~bit
        }
    }
    /// The set waits for, or is in, urgent cleaning by one worker.
    var isUrgent: Bool {
        get { flag(1) }
        nonmutating set { setFlag(1, newValue) }
    }
    /// The page in memory differs from the newest page on the cache device.
    var isChanged: Bool {
        get { flag(2) }
        nonmutating set { setFlag(2, newValue) }
    }
    /// It has journal records that no page written, or being written, includes.
    var isListed: Bool {
        get { flag(8) }
        nonmutating set { setFlag(8, newValue) }
    }
    /// A write into the set failed: nobody knows what it left, so no checksum can be relied on.
    var hadFailedWrite: Bool {
        get { flag(16) }
        nonmutating set { setFlag(16, newValue) }
    }
    var lastCommit: UInt64 {
        get { base.load(fromByteOffset: Self.lastCommitOffset, as: UInt64.self) }
        nonmutating set {
            base.storeBytes(of: newValue, toByteOffset: Self.lastCommitOffset, as: UInt64.self)
        }
    }
    @inline(__always) var listed: ListedSet { ListedSet(base) }

    @inline(__always) var uses: UnsafeMutablePointer<WayUse> {
        (base + Self.usesOffset).assumingMemoryBound(to: WayUse.self)
    }

    /// Writes to lines with this hash that go to a core although the line is absent.
    ///
    /// While it is not 0 no such line may become present: neither filled nor written into the
    /// cache (design rule 8, and its counterpart for cleaning).
    @inline(__always) func directWrites(_ lineHash: UInt16) -> UnsafeMutablePointer<UInt8> {
        byte(Self.directOffset + Int(lineHash) % Self.directSlotCount)
    }
}

// MARK: - Ghost

extension SetSidecar {
    private var ghost: UnsafeMutablePointer<UInt16> {
        (base + Self.ghostOffset).assumingMemoryBound(to: UInt16.self)
    }

    /// Whether a line with this hash was evicted from the small part lately.
    func ghostContains(_ lineHash: UInt16) -> Bool {
        let wanted = SIMD8<UInt16>(repeating: lineHash)
        let vectors = UnsafeRawPointer(base + Self.ghostOffset)
        for index in 0..<Self.ghostCapacity / 8 {
            let some = vectors.loadUnaligned(fromByteOffset: index * 16, as: SIMD8<UInt16>.self)
            if any(some .== wanted) { return true }
        }
        return false
    }

    func ghostInsert(_ lineHash: UInt16) {
        let next = base.load(fromByteOffset: Self.ghostNextOffset, as: UInt16.self)
        precondition(next < Self.ghostCapacity)
        ghost[Int(next)] = lineHash
        let following = next + 1 == Self.ghostCapacity ? 0 : next + 1
        base.storeBytes(of: following, toByteOffset: Self.ghostNextOffset, as: UInt16.self)
    }
}

/// Who uses a way at this moment: one byte, kept outside the memory image.
///
/// A way with any use is never given to another line. Reading excludes nobody. Writing into a line
/// (write-back) is shared among writers. Exclusive use (fill, write-through, invalidation) keeps
/// other writers and the cleaner away, never readers.
public struct WayUse: Equatable {
    /// Bits 0-3 readers, 4-6 writers (7: one exclusive user), 7 being cleaned.
    var rawValue: UInt8

    static let readerMax: UInt8 = 15
    static let writerMax: UInt8 = 6

    var isIdle: Bool { rawValue == 0 }
    var readers: UInt8 { rawValue & 0x0f }
    var writers: UInt8 { rawValue >> 4 & 7 }
    var isExclusive: Bool { writers == 7 }
    /// Set while a cleaner copies the line to its core. Whoever writes the line meanwhile marks it
    /// rewritten (in the replacement byte), and then it stays dirty.
    var isCleaning: Bool {
        get { rawValue & 0x80 != 0 }
        set { rawValue = newValue ? rawValue | 0x80 : rawValue & 0x7f }
    }

    var canAddReader: Bool { readers < Self.readerMax }
    var canAddWriter: Bool { writers < Self.writerMax }
    var canBecomeExclusive: Bool { writers == 0 && !isCleaning }

    mutating func addReader() {
        precondition(canAddReader)
        rawValue &+= 1
    }
    mutating func removeReader() {
        precondition(readers > 0)
        rawValue -= 1
    }
    mutating func addWriter() {
        precondition(canAddWriter)
        rawValue += 0x10
    }
    mutating func removeWriter() {
        precondition(writers > 0 && !isExclusive)
        rawValue -= 0x10
    }
    mutating func becomeExclusive() {
        precondition(writers == 0)
        rawValue |= 0x70
    }
    mutating func endExclusive() {
        precondition(isExclusive)
        rawValue &= 0x8f
    }
}

/// What the journal keeps of a set in its sidecar, to list the sets with records that no durable
/// page includes. Guarded by the journal's lock.
struct ListedSet {
    private let base: UnsafeMutableRawPointer

    init(_ base: UnsafeMutableRawPointer) { self.base = base }

    private static let pageIsBeingWrittenOffset = 18
    private static let isOlderOffset = 19
    private static let nextListedOffset = 20
    private static let listedBlockOffset = 688

    private func byte(_ offset: Int) -> UnsafeMutablePointer<UInt8> {
        (base + offset).assumingMemoryBound(to: UInt8.self)
    }

    /// A copy of its page is on its way; another one has to wait.
    var pageIsBeingWritten: Bool {
        get { byte(Self.pageIsBeingWrittenOffset).pointee != 0 }
        nonmutating set { byte(Self.pageIsBeingWrittenOffset).pointee = newValue ? 1 : 0 }
    }
    /// That record is older than this process.
    var isOlder: Bool {
        get { byte(Self.isOlderOffset).pointee != 0 }
        nonmutating set { byte(Self.isOlderOffset).pointee = newValue ? 1 : 0 }
    }
    /// The next set in the list.
    var nextListed: UInt32 {
        get { base.load(fromByteOffset: Self.nextListedOffset, as: UInt32.self) }
        nonmutating set {
            base.storeBytes(of: newValue, toByteOffset: Self.nextListedOffset, as: UInt32.self)
        }
    }
    /// The journal block of the first record that no copy of the page includes.
    var listedBlock: UInt64 {
        get { base.load(fromByteOffset: Self.listedBlockOffset, as: UInt64.self) }
        nonmutating set {
            base.storeBytes(of: newValue, toByteOffset: Self.listedBlockOffset, as: UInt64.self)
        }
    }
}
