import CBus1System
import CShmRing
import Glibc
import Synchronization

/// The handles of one peer. An identifier names its entry and says whether it is still that one.
///
/// Entries never move, so that lanes on other threads read them without a lock; an entry is written before the handle
/// that names it exists, and after that only its `id` changes, to 0.
final class HandleTable: @unchecked Sendable {
    // @unchecked: the free list is under its lock; `base` never changes; entries as said above.
    let base: UnsafeMutablePointer<HandleEntry>
    /// Entries that there is address space for.
    let countMax: Int
    private let limits: Limits
    private let byteCount: Int
    private let token: UInt64
    /// What has ended: by any thread.
    private let free: BiasedMutex<FreeList>
    /// Free entries that need no lock. As the rest of what makes handles: only the peer's own domain, which alone does.
    @exclusivity(unchecked) private var spare: [UInt32] = []
    @exclusivity(unchecked) private var identifiers: Range<UInt64> = 0..<0
    /// `made`: how many handles there ever were; `next`: the first entry that was never used. Read by any thread.
    private let counts: UnsafeMutablePointer<Counts>

    private struct FreeList {
        var indices: [UInt32] = []
        var ended: UInt64 = 0
    }

    private struct Counts {
        var made: UInt64 = 0
        var next: UInt64 = 0
        /// `FreeList.ended`, as it was when last looked at.
        var endedSeen: UInt64 = 0
    }

    /// An identifier holds that many bits of index.
    static let indexBits: UInt64 = 24

    /// Room for `countMax` handles: address space, memory only for what is used.
    init(token: UInt64, limits: Limits) throws(Bus1Error) {
        self.limits = limits
        let countMax = limits[.handles]
        self.token = token
        self.countMax = max(1, min(countMax, 1 << Int(Self.indexBits)))
        byteCount = self.countMax * MemoryLayout<HandleEntry>.stride
        let memory = mmap(
            nil, byteCount, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1,
            0)
        guard let memory, memory != MAP_FAILED else {
            throw Bus1Error(.system, "make room for handles", errno: ENOMEM)
        }
        // A forked child holds none: every send there fails at the first comparison, at no cost here.
        madvise(memory, byteCount, MADV_WIPEONFORK)
        base = memory.assumingMemoryBound(to: HandleEntry.self)
        free = BiasedMutex(FreeList())
        counts = .allocate(capacity: 1)
        counts.initialize(to: Counts())
    }

    var used: Int {
        // Relaxed: a number to be told.
        free.withLock { Int(shmring_load_relaxed(counts.pointer(to: \.made)!) - $0.ended) }
    }
    var isFull: Bool { used >= limits[.handles] }

    /// Makes a handle to a node behind a link. nil when there are as many as there may be.
    func add(
        _ link: UnsafeMutablePointer<LinkRoute>, grant: UInt32, word: UInt32,
        key: GrantKey = GrantKey(granter: 0, number: 0)
    ) -> HandleID? {
        guard let index = takeEntry() else { return nil }
        let id = takeIdentifier() << Self.indexBits | UInt64(index)
        (base + index).initialize(
            to: HandleEntry(
                id: id, token: token,
                producer: grant == ReservedGrant.unbound ? NoRoom.producer : link.pointee.producer,
                dead: link.pointee.dead, released: link.pointee.releaseWord(word), grant: grant,
                link: link.pointee.index, key: key,
                word: word, owner: link.pointee.peer.rawValue))
        return HandleID(rawValue: id)
    }

    /// A free entry. nil when there are as many handles as there may be.
    @inline(__always)
    private func takeEntry() -> Int? {
        if counts.pointee.made - counts.pointee.endedSeen >= UInt64(limits[.handles])
            || spare.isEmpty
        {
            return takeEntrySlowly()
        }
        return count(Int(spare.removeLast()))
    }

    @inline(never)
    private func takeEntrySlowly() -> Int? {
        free.withLock { list in
            counts.pointee.endedSeen = list.ended
            if spare.isEmpty { swap(&spare, &list.indices) }
        }
        addFreshEntries()
        guard counts.pointee.made - counts.pointee.endedSeen < UInt64(limits[.handles]) else {
            return nil
        }
        return spare.isEmpty ? nil : count(Int(spare.removeLast()))
    }

    /// So that the lock is not taken for each handle where a handle ends before the next is made.
    private func addFreshEntries() {
        let first = counts.pointee.next
        guard spare.count < Self.spareCount, first < UInt64(countMax) else { return }
        let end = min(UInt64(countMax), first + UInt64(Self.spareCount - spare.count))
        // Relaxed: who looks at all entries may miss one that is made at that moment.
        shmring_store_relaxed(counts.pointer(to: \.next)!, end)
        // Those that were used before come first.
        spare.insert(contentsOf: (first..<end).reversed().map { UInt32($0) }, at: 0)
    }

    /// Free entries at hand after the lock was taken, as long as there are so many.
    private static let spareCount = 16

    private func count(_ index: Int) -> Int {
        // Relaxed: a number to be told.
        shmring_store_relaxed(counts.pointer(to: \.made)!, counts.pointee.made + 1)
        return index
    }

    /// No other handle of this process ever had or gets it.
    @inline(__always)
    private func takeIdentifier() -> UInt64 {
        if identifiers.isEmpty {
            let first = bus1_sys_unique_block(64)
            identifiers = first..<first + 64
        }
        defer { identifiers = identifiers.lowerBound + 1..<identifiers.upperBound }
        return identifiers.lowerBound
    }

    /// Entries from here on were never used.
    private var end: Int {
        // Relaxed: as above.
        Int(shmring_load_relaxed(counts.pointer(to: \.next)!))
    }

    /// The entry of a live handle of this peer.
    func entry(_ id: HandleID) -> UnsafeMutablePointer<HandleEntry>? {
        let index = Int(id.rawValue & (1 << Self.indexBits - 1))
        guard id.rawValue != 0, index < countMax else { return nil }
        let entry = base + index
        return shmring_load_relaxed(entry.pointer(to: \.id)!) == id.rawValue ? entry : nil
    }

    /// Ends a handle; false when it had ended. Its owner is not told. Any thread.
    func remove(_ id: HandleID) -> Bool { end(id) != nil }

    /// Ends a handle; what it was. nil: it had ended. Any thread.
    func end(_ id: HandleID) -> HandleEntry? {
        free.withLock { list in
            guard let entry = entry(id) else { return nil }
            let ended = entry.pointee
            setID(0, at: Self.index(id.rawValue))
            list.indices.append(UInt32(Self.index(id.rawValue)))
            list.ended += 1
            return ended
        }
    }

    /// Ends all of these, or none: nil, when one had ended or is there twice. To be followed by ``recycle(_:)`` or
    /// ``restore(_:)``. Any thread.
    func endAll(_ ids: [HandleID]) -> [HandleEntry]? {
        free.withLock { _ in
            var ended: [HandleEntry] = []
            ended.reserveCapacity(ids.count)
            for id in ids {
                guard let entry = entry(id) else {
                    for one in ended { setID(one.id, at: Self.index(one.id)) }
                    return nil
                }
                ended.append(entry.pointee)
                setID(0, at: Self.index(id.rawValue))
            }
            return ended
        }
    }

    /// They have ended for good: their places are free.
    func recycle(_ ended: [HandleEntry]) {
        free.withLock { list in
            for one in ended { list.indices.append(UInt32(Self.index(one.id))) }
            list.ended += UInt64(ended.count)
        }
        if !ended.isEmpty { shmring_bell_ring(limits.bell) }
    }

    /// They have not ended after all.
    func restore(_ ended: [HandleEntry]) {
        free.withLock { _ in for one in ended { setID(one.id, at: Self.index(one.id)) } }
    }

    private func setID(_ id: UInt64, at index: Int) {
        // SYNC H1 release, pairs with the relaxed load in `entry` and in every send: only the id matters to those
        // who still see it, and they have the handle borrowed, so that it does not end meanwhile.
        shmring_store_release((base + index).pointer(to: \.id)!, id)
    }

    private static func index(_ id: UInt64) -> Int { Int(id & (1 << indexBits - 1)) }

    /// Ends all handles whose link is gone; their entries as they were. To be followed by ``recycle(_:)``: until then
    /// another thread may still look at their places.
    func remove(link: Int) -> [HandleEntry] {
        let end = self.end
        var gone: [HandleEntry] = []
        for index in 0..<end where base[index].id != 0 && base[index].link == UInt32(link) {
            let id = HandleID(rawValue: base[index].id)
            free.withLock { _ in
                guard let entry = entry(id) else { return }
                gone.append(entry.pointee)
                setID(0, at: index)
            }
        }
        return gone
    }

    /// Calls for each handle of a link, with its entry. Only the receiving thread, which makes them.
    func forEach(ofLink link: UInt32, _ body: (UnsafeMutablePointer<HandleEntry>) -> Void) {
        let end = self.end
        for index in 0..<end where base[index].id != 0 && base[index].link == link {
            body(base + index)
        }
    }

    /// Those that are held now.
    var all: [HandleID] {
        let end = self.end
        return (0..<end).compactMap {
            let id = shmring_load_relaxed((base + $0).pointer(to: \.id)!)
            return id == 0 ? nil : HandleID(rawValue: id)
        }
    }

    /// Ends all of them.
    func invalidate() {
        let end = self.end
        for index in 0..<end where base[index].id != 0 {
            _ = remove(HandleID(rawValue: base[index].id))
        }
    }

    deinit {
        munmap(base, byteCount)
        counts.deallocate()
    }
}
