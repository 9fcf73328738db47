import CShmRing

extension Peer {
    /// The next message for one node, out of turn: deliveries for others stay, in their order, for other receives. nil
    /// when there is none. Never waits.
    ///
    /// - Throws: as ``tryReceive()``; `overQuota` when as many others wait as ``limit(_:)`` of messages allows: receive
    ///   some of them.
    public func tryReceive(on node: borrowing Node) throws(Bus1Error) -> Message? {
        try core.nextMessage(of: node.id.rawValue, until: .now, waiting: false)
    }

    /// The next message for one node, out of turn. Waits for it until the deadline.
    ///
    /// - Throws: as ``tryReceive(on:)``, and `timedOut`.
    public func receive(
        on node: borrowing Node, until deadline: Deadline = .never
    ) throws(Bus1Error) -> Message {
        let message = try core.nextMessage(of: node.id.rawValue, until: deadline, waiting: true)
        guard let message else { throw Bus1Error.timedOutToReceive }
        return message
    }
}

extension PeerCore {
    /// The next message for a node, from those kept or from the inbox; what comes before it is kept.
    func nextMessage(of node: UInt64, until deadline: Deadline, waiting: Bool) throws(Bus1Error)
        -> Message?
    {
        try requireOpen("receive")
        if let message = kept.takeFirst(of: node) {
            holdInbox()
            return message
        }
        defer { holdInbox() }
        while true {
            // Each time: a notice that was kept holds it again, and would be found instead of what comes.
            shmring_inbox_hold(inbox, false)
            guard kept.count < limits[.messages] else {
                throw overQuota(.messages, "receive on one node")
            }
            guard let delivery = try nextDelivery(until: deadline, waiting: waiting) else {
                return nil
            }
            switch consume delivery {
            case .message(let message):
                guard message.node.rawValue != node else { return message }
                kept.append(.message(message))
            case .notice(let notice): kept.append(.notice(notice))
            }
        }
    }
}
