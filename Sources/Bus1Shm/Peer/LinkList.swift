import CShmRing
import Glibc

/// A peer's links, by places that are used again: a place is empty once the peer behind its link is dead and nobody
/// can look there for it any more.
///
/// NOTE - only the peer's own thread. Others use ``LinkTable``.
struct LinkList: Sequence {
    private var places: [Link?] = []
    private var free: [Int] = []

    /// Where a link would be put next.
    var next: Int { free.last ?? places.count }

    mutating func append(_ link: Link) {
        if let place = free.popLast() {
            places[place] = link
        } else {
            places.append(link)
        }
    }

    mutating func remove(at place: Int) {
        places[place] = nil
        free.append(place)
    }

    /// The link at a place that is known not to be empty.
    subscript(place: Int) -> Link { places[place]! }

    struct Iterator: IteratorProtocol {
        fileprivate var rest: IndexingIterator<[Link?]>

        mutating func next() -> Link? {
            while let place = rest.next() { if let place { return place } }
            return nil
        }
    }

    func makeIterator() -> Iterator { Iterator(rest: places.makeIterator()) }
}

/// What lanes look up by a link's place, in a table that never moves.
///
/// NOTE - the peer's own thread writes. Others read between two passages of their gate (``LaneGates``), or under the
/// lock of the common lane: what they find stays until then.
struct LinkTable<Pointee>: @unchecked Sendable {
    // @unchecked: words, each read and written by the ring's own atomic operations.
    typealias Word = UnsafeMutablePointer<Pointee>

    let base: UnsafeMutablePointer<UInt64>
    /// A peer has no more links than that.
    static var countMax: Int { 1 << 18 }

    init(_ operation: StaticString) throws(Bus1Error) {
        guard let base = ReservedMemory.map(UInt64.self, count: Self.countMax) else {
            throw Bus1Error(.system, operation, errno: ENOMEM)
        }
        self.base = base
    }

    @inline(__always)
    subscript(place: Int) -> Word? {
        get {
            // SYNC H16 acquire, pairs with H17: what is found was filled in before.
            Word(bitPattern: UInt(shmring_load_acquire(base + place)))
        }
        nonmutating set {
            // SYNC H17 release, pairs with H16.
            shmring_store_release(base + place, newValue.map { UInt64(UInt(bitPattern: $0)) } ?? 0)
        }
    }

    func unmap() { ReservedMemory.unmap(base, count: Self.countMax) }
}
