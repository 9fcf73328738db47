import CBus1System
import CShmRing
import Glibc

/// The heir does not understand its journal, or has no room for what it brings.
struct JournalError: Error {}

// The tables of a broker, as its heir keeps them: each record changes them as the broker had changed its
// own.
extension Broker {
    /// The first record of a journal.
    static func shadow(_ record: JournalRecord) throws -> (Broker, Place, SharedDescriptor) {
        guard record.kind == .bus, let body = record.body(BusRecord.self),
            body.recordBytes == BusRecord.recordBytes,
            let page = record.takeDescriptor(), let listener = record.takeDescriptor(),
            let lock = record.takeDescriptor(), let directory = record.takeDescriptor(),
            let name = String(validating: record.tail(after: BusRecord.self), as: UTF8.self)
        else { throw JournalError() }
        let shadow = try Broker(shadowing: page, limits: body.limits)
        shadow.deaths = body.deaths
        shadow.lastPeer = body.lastPeer
        shadow.lastRing = body.lastRing
        shadow.lastDomain = body.lastDomain
        shadow.lastProcess = body.lastProcess
        shadow.isBusPageSealed = body.isPageSealed != 0
        let place = Place(
            lock: lock, directory: directory, name: name, isSocketGiven: body.isSocketGiven != 0)
        return (shadow, place, listener)
    }

    /// How many descriptors the tables hold, about.
    var descriptorCount: Int { peers.count * 3 + processes.count + rings.count * 2 }

    func apply(_ record: JournalRecord) throws {
        let id = PeerID(rawValue: UInt32(truncatingIfNeeded: record.subject))
        func body<Body: BitwiseCopyable>(_ type: Body.Type) throws -> Body {
            guard let body = record.body(type) else { throw JournalError() }
            return body
        }
        switch record.kind {
        case .domain:
            let body = try body(DomainRecord.self)
            let key: DomainKey =
                body.isUser != 0
                ? .user(UInt32(truncatingIfNeeded: body.key)) : .process(body.key)
            let domain = UInt32(truncatingIfNeeded: record.subject)
            domains[key] = DomainID(rawValue: domain)
            lastDomain = max(lastDomain, domain)
        case .process: try applyProcess(record, try body(ProcessRecord.self))
        case .peer: try applyPeer(id, record, try body(PeerRecord.self))
        case .dying: peers[id]?.dyingAs = try body(UInt32.self)
        case .cut: if let peer = peers[id] { cut(peer) }
        case .died:
            guard let peer = peers[id] else { break }
            deaths = peer.dyingAs ?? deaths
            bury(peer)
        case .ring: try applyRing(record, try body(RingRecord.self))
        case .link: try applyLink(try body(LinkRecord.self))
        case .linkSocket:
            let pair = try body(PairBody.self)
            linkSockets.insert(
                PairKey(PeerID(rawValue: pair.first), PeerID(rawValue: pair.second)))
        case .name: applyName(id, record, try body(NameRecord.self))
        case .nameGone:
            let name = record.tail(after: EmptyBody.self)
            if let owner = names.removeValue(forKey: name)?.owner {
                peers[owner]?.names.remove(name)
            }
        case .ticket: applyTicket(id, record, try body(TicketRecord.self))
        case .ticketGone:
            let key = try body(Ticket.self)
            if let ticket = tickets.removeValue(forKey: key) {
                peers[ticket.issuer]?.tickets.remove(key)
            }
        case .held:
            let body = try body(HeldRecord.self)
            let owner = PeerID(rawValue: body.owner)
            peers[id]?.remember(
                GrantNumber(rawValue: body.number), of: owner, node: body.node)
            if let owner = peers[owner] {
                owner.lastGrant = max(owner.lastGrant, body.lastGrant)
                owner.given = max(owner.given, body.given)
            }
        case .limits:
            let body = try body(BusLimits.self)
            limitsOfUser[UInt32(truncatingIfNeeded: record.subject)] = body == limits ? nil : body
        case .unburied:
            let claims = record.values(after: UnburiedRecord.self, shmring_claim.self)
            let uid = try body(UnburiedRecord.self).uid
            unburied[id, default: Unburied(uid: uid, claims: [])].claims += claims
        case .handled:
            let body = try body(HandledRecord.self)
            guard let peer = peers[id] else { break }
            peer.lastHandled = max(peer.lastHandled, body.request)
            if body.isAnswered == 0 { peer.unanswered.insert(body.request) }
        case .output: try applyOutput(id, record)
        case .sent:
            let last = try body(UInt32.self)
            peers[id]?.queue.removeAll { $0.header.sequence <= last }
        case .bus, .sync, .pong, .ready, .ping, .synced: throw JournalError()
        }
    }

    private func applyProcess(_ record: JournalRecord, _ body: ProcessRecord) throws {
        let number = record.subject
        if processes[number] == nil {
            guard let pidfd = record.takeDescriptor() else { throw JournalError() }
            processes[number] = BrokerProcess(
                pidfd: pidfd, number: number, identity: body.identity)
            if body.identity != 0 { processNumbers[body.identity] = number }
            lastProcess = max(lastProcess, number)
        }
        processes[number]?.isLikeOwn = body.isLikeOwn != 0
        processes[number]?.standBy = body.standBy == 0 ? nil : PeerID(rawValue: body.standBy)
    }

    private func applyPeer(_ id: PeerID, _ record: JournalRecord, _ body: PeerRecord) throws {
        guard let phase = BrokerPeer.Phase(rawValue: body.phase),
            let isolation = Bus.Isolation(rawValue: body.isolation)
        else { throw JournalError() }
        if body.isNew != 0 {
            guard let process = processes[body.process] else { throw JournalError() }
            let peer = BrokerPeer(
                id, Account(uid: body.uid, pid: body.pid), process,
                socket: body.hasSocket != 0 ? record.takeDescriptor() : nil, body.limits)
            guard let claims = record.takeDescriptor(), let outbox = record.takeDescriptor() else {
                throw JournalError()
            }
            if let socket = peer.socket { bus1_sys_close_on_fork(socket.rawValue, true) }
            peer.claims = try BrokerMapping(
                claims.rawValue, SHMRING_SEGMENT_CLAIMS, SHMRING_READ_ONLY)
            peer.outbox = try BrokerMapping(
                outbox.rawValue, SHMRING_SEGMENT_OUTBOX, SHMRING_READ_WRITE)
            peer.claimsDescriptor = claims
            peer.outboxDescriptor = outbox
            peer.version = body.version
            peer.lanes = body.lanes
            peer.slots = body.slots
            peer.slotBytes = body.slotBytes
            peer.isolation = isolation
            peer.domainByUser = DomainID(rawValue: body.domainByUser)
            peer.domainByProcess = DomainID(rawValue: body.domainByProcess)
            peer.memoryCharge = Charges(bytes: Int(clamping: body.memoryBytes))
            peers[id] = peer
            process.peers.insert(id)
            lastPeer = max(lastPeer, id.rawValue)
        }
        guard let peer = peers[id] else { return }
        peer.phase = phase
        peer.limits = body.limits
        peer.lastGrant = max(peer.lastGrant, body.lastGrant)
        peer.given = max(peer.given, body.given)
        peer.lastSequence = max(peer.lastSequence, body.lastSequence)
        peer.lastHandled = max(peer.lastHandled, body.lastHandled)
        peer.isOutboxSealed = body.isOutboxSealed != 0
        if phase == .member, let ticket = peer.ticket {
            peer.ticket = nil
            peer.redeeming = ticket
        }
    }

    private func applyRing(_ record: JournalRecord, _ body: RingRecord) throws {
        let id = RingID(rawValue: UInt32(truncatingIfNeeded: record.subject))
        let owner = PeerID(rawValue: body.owner)
        let domain = DomainID(rawValue: body.domain)
        if body.isNew != 0 {
            guard let peer = peers[owner], let descriptor = record.takeDescriptor() else {
                throw JournalError()
            }
            let ring = BrokerRing(
                id, owner: owner, domain: domain, slots: body.slots, slotBytes: body.slotBytes,
                descriptor: descriptor, isAcknowledged: false, payer: body.payer,
                charge: Charges(rings: 1, bytes: Int(clamping: body.bytes)))
            rings[id] = ring
            peer.rings[domain] = ring
            lastRing = id.rawValue
        }
        guard let ring = rings[id] else { return }
        ring.indicesAreUsed(below: body.nextIndex)
        ring.isAcknowledged = body.isAcknowledged != 0
        if body.hasEvent != 0, let event = record.takeDescriptor() { ring.event = event }
    }

    private func applyLink(_ body: LinkRecord) throws {
        guard let a = peers[PeerID(rawValue: body.first)],
            let b = peers[PeerID(rawValue: body.second)],
            let ringOfA = rings[RingID(rawValue: body.ringOfFirst)],
            let ringOfB = rings[RingID(rawValue: body.ringOfSecond)],
            let indexOfA = UInt16(exactly: body.indexOfFirst),
            let indexOfB = UInt16(exactly: body.indexOfSecond)
        else { throw JournalError() }
        a.introduced.insert(b.id)
        b.introduced.insert(a.id)
        ringOfB.addSender(a.id, at: indexOfA)
        ringOfA.addSender(b.id, at: indexOfB)
    }

    private func applyName(_ owner: PeerID, _ record: JournalRecord, _ body: NameRecord) {
        let tail = record.tail(after: NameRecord.self)
        let usersLength = Int(clamping: body.userCount) * MemoryLayout<UInt32>.size
        guard let peer = peers[owner], tail.count >= usersLength else { return }
        let users = record.values(after: NameRecord.self, UInt32.self).prefix(
            Int(clamping: body.userCount))
        let access: Access =
            body.access == 3 ? .anyone : body.access == 2 ? .users(Array(users)) : .sameUser
        let name = Array(tail.dropFirst(usersLength))
        names[name] = Publication(owner: owner, node: body.node, access: access)
        peer.names.insert(name)
    }

    private func applyTicket(_ shownBy: PeerID, _ record: JournalRecord, _ body: TicketRecord) {
        let issuer = PeerID(rawValue: body.issuer)
        let items = record.values(after: TicketRecord.self, TicketItem.self)
        let ticket = BrokerTicket(body.key, issuer: issuer, items: items)
        ticket.done = body.done
        guard shownBy.rawValue != 0 else {
            tickets[body.key] = ticket
            peers[issuer]?.tickets.insert(body.key)
            return
        }
        tickets[body.key] = nil
        peers[issuer]?.tickets.remove(body.key)
        guard let peer = peers[shownBy] else { return }
        if peer.phase == .welcomed { peer.ticket = ticket } else { peer.redeeming = ticket }
    }

    private func applyOutput(_ id: PeerID, _ record: JournalRecord) throws {
        let bytes = record.tail(after: EmptyBody.self)
        guard bytes.count >= MemoryLayout<ControlHeader>.size else { throw JournalError() }
        let descriptors = record.descriptors
        guard let peer = peers[id] else { return }
        let message = ControlMessage(forwarding: bytes, descriptors: descriptors)
        outputs += 1
        message.placeInJournal = outputs
        peer.queue.append(message)
        peer.lastSequence = max(peer.lastSequence, message.header.sequence)
        peer.unanswered.remove(message.header.request)
    }
}
