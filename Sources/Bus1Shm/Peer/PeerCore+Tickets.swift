import CShmRing

// Rights that are set aside for a child, whose peer does not exist yet.
//
// The broker knows whom it gave what: such a right it gives to the child by itself. A right that came in a message it
// knows nothing of. Of that the peer hands a copy over to itself, under a key that nothing else uses; the ticket names
// the key, and when the child shows the ticket, the broker tells the node's owner that this grant is the child's.

extension PeerCore {
    /// What is set aside under a ticket, until it is shown or taken back.
    struct SetAside {
        var ticket = Ticket.none
        fileprivate var copies: [(link: Link, record: ControlRecord)] = []
        /// Numbers of grants of own nodes.
        fileprivate var own: [UInt32] = []
    }

    // MARK: The giver's side

    /// A ticket that brings copies of these handles. Waits for room at the owners of those that the broker does not
    /// know.
    func setAside(_ ids: [HandleID]) throws(Bus1Error) -> SetAside {
        var aside = SetAside()
        var contents: [ControlConnection.TicketContent] = []
        var held: [Int] = []
        var unknown: [Int] = []
        do throws(Bus1Error) {
            for (place, id) in ids.enumerated() {
                let entry = try usableEntry(id)
                guard let link = link(at: Int(entry.pointee.link)) else { throw noSuchHandleToSend }
                if link.peer == ownPeer {
                    let number = try setAside(entry, of: link, &contents)
                    aside.own.append(number)
                    continue
                }
                let key = entry.pointee.key
                if key.granter == 0 { held.append(place) } else { unknown.append(place) }
                contents.append(
                    .held(
                        owner: link.peer,
                        number: GrantNumber(
                            rawValue: key.number == 0 ? entry.pointee.grant : key.number)))
            }
            try deposit(unknown, ids, &contents, &aside)
            do throws(Bus1Error) {
                aside.ticket = try connection.makeTicket(contents, until: .after(.seconds(10)))
            } catch {
                // Given long ago, or by the owner itself: the broker has forgotten, or was not told.
                guard error.code == .noSuchHandle, !held.isEmpty else { throw error }
                try deposit(held, ids, &contents, &aside)
                aside.ticket = try connection.makeTicket(contents, until: .after(.seconds(10)))
            }
        } catch {
            takeBack(aside)
            throw error
        }
        return aside
    }

    private func deposit(
        _ places: [Int], _ ids: [HandleID], _ contents: inout [ControlConnection.TicketContent],
        _ aside: inout SetAside
    ) throws(Bus1Error) {
        guard connection.version >= 2 || places.isEmpty else {
            throw Bus1Error(.noSuchHandle, "make a ticket")
        }
        var records: [Int: [ControlRecord]] = [:]
        var made: [(link: Link, record: ControlRecord)] = []
        for place in places {
            let entry = try usableEntry(ids[place])
            guard let link = link(at: Int(entry.pointee.link)), try laneState.bind(entry) else {
                throw Bus1Error(.timedOut, "make a ticket")
            }
            let count = nextHandOver()
            records[Int(entry.pointee.link), default: []].append(
                ControlRecord(
                    .handOver, number: count, first: ownPeer.rawValue, second: entry.pointee.grant))
            let release = ControlRecord(
                .releaseUnbound, number: 0, first: ownPeer.rawValue, second: count)
            made.append((link, release))
            contents[place] = .deposited(
                owner: link.peer, number: count, word: entry.pointee.word)
        }
        try laneState.commitRecords(records, until: .after(.seconds(10)))
        aside.copies += made
    }

    /// The child could not be started.
    func takeBack(_ aside: SetAside) {
        if !aside.ticket.isNone {
            // Shown already, by whomever: what it brought is that one's.
            let isTaken = try? connection.cancelTicket(aside.ticket, until: .after(.seconds(1)))
            guard isTaken == true else { return }
        }
        for copy in aside.copies { giveUp(copy.record, to: copy.link.route) }
        nodes.withLock { table in for number in aside.own { table.takeBack(number) } }
    }

    // MARK: The owner's side

    private static let movesMax = 8192

    /// The broker says whose a grant is from now on. Its hand-over may be unread.
    func take(_ moved: HolderMoved) {
        guard moves.count < Self.movesMax else { return }
        moves[moved.key] = moved
        move(moved.key)
    }

    /// Gives a grant to whom it was set aside for, if both are known by now.
    func move(_ key: GrantKey) {
        guard let moved = moves[key], let from = linkOfPeer[PeerID(rawValue: key.granter)] else {
            return
        }
        let new = linkOfPeer[moved.holder].map { links[$0] }
        guard new != nil || recentlyGone.contains(moved.holder) else { return }
        let old = links[from]
        let stamp = inbox.pointee.last_stamp
        let (isMoved, isLate, notice) = nodes.withLock { table -> (Bool, Bool, QueuedNotice?) in
            guard let number = table.unboundGrant(key, link: old.index) else {
                return (false, false, nil)
            }
            let node = table.node(of: number)
            table.newcomers += 1
            var isAdded = false
            if let new, let own = table.takeNumber() {
                isAdded = table.add(
                    own, node: node, link: new.index, name: ReservedGrant.unbound,
                    key: GrantKey(granter: 0, number: moved.number.rawValue))
                if !isAdded { table.giveNumber(own) }
            }
            // The child may be dead by now: then that was the last holder, perhaps.
            let notice = table.end(number, .givenUp, at: stamp)
            return (true, isAdded && !table.isAlive(node), notice)
        }
        guard isMoved else { return }
        moves[key] = nil
        if let notice { notices.append(notice) }
        if isLate, let new {
            shmring_producer_flag(new.producer, RingFlag.releases)
            shmring_producer_wake(new.producer)
        }
    }

    /// The issuer is dead, and with it what it had not handed over.
    func forgetMoves(by issuer: PeerID) {
        for key in moves.keys where key.granter == issuer.rawValue {
            moves[key] = nil
            nodes.withLock { $0.newcomers += 1 }
        }
    }
}
