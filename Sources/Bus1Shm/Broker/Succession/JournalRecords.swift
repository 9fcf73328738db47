import CShmRing

// The bodies of the journal's packets. Both ends are the same build, or the heir does not understand and
// resigns.

/// Tail: the socket's name. Descriptors: bus page, listener, lock, directory.
struct BusRecord: BitwiseCopyable {
    var limits: BusLimits
    var deaths: UInt32
    var lastPeer: UInt32
    var lastRing: UInt32
    var lastDomain: UInt32
    var lastProcess: UInt64
    var isPageSealed: UInt32
    var recordBytes = BusRecord.recordBytes
    var isSocketGiven: UInt32 = 0

    /// Another build's heir sees by it that it does not understand.
    static let recordBytes = UInt32(
        MemoryLayout<PeerRecord>.size | MemoryLayout<BusRecord>.size << 16)
}

/// Subject: the domain.
struct DomainRecord: BitwiseCopyable {
    /// A user, or a process.
    var key: UInt64
    var isUser: UInt32
}

/// Subject: the process. Descriptor: its pidfd.
struct ProcessRecord: BitwiseCopyable {
    var identity: UInt64
    var standBy: UInt32
    var isLikeOwn: UInt32
}

/// Subject: the peer. Descriptors, when it is new: socket, unless it is severed; claims; outbox.
struct PeerRecord: BitwiseCopyable {
    var process: UInt64
    var uid: UInt32
    var pid: Int32
    var phase: UInt32
    var version: UInt32
    var lanes: UInt32
    var slots: UInt32
    var slotBytes: UInt32
    var isolation: UInt32
    var domainByUser: UInt32
    var domainByProcess: UInt32
    var limits: BusLimits
    var memoryBytes: UInt64
    var given: UInt64
    var lastGrant: UInt32
    var lastSequence: UInt32
    var lastHandled: UInt32
    var isOutboxSealed: UInt32
    var hasSocket: UInt32
    var isNew: UInt32
}

/// Subject: the ring. Descriptors: the ring, when it is new; the event, if it has one.
struct RingRecord: BitwiseCopyable {
    var owner: UInt32
    var domain: UInt32
    var slots: UInt32
    var slotBytes: UInt32
    var payer: UInt32
    /// Below it all sender indices have been used.
    var nextIndex: UInt32
    var isAcknowledged: UInt32
    var bytes: UInt64
    var isNew: UInt32
    var hasEvent: UInt32
}

struct LinkRecord: BitwiseCopyable {
    var first: UInt32
    var second: UInt32
    var ringOfFirst: UInt32
    var ringOfSecond: UInt32
    /// In the ring of the second.
    var indexOfFirst: UInt32
    var indexOfSecond: UInt32

    init(
        _ a: BrokerPeer, _ b: BrokerPeer, _ ringOfA: BrokerRing, _ ringOfB: BrokerRing,
        _ indexOfA: UInt16, _ indexOfB: UInt16
    ) {
        first = a.id.rawValue
        second = b.id.rawValue
        ringOfFirst = ringOfA.id.rawValue
        ringOfSecond = ringOfB.id.rawValue
        indexOfFirst = UInt32(indexOfA)
        indexOfSecond = UInt32(indexOfB)
    }
}

/// Subject: the owner. Tail: the users, then the name.
struct NameRecord: BitwiseCopyable {
    var node: UInt64
    var access: UInt32
    var userCount: UInt32
}

/// Subject: who showed it, or 0. Tail: its items.
struct TicketRecord: BitwiseCopyable {
    var key: Ticket
    var issuer: UInt32
    var done: UInt32
}

/// Subject: the holder.
struct HeldRecord: BitwiseCopyable {
    var node: UInt64
    var given: UInt64
    var owner: UInt32
    var number: UInt32
    /// The owner's, like `given`, as far as the broker numbers its grants.
    var lastGrant: UInt32
}

/// Subject: the dead peer. Tail: its claims.
struct UnburiedRecord: BitwiseCopyable {
    var uid: UInt32
}

/// Subject: the peer.
struct HandledRecord: BitwiseCopyable {
    var request: UInt32
    var isAnswered: UInt32
}
