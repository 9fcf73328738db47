import CBus1System
import CShmRing
import Glibc

/// Two peers, in either order.
struct PairKey: Hashable {
    let low: PeerID
    let high: PeerID

    init(_ a: PeerID, _ b: PeerID) {
        (low, high) = a.rawValue <= b.rawValue ? (a, b) : (b, a)
    }
}

/// An introduction that waits until its rings' owners receive from them.
final class PendingIntroduction {
    typealias Continuation = (Bus1Error?) -> Void

    let first: BrokerPeer
    let second: BrokerPeer
    var missing: Set<RingID>
    var continuations: [Continuation] = []

    init(_ first: BrokerPeer, _ second: BrokerPeer, missing: Set<RingID>) {
        self.first = first
        self.second = second
        self.missing = missing
    }
}

// Rings, introductions and the grants that need them.
extension Broker {
    // MARK: Rings

    /// The ring in which `sender` writes to `receiver`; made, and told to its receiver, if there is
    /// none yet.
    ///
    /// Only a receiver's first ring is in use at once. One ring becomes several only between two
    /// deliveries: each further one must be acknowledged before anybody gets it.
    func ensureRing(of receiver: BrokerPeer, for sender: BrokerPeer) throws(Failure) -> BrokerRing {
        let domain = sender.domain(toward: receiver)
        if let ring = receiver.rings[domain] { return ring }
        let ringsMax = Int(receiver.limits.rings)
        guard receiver.rings.count < ringsMax else {
            throw .refuse(
                overQuota(
                    .rings, used: receiver.rings.count, limit: ringsMax, receiver.account))
        }
        guard let id = nextRing() else {
            let limit = Int(SHMRING_RINGS_MAX)
            throw .refuse(overQuota(.rings, used: rings.count, limit: limit, receiver.account))
        }
        let ringBytes = shmring_ring_bytes(receiver.slots, receiver.slotBytes)
        let cost = Charges(rings: 1, bytes: Int(ringBytes))
        try charge(sender.account, cost)
        let descriptor: SharedDescriptor
        do {
            let made = try Self.create("make a ring") { out in
                shmring_ring_create(id.rawValue, receiver.slots, receiver.slotBytes, out)
            }
            descriptor = SharedDescriptor(made)
        } catch {
            giveBack(sender.account.uid, cost)
            throw .refuse(asRefusal(error, receiver))
        }
        let ring = BrokerRing(
            id, owner: receiver.id, domain: domain, slots: receiver.slots,
            slotBytes: receiver.slotBytes,
            descriptor: descriptor, isAcknowledged: receiver.rings.isEmpty,
            payer: sender.account.uid, charge: cost)
        rings[id] = ring
        receiver.rings[domain] = ring
        noteRing(ring, isNew: true)
        shmring_fault_at(SHMRING_FAULT_BROKER_RING)
        let body = RingBody(
            ring: id.rawValue, domain: domain.rawValue, slots: ring.slots,
            slotBytes: ring.slotBytes,
            acknowledge: ring.isAcknowledged ? 0 : 1)
        tell(.ringAdded, to: receiver, body, roles: .ring, descriptors: [descriptor])
        return ring
    }

    /// A number that no ring has and no dead claim word names.
    private func nextRing() -> RingID? {
        for _ in 0..<SHMRING_RINGS_MAX {
            lastRing = (lastRing + 1) % SHMRING_RINGS_MAX
            if rings[RingID(rawValue: lastRing)] == nil { return RingID(rawValue: lastRing) }
        }
        return nil
    }

    func ownRing(_ message: ControlMessage, from peer: BrokerPeer) throws(Failure) {
        guard message.bytes.count == MemoryLayout<ControlHeader>.size, message.header.roles.isEmpty
        else { throw .sever }
        let ring = try ensureRing(of: peer, for: peer)
        answer(message, from: peer, RingBody(ring: ring.id.rawValue, domain: ring.domain.rawValue))
    }

    func ringAcknowledged(_ message: ControlMessage, from peer: BrokerPeer) throws(Failure) {
        let body = try whole(message, RingBody.self)
        guard let ring = rings[RingID(rawValue: body.ring)], ring.owner == peer.id else {
            throw .sever
        }
        guard !ring.isAcknowledged else { return }
        ring.isAcknowledged = true
        noteRing(ring)
        for (pair, pending) in introductions
        where pending.missing.remove(ring.id) != nil && pending.missing.isEmpty {
            introductions[pair] = nil
            complete(pending)
        }
    }

    func ringEvent(_ message: ControlMessage, from peer: BrokerPeer) throws(Failure) {
        let body = try whole(message, RingBody.self, roles: .event)
        guard let ring = rings[RingID(rawValue: body.ring)], ring.owner == peer.id,
            let event = message.take(.event)
        else { throw .sever }
        let shared = SharedDescriptor(event)
        ring.event = shared
        noteRing(ring)
        for id in ring.senders.keys where id != peer.id {
            guard let sender = peers[id] else { continue }
            tell(
                .ringEventAdded, to: sender, RingBody(ring: ring.id.rawValue), roles: .event,
                descriptors: [shared])
        }
        answer(message, from: peer, EmptyBody())
    }

    // MARK: Introductions

    /// Makes two peers known to each other, once. `then` is called when they are, or with why they
    /// can't be: at once, or when the rings' owners have acknowledged them.
    func introduce(
        _ a: BrokerPeer, _ b: BrokerPeer,
        then continuation: @escaping PendingIntroduction.Continuation
    ) {
        let pair = PairKey(a.id, b.id)
        guard a.isAlive, b.isAlive else {
            return continuation(Bus1Error(.nodeReleased, "introduce peers"))
        }
        if a.introduced.contains(b.id) { return continuation(nil) }
        if let pending = introductions[pair] {
            pending.continuations.append(continuation)
            return
        }
        do {
            for peer in [b, a] where mustReceiveFirst(peer) {
                try checkQueue(of: peer)
                peer.heldBack.append { [self] in introduce(a, b, then: continuation) }
                return
            }
            try checkQueue(of: b)
            let toB = try ensureRing(of: b, for: a)
            let toA = try ensureRing(of: a, for: b)
            let missing = Set([toA, toB].filter { !$0.isAcknowledged }.map(\.id))
            let pending = PendingIntroduction(a, b, missing: missing)
            pending.continuations.append(continuation)
            if missing.isEmpty {
                complete(pending)
            } else {
                introductions[pair] = pending
            }
        } catch {
            guard case .refuse(let why) = error else { return }
            continuation(why)
        }
    }

    /// A peer that passes a handle on asks first: the node's owner and the new holder must know each
    /// other. Both know the asker, or are it, or near to it. What it costs is charged to their rings' owners as always; that
    /// the asker may pass the handle on is for the owner to check, when the hand-over comes.
    func introduceOthers(_ message: ControlMessage, from peer: BrokerPeer) throws(Failure) {
        let body = try whole(message, PairBody.self)
        let pair = [PeerID(rawValue: body.first), PeerID(rawValue: body.second)]
        guard let first = peers[pair[0]], let second = peers[pair[1]],
            [first, second].allSatisfy({ isNear($0, to: peer) })
        else { throw .refuse(Bus1Error(.nodeReleased, "introduce peers")) }
        introduce(first, second) { [self] error in
            if let error { return refuse(message, from: peer, error) }
            answer(message, from: peer, EmptyBody())
        }
    }

    /// Whether a peer may know another: it is of the same process or trust domain, or introduced.
    func isNear(_ other: BrokerPeer, to peer: BrokerPeer) -> Bool {
        other.process === peer.process || other.domainByUser == peer.domainByUser
            || peer.introduced.contains(other.id)
    }

    /// Tells each of the two about the other, then goes on with what needed it.
    private func complete(_ pending: PendingIntroduction) {
        var failure: Bus1Error?
        do {
            try join(pending.first, pending.second)
        } catch {
            failure = error
        }
        shmring_fault_at(SHMRING_FAULT_BROKER_INTRODUCED)
        for continuation in pending.continuations { continuation(failure) }
    }

    private func join(_ a: BrokerPeer, _ b: BrokerPeer) throws(Bus1Error) {
        // Either may have been cut while the news was queued.
        guard a.isAlive, b.isAlive, let ringOfA = a.rings[b.domain(toward: a)],
            let ringOfB = b.rings[a.domain(toward: b)]
        else { throw Bus1Error(.nodeReleased, "introduce peers") }
        let isSelf = a === b
        try chargeLink(a, b)
        var isJoined = false
        defer { if !isJoined { giveBackLink(a, b) } }
        let fromA: SharedDescriptor
        var fromB: SharedDescriptor?
        var outboxes: [PeerID: SharedDescriptor] = [:]
        do throws(Bus1Error) {
            if !isSelf {
                outboxes[a.id] = try outbox(of: a, toBeReadBy: b)
                outboxes[b.id] = try outbox(of: b, toBeReadBy: a)
            }
            fromA = SharedDescriptor(
                try Self.create("make a return board") { shmring_board_create(a.id.rawValue, $0) })
            if !isSelf {
                fromB = SharedDescriptor(
                    try Self.create("make a return board") {
                        shmring_board_create(b.id.rawValue, $0)
                    })
            }
        } catch {
            throw asRefusal(error, a)
        }
        guard let indexOfA = ringOfB.addSender(a.id) else {
            throw overQuota(
                .peers, used: ringOfB.senders.count, limit: Int(SHMRING_SENDERS_MAX), b.account)
        }
        guard let indexOfB = isSelf ? indexOfA : ringOfA.addSender(b.id) else {
            ringOfB.removeSender(a.id)
            throw overQuota(
                .peers, used: ringOfA.senders.count, limit: Int(SHMRING_SENDERS_MAX), a.account)
        }
        // Nothing below can fail.
        isJoined = true
        a.introduced.insert(b.id)
        b.introduced.insert(a.id)
        noteLink(LinkRecord(a, b, ringOfA, ringOfB, indexOfA, indexOfB))
        let sideOfB = Side(
            of: b, own: ringOfB, itsIndex: indexOfA, other: a, its: ringOfA, ownIndex: indexOfB,
            outbox: outboxes[a.id])
        tellIntroduced(sideOfB, boardOut: fromB ?? fromA, boardIn: isSelf ? nil : fromA)
        if isSelf { return }
        shmring_fault_at(SHMRING_FAULT_BROKER_HALFWAY)
        let sideOfA = Side(
            of: a, own: ringOfA, itsIndex: indexOfB, other: b, its: ringOfB, ownIndex: indexOfA,
            outbox: outboxes[b.id])
        tellIntroduced(sideOfA, boardOut: fromA, boardIn: fromB)
    }

    /// An introduction as one of the two sees it.
    private struct Side {
        let peer: BrokerPeer
        let own: BrokerRing
        let itsIndex: UInt16
        let other: BrokerPeer
        let its: BrokerRing
        let ownIndex: UInt16
        /// Of the other.
        let outbox: SharedDescriptor?

        init(
            of peer: BrokerPeer, own: BrokerRing, itsIndex: UInt16, other: BrokerPeer,
            its: BrokerRing, ownIndex: UInt16, outbox: SharedDescriptor?
        ) {
            self.peer = peer
            self.own = own
            self.itsIndex = itsIndex
            self.other = other
            self.its = its
            self.ownIndex = ownIndex
            self.outbox = outbox
        }
    }

    private func tellIntroduced(
        _ side: Side, boardOut: SharedDescriptor, boardIn: SharedDescriptor?
    ) {
        let body = IntroducedBody(
            peer: side.other.id.rawValue, domain: side.other.domain(toward: side.peer).rawValue,
            uid: side.other.account.uid, pid: side.other.account.pid, ownRing: side.own.id.rawValue,
            itsIndex: UInt32(side.itsIndex), itsRing: side.its.id.rawValue,
            ownIndex: UInt32(side.ownIndex),
            slots: side.its.slots, slotBytes: side.its.slotBytes, lanes: side.other.lanes)
        var roles: ControlRoles = []
        var descriptors: [SharedDescriptor] = []
        // In the order of the roles' bits.
        func attach(_ role: ControlRoles, _ descriptor: SharedDescriptor?) {
            guard let descriptor else { return }
            roles.insert(role)
            descriptors.append(descriptor)
        }
        if side.other !== side.peer {
            attach(.outbox, side.outbox)
            attach(.ring, side.its.descriptor)
        }
        attach(.boardOut, boardOut)
        attach(.boardIn, boardIn)
        if side.other !== side.peer { attach(.event, side.its.event) }
        tell(.introduced, to: side.peer, body, roles: roles, descriptors: descriptors)
    }

    /// Introductions under way with a peer that is gone.
    func abandonIntroductions(of peer: BrokerPeer) {
        for (pair, pending) in introductions where pair.low == peer.id || pair.high == peer.id {
            introductions[pair] = nil
            for continuation in pending.continuations {
                continuation(Bus1Error(.nodeReleased, "introduce peers"))
            }
        }
    }

    func linkSocket(_ message: ControlMessage, from peer: BrokerPeer) throws(Failure) {
        let body = try whole(message, PeerBody.self)
        let id = PeerID(rawValue: body.peer)
        guard peer.introduced.contains(id), id != peer.id, let other = peers[id], other.isAlive
        else {
            throw .refuse(Bus1Error(.nodeReleased, "make a link's socket"))
        }
        // Made already: the other asked first, and this peer has been told.
        guard !linkSockets.contains(PairKey(peer.id, id)) else {
            answer(message, from: peer, body)
            return
        }
        try checkQueue(of: other)
        var ends: (Int32, Int32) = (-1, -1)
        let result = withUnsafeMutablePointer(to: &ends) { pointer in
            pointer.withMemoryRebound(to: Int32.self, capacity: 2) { bus1_sys_socket_pair($0) }
        }
        guard result == 0 else {
            throw .refuse(asRefusal(Bus1Error(result: result, "make a link's socket"), peer))
        }
        let own = SharedDescriptor(Descriptor(owning: ends.0))
        let its = SharedDescriptor(Descriptor(owning: ends.1))
        linkSockets.insert(PairKey(peer.id, id))
        noteLinkSocket(peer.id, id)
        tell(
            .linkSocketMade, to: other, PeerBody(peer: peer.id.rawValue), roles: .socket,
            descriptors: [its])
        answer(message, from: peer, body, roles: .socket, descriptors: [own])
    }

    /// A full table of descriptors is a quota like any other.
    func asRefusal(_ error: Bus1Error, _ peer: BrokerPeer) -> Bus1Error {
        guard error.errno == EMFILE || error.errno == ENFILE else { return error }
        let limit = Int(clamping: bus1_sys_descriptor_limit())
        return overQuota(
            .descriptors, used: limit, limit: limit, Account(uid: geteuid(), pid: getpid()))
    }
}
