public import CShmRing

// What the path of a message touches, and nothing else. Raw pointers stay in this folder; the types
// are frozen and inlinable, since a call across the module for each message costs 1.8 times the send.

/// A handle, as sending sees it. Lives in a table that never moves.
@frozen @usableFromInline
struct HandleEntry {
    /// Of the handle that it stands for; 0 when free. Read by every lane, written by whoever releases.
    @usableFromInline var id: UInt64
    /// Of the peer whose table this is: a handle of another peer has another one.
    @usableFromInline var token: UInt64
    /// The way of the peer's own lane into the owner's ring.
    @usableFromInline var producer: UnsafeMutablePointer<shmring_producer>
    /// The owner's death, in its outbox: a stamp, 0 while it lives.
    @usableFromInline var dead: UnsafePointer<UInt64>
    /// The node's release word, in its owner's outbox: a stamp once it is released; 0, or its top bit
    /// set while that is pending or was aborted, as long as it is not.
    @usableFromInline var released: UnsafePointer<UInt64>
    /// What this peer's messages call it; `ReservedGrant.unbound` before the first of them.
    @usableFromInline var grant: UInt32
    /// Of the link in the peer's list.
    @usableFromInline var link: UInt32
    /// How the owner knows it until it is bound. Granter 0 and number 0: it was bound from the start.
    @usableFromInline var key: GrantKey
    /// Index of the release word, to be passed on with the handle.
    @usableFromInline var word: UInt32

    init(
        id: UInt64, token: UInt64, producer: UnsafeMutablePointer<shmring_producer>,
        dead: UnsafePointer<UInt64>, released: UnsafePointer<UInt64>, grant: UInt32, link: UInt32,
        key: GrantKey, word: UInt32
    ) {
        self.id = id
        self.token = token
        self.producer = producer
        self.dead = dead
        self.released = released
        self.grant = grant
        self.link = link
        self.key = key
        self.word = word
    }
}

/// One holder of one node: the owner's list, by grant number.
@frozen @usableFromInline
struct GrantEntry {
    /// 0: nobody holds this grant.
    @usableFromInline var node: UInt64
    @usableFromInline var tag: UInt64
    /// The holder, as slots name it: its index, in the ring of its trust domain.
    @usableFromInline var sender: UInt32
    @usableFromInline var ring: UInt32
    @usableFromInline var uid: UInt32
    @usableFromInline var pid: Int32

    init(node: UInt64, tag: UInt64, sender: UInt32, ring: UInt32, account: Account) {
        self.node = node
        self.tag = tag
        self.sender = sender
        self.ring = ring
        self.uid = account.uid
        self.pid = account.pid
    }

    static let none = GrantEntry(
        node: 0, tag: 0, sender: .max, ring: .max, account: Account(uid: .max, pid: 0))
}

/// Grants by number. Only the receiving thread reads or writes it.
@frozen @usableFromInline
struct GrantTable {
    @usableFromInline var base: UnsafeMutablePointer<GrantEntry>
    @usableFromInline var count: UInt32

    /// More than that many grants of one peer are refused: a number is an index.
    static let countMax: UInt32 = 1 << 22

    init() {
        count = 64
        base = .allocate(capacity: Int(count))
        base.initialize(repeating: .none, count: Int(count))
    }

    /// False when the number is beyond what a peer can grant.
    mutating func set(_ index: UInt32, to entry: GrantEntry) -> Bool {
        guard index < Self.countMax else { return false }
        if index >= count {
            var grown = count
            while grown <= index { grown *= 2 }
            let new = UnsafeMutablePointer<GrantEntry>.allocate(capacity: Int(grown))
            new.moveInitialize(from: base, count: Int(count))
            (new + Int(count)).initialize(repeating: .none, count: Int(grown - count))
            base.deallocate()
            (base, count) = (new, grown)
        }
        base[Int(index)] = entry
        return true
    }

    /// Takes away every grant that `isGone` picks; returns how many.
    mutating func remove(where isGone: (GrantEntry) -> Bool) -> Int {
        var removed = 0
        for index in 0..<Int(count) where base[index].node != 0 && isGone(base[index]) {
            base[index] = .none
            removed += 1
        }
        return removed
    }

    /// The holders of one ring are those of another place from now on.
    func move(fromRing old: UInt32, toRing new: UInt32) {
        for index in 0..<Int(count) where base[index].ring == old { base[index].ring = new }
    }

    func deallocate() { base.deallocate() }
}

/// The state that sending and receiving need, at a place that never moves.
@frozen @usableFromInline
struct PeerHot {
    @usableFromInline let inbox: UnsafeMutablePointer<shmring_inbox>
    @usableFromInline let arena: UnsafeMutablePointer<shmring_arena>
    @usableFromInline let clock: UnsafePointer<shmring_clock>
    @usableFromInline let token: UInt64
    @usableFromInline let spin_ns: UInt64
    /// Grants that this peer made, and those that the broker made for it (see `GrantNumber`).
    @usableFromInline var ownGrants: GrantTable
    @usableFromInline var brokerGrants: GrantTable

    init(
        inbox: UnsafeMutablePointer<shmring_inbox>, arena: UnsafeMutablePointer<shmring_arena>,
        clock: UnsafePointer<shmring_clock>, token: UInt64, spin_ns: UInt64
    ) {
        self.inbox = inbox
        self.arena = arena
        self.clock = clock
        self.token = token
        self.spin_ns = spin_ns
        ownGrants = GrantTable()
        brokerGrants = GrantTable()
    }

    /// The holder's check: who sent it must be who was given this grant. nil: it must not get in.
    @inlinable @inline(__always)
    func grant(
        _ number: UInt32, sender: UInt32, ring: UInt32
    ) -> UnsafeMutablePointer<GrantEntry>? {
        let index = number & ~(1 << 31)
        let table = number == index ? ownGrants : brokerGrants
        guard index < table.count else { return nil }
        let entry = table.base + Int(index)
        guard entry.pointee.node != 0, entry.pointee.sender == sender, entry.pointee.ring == ring
        else { return nil }
        return entry
    }
}
