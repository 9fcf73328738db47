import CShmRing

/// What a receiver learns of its next delivery without taking it: sizes and counts.
///
/// A copy of numbers and no view of the message: the peer may be used while it lives, and what it tells of may be
/// received meanwhile.
public enum Preview: Sendable {
    /// A message comes next.
    case message(MessagePreview)
    /// A notice comes next: this one, unless it is withdrawn before it is received.
    case notice(Notice)
}

/// Sizes and counts of one message that has not been received yet.
public struct MessagePreview: Sendable {
    /// The node that it was sent to.
    public let node: NodeID
    /// The tag with which that node was made.
    public let tag: UInt64
    /// Who sent it, as the kernel vouched.
    public let sender: Account
    /// Its place in the order of the bus.
    public let stamp: Stamp
    /// True when the message behind it belongs to the same transaction.
    public let moreFollow: Bool
    /// Bytes of payload.
    public let byteCount: Int
    /// Handles that come with it.
    public let handleCount: Int
    /// Descriptors that come with it.
    public let descriptorCount: Int

    init(_ message: borrowing Message) {
        node = message.node
        tag = message.tag
        sender = message.sender
        stamp = message.stamp
        moreFollow = message.moreFollow
        byteCount = message.byteCount
        handleCount = message.handleCount
        descriptorCount = message.descriptorCount
    }
}

extension Peer {
    /// Tells what ``tryReceive()`` would return, and leaves it there; nil when there is nothing. Never waits.
    ///
    /// From here on that delivery is the next one, whatever happens; it waits in this peer's own memory.
    ///
    /// - Throws: as ``tryReceive()``.
    public func peek() throws(Bus1Error) -> Preview? {
        try core.requireOpen("peek")
        if core.kept.isEmpty {
            guard let delivery = try core.nextDelivery(until: .now, waiting: false) else {
                return nil
            }
            core.kept.append(delivery)
            core.holdInbox()
        }
        switch core.kept.first {
        case .message(let cell)?:
            let message = Message(cell: cell)
            let preview = MessagePreview(message)
            // The cell stays kept.
            _ = message.takeCell()
            return .message(preview)
        case .notice(let notice)?: return .notice(notice)
        case nil: return nil
        }
    }

    /// As ``tryReceive()``, for a caller that has room for so many bytes of payload.
    ///
    /// - Throws: as ``tryReceive()``; `tooLarge` when the next message is longer: it stays where it is, and
    ///   ``peek()`` tells its size. *Corresponds to `bus1_cmd_recv` with too little room.*
    public func tryReceive(atMost byteCount: Int) throws(Bus1Error) -> Delivery? {
        if case .message(let next)? = try peek(), next.byteCount > byteCount {
            throw Bus1Error(.tooLarge, "receive into a smaller buffer")
        }
        return try tryReceive()
    }
}
