import CShmRing
import Glibc

extension PeerCore {
    /// Takes in everything that the broker said. Called when `attention` changed, and before anything is refused for
    /// want of knowledge.
    func readEvents() throws(Bus1Error) {
        guard !isClosed else { throw Bus1Error(.shutDown, "read the broker's messages") }
        let word = outbox.pointer(to: \.attention)!
        // SYNC E1 acquire, pairs with the broker's release after it put a message on the socket: read before the socket
        // is drained, so that what comes after changes the word again.
        inbox.pointee.attention_seen = shmring_load_acquire_u32(word)
        do throws(Bus1Error) {
            while let event = try connection.nextEvent() { try apply(event) }
        } catch {
            // It stays there until there is room for its descriptors: read again with the next receive.
            if error.errno == EMFILE { inbox.pointee.attention_seen &-= 1 }
            throw error
        }
        applyBurials()
        if hasClaimsToBury { buryClaims() }
        if !wishes.withLock({ $0.isEmpty }) { grantWishes() }
    }

    /// The same while receiving: a broker that went away is no reason to stop, and what it said last counts.
    func readEventsToReceive() throws(Bus1Error) {
        do {
            try readEvents()
        } catch {
            // Said by nobody: the connection ended.
            guard error.code == .severed, connection.severedBecause == nil else { throw error }
        }
    }

    /// The same, and what did not fit the socket any more and waits at the broker. Whoever is told of a right may use it
    /// at once, while its owner's news still queue: before something is dropped for want of knowledge, ask.
    func readAllEvents() throws(Bus1Error) {
        // Before the socket is read. The broker says so without being asked: it may stand still.
        let isAllThere = shmring_outbox_queued(outbox) == SHMRING_QUEUED_NOTHING
        try readEvents()
        if isAllThere { return }
        // Nothing was put on the socket since it was last known to be empty on both ends: nothing queues, either.
        let attention = inbox.pointee.attention_seen
        guard attention != attentionWhenAllWasRead, let ring = rings.first?.id else { return }
        // The answer stands behind everything that waits. What it says does not matter.
        _ = try connection.askToBury(ring, position: 0, until: .after(.seconds(1)))
        try readEvents()
        attentionWhenAllWasRead = attention
    }

    private func apply(_ event: consuming ControlEvent) throws(Bus1Error) {
        switch consume event {
        case .ringAdded(let offer): try addRing(offer)
        case .introduced(let introduction): try addLink(introduction)
        case .holderAdded(let holder): _ = addHolder(holder.node, holder.number, holder.holder)
        case .holderMoved(let moved): take(moved)
        case .granted(let given): take(given)
        case .peerDied(let peer): bury(peer)
        case .linkSocket(let peer, let socket): takeLinkSocket(peer, socket)
        case .ringEvent(let ring, let event):
            if let link = links.first(where: { $0.itsRing == ring }) { link.setEvent(event) }
        }
    }

    func addRing(_ offer: consuming RingOffer) throws(Bus1Error) {
        let mustAcknowledge = offer.mustAcknowledge
        let id = offer.ring
        let ring = try OwnRing(offer, isForeign: offer.domain != ownDomain, placement)
        let result = shmring_inbox_add(inbox, ring.consumer)
        guard result != -ENOMEM else { throw Bus1Error(result: result, "add a ring") }
        guard result == 0 else {
            throw Bus1Error(
                .overQuota, "add a ring",
                refusal: .init(
                    resource: .rings, used: rings.count, limit: Int(SHMRING_INBOX_RINGS_MAX),
                    account: account))
        }
        add(ring)
        shmring_fault_at(SHMRING_FAULT_INTRODUCE_RING)
        if limits[.messages] < limits.most(of: .messages)! { withholdSlots() }
        shareCredit()
        if let eventSource {
            try eventSource.add(ring, of: self)
        } else if rings.count > EventSource.ringsWithout {
            // Without descriptors for it, a wait looks every millisecond.
            _ = try? makeEventSource()
        }
        if mustAcknowledge { try connection.acknowledge(id) }
    }

    private func addLink(_ introduction: consuming Introduction) throws(Bus1Error) {
        let ring = rings.first { $0.id == introduction.ownRing }
        // The broker uses an index again long after its last sender's death, which this peer has not come to: nobody is
        // taken for somebody else.
        if let ring, introduction.peer != ownPeer,
            let former = ring.sender(at: UInt32(introduction.itsIndex)),
            former.peer != introduction.peer
        {
            throw Bus1Error(.severed, "add a sender")
        }
        let link = try Link(
            introduction, ownOutbox: UnsafePointer(outbox), selfRing: ring,
            claimWord: shmring_lane_claim_word(lane))
        if let ring {
            let result = shmring_consumer_set_sender(
                ring.consumer, link.itsIndex, link.outbox, link.lanes)
            guard result == 0 else { throw Bus1Error(result: result, "add a sender") }
            ring.add(link)
        }
        try add(link)
        // SYNC H9 acquire, pairs with H4. It gave something up before this peer had read who it is, and a look may have
        // taken that flag for nobody's.
        let drops = UnsafeMutablePointer(mutating: link.outbox).pointer(to: \.drops)!
        if let ring, shmring_load_acquire(drops) != 0 {
            shmring_consumer_flag(ring.consumer, RingFlag.drops)
        }
        shmring_fault_at(SHMRING_FAULT_INTRODUCE_LINK)
        // Whose ring it is was not known before the first of its links.
        if let ring, ring.domain != ownDomain { shareCredit() }
        link.producer.pointee.fetch_context = Unmanaged.passUnretained(self).toOpaque()
        link.producer.pointee.fetch_event = { _, context in
            // The broker forwarded it before it told the receiver that it may sleep there.
            try? Unmanaged<PeerCore>.fromOpaque(context!).takeUnretainedValue().readEvents()
        }
        if ring?.id == link.itsRing, let event = eventSource?.duplicateEvent(of: link.itsRing) {
            link.setEvent(event)
        }
    }

    private func take(_ granted: TicketGrant) {
        let id: HandleID? = granted.failure == nil ? makeHandle(granted.grant) : nil
        if let ordinal = granted.ordinal {
            inheritedMissing -= 1
            if ordinal < inherited.count { inherited[ordinal] = id }
        } else if let id {
            given.append(
                GivenHandle(owner: granted.grant.owner, number: granted.grant.number, id: id))
        }
    }

    /// A handle to what was granted. nil: the owner or the node is gone already, or there are too many handles.
    func makeHandle(_ grant: Grant) -> HandleID? {
        guard let index = linkOfPeer[grant.owner], !links[index].isDead else { return nil }
        // What the broker made is known to its owner by the broker's number until it is bound.
        let key = GrantKey(
            granter: 0, number: grant.number.isMadeByBroker ? grant.number.rawValue : 0)
        let isBound = !grant.number.isMadeByBroker
        let id = handles.add(
            links[index].route,
            grant: isBound ? grant.number.rawValue : ReservedGrant.unbound, word: grant.word,
            key: key)
        guard let id, let entry = handles.entry(id) else { return nil }
        // At once, if there is room, so that the first message need not.
        if !isBound { _ = try? laneState.bind(entry) }
        // SYNC N13 full barrier, pairs with N7: behind what the broker counted before it told (B10). A release that
        // does not find it counted is seen here.
        shmring_fence_full()
        var patience: Deadline?
        let last = inbox.pointee.last_stamp
        guard isStillThere(grant.word, before: last, of: links[index].route, &patience) else {
            // Released before something that this peer has received: its notice has no place any more.
            releaseHandle(id)
            return nil
        }
        watchIfReleased(id)
        return id
    }

    func isAlive(_ peer: PeerID) -> Bool {
        // Relaxed: dead or not is all that is asked.
        linkOfPeer[peer].map { shmring_load_relaxed(links[$0].dead) == 0 && !links[$0].isDead }
            ?? false
    }

    /// A peer died. Its place in the order comes with the death word; here its claims are buried.
    private func bury(_ peer: PeerID) {
        guard linkOfPeer[peer] != nil || recentlyGone.contains(peer) else { return }
        hasClaimsToBury = true
        // What fails for want of memory is asked for again by the next look at the death word.
        _ = collectDeaths()
    }

    /// Slots that a dead process claimed and never wrote become void; what can't be decided now is asked again.
    func buryClaims() {
        guard !rings.isEmpty else { return }
        hasClaimsToBury = false
        withUnsafeTemporaryAllocation(of: UInt64.self, capacity: 64) { positions in
            for ring in rings {
                var count: UInt32 = 0
                let result = shmring_inbox_stuck(
                    inbox, ring.consumer, positions.baseAddress, 64, &count)
                guard result == 0 else {
                    hasClaimsToBury = true
                    continue
                }
                for position in positions[..<Int(count)] {
                    do throws(Bus1Error) {
                        try connection.askToBuryLater(ring.id, position: position)
                    } catch {
                        // The broker is behind with what it was asked: later.
                        hasClaimsToBury = error.code == .timedOut
                        return
                    }
                }
            }
        }
    }

    /// What the broker answered. Each slot is looked at again, and only those that are stuck still are concerned.
    private func applyBurials() {
        for (id, position, answer) in connection.buried {
            guard let ring = rings.first(where: { $0.id == id }) else { continue }
            // A living one that names it, too, may have lost the race for it, and will say so soon.
            if answer.mayBury { shmring_consumer_bury(ring.consumer, position) }
            if answer.deadClaimerNamesIt && answer.livingClaimerNamesIt { hasClaimsToBury = true }
        }
        connection.buried.removeAll()
    }
}
