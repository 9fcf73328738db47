/// A peer of this bus. Never reused while the bus lives.
struct PeerID: Hashable, Sendable, BitwiseCopyable {
    let rawValue: UInt32
}

/// A ring of this bus: `SHMRING_RINGS_MAX` at most, never reused while a claim word may name it.
struct RingID: Hashable, Sendable, BitwiseCopyable {
    let rawValue: UInt32
}

/// A trust domain of this bus.
struct DomainID: Hashable, Sendable, BitwiseCopyable {
    let rawValue: UInt32
}

/// The right of one holder to send to one node, as the owner's list knows it. Unique for each
/// owner.
struct GrantNumber: Hashable, Sendable, BitwiseCopyable {
    let rawValue: UInt32

    /// Set in numbers that the broker chose, clear in those that the owner chose.
    static let madeByBroker: UInt32 = 1 << 31
    var isMadeByBroker: Bool { rawValue & Self.madeByBroker != 0 }
}

/// What a child shows to be given what its parent set aside for it: 128 random bits, used once.
struct Ticket: Hashable, Sendable, BitwiseCopyable {
    let low: UInt64
    let high: UInt64

    static let none = Ticket(low: 0, high: 0)
    var isNone: Bool { low == 0 && high == 0 }
}
