import CShmRing

/// The own drop words: rights that are given up where the owner's ring had no room for a record. They need no room
/// anywhere, so that giving up never fails and never waits.
///
/// A word names whose grant it is and what the holder's messages call it; that of a grant never bound takes two words,
/// and the second one holds the key. Its owner counts on the link's return board how many it has applied; then they
/// are used again. Under the lock of the common lane.
struct DropWords {
    private let base: UnsafeMutablePointer<shmring_drop>
    private let outbox: UnsafeMutablePointer<shmring_outbox>
    private let mapping: shmring_mapping
    private let offset: UInt64
    private var singles: [UInt32] = []
    private var pairs: [UInt32] = []
    private var next: UInt32 = 0
    private var reserved: UInt32 = 0
    private var queues: [UInt32: Queue] = [:]

    /// Toward one owner, in the order of their stamps.
    private struct Queue {
        var told: UInt64 = 0
        var groups: [Group] = []
    }

    /// Words of one transaction toward one owner: in use until the owner has counted all of them.
    private struct Group {
        let end: UInt64
        let words: [Word]
    }

    /// A drop word that was taken.
    struct Word {
        let index: UInt32
        let isPair: Bool
        let ended: EndedHandle
    }

    init(_ outbox: borrowing Mapping, lanes: UInt32) {
        mapping = outbox.raw
        offset = shmring_outbox_drop_offset(lanes)
        self.outbox = outbox.base(as: shmring_outbox.self)
        base = UnsafeMutableRawPointer(outbox.base(as: UInt8.self) + Int(offset))
            .assumingMemoryBound(to: shmring_drop.self)
    }

    var isInUse: Bool { !queues.isEmpty }

    /// A word for what ends; nil: all are in use.
    mutating func take(for ended: EndedHandle, owner: PeerID) -> Word? {
        let isPair = ended.grant == ReservedGrant.unbound
        guard let index = isPair ? pairs.popLast() ?? fresh(2) : singles.popLast() ?? fresh(1)
        else { return nil }
        // SYNC H14 release, pairs with H15 in PeerCore.dropRecord: whoever sees what the word is to say sees that it has
        // ended what it said before.
        shmring_store_release(
            (base + Int(index)).pointer(to: \.what)!,
            UInt64(owner.rawValue) << 32 | UInt64(ended.grant))
        if isPair {
            shmring_store_release(
                (base + Int(index) + 1).pointer(to: \.what)!,
                UInt64(ended.key.granter) << 32 | UInt64(ended.key.number))
        }
        return Word(index: index, isPair: isPair, ended: ended)
    }

    private mutating func fresh(_ count: UInt32) -> UInt32? {
        let index = next
        guard index + count <= UInt32(SHMRING_DROP_WORDS) else { return nil }
        let perPage = UInt32(SHMRING_PAGE_BYTES) / UInt32(MemoryLayout<shmring_drop>.stride)
        while reserved < index + count {
            var raw = mapping
            let result = shmring_outbox_reserve_words(
                &raw, offset + UInt64(reserved) * UInt64(MemoryLayout<shmring_drop>.stride),
                UInt64(SHMRING_PAGE_BYTES))
            guard result == 0 else { return nil }
            reserved += perPage
        }
        next += count
        // SYNC H4 release, pairs with H9 in PeerCore.collectDrops: no word beyond the count is looked at, and what is
        // counted names its grant.
        shmring_store_release(outbox.pointer(to: \.drops)!, UInt64(next))
        return index
    }

    /// The place to be set with the transaction.
    func place(of word: Word) -> UnsafeMutablePointer<UInt64> {
        (base + Int(word.index)).pointer(to: \.word)!
    }

    /// Nothing came of it.
    mutating func giveBack(_ word: Word) {
        if word.isPair { pairs.append(word.index) } else { singles.append(word.index) }
    }

    /// They hold their stamp.
    mutating func told(_ words: [Word]) {
        for (link, group) in Dictionary(grouping: words, by: \.ended.link) {
            var queue = queues[link] ?? Queue()
            queue.told += UInt64(group.count)
            queue.groups.append(Group(end: queue.told, words: group))
            queues[link] = queue
        }
    }

    /// Takes back what the owner behind this link has counted; what ended so for good.
    mutating func takeBack(
        from link: UnsafeMutablePointer<LinkRoute>, isDead isKnownDead: Bool = false
    ) -> [EndedHandle] {
        guard !queues.isEmpty, var queue = queues[link.pointee.index], !queue.groups.isEmpty else {
            return []
        }
        // SYNC H10 acquire, pairs with H11 in PeerCore.applyDrop: the owner does not read the word any more.
        let seen = shmring_load_acquire(link.pointee.boardOut.pointer(to: \.drops_seen)!)
        let isDead = isKnownDead || shmring_load_relaxed(link.pointee.dead) != 0
        var ended: [EndedHandle] = []
        while let group = queue.groups.first, isDead || group.end <= seen {
            for word in group.words {
                shmring_store_release(place(of: word), 0)
                giveBack(word)
                ended.append(word.ended)
            }
            queue.groups.removeFirst()
        }
        queues[link.pointee.index] = queue
        return ended
    }

    /// The owner behind this link is dead, and all that it was told has been taken back.
    mutating func forget(link: UInt32) { queues[link] = nil }
}
