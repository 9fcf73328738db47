import CShmRing

// What comes under rights that nobody gave is dropped; too much of it, and the ring is cut: looking at it costs more than
// a message does. Honest peers send some, since their threads do not wait for each other (docs/decisions/28).

/// Of one ring: what came that no honest peer sends, but for what may be a mistake.
struct StrangeCount {
    /// More than that is no mistake.
    static let most = 4096
    /// What other threads of a holder may still send while one gives its right up, and somewhat more.
    static let forgivenForEnd = 64
    /// Whoever gives rights up for long can't save more than that for a flood.
    static let forgivenMost = 1 << 18

    /// A packet on a link's socket costs its receiver as much as so many messages, and is no mistake.
    static let perPacket = 16

    private(set) var count = 0
    /// What may still come, because it was sent before an end was known.
    private(set) var forgiven = 0

    /// One more, or some.
    mutating func add(_ more: Int = 1) {
        let mistakes = min(more, forgiven)
        forgiven -= mistakes
        count = min(count + more - mistakes, .max / 2)
    }

    /// A right has ended.
    mutating func forgiveEnd() { forgive(Self.forgivenForEnd) }

    /// The first message that came too late under a right: so may all that a ring holds.
    mutating func forgiveLate(capacity: Int) { forgive(capacity + Self.forgivenForEnd) }

    private mutating func forgive(_ more: Int) {
        forgiven = min(forgiven + more, Self.forgivenMost)
    }
}

/// A ring that is to be cut, and who was the last to write into it what cannot be.
struct StrangeRing {
    let id: RingID
    let sender: UInt32
}

extension PeerCore {
    /// A message that was dropped.
    func count(_ search: GrantSearch, _ message: UnsafeMutablePointer<shmring_message>) {
        let (place, sender) = (message.pointee.ring, message.pointee.sender)
        switch search {
        case .found: break
        case .unknown:
            refused += 1
            // A right of which only its holder knows: the broker died before this peer had read of it.
            guard !connection.hasEnded || message.pointee.grant & GrantNumber.madeByBroker == 0
            else { break }
            countStrange(ring: place, sender: sender)
        case .tooLate(let isFirst):
            let ring = rings[Int(place)]
            if isFirst { ring.strange.forgiveLate(capacity: Int(ring.consumer.pointee.capacity)) }
            countStrange(ring: place, sender: sender)
        }
    }

    /// What no honest peer sends, or only by mistake.
    func countStrange(ring place: UInt32, sender: UInt32, _ count: Int = 1) {
        let ring = rings[Int(place)]
        ring.strange.add(count)
        guard ring.strange.count > StrangeCount.most, ring.domain != ownDomain,
            !shmring_unchecked_rights()
        else { return }
        strangest = StrangeRing(id: ring.id, sender: sender)
    }

    /// A right of somebody who writes into this ring has ended.
    func forgiveAfterEnd(ring place: UInt32) { rings[Int(place)].strange.forgiveEnd() }

    /// Between two messages: the ring is cut.
    func severStrangest() throws(Bus1Error) {
        guard let strange = strangest else { return }
        strangest = nil
        guard let index = rings.firstIndex(where: { $0.id == strange.id }) else { return }
        inbox.pointee.trouble_ring = UInt32(index)
        inbox.pointee.trouble_sender = strange.sender
        inbox.pointee.trouble_breach = SHMRING_BREACH_RIGHTS.rawValue
        try severTroubledRing()
    }
}
