/// What goes over a link's socket: descriptors of pool segments, the news that one is retired, and
/// descriptors that belong to a message.
struct LinkPacket: BitwiseCopyable, Sendable {
    enum Kind: UInt32 {
        case segment = 1
        case retired = 2
        case descriptors = 3
    }

    private var rawKind: UInt32
    private let number: UInt32
    private let value: UInt64

    init(kind: Kind, segment: UInt32, byteCount: UInt64 = 0) {
        rawKind = kind.rawValue
        number = segment
        value = byteCount
    }

    /// So many descriptors, of a message that names this attempt.
    init(attempt: Attempt, count: Int) {
        rawKind = Kind.descriptors.rawValue
        number = UInt32(count)
        value = attempt.rawValue
    }

    /// nil: no honest peer sends it.
    var kind: Kind? { Kind(rawValue: rawKind) }
    var segment: UInt32 { number }
    var byteCount: UInt64 { value }
    var descriptorCount: Int { Int(number) }
    var attempt: Attempt { Attempt(rawValue: value) }
}

/// Names the descriptors of one message on its link: the lane that sent them, and the lane's count of
/// such packets on this link. Of each lane they come in the order of the count, as its messages do.
struct Attempt: Hashable, Comparable, Sendable, BitwiseCopyable {
    let rawValue: UInt64

    private static let countBits: UInt64 = 48

    init(rawValue: UInt64) { self.rawValue = rawValue }

    init(lane: UInt32, count: UInt64) {
        rawValue = UInt64(lane) << Self.countBits | count & (1 << Self.countBits - 1)
    }

    var lane: UInt32 { UInt32(truncatingIfNeeded: rawValue >> Self.countBits) }

    /// Only attempts of one lane have an order.
    static func < (a: Attempt, b: Attempt) -> Bool { a.rawValue < b.rawValue }
}
