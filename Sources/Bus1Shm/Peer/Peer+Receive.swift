public import CShmRing

// A receive: one slot copied into a cell of the peer's own, the holder's check on the copy, and the cell becomes the
// message.

extension Peer {
    /// The next message or notice, in the order of the bus; nil when there is none. Never waits.
    ///
    /// A message behind one that its sender has begun and not finished may be found some calls later; waiting ways find
    /// it in any case.
    ///
    /// - Throws: `severed` once when a sender's trust domain broke the rules of the ring (others go on):
    ///   ``Bus1Error/breach`` says which; `shutDown`, `system` when there is no memory.
    @inlinable @inline(__always)
    public func tryReceive() throws(Bus1Error) -> Delivery? {
        let hot = hot.pointee
        let cell = hot.arena.pointee.current!
        let result = shmring_inbox_take(hot.inbox, shmring_cell_message(cell))
        if _fastPath(result == 0) {
            if let message = accept(cell) { return .message(message) }
        } else if result == Int32(SHMRING_E_EMPTY.rawValue)
            && shmring_load_relaxed_u32(hot.inbox.pointee.attention)
                == hot.inbox.pointee.attention_seen
            && hot.inbox.pointee.event_mode == 0
        {
            return nil
        }
        return try tryReceiveSlowly(result)
    }

    /// The next message or notice. Spins for ``Options/spin``, then sleeps until one comes.
    ///
    /// - Throws: as ``tryReceive()``, and `timedOut`.
    @inlinable @inline(__always)
    public func receive(until deadline: Deadline = .never) throws(Bus1Error) -> Delivery {
        let hot = hot.pointee
        let cell = hot.arena.pointee.current!
        let result = shmring_inbox_spin(
            hot.inbox, shmring_cell_message(cell), hot.spin_ns == 0 ? 0 : 64)
        if _fastPath(result == 0), let message = accept(cell) { return .message(message) }
        guard let delivery = try receiveSlowly(result, until: deadline) else {
            throw Bus1Error.timedOutToReceive
        }
        return delivery
    }

    /// Takes up to `limit` messages and notices that are there now; returns how many.
    @inlinable
    public func drain(
        _ limit: Int, _ body: (consuming Delivery) -> Void
    ) throws(Bus1Error) -> Int {
        var count = 0
        while count < limit, let delivery = try tryReceive() {
            body(delivery)
            count += 1
        }
        return count
    }

    /// The holder's check, on the copy. nil: it goes nowhere, or not this short way.
    @inlinable @inline(__always)
    func accept(_ cell: UnsafeMutablePointer<shmring_cell>) -> Message? {
        let message = shmring_cell_message(cell)!
        guard _fastPath(shmring_message_is_plain(message)),
            let grant = hot.pointee.grant(
                message.pointee.grant, sender: message.pointee.sender, ring: message.pointee.ring),
            shmring_arena_keep(hot.pointee.arena) == 0
        else { return nil }
        shmring_cell_fill(
            cell, grant.pointee.node, grant.pointee.tag, grant.pointee.uid, grant.pointee.pid)
        return Message(cell: cell)
    }

    /// What `tryReceive` does not decide on one slot. `result`: what the inbox said; on 0 the current cell holds what
    /// could not be accepted.
    @usableFromInline @inline(never)
    func tryReceiveSlowly(_ result: Int32) throws(Bus1Error) -> Delivery? {
        var result = result
        let short = try takeShort(&result) { inbox, message in shmring_inbox_take(inbox, message) }
        if let short { return .message(short) }
        return try core.settle(result, until: .now, waiting: false)
    }

    @usableFromInline @inline(never)
    func receiveSlowly(_ result: Int32, until deadline: Deadline) throws(Bus1Error) -> Delivery? {
        var result = result
        let turns: UInt32 = hot.pointee.spin_ns == 0 ? 0 : 64
        let short = try takeShort(&result) { inbox, message in
            shmring_inbox_spin(inbox, message, turns)
        }
        if let short { return .message(short) }
        return try core.settle(result, until: deadline, waiting: true)
    }

    /// Messages with handles, and control messages, while there is nothing else to be told: the first that the program
    /// is to see. nil: `result` is to be settled. `take`: how the one behind a control message is taken.
    @inline(__always)
    private func takeShort(
        _ result: inout Int32,
        _ take: (UnsafeMutablePointer<shmring_inbox>, UnsafeMutablePointer<shmring_message>) ->
            Int32
    ) throws(Bus1Error) -> Message? {
        while result == 0, core.isUnencumbered {
            let cell = hot.pointee.arena.pointee.current!
            if let message = try core.acceptAttached(cell) { return message }
            guard core.applyControl(in: cell) else { break }
            if !core.isUnencumbered || core.strangest != nil {
                result = Int32(SHMRING_E_EMPTY.rawValue)
                break
            }
            // Another cell, if a reply was taken for whoever called.
            let next = hot.pointee.arena.pointee.current!
            result = take(hot.pointee.inbox, shmring_cell_message(next))
            if result == 0, let message = accept(next) { return message }
        }
        return nil
    }
}

extension Bus1Error {
    @usableFromInline static let timedOutToReceive = Bus1Error(.timedOut, "receive")
}

extension PeerCore {
    /// What the program does not see is not counted.
    func uncount() { inbox.pointee.sequence &-= 1 }

    /// A message in the current cell may be delivered at once: nothing is to be told before it.
    @inline(__always)
    var isUnencumbered: Bool {
        notices.isEmpty && !chores.isThere(.lateNotices) && !isClosed && !shmring_forked()
    }

    /// A message with attachments under a grant that needs no second look. nil: the current cell holds something else.
    func acceptAttached(_ cell: UnsafeMutablePointer<shmring_cell>) throws(Bus1Error) -> Message? {
        let message = shmring_cell_message(cell)!
        guard shmring_message_is_attached(message), message.pointee.grant < ReservedGrant.first,
            let grant = hot.pointee.grant(
                message.pointee.grant, sender: message.pointee.sender, ring: message.pointee.ring),
            let route = route(sender: message.pointee.sender, ring: message.pointee.ring)
        else { return nil }
        fill(cell, grant.pointee)
        if let isCall = resolveCall(of: cell, from: route) { return isCall ? try keep(cell) : nil }
        guard
            resolveFew(of: cell, from: route, in: ringRoutes[Int(message.pointee.ring)]!)
        else { return nil }
        return try keep(cell)
    }

    /// Applies a control message that stands alone in its transaction, or takes a reply for whoever called. False: the
    /// current cell holds something else.
    func applyControl(in cell: UnsafeMutablePointer<shmring_cell>) -> Bool {
        let message = shmring_cell_message(cell)!
        if !calls.isEmpty, takeReply(in: cell) {
            uncount()
            return true
        }
        guard message.pointee.grant == ReservedGrant.control, !shmring_message_has_more(message)
        else { return false }
        applyControl(message)
        uncount()
        return true
    }

    /// Goes on from a result of the inbox until there is a delivery, or nothing and the deadline has passed.
    func settle(_ first: Int32, until deadline: Deadline, waiting: Bool) throws(Bus1Error)
        -> Delivery?
    {
        try requireOpen("receive")
        if !departed.isEmpty { letGo() }
        var result = first
        if first == Int32(SHMRING_E_HELD.rawValue) {
            if let delivery = takeKept() { return delivery }
            defer { holdInbox() }
            if let notice = nextNotice() { return .notice(notice) }
        }
        var armed = false
        while true {
            let cell = hot.pointee.arena.pointee.current!
            var message = shmring_cell_message(cell)!
            var hasMore = false
            switch result {
            case 0:
                hasMore = shmring_message_has_more(message)
                if let message = try acceptSlowly(cell) { return behindNotices(message) }
                uncount()
            case Int32(SHMRING_NOTICE.rawValue):
                hasMore = shmring_message_has_more(message)
                take(watched: inbox.pointee.notice_kind, inbox.pointee.notice_cookie, message)
            case Int32(SHMRING_E_EMPTY.rawValue)
            where !notices.isEmpty || chores.isThere(.lateNotices): break
            case Int32(SHMRING_E_EMPTY.rawValue):
                if shmring_load_relaxed_u32(inbox.pointee.attention) != inbox.pointee.attention_seen
                {
                    try readEventsToReceive()
                } else if !waiting, let eventSource, inbox.pointee.event_mode != 0, !armed {
                    // Before it says that there is nothing, it announces that it sleeps, and looks once more.
                    eventSource.drain()
                    armed = true
                    result = shmring_inbox_arm(inbox, message)
                    continue
                } else if !waiting || deadline.hasPassed {
                    if armed { eventSource?.wakeToAsk(inbox) }
                    return nil
                }
            case Int32(SHMRING_E_HELD.rawValue):
                try requireOpen("receive")
            case Int32(SHMRING_E_ATTENTION.rawValue):
                try readEventsToReceive()
            case Int32(SHMRING_E_UNKNOWN_SENDER.rawValue):
                try introduceOrDrop()
            case Int32(SHMRING_E_CORRUPT.rawValue):
                try severTroubledRing()
            default:
                throw Bus1Error(result: result, "receive")
            }
            // A reply that was taken for whoever called has its cell.
            message = shmring_cell_message(hot.pointee.arena.pointee.current!)
            if hasMore, !notices.isEmpty {
                // The rest of the transaction is there: only then the last of its notices is known.
                result = shmring_inbox_take(inbox, message)
                continue
            }
            if let notice = nextNotice() {
                holdInbox()
                return .notice(notice)
            }
            if let awaited = calls.awaited, awaited.isOver { return nil }
            try severStrangest()
            keepHouse()
            if waiting {
                // What can't be settled now is tried again soon; idle memory is given back soon.
                let isSoon =
                    hasClaimsToBury || hasIdlePools || chores.isThere(.releases)
                    || pendingDeath != nil || willLetGo
                let until = Deadline.earlier(
                    deadline, isSoon ? .after(.milliseconds(5)) : .never)
                result = shmring_inbox_wait(inbox, message, hot.pointee.spin_ns, until.monotonic_ns)
                // A task sleeps on the same rings: nobody rings for it any more.
                if line.hasLeader { line.stir() }
            } else {
                result = shmring_inbox_take(inbox, message)
            }
        }
    }

    /// A message that was accepted: behind the notices of the same transaction that were taken before it.
    private func behindNotices(_ message: consuming Message) -> Delivery {
        if notices.isEmpty { return .message(message) }
        let stamp = message.stamp
        while let notice = nextNotice(before: stamp) { kept.append(.notice(notice)) }
        kept.append(.message(message))
        return takeKept()!
    }

    /// What a peer does beside receiving, when it does not find a message at once.
    private func keepHouse() {
        takeNamesBack()
        if hasClaimsToBury { buryClaims() }
        retryReleases()
        if pendingDeath != nil { forgetPendingDeath() }
        if !departed.isEmpty { letGo() }
        trimPools()
        if !linksToTell.isEmpty { tellAllAbandoned() }
    }

    /// A message that the short way did not accept: from somebody new, or with a slice, or from somebody without the
    /// right to send it, which is dropped without a trace.
    private func acceptSlowly(_ cell: UnsafeMutablePointer<shmring_cell>) throws(Bus1Error)
        -> Message?
    {
        let message = shmring_cell_message(cell)!
        switch message.pointee.grant {
        case ReservedGrant.readSocket:
            readLinkSocket(
                sender: message.pointee.sender, ring: message.pointee.ring,
                abandoned: attempts(in: message))
            return nil
        case ReservedGrant.control:
            applyControl(message)
            return nil
        default: break
        }
        if !calls.isEmpty, takeReply(in: cell) { return nil }
        // With something attached, but under a grant that needs no second look.
        if let grant = hot.pointee.grant(
            message.pointee.grant, sender: message.pointee.sender, ring: message.pointee.ring)
        {
            guard let message = try keep(cell, grant.pointee) else { return nil }
            return divert(message)
        }
        var search = findGrant(message)
        if case .unknown = search {
            // The broker tells of a new holder before the holder can send. Without a broker nobody is new.
            try? readAllEvents()
            search = findGrant(message)
        }
        guard case .found(let number, let grant) = search else {
            count(search, message)
            drop(cell)
            return nil
        }
        let stamp = message.pointee.stamp
        let accepted = try keep(cell, grant)
        guard let accepted else { return nil }
        useGrant(number, at: stamp)
        return divert(accepted)
    }

    /// A message under this grant. nil: it is malformed.
    private func keep(
        _ cell: UnsafeMutablePointer<shmring_cell>, _ grant: GrantEntry
    ) throws(Bus1Error) -> Message? {
        fill(cell, grant)
        if !shmring_message_is_plain(shmring_cell_message(cell)) {
            guard try resolve(cell) else {
                refused += 1
                return nil
            }
        }
        return try keep(cell)
    }

    private func fill(_ cell: UnsafeMutablePointer<shmring_cell>, _ grant: GrantEntry) {
        shmring_cell_fill(cell, grant.node, grant.tag, grant.uid, grant.pid)
    }

    /// The message in the current cell is complete.
    private func keep(_ cell: UnsafeMutablePointer<shmring_cell>) throws(Bus1Error) -> Message {
        let kept = shmring_arena_keep(hot.pointee.arena)
        guard kept == 0 else {
            // The message is lost, its slice is not: the cell must not give it back for another.
            cell.pointee.give_back?(cell)
            cell.pointee.give_back = nil
            throw Bus1Error(result: kept, "receive")
        }
        return Message(cell: cell)
    }

    /// Finds what the message consists of beside its slot. False: it is malformed.
    private func resolve(_ cell: UnsafeMutablePointer<shmring_cell>) throws(Bus1Error) -> Bool {
        let message = shmring_cell_message(cell)!
        guard shmring_message_is_attached(message) else { return try resolveSlice(of: cell) }
        let ring = message.pointee.ring
        guard let route = route(sender: message.pointee.sender, ring: ring) else { return false }
        if let isCall = resolveCall(of: cell, from: route) { return isCall }
        if resolveFew(of: cell, from: route, in: ringRoutes[Int(ring)]!) { return true }
        return try resolveAttachments(of: cell, from: route.pointee.link.takeUnretainedValue())
    }

    /// The message goes nowhere: its sender gets slices back, and owners the rights in it.
    private func drop(_ cell: UnsafeMutablePointer<shmring_cell>) {
        let message = shmring_cell_message(cell)!
        guard shmring_message_is_attached(message) else { return dropSlice(of: cell) }
        guard let link = link(sender: message.pointee.sender, ring: message.pointee.ring) else {
            return
        }
        dropAttachments(of: cell, from: link)
    }

    private func attempts(in message: UnsafeMutablePointer<shmring_message>) -> [Attempt] {
        let body = UnsafeRawBufferPointer(
            start: shmring_message_body(message), count: Int(message.pointee.length))
        let size = MemoryLayout<Attempt>.size
        return (0..<body.count / size).map {
            body.loadUnaligned(fromByteOffset: $0 * size, as: Attempt.self)
        }
    }

    /// The inbox met a sender that it does not know: the broker told of it before, or it is nobody.
    private func introduceOrDrop() throws(Bus1Error) {
        let ring = rings[Int(inbox.pointee.trouble_ring)]
        let sender = inbox.pointee.trouble_sender
        try? readAllEvents()
        guard !links.contains(where: { $0.ownRing == ring.id && $0.itsIndex == sender }) else {
            return
        }
        _ = shmring_consumer_drop_sender(ring.consumer, sender)
    }

    /// A trust domain wrote what no honest process writes: its ring is cut, the others go on.
    func severTroubledRing() throws(Bus1Error) {
        let index = Int(inbox.pointee.trouble_ring)
        let ring = rings[index]
        shmring_inbox_remove(inbox, ring.consumer)
        // The inbox moved its last ring to this place; the tables name rings by place.
        rings.swapAt(index, rings.count - 1)
        severed.append(rings.removeLast())
        ringRoutes[index] = index < rings.count ? rings[index].route : nil
        ringRoutes[rings.count] = nil
        let last = UInt32(rings.count)
        let stamp = inbox.pointee.last_stamp
        let members = links.filter { $0.ownRing == ring.id }
        for link in members {
            notices += nodes.withLock { $0.removeHolder(link: link.index, at: stamp) }
        }
        nodes.withLock { $0.moveRing(from: last, to: UInt32(index)) }
        holdInbox()
        let rule = Bus1Error.Breach.Rule(rawValue: inbox.pointee.trouble_breach)
        let writer = members.first { $0.itsIndex == inbox.pointee.trouble_sender } ?? members.first
        guard let rule, let writer else { throw Bus1Error(.severed, "receive") }
        throw Bus1Error(
            .severed, "receive", breach: Bus1Error.Breach(rule: rule, account: writer.account))
    }
}
