/// Names one handle of one peer. Never reused, not even by another peer of the process; of no use to
/// any other peer.
@frozen
public struct HandleID: Hashable, Sendable, BitwiseCopyable {
    /// Never 0.
    public let rawValue: UInt64

    @usableFromInline
    init(rawValue: UInt64) { self.rawValue = rawValue }
}

/// Names one node of one peer. Never reused.
@frozen
public struct NodeID: Hashable, Sendable, BitwiseCopyable {
    /// Never 0.
    public let rawValue: UInt64

    @usableFromInline
    init(rawValue: UInt64) { self.rawValue = rawValue }
}

extension NodeID {
    /// So many low bits are the index of the node's release word in its owner's outbox; the rest
    /// counts, and is never reused.
    static let wordBits: UInt64 = 16

    init(count: UInt64, word: UInt32) {
        self.init(rawValue: count << Self.wordBits | UInt64(word))
    }

    var word: UInt32 { UInt32(truncatingIfNeeded: rawValue & (1 << Self.wordBits - 1)) }
}

/// A place in the order of the bus: the instant at which something was sent.
///
/// Stamps of one bus compare; their unit is the bus's clock tick (``Peer/nanosecondsSinceBoot(_:)``
/// converts). Two transactions with several destinations have the same order by their stamps as at every
/// peer that gets both. A message to a single destination reports a stamp that fits the order in which its
/// receiver gets it.
@frozen
public struct Stamp: Comparable, Hashable, Sendable, BitwiseCopyable {
    /// In ticks of the bus's clock.
    public let rawValue: UInt64

    @usableFromInline
    init(rawValue: UInt64) { self.rawValue = rawValue }

    /// True when `a` is an earlier place in the order.
    @inlinable
    public static func < (a: Stamp, b: Stamp) -> Bool { a.rawValue < b.rawValue }
}
