import CShmRing

// The owner's side of rights: who may send to the own nodes, as control messages and deaths change it, strictly in the
// order in which they are received.

/// A notice that waits to be received.
struct QueuedNotice {
    let kind: Notice.Kind
    let stamp: UInt64
    /// Of `noHandles`: which time the last holder went.
    let crossing: UInt64

    init(_ kind: Notice.Kind, _ stamp: UInt64, crossing: UInt64 = 0) {
        self.kind = kind
        self.stamp = stamp
        self.crossing = crossing
    }
}

extension PeerCore {
    // MARK: Grants made by the owner

    /// Makes the peer behind a link a holder of an own node, before it learns so. The number goes into a message, or
    /// to ``endGrant(_:)``. Any thread.
    ///
    /// - Throws: `nodeReleased` also when the holder is dead, `overQuota`.
    func makeGrant(_ node: NodeID, to link: Link, oneShot: Bool) throws(Bus1Error) -> UInt32 {
        let operation: StaticString = "give a handle"
        return try nodes.withLock { table throws(Bus1Error) in
            try makeGrant(node.rawValue, to: link.index, oneShot ? .oneShot : [], &table, operation)
        }
    }

    /// A further grant of the node to which an own one leads: for a handle that is passed on. nil: the
    /// handle knows its grant by another name than the owner's. Any thread.
    func makeGrant(as number: UInt32, to link: UInt32) throws(Bus1Error) -> UInt32? {
        guard number < PeerHot.grantsMax else { return nil }
        return try nodes.withLock { table throws(Bus1Error) in
            try makeGrant(table.node(of: number), to: link, [], &table, "give a handle")
        }
    }

    private func makeGrant(
        _ node: UInt64, to link: UInt32, _ marks: GrantRecord.Marks, _ table: inout NodeTable,
        _ operation: StaticString
    ) throws(Bus1Error) -> UInt32 {
        guard table.isAlive(node) else { throw Bus1Error(.nodeReleased, operation) }
        guard let number = table.takeNumber() else {
            throw Bus1Error(
                .overQuota, operation,
                refusal: .init(
                    resource: .handles, used: table.grantCount,
                    limit: Int(PeerHot.grantsMax) - 1, account: account))
        }
        guard table.add(number, node: node, link: link, name: number, marks: marks) else {
            table.giveNumber(number)
            throw Bus1Error(.nodeReleased, operation)
        }
        shmring_fault_at(SHMRING_FAULT_OVER_GRANTED)
        return number
    }

    /// Undoes ``makeGrant(_:to:oneShot:)``: the message was not sent. Any thread.
    func endGrant(_ number: UInt32) {
        nodes.withLock { _ = $0.end(number, .undone, at: 0) }
        guard chores.isThere(.lateNotices) else { return }
        // A notice is due, and nobody rings for it.
        var own = outboxMapping.raw
        shmring_outbox_attend(&own)
    }

    /// The own node to which a grant leads that the link's peer names. nil: it has none of that name. Only the
    /// receiving thread.
    func nodeID(named number: UInt32, by link: Link) -> NodeID? {
        guard let ring = ringPlace(of: link) else { return nil }
        return nodes.withLock { table in
            table.grant(named: number, sender: link.itsIndex, ring: ring, link: link.index)
                .map { NodeID(rawValue: table.node(of: $0)) }
        }
    }

    /// The own node to which a grant leads that the link's peer knows by a key, and calls so. The record that binds it
    /// may not have been received yet, nor the one that ends what was called so before: only the key tells which grant
    /// is meant.
    func nodeID(of key: GrantKey, named number: UInt32, by link: Link) -> NodeID? {
        let find = { [self] in
            nodes.withLock { table -> NodeID? in
                if let grant = table.unboundGrant(key, link: link.index) {
                    return NodeID(rawValue: table.node(of: grant))
                }
                guard let ring = ringPlace(of: link),
                    let grant = table.grant(
                        named: number, sender: link.itsIndex, ring: ring, link: link.index),
                    table.key(of: grant) == key
                else { return nil }
                return NodeID(rawValue: table.node(of: grant))
            }
        }
        if let node = find() { return node }
        // That it was given at all may be unread, too.
        try? readAllEvents()
        return find()
    }

    func ringPlace(of link: Link) -> UInt32? {
        rings.firstIndex { $0.id == link.ownRing }.map(UInt32.init)
    }

    /// Somebody was given a handle to an own node by the broker, or by the owner through it.
    func addHolder(_ node: UInt64, _ number: GrantNumber, _ holder: PeerID) -> Bool {
        let link = linkOfPeer[holder].map { links[$0] }
        let isGone = recentlyGone.contains(holder)
        let (isAdded, isLate) = nodes.withLock { table -> (Bool, Bool) in
            table.newcomers += 1
            let isAdded = link.map { addHolder(node, number, $0, &table) } ?? false
            // The ticket was shown by somebody who is dead and gone.
            if link == nil, isGone, !number.isMadeByBroker { table.isShown(number.rawValue) }
            return (isAdded, isAdded && !table.isAlive(node))
        }
        if isLate, let link {
            // Flagged by the broker when the node was released, unless that could not be asked.
            shmring_producer_flag(link.producer, RingFlag.releases)
            shmring_producer_wake(link.producer)
        }
        return isAdded
    }

    private func addHolder(
        _ node: UInt64, _ number: GrantNumber, _ link: Link, _ table: inout NodeTable
    ) -> Bool {
        if !number.isMadeByBroker {
            // Behind the adding, so that the node is never without one of both.
            defer { table.isShown(number.rawValue) }
            return table.add(
                number.rawValue, node: node, link: link.index, name: number.rawValue)
        }
        guard let own = table.takeNumber() else { return false }
        let isAdded = table.add(
            own, node: node, link: link.index, name: ReservedGrant.unbound,
            key: GrantKey(granter: 0, number: number.rawValue))
        if !isAdded { table.giveNumber(own) }
        return isAdded
    }

    // MARK: Messages under a grant

    enum GrantSearch {
        /// Nobody gave the sender such a right.
        case unknown
        /// The node was released before. True: nothing under this grant came too late before.
        case tooLate(Bool)
        /// The owner's number of it, and what it says.
        case found(UInt32, GrantEntry)
    }

    /// The holder's check where the short way does not decide.
    func findGrant(_ message: UnsafeMutablePointer<shmring_message>) -> GrantSearch {
        let ring = message.pointee.ring
        guard let link = link(sender: message.pointee.sender, ring: ring) else { return .unknown }
        let (number, stamp) = (message.pointee.grant, message.pointee.stamp)
        let goesFirst = goesBeforeOwnReleases
        return nodes.withLock { table in
            let own = table.grant(
                named: number, sender: link.itsIndex, ring: ring, link: link.index)
            guard let own else { return .unknown }
            guard table.accepts(own, at: stamp, goesFirst: goesFirst) else {
                return .tooLate(table.isFirstTooLate(own))
            }
            return .found(own, table.memory.entries[Int(own)])
        }
    }

    /// Whether the message in hand stands before what this peer has released at the same stamp, which a coarse clock
    /// gives: as everybody else has them in order who receives both. A unicast was received by nobody else, and may have
    /// been received behind such a release's message.
    private var goesBeforeOwnReleases: Bool {
        let tie = shmring_inbox_tie(inbox)
        let sender = UInt32(truncatingIfNeeded: tie >> 32)
        guard tie != 0, sender <= ownPeer.rawValue else { return false }
        // Its own: by the common lane it is of the release's transaction.
        let lane = UInt32(truncatingIfNeeded: tie) / UInt32(SHMRING_COMMIT_WORDS)
        return sender < ownPeer.rawValue || lane != laneCount
    }

    /// A message has come under it: a right to one message ends.
    func useGrant(_ number: UInt32, at stamp: UInt64) {
        let notice = nodes.withLock { table -> QueuedNotice? in
            guard table.marks(of: number).contains(.oneShot) else { return nil }
            return table.end(number, .used, at: stamp)
        }
        if let notice { notices.append(notice) }
    }

    // MARK: What holders say

    /// Applies a control message, where it stands in the order.
    func applyControl(_ message: UnsafeMutablePointer<shmring_message>) {
        let (sender, ring) = (message.pointee.sender, message.pointee.ring)
        if route(sender: sender, ring: ring) == nil { try? readAllEvents() }
        guard let link = route(sender: sender, ring: ring) else {
            refused += 1
            return
        }
        let count = Int(message.pointee.length) / MemoryLayout<ControlRecord>.size
        guard count * MemoryLayout<ControlRecord>.size == Int(message.pointee.length) else {
            refused += 1
            return
        }
        let body = UnsafeRawPointer(shmring_message_body(message)!)
        for index in 0..<count {
            let record = body.loadUnaligned(
                fromByteOffset: index * MemoryLayout<ControlRecord>.size, as: ControlRecord.self)
            applyControl(
                record, from: link, ring: message.pointee.ring, stamp: message.pointee.stamp)
        }
    }

    /// What no honest peer says changes nothing, and is counted.
    func applyControl(
        _ record: ControlRecord, from link: UnsafeMutablePointer<LinkRoute>, ring: UInt32,
        stamp: UInt64
    ) {
        if !tryApply(record, from: link, ring: ring, stamp: stamp) {
            // The broker tells of new peers and holders before they can be named; that may be unread.
            try? readAllEvents()
            if !tryApply(record, from: link, ring: ring, stamp: stamp) {
                refused += 1
                countStrange(ring: ring, sender: link.pointee.itsIndex)
            }
        }
    }

    private func tryApply(
        _ record: ControlRecord, from route: UnsafeMutablePointer<LinkRoute>, ring: UInt32,
        stamp: UInt64
    ) -> Bool {
        let (sender, link) = (route.pointee.itsIndex, route.pointee.index)
        switch record.kind {
        case .handOver:
            guard applyHandOver(record, from: route, ring: ring) else { return false }
            if !moves.isEmpty {
                move(GrantKey(granter: route.pointee.peer.rawValue, number: record.number))
            }
            return true
        case .bind: return applyBind(record, from: route, ring: ring)
        case .release:
            return end(at: stamp, ring: ring) { table in
                table.grant(named: record.number, sender: sender, ring: ring, link: link)
            }
        case .releaseUnbound:
            let key = GrantKey(granter: record.first, number: record.second)
            return end(at: stamp, ring: ring) { table in table.unboundGrant(key, link: link) }
        case nil: return false
        }
    }

    /// A holder passed its handle on: whoever gets it is one, too. The dead are not.
    private func applyHandOver(
        _ record: ControlRecord, from link: UnsafeMutablePointer<LinkRoute>, ring: UInt32
    ) -> Bool {
        guard let index = linkOfPeer[PeerID(rawValue: record.first)] else {
            // It was the dead one's when it was sent.
            return recentlyGone.contains(PeerID(rawValue: record.first))
        }
        let receiver = links[index].index
        let (sender, granter) = (link.pointee.itsIndex, link.pointee.index)
        let key = GrantKey(granter: link.pointee.peer.rawValue, number: record.number)
        return nodes.withLock { table in
            let passed = table.grant(
                named: record.second, sender: sender, ring: ring, link: granter)
            guard let passed, !table.marks(of: passed).contains(.oneShot),
                let number = table.takeNumber()
            else { return false }
            let isAdded = table.add(
                number, node: table.node(of: passed), link: receiver,
                name: ReservedGrant.unbound, key: key)
            if !isAdded { table.giveNumber(number) }
            shmring_fault_at(SHMRING_FAULT_OVER_APPLIED)
            return isAdded || table.isGone(link: receiver)
        }
    }

    /// A holder chose what it calls its grant.
    private func applyBind(
        _ record: ControlRecord, from link: UnsafeMutablePointer<LinkRoute>, ring: UInt32
    ) -> Bool {
        let (sender, holder) = (link.pointee.itsIndex, link.pointee.index)
        let name = record.number
        guard name & PeerHot.chosenByHolder != 0 else { return false }
        let chosen = Int(name & ~PeerHot.chosenByHolder)
        guard chosen < Int(PeerHot.boundMax) else { return false }
        let key = GrantKey(granter: record.first, number: record.second)
        return nodes.withLock { table in
            guard let number = table.unboundGrant(key, link: holder),
                let numbers = table.memory.numbers(ofRing: ring, sender: sender),
                numbers[chosen] == 0
            else { return false }
            numbers[chosen] = number
            table.bind(number, to: name)
            return true
        }
    }

    @inline(__always)
    private func end(
        at stamp: UInt64, ring: UInt32, _ find: (inout NodeTable) -> UInt32?
    ) -> Bool {
        let (isKnown, notice) = nodes.withLock { table -> (Bool, QueuedNotice?) in
            // inout: a copy of the table would be taken for each.
            guard let number = find(&table) else { return (false, nil) }
            return (true, table.end(number, .givenUp, at: stamp))
        }
        shmring_fault_at(SHMRING_FAULT_RELEASE_APPLIED)
        if let notice { notices.append(notice) }
        if isKnown { forgiveAfterEnd(ring: ring) }
        return isKnown
    }

    // MARK: Notices

    /// Who was given a handle by the broker holds one, also while that is unread. Costs a load, mostly.
    private func readNewHolders() {
        let word = outbox.pointer(to: \.attention)!
        // Relaxed: what was given before anybody could tell of it is seen.
        guard shmring_load_relaxed_u32(word) != attentionWhenAllWasRead else { return }
        try? readAllEvents()
    }

    /// The next notice that still says what is so.
    ///
    /// - Parameter next: of a message that comes behind all of them.
    func nextNotice(before next: Stamp? = nil) -> Notice? {
        dropWithdrawn()
        var notice: QueuedNotice
        repeat {
            guard !notices.isEmpty else { return nil }
            notice = notices.removeFirst()
            dropWithdrawn()
        } while isOfCalls(notice.kind)
        let nextStamp = notices.first?.stamp ?? next?.rawValue
        return Notice(
            kind: notice.kind, stamp: Stamp(rawValue: notice.stamp),
            moreFollow: nextStamp == notice.stamp, crossing: notice.crossing)
    }

    /// False: a notice that was kept for later has been withdrawn since.
    func confirms(_ notice: Notice) -> Bool {
        if case .noHandles = notice.kind { readNewHolders() }
        return nodes.withLock {
            $0.confirms(
                QueuedNotice(notice.kind, notice.stamp.rawValue, crossing: notice.crossing))
        }
    }

    /// Afterwards the first of the queue, if there is one, is to be told.
    private func dropWithdrawn() {
        if chores.isThere(.lateNotices) { notices += nodes.withLock { $0.takeLate() } }
        while let first = notices.first {
            if case .noHandles = first.kind { readNewHolders() }
            guard isOfSeed(first) || !nodes.withLock({ $0.confirms(first) }) else { return }
            notices.removeFirst()
        }
    }
}
