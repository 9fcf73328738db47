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
    /// The peer behind the link. Another one may have the link's place by now.
    @usableFromInline var owner: UInt32

    /// The owner lives, and the node has not been released; what is pending counts as alive.
    @inlinable
    var leadsSomewhere: Bool {
        @inline(__always) get {
            // Relaxed: who was told of the end by anybody sees it; for others it is not over.
            shmring_load_relaxed(dead) == 0
                && Int64(bitPattern: shmring_load_relaxed(released)) <= 0
        }
    }

    init(
        id: UInt64, token: UInt64, producer: UnsafeMutablePointer<shmring_producer>,
        dead: UnsafePointer<UInt64>, released: UnsafePointer<UInt64>, grant: UInt32, link: UInt32,
        key: GrantKey, word: UInt32, owner: UInt32
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
        self.owner = owner
    }
}

/// One holder's right to one node, as receiving sees it. Lives in a table that never moves.
@frozen @usableFromInline
struct GrantEntry {
    /// Who may use it, and by which number (`PeerHot.route`). 0: nobody. Top bit: not the short way. Other threads
    /// write it, last.
    @usableFromInline var route: UInt64
    @usableFromInline var node: UInt64
    @usableFromInline var tag: UInt64
    @usableFromInline var uid: UInt32
    @usableFromInline var pid: Int32

    init(route: UInt64, node: UInt64, tag: UInt64, account: Account) {
        self.route = route
        self.node = node
        self.tag = tag
        self.uid = account.uid
        self.pid = account.pid
    }
}

/// The state that sending and receiving need, at a place that never moves.
@frozen @usableFromInline
struct PeerHot {
    @usableFromInline let inbox: UnsafeMutablePointer<shmring_inbox>
    @usableFromInline let arena: UnsafeMutablePointer<shmring_arena>
    @usableFromInline let clock: UnsafePointer<shmring_clock>
    @usableFromInline let token: UInt64
    @usableFromInline let spin_ns: UInt64
    /// Of `GrantMemory`.
    @usableFromInline let grants: UnsafeMutablePointer<GrantEntry>
    @usableFromInline let bound:
        UnsafeMutablePointer<UnsafeMutablePointer<UnsafeMutablePointer<UInt32>?>?>
    /// The grant of the latest message: mostly the next one's, too.
    @usableFromInline var latest: UnsafeMutablePointer<GrantEntry>

    /// A peer makes fewer grants than that: a number is an index. 0 is none.
    @usableFromInline static var grantsMax: UInt32 { 1 << 22 }
    /// Numbers that a holder may choose.
    @usableFromInline static var boundMax: UInt32 { 1 << 20 }
    static let ringsMax = Int(SHMRING_INBOX_RINGS_MAX) + 1
    /// In numbers that holders chose.
    @usableFromInline static var chosenByHolder: UInt32 { 1 << 31 }
    /// In an entry's route: each message is looked at slowly.
    static let slowly: UInt64 = 1 << 63

    init(
        inbox: UnsafeMutablePointer<shmring_inbox>, arena: UnsafeMutablePointer<shmring_arena>,
        clock: UnsafePointer<shmring_clock>, token: UInt64, spin_ns: UInt64, memory: GrantMemory
    ) {
        self.inbox = inbox
        self.arena = arena
        self.clock = clock
        self.token = token
        self.spin_ns = spin_ns
        grants = memory.entries
        bound = memory.bound
        latest = memory.entries
    }

    /// A holder and what its messages call a grant, in one word; never 0.
    @inlinable @inline(__always)
    static func route(_ number: UInt32, sender: UInt32, ring: UInt32) -> UInt64 {
        (UInt64(ring) << 16 &+ UInt64(sender) &+ 1) << 32 | UInt64(number)
    }

    /// The holder's check: who sent it must be who was given this grant. nil: it must not get in, or not this short way.
    @inlinable @inline(__always)
    mutating func grant(
        _ number: UInt32, sender: UInt32, ring: UInt32
    ) -> UnsafeMutablePointer<GrantEntry>? {
        let route = Self.route(number, sender: sender, ring: ring)
        // SYNC H2 acquire, pairs with H3 in NodeTable.show: node and tag behind it are of this holder's grant. Without it
        // a holder that guesses the number of a grant in the making could reach the node of an earlier one.
        if _fastPath(shmring_load_acquire(latest.pointer(to: \.route)!) == route) { return latest }
        return otherGrant(number, sender: sender, ring: ring, route)
    }

    @inlinable
    mutating func otherGrant(
        _ number: UInt32, sender: UInt32, ring: UInt32, _ route: UInt64
    ) -> UnsafeMutablePointer<GrantEntry>? {
        var index = number
        if number & Self.chosenByHolder != 0 {
            let chosen = number & ~Self.chosenByHolder
            guard chosen < Self.boundMax, let numbers = bound[Int(ring)]?[Int(sender)] else {
                return nil
            }
            index = numbers[Int(chosen)]
        }
        guard index < Self.grantsMax else { return nil }
        let entry = grants + Int(index)
        if shmring_broken_holder_check() && entry.pointee.route != 0 { return entry }
        // SYNC H2 acquire, as above.
        guard shmring_load_acquire(entry.pointer(to: \.route)!) == route else { return nil }
        latest = entry
        return entry
    }
}
