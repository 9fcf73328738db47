import CShmRing

/// Deliveries that were taken from the inbox and not yet given to the program, in order. Every receive serves them
/// first; while there is one, the inbox is held, so that the plain path need not know of them.
///
/// NOTE - only the peer's isolation domain.
struct KeptDeliveries {
    enum Entry {
        /// The cell is kept, too: whoever takes the entry out makes a `Message` of it.
        case message(UnsafeMutablePointer<shmring_cell>)
        case notice(Notice)
    }

    /// Those before `start` are gone.
    private var entries: [Entry?] = []
    private var start = 0
    /// How many messages wait for each node: a search for one without any costs nothing.
    private var messagesOfNode: [UInt64: Int] = [:]
    private(set) var count = 0

    var isEmpty: Bool { count == 0 }
    /// The one that comes next.
    var first: Entry? { start < entries.count ? entries[start] : nil }

    mutating func append(_ delivery: consuming Delivery) {
        switch consume delivery {
        case .message(let message):
            let cell = message.takeCell()
            messagesOfNode[cell.pointee.node, default: 0] += 1
            entries.append(.message(cell))
        case .notice(let notice): entries.append(.notice(notice))
        }
        count += 1
    }

    mutating func takeFirst() -> Delivery? {
        guard count > 0 else { return nil }
        return take(at: start)
    }

    /// The first message for this node, out of turn; the others stay in order.
    mutating func takeFirst(of node: UInt64) -> Message? {
        guard messagesOfNode[node] != nil else { return nil }
        for index in start..<entries.count {
            guard case .message(let cell)? = entries[index], cell.pointee.node == node,
                case .message(let message) = take(at: index)
            else { continue }
            return message
        }
        return nil
    }

    /// Drops all of them: payloads go back to their senders.
    mutating func removeAll() {
        while let delivery = takeFirst() { _ = consume delivery }
    }

    private mutating func take(at index: Int) -> Delivery {
        let entry = entries[index]!
        entries[index] = nil
        count -= 1
        while start < entries.count, entries[start] == nil { start += 1 }
        if count == 0 {
            entries.removeAll(keepingCapacity: true)
            start = 0
        } else if start > 1024, start > entries.count / 2 {
            entries.removeFirst(start)
            start = 0
        }
        switch entry {
        case .notice(let notice): return .notice(notice)
        case .message(let cell):
            let left = messagesOfNode[cell.pointee.node]! - 1
            messagesOfNode[cell.pointee.node] = left == 0 ? nil : left
            return .message(Message(cell: cell))
        }
    }
}

extension PeerCore {
    /// Holds the inbox or lets it go, as the kept deliveries demand. After each change of them.
    func holdInbox() {
        let isWaiting = !kept.isEmpty || !notices.isEmpty
        shmring_inbox_hold(inbox, isClosed || isWaiting)
        // What is kept rings for nobody: an event loop that sleeps on the descriptor is to come back.
        if isWaiting { eventSource?.wake() }
    }

    /// The next delivery: what was kept, else what the inbox has. nil: there is none.
    func nextDelivery(until deadline: Deadline, waiting: Bool) throws(Bus1Error) -> Delivery? {
        if let notice = nextNotice() { return .notice(notice) }
        let message = shmring_cell_message(hot.pointee.arena.pointee.current)!
        return try settle(
            shmring_inbox_take(inbox, message), until: deadline, waiting: waiting)
    }

    /// Takes what was kept first. nil: nothing is.
    func takeKept() -> Delivery? {
        defer { holdInbox() }
        while let first = kept.first {
            if case .notice(let notice) = first, !confirms(notice) {
                _ = kept.takeFirst()
                continue
            }
            return kept.takeFirst()
        }
        return nil
    }
}
