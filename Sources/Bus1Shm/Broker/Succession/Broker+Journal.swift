import CBus1System
import CShmRing

// What the broker writes into the journal, at each place where its tables change. Without an heir it
// writes nothing.
extension Broker {
    private func note<Body: BitwiseCopyable>(
        _ kind: JournalKind, _ subject: UInt64, _ body: Body, tail: [UInt8] = [],
        descriptors: [SharedDescriptor] = []
    ) {
        guard let heir, heir.isReady else { return }
        heir.noted.append(
            JournalPacket(kind, subject, body, tail: tail, descriptors: descriptors))
    }

    /// What was noted becomes one entry, and is sent as far as the heir takes it.
    func commitJournal() {
        guard let heir, heir.isReady else { return }
        if heir.isWhole { heir.noted.last?.endsEntry = true }
        heir.unsent += heir.noted
        heir.noted = []
        sendJournal(to: heir)
    }

    private func sendJournal(to heir: HeirLink) {
        while let packet = heir.unsent.first {
            // What is noted while a new heir is still being told everything is part of its first entry.
            let isLast = heir.unsent.count == 1
            if !heir.isWhole { packet.endsEntry = isLast }
            switch heir.journal.send(packet) {
            case .whole:
                heir.unsent.removeFirst()
                heir.lag = nil
                shmring_fault_at(
                    packet.endsEntry ? SHMRING_FAULT_JOURNAL_ENTRY : SHMRING_FAULT_JOURNAL_PACKET)
            case .notNow:
                if heir.lag == nil { heir.lag = .after(Self.heirLag) }
                watchJournal(of: heir)
                return
            case .failed: return loseHeir()
            }
        }
        guard !heir.isWhole else { return }
        heir.isWhole = true
        heirIsWhole()
        shmring_fault_at(SHMRING_FAULT_JOURNAL_WHOLE)
    }

    private func watchJournal(of heir: HeirLink) {
        guard !heir.isWatchedForRoom else { return }
        heir.isWatchedForRoom = watchReady(
            heir.journal.descriptor.rawValue, writable: true, Token.roomInJournal)
    }

    /// The heir has not been sent all that it must know before anybody is told anything more.
    var isHeirBehind: Bool { heir.map { $0.isWhole && !$0.unsent.isEmpty } ?? false }

    /// Something of the journal is to be sent.
    var hasUnsentJournal: Bool { heir.map { !$0.unsent.isEmpty } ?? false }

    /// The heir takes nothing any more: it stands still.
    private func hasHeirLagged() -> Bool { heir?.lag?.hasPassed ?? false }

    /// The end of whatever one event has brought about: first the heir is told, then those it concerns.
    func endTurn() {
        guard heir != nil || !unflushed.isEmpty || !dying.isEmpty else { return }
        while true {
            commitJournal()
            if hasHeirLagged() {
                loseHeir()
                continue
            }
            guard !isHeirBehind else { return }
            goOnDying()
            guard !isHeirBehind, !unflushed.isEmpty else { break }
            let waiting = unflushed
            unflushed = []
            // In the order in which they were said: who is given a right may use it at once, and its node's owner must
            // have been told before, or it would drop what comes.
            isFlushing = true
            for peer in waiting { flush(peer, most: 1) }
            for peer in waiting where !peer.queue.isEmpty { flush(peer) }
            isFlushing = false
        }
        commitJournal()
    }

    /// The end of all turns: waits for the heir, for a bounded time.
    func endLastTurn() {
        endTurn()
        while let heir, !heir.unsent.isEmpty, let lag = heir.lag {
            _ = bus1_sys_wait_writable(heir.journal.descriptor.rawValue, lag.pollTimeout_ms)
            endTurn()
        }
    }

    /// Waits until the heir has done what it was told so far, for a bounded time: it maps what is sealed next. Only
    /// where a process joins, or gets to know another one, that could write to the broker's memory.
    func waitForHeir() {
        guard heir?.isReady == true else { return }
        note(.sync, 0, EmptyBody())
        commitJournal()
        let deadline = Deadline.after(Self.heirLag)
        while let heir = self.heir {
            if heir.takeSynced() { return }
            guard !deadline.hasPassed else { return loseHeir() }
            let journal = heir.journal.descriptor.rawValue
            if !heir.unsent.isEmpty {
                _ = bus1_sys_wait_writable(journal, deadline.pollTimeout_ms)
                commitJournal()
            } else {
                _ = bus1_sys_wait_readable(journal, deadline.pollTimeout_ms)
            }
            heirSpoke(heir.number, watchingAgain: false)
        }
    }

    // MARK: Each kind

    func noteDomain(_ key: DomainKey, _ domain: DomainID) {
        switch key {
        case .user(let uid):
            note(.domain, UInt64(domain.rawValue), DomainRecord(key: UInt64(uid), isUser: 1))
        case .process(let number):
            note(.domain, UInt64(domain.rawValue), DomainRecord(key: number, isUser: 0))
        }
    }

    func noteProcess(_ process: BrokerProcess) {
        let record = ProcessRecord(
            identity: process.identity, standBy: process.standBy?.rawValue ?? 0,
            isLikeOwn: process.isLikeOwn ? 1 : 0)
        note(.process, process.number, record, descriptors: [process.pidfd])
    }

    func notePeer(_ peer: BrokerPeer, isNew: Bool = false) {
        guard heir?.isReady == true, let claims = peer.claimsDescriptor,
            let outbox = peer.outboxDescriptor
        else { return }
        let record = PeerRecord(
            process: peer.process.number, uid: peer.account.uid, pid: peer.account.pid,
            phase: peer.phase.rawValue, version: peer.version, lanes: peer.lanes,
            slots: peer.slots, slotBytes: peer.slotBytes, isolation: peer.isolation.rawValue,
            domainByUser: peer.domainByUser.rawValue,
            domainByProcess: peer.domainByProcess.rawValue, limits: peer.limits,
            memoryBytes: UInt64(peer.memoryCharge.bytes), given: peer.given,
            lastGrant: peer.lastGrant,
            lastSequence: peer.lastSequence, lastHandled: peer.lastHandled,
            isOutboxSealed: peer.isOutboxSealed ? 1 : 0, hasSocket: peer.socket == nil ? 0 : 1,
            isNew: isNew ? 1 : 0)
        let socket = peer.socket.map { [$0] } ?? []
        note(
            .peer, UInt64(peer.id.rawValue), record,
            descriptors: isNew ? socket + [claims, outbox] : [])
    }

    /// Sent before anything else is done: what follows changes shared memory.
    func noteDying(_ peer: BrokerPeer, as number: UInt32) {
        guard heir?.isReady == true else { return }
        note(.dying, UInt64(peer.id.rawValue), number)
        commitJournal()
    }

    func noteEnd(_ kind: JournalKind, of peer: BrokerPeer) {
        guard peer.phase != .new else { return }
        note(kind, UInt64(peer.id.rawValue), EmptyBody())
    }

    func noteRing(_ ring: BrokerRing, isNew: Bool = false) {
        let record = RingRecord(
            owner: ring.owner.rawValue, domain: ring.domain.rawValue, slots: ring.slots,
            slotBytes: ring.slotBytes, payer: ring.payer, nextIndex: ring.nextIndex,
            isAcknowledged: ring.isAcknowledged ? 1 : 0, bytes: UInt64(ring.charge.bytes),
            isNew: isNew ? 1 : 0, hasEvent: ring.event == nil ? 0 : 1)
        let event = ring.event.map { [$0] } ?? []
        note(
            .ring, UInt64(ring.id.rawValue), record,
            descriptors: (isNew ? [ring.descriptor] : []) + event)
    }

    func noteLink(_ link: LinkRecord) { note(.link, 0, link) }

    func noteLinkSocket(_ a: PeerID, _ b: PeerID) {
        note(.linkSocket, 0, PairBody(first: a.rawValue, second: b.rawValue))
    }

    func noteName(_ name: [UInt8], _ publication: Publication) {
        var users: [UInt32] = []
        var rule: UInt32 = 1
        switch publication.access {
        case .sameUser: rule = 1
        case .users(let listed): (rule, users) = (2, listed)
        case .anyone: rule = 3
        }
        note(
            .name, UInt64(publication.owner.rawValue),
            NameRecord(node: publication.node, access: rule, userCount: UInt32(users.count)),
            tail: users.flatMap { user in withUnsafeBytes(of: user) { Array($0) } } + name)
    }

    func noteNameGone(_ name: [UInt8]) { note(.nameGone, 0, EmptyBody(), tail: name) }

    func noteTicket(_ ticket: BrokerTicket, shownBy peer: BrokerPeer? = nil) {
        note(
            .ticket, UInt64(peer?.id.rawValue ?? 0),
            TicketRecord(key: ticket.key, issuer: ticket.issuer.rawValue, done: ticket.done),
            tail: ticket.items.flatMap { item in withUnsafeBytes(of: item) { Array($0) } })
    }

    func noteTicketGone(_ key: Ticket) { note(.ticketGone, 0, key) }

    /// A grant that its holder can pass on by ticket.
    func remember(
        _ number: GrantNumber, of owner: BrokerPeer, node: UInt64, for holder: BrokerPeer
    ) {
        holder.remember(number, of: owner.id, node: node)
        noteHeld(BrokerPeer.HeldGrant(owner: owner.id, number: number), node, by: holder)
    }

    private func noteHeld(_ grant: BrokerPeer.HeldGrant, _ node: UInt64, by holder: BrokerPeer) {
        let record = HeldRecord(
            node: node, given: peers[grant.owner]?.given ?? 0, owner: grant.owner.rawValue,
            number: grant.number.rawValue,
            lastGrant: peers[grant.owner]?.lastGrant ?? 0)
        note(.held, UInt64(holder.id.rawValue), record)
    }

    func noteLimits(of uid: UInt32) { note(.limits, UInt64(uid), limitsOfUser[uid] ?? limits) }

    func noteOutput(_ message: ControlMessage, to peer: BrokerPeer) {
        guard peer.version >= controlVersionOfSuccession else { return }
        note(
            .output, UInt64(peer.id.rawValue), EmptyBody(), tail: message.bytes,
            descriptors: message.keptOpen)
    }

    /// It is on the socket, and what was queued before it.
    func noteSent(_ message: ControlMessage, to peer: BrokerPeer) {
        guard peer.version >= controlVersionOfSuccession else { return }
        note(.sent, UInt64(peer.id.rawValue), message.header.sequence)
    }

    // MARK: Requests

    /// Whether a request is to be carried out: not if it has been, by this broker or the one before.
    func isNew(_ message: ControlMessage, from peer: BrokerPeer) -> Bool {
        // Not numbered as others are, and as good twice as once.
        if message.kind == .flagHolders { return true }
        let request = message.header.request
        if message.kind == .again, peer.asksAgain {
            peer.asksAgain = false
            peer.isRecovered = true
            return false
        }
        guard !peer.asksAgain else { return false }
        if peer.isRecovered, request <= peer.lastHandled,
            peer.unanswered.remove(request) == nil
        {
            return false
        }
        peer.lastHandled = max(peer.lastHandled, request)
        let isTold = message.kind.isTold
        if !isTold { peer.unanswered.insert(request) }
        note(
            .handled, UInt64(peer.id.rawValue),
            HandledRecord(request: request, isAnswered: isTold ? 1 : 0))
        return true
    }

    // MARK: Everything

    /// All tables, as the first entry of a new heir's journal.
    func noteEverything(_ service: Service) {
        note(
            .bus, 0,
            BusRecord(
                limits: limits, deaths: deaths, lastPeer: lastPeer, lastRing: lastRing,
                lastDomain: lastDomain, lastProcess: lastProcess,
                isPageSealed: isBusPageSealed ? 1 : 0,
                isSocketGiven: service.place.isSocketGiven ? 1 : 0),
            tail: Array(service.place.name.utf8),
            descriptors: [
                busPageDescriptor, service.listener, service.place.lock, service.place.directory,
            ])
        for (key, domain) in domains { noteDomain(key, domain) }
        for (uid, _) in limitsOfUser { noteLimits(of: uid) }
        let known = peers.values.filter { $0.phase != .new }
        for process in processes.values where known.contains(where: { $0.process === process }) {
            noteProcess(process)
        }
        for peer in known { notePeer(peer, isNew: true) }
        for ticket in tickets.values { noteTicket(ticket) }
        for ring in rings.values { noteRing(ring, isNew: true) }
        noteAllLinks(known)
        for pair in linkSockets { noteLinkSocket(pair.low, pair.high) }
        for (name, publication) in names { noteName(name, publication) }
        for (id, entry) in unburied {
            for start in stride(from: 0, to: entry.claims.count, by: 64) {
                let part = entry.claims[start..<min(start + 64, entry.claims.count)]
                note(
                    .unburied, UInt64(id.rawValue), UnburiedRecord(uid: entry.uid),
                    tail: part.flatMap { claim in withUnsafeBytes(of: claim) { Array($0) } })
            }
        }
        for peer in known {
            if let ticket = peer.ticket ?? peer.redeeming { noteTicket(ticket, shownBy: peer) }
            for grant in peer.heldInOrder {
                guard let node = peer.held[grant] else { continue }
                noteHeld(grant, node, by: peer)
            }
            for request in peer.unanswered {
                note(
                    .handled, UInt64(peer.id.rawValue),
                    HandledRecord(request: request, isAnswered: 0))
            }
            for message in peer.queue { noteOutput(message, to: peer) }
        }
    }

    private func noteAllLinks(_ known: [BrokerPeer]) {
        for a in known {
            for id in a.introduced where id.rawValue >= a.id.rawValue {
                guard let b = peers[id], let ringOfA = a.rings[b.domain(toward: a)],
                    let ringOfB = b.rings[a.domain(toward: b)],
                    let indexOfA = ringOfB.senders[a.id], let indexOfB = ringOfA.senders[id]
                else { continue }
                noteLink(LinkRecord(a, b, ringOfA, ringOfB, indexOfA, indexOfB))
            }
        }
    }
}
