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
