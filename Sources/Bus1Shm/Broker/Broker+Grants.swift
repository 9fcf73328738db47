import CBus1System
import CShmRing

// Rights that owners give, rights set aside for children, and the claims of the dead.
extension Broker {
    /// An owner gives one of its nodes to a peer it may know: of its process, of its trust domain,
    /// or introduced.
    func grant(_ message: ControlMessage, from peer: BrokerPeer) throws(Failure) {
        let body = try whole(message, GrantBody.self)
        let number = GrantNumber(rawValue: body.number)
        guard !number.isMadeByBroker else { throw .sever }
        guard let holder = peers[PeerID(rawValue: body.holder)], holder.isAlive else {
            throw .refuse(Bus1Error(.nodeReleased, "grant a node"))
        }
        guard isNear(holder, to: peer) else { throw .refuse(Bus1Error(.denied, "grant a node")) }
        try checkQueue(of: holder)
        introduce(peer, holder) { [self] error in
            if let error { return refuse(message, from: peer, error) }
            remember(number, of: peer, node: body.node, for: holder)
            tell(.granted, to: holder, GrantedBody(number, of: peer, node: body.node))
            answer(message, from: peer, EmptyBody())
        }
    }

    /// Tells an owner of a new holder, before that holder can send. nil when the owner's numbers
    /// are used up.
    func addHolder(
        _ holder: BrokerPeer, of node: UInt64, owner: BrokerPeer, number: GrantNumber? = nil
    ) -> GrantNumber? {
        guard let number = number ?? owner.nextGrantNumber() else { return nil }
        owner.given &+= 1
        owner.outbox?.countNewcomer()
        remember(number, of: owner, node: node, for: holder)
        tell(
            .holderAdded, to: owner,
            GrantBody(node: node, number: number.rawValue, holder: holder.id.rawValue))
        shmring_fault_at(SHMRING_FAULT_BROKER_HOLDER)
        return number
    }

    /// An owner releases a node, and has not read of everybody who was given one: all who know it
    /// are told to look at its release words.
    func flagHolders(_ message: ControlMessage, from peer: BrokerPeer) throws(Failure) {
        let body = try whole(message, FlagHoldersBody.self)
        for id in peer.introduced where id != peer.id {
            guard let other = peers[id], let ring = other.rings[peer.domain(toward: other)],
                let mapping = try? BrokerMapping(
                    ring.descriptor.rawValue, SHMRING_SEGMENT_RING, SHMRING_READ_WRITE)
            else { continue }
            mapping.flag(RingFlag.releases, event: ring.event?.rawValue)
        }
        peer.outbox?.answerFlags(body.number)
    }

    // MARK: Tickets

    func makeTicket(_ message: ControlMessage, from peer: BrokerPeer) throws(Failure) {
        guard let body = message.body(TicketBody.self), message.header.roles.isEmpty,
            body.count <= controlTicketItemsMax,
            message.tail(after: TicketBody.self).count == Int(body.count)
                * MemoryLayout<TicketItem>.size
        else { throw .sever }
        guard peer.tickets.count < Int(peer.limits.tickets) else {
            throw .refuse(
                overQuota(
                    .tickets, used: peer.tickets.count, limit: Int(peer.limits.tickets),
                    peer.account))
        }
        var items: [TicketItem] = []
        for index in 0..<Int(body.count) {
            let offset = index * MemoryLayout<TicketItem>.size
            guard var item = message.tailValue(after: TicketBody.self, TicketItem.self, at: offset)
            else { throw .sever }
            let number = GrantNumber(rawValue: item.number)
            if item.owner == peer.id.rawValue {
                guard !number.isMadeByBroker, !item.isDeposited else { throw .sever }
            } else if item.isDeposited {
                // Whether there is such a grant, its owner knows.
                guard peer.introduced.contains(PeerID(rawValue: item.owner)) else {
                    throw .refuse(Bus1Error(.noSuchHandle, "make a ticket"))
                }
            } else {
                guard let node = peer.node(of: number, of: PeerID(rawValue: item.owner)) else {
                    throw .refuse(Bus1Error(.noSuchHandle, "make a ticket"))
                }
                item.node = node
                item.number = 0
            }
            items.append(item)
        }
        var ticket = Ticket.none
        let result = withUnsafeMutableBytes(of: &ticket) {
            bus1_sys_random($0.baseAddress, $0.count)
        }
        guard result == 0 else { throw .refuse(Bus1Error(result: result, "make a ticket")) }
        let made = BrokerTicket(ticket, issuer: peer.id, items: items)
        tickets[ticket] = made
        peer.tickets.insert(ticket)
        noteTicket(made)
        answer(message, from: peer, TicketMadeBody(ticket: ticket))
    }

    func cancelTicket(_ message: ControlMessage, from peer: BrokerPeer) throws(Failure) {
        let body = try whole(message, TicketMadeBody.self)
        guard peer.tickets.remove(body.ticket) != nil else {
            throw .refuse(Bus1Error(.noSuchHandle, "take a ticket back"))
        }
        tickets[body.ticket] = nil
        noteTicketGone(body.ticket)
        answer(message, from: peer, EmptyBody())
    }

    /// Gives a new peer what its ticket brings: each in its place, or why it could not be had.
    func redeem(_ ticket: BrokerTicket, for peer: BrokerPeer) {
        peer.ticket = nil
        peer.redeeming = ticket
        func isDone(_ ordinal: Int) {
            ticket.done |= 1 << UInt32(ordinal)
            noteTicket(ticket, shownBy: peer)
        }
        for (ordinal, item) in ticket.items.enumerated() where ticket.done >> ordinal & 1 == 0 {
            let ownerID = PeerID(rawValue: item.owner)
            func fail(_ code: Bus1Error.Code) {
                let body = GrantedBody(
                    owner: item.owner, number: 0, ownerUID: 0, ownerPID: 0,
                    ordinal: UInt32(ordinal),
                    failure: code.rawValue, word: 0)
                tell(.granted, to: peer, body)
                isDone(ordinal)
            }
            guard let owner = peers[ownerID] else {
                fail(.nodeReleased)
                continue
            }
            introduce(peer, owner) { [self] error in
                if let error { return fail(error.code) }
                if item.isDeposited {
                    guard let number = move(item, of: ticket.issuer, to: peer, owner) else {
                        return fail(.overQuota)
                    }
                    tell(
                        .granted, to: peer,
                        GrantedBody(
                            number, of: owner, node: item.node & 0xffff, ordinal: UInt32(ordinal)))
                    isDone(ordinal)
                    return
                }
                let chosen =
                    item.owner == ticket.issuer.rawValue ? GrantNumber(rawValue: item.number) : nil
                guard let number = addHolder(peer, of: item.node, owner: owner, number: chosen)
                else {
                    return fail(.overQuota)
                }
                tell(
                    .granted, to: peer,
                    GrantedBody(number, of: owner, node: item.node, ordinal: UInt32(ordinal)))
                isDone(ordinal)
            }
        }
    }

    /// Tells an owner that what the issuer of a ticket had set aside is somebody else's now.
    private func move(
        _ item: TicketItem, of issuer: PeerID, to holder: BrokerPeer, _ owner: BrokerPeer
    ) -> GrantNumber? {
        guard let number = owner.nextGrantNumber() else { return nil }
        owner.given &+= 1
        owner.outbox?.countNewcomer()
        notePeer(owner)
        tell(
            .holderMoved, to: owner,
            MovedBody(
                issuer: issuer.rawValue, key: item.number, number: number.rawValue,
                holder: holder.id.rawValue))
        return number
    }

    // MARK: The claims of the dead

    /// Whether a position of the asker's ring is named by claim words of the dead, and of the
    /// living.
    func bury(_ message: ControlMessage, from peer: BrokerPeer) throws(Failure) {
        let body = try whole(message, BuryBody.self)
        guard let ring = rings[RingID(rawValue: body.ring)], ring.owner == peer.id else {
            throw .sever
        }
        let names = { (claim: shmring_claim) in
            shmring_claim_names(claim, ring.id.rawValue, body.position)
        }
        let byDead = unburied.values.contains { $0.claims.contains(where: names) }
        // The severed count as living: their processes may still write.
        let byLiving = ring.senders.keys.contains { id in
            guard !shmring_broken_burial(), let sender = peers[id] else { return false }
            return sender.claims?.claims(lanes: sender.lanes).contains(where: names) ?? false
        }
        shmring_fault_at(SHMRING_FAULT_BROKER_BURIED)
        answer(
            message, from: peer,
            BuryAnswerBody(
                deadClaimerNamesIt: byDead ? 1 : 0, livingClaimerNamesIt: byLiving ? 1 : 0))
    }
}
