import CBus1System
import CShmRing
import Glibc

// Coming and going: who connects, becomes a peer, is severed, dies.
extension Broker {
    /// Somebody whose death is to be announced, or is just being.
    struct Dying {
        let peer: BrokerPeer
        let request: UInt32?
        /// The heir is told.
        var isNoted = false
        /// A former broker may have come to any point of it.
        var isBegun = false
    }

    // MARK: Coming

    /// Somebody has connected: the kernel says who.
    func connected(_ socket: SharedDescriptor) {
        var credentials = bus1_sys_credentials()
        var pidfd: Int32 = -1
        var result = bus1_sys_socket_credentials(socket.rawValue, &credentials)
        if result == 0 { result = bus1_sys_socket_pidfd(socket.rawValue, &credentials, &pidfd) }
        guard result == 0 else {
            dismiss(socket.rawValue, Bus1Error(.system, "join the bus", errno: -result))
            return
        }
        let pidfdOwner = SharedDescriptor(Descriptor(owning: pidfd))
        let account = Account(uid: credentials.uid, pid: credentials.pid)
        let used = peersOfUser[account.uid, default: 0]
        let peersMax = limitsOfUser[account.uid]?.peers ?? limits.peers
        guard used < Int(peersMax), lastPeer < .max else {
            let limit = lastPeer < .max ? Int(peersMax) : Int(UInt32.max)
            dismiss(socket.rawValue, overQuota(.peers, used: used, limit: limit, account))
            return
        }
        guard used < share(of: account.uid, takenBy: socket.rawValue) else {
            let all = Int(clamping: bus1_sys_descriptor_limit())
            let taken = Int(socket.rawValue)
            dismiss(
                socket.rawValue, overQuota(.descriptors, used: taken, limit: all / 2, account))
            return
        }
        guard let process = process(behind: pidfdOwner, of: account) else {
            dismiss(socket.rawValue, Bus1Error(.system, "join the bus", errno: ENOMEM))
            return
        }
        lastPeer += 1
        let peer = BrokerPeer(
            PeerID(rawValue: lastPeer), account, process, socket: socket, limits)
        guard watchPackets(socket.rawValue, Token(.packets, UInt64(lastPeer))) else {
            dismiss(socket.rawValue, Bus1Error(.system, "join the bus", errno: ENOMEM))
            forgetIfUnused(process)
            return
        }
        bus1_sys_close_on_fork(socket.rawValue, true)
        bus1_sys_socket_narrow(socket.rawValue)
        peers[peer.id] = peer
        process.peers.insert(peer.id)
        peersOfUser[account.uid] = used + 1
        connectionCount += 1
    }

    /// How many connections a user may have: while the table of descriptors is half empty, as many as there may be;
    /// from then on a few, so that the others get in. Who shares the broker's user could stop it in any case.
    private func share(of uid: UInt32, takenBy descriptor: Int32) -> Int {
        let all = Int(clamping: bus1_sys_descriptor_limit())
        // The lowest free number is given: it says how many are taken.
        guard uid != geteuid(), Int(descriptor) >= all / 2, !shmring_unchecked_share() else {
            return .max
        }
        return max(4, all / 64)
    }

    /// The record of a process: one for all of its connections, where the kernel tells processes
    /// apart.
    private func process(behind pidfd: SharedDescriptor, of account: Account) -> BrokerProcess? {
        let identity = bus1_sys_pidfd_identity(pidfd.rawValue)
        if identity != 0, let number = processNumbers[identity] { return processes[number] }
        lastProcess += 1
        let process = BrokerProcess(pidfd: pidfd, number: lastProcess, identity: identity)
        guard watchReady(pidfd.rawValue, writable: false, Token(.process, lastProcess)) else {
            return nil
        }
        process.isLikeOwn =
            account.uid == geteuid()
            && (account.pid == getpid() || bus1_sys_process_is_like_own(account.pid) == 1)
        processes[lastProcess] = process
        if identity != 0 { processNumbers[identity] = lastProcess }
        return process
    }

    private func forgetIfUnused(_ process: BrokerProcess) {
        guard process.peers.isEmpty, processes.removeValue(forKey: process.number) != nil else {
            return
        }
        if process.identity != 0 { processNumbers[process.identity] = nil }
        unwatch(process.pidfd.rawValue, Token(.process, process.number))
        if heir?.process === process { dismissHeir() }
        domains[.process(process.number)] = nil
    }

    func hello(_ message: ControlMessage, from peer: BrokerPeer) throws(Failure) {
        let body = try whole(message, HelloBody.self)
        guard body.versionMin <= body.version, body.layoutMin <= body.layout,
            let isolation = Bus.Isolation(rawValue: body.isolation)
        else { throw .sever }
        guard body.versionMin <= controlVersion, body.version >= controlVersionMin,
            body.layoutMin <= SHMRING_LAYOUT_VERSION, body.layout >= SHMRING_LAYOUT_VERSION_MIN,
            (1...SHMRING_LANES_MAX).contains(body.lanes),
            shmring_ring_bytes(body.slots, body.slotBytes) != 0
        else { throw .refuse(Bus1Error(.mismatch, "join the bus")) }
        if !body.ticket.isNone {
            guard let ticket = tickets.removeValue(forKey: body.ticket) else {
                throw .refuse(Bus1Error(.denied, "join the bus"))
            }
            peers[ticket.issuer]?.tickets.remove(body.ticket)
            peer.ticket = ticket
        }
        peer.version = min(body.version, controlVersion)
        peer.lanes = body.lanes
        peer.slots = body.slots
        peer.slotBytes = body.slotBytes
        // The overflow user stands for many users: those peers have nothing in common.
        let isNobody = peer.account.uid == overflowUID
        peer.isolation = isNobody ? .process : isolation
        peer.domainByProcess = domain(.process(peer.process.number))
        peer.domainByUser = isNobody ? peer.domainByProcess : domain(.user(peer.account.uid))
        let bytes = shmring_claims_bytes(peer.lanes) + shmring_outbox_bytes(peer.lanes)
        let memory = Charges(bytes: Int(bytes))
        try charge(peer.account, memory)
        peer.memoryCharge = memory
        do throws(Bus1Error) {
            try makeMemory(of: peer)
            try sealBusPage(for: peer)
        } catch {
            throw .refuse(asRefusal(error, peer))
        }
        peer.phase = .welcomed
        noteProcess(peer.process)
        notePeer(peer, isNew: true)
        if let ticket = peer.ticket { noteTicket(ticket, shownBy: peer) }
        shmring_fault_at(SHMRING_FAULT_BROKER_WELCOMED)
        let welcome = WelcomeBody(
            version: peer.version,
            layout: min(body.layout, SHMRING_LAYOUT_VERSION),
            peer: peer.id.rawValue, domain: peer.domain.rawValue, uid: peer.account.uid,
            pid: peer.account.pid,
            brokerUID: geteuid(), brokerPID: getpid(), lanes: peer.lanes, slots: peer.slots,
            slotBytes: peer.slotBytes, grantsOfTicket: UInt32(peer.ticket?.items.count ?? 0),
            peersMax: limits.peers, ringsMax: limits.rings, namesMax: limits.names,
            lookUpsMax: limits.lookUps,
            ticketsMax: limits.tickets,
            clockNow: withUnsafePointer(to: clock) { shmring_clock_now($0) })
        answer(
            message, from: peer, welcome, roles: [.busPage, .claims, .outbox],
            descriptors: [busPageReadable, peer.claimsDescriptor!, peer.outboxDescriptor!])
    }

    private func domain(_ key: DomainKey) -> DomainID {
        if let known = domains[key] { return known }
        lastDomain += 1
        let new = DomainID(rawValue: lastDomain)
        domains[key] = new
        noteDomain(key, new)
        return new
    }

    private func makeMemory(of peer: BrokerPeer) throws(Bus1Error) {
        let claims = try Self.create("make claim words") {
            shmring_claims_create(peer.id.rawValue, peer.lanes, $0)
        }
        let outbox = try Self.create("make an outbox") {
            shmring_outbox_create(peer.id.rawValue, peer.lanes, $0)
        }
        try Self.makePrivate(outbox)
        peer.claims = try BrokerMapping(claims.rawValue, SHMRING_SEGMENT_CLAIMS, SHMRING_READ_ONLY)
        peer.outbox = try BrokerMapping(outbox.rawValue, SHMRING_SEGMENT_OUTBOX, SHMRING_READ_WRITE)
        peer.claimsDescriptor = SharedDescriptor(claims)
        peer.outboxDescriptor = SharedDescriptor(outbox)
        peer.tellWhetherSomethingIsQueued()
    }

    /// Its owner has mapped both. Claims have no other writer; the outbox's are the broker and its heirs.
    func mapped(_ message: ControlMessage, from peer: BrokerPeer) throws(Failure) {
        guard message.bytes.count == MemoryLayout<ControlHeader>.size, message.header.roles.isEmpty,
            let claims = peer.claimsDescriptor
        else { throw .sever }
        do throws(Bus1Error) {
            try Self.seal(claims)
        } catch {
            throw .refuse(asRefusal(error, peer))
        }
        peer.phase = .member
        notePeer(peer)
        shmring_fault_at(SHMRING_FAULT_BROKER_SEALED)
        answer(message, from: peer, EmptyBody())
        if let ticket = peer.ticket { redeem(ticket, for: peer) }
    }

    // MARK: Going

    /// A peer closes in order: it has ended all it had begun.
    func goodbye(_ message: ControlMessage, from peer: BrokerPeer) {
        die(peer, answering: message.header.request)
    }

    /// The connection has ended without goodbye. That alone does not mean death: the process's
    /// words may still change.
    func hungUp(_ peer: BrokerPeer) {
        // Sockets are closed before a process has ended: then its pidfd follows at once.
        if shmring_unchecked_hang_up() { return die(peer) }
        cut(peer)
    }

    /// Ends the connection of a peer that broke the rules.
    func sever(_ peer: BrokerPeer, _ reason: Bus1Error.Code) {
        guard let socket = peer.socket else { return }
        dismiss(socket.rawValue, Bus1Error(reason, "talk to the broker"))
        cut(peer)
    }

    /// Closes the connection, and takes back what depends on it.
    func cut(_ peer: BrokerPeer) {
        noteEnd(.cut, of: peer)
        disconnect(peer)
        let wasMember = peer.phase == .member
        peer.phase = wasMember ? .severed : .dead
        withdraw(peer)
        // It never was one: nobody knows it, and its words say nothing.
        if !wasMember { forget(peer) }
    }

    private func disconnect(_ peer: BrokerPeer) {
        guard let socket = peer.socket else { return }
        let number = UInt64(peer.id.rawValue)
        unwatch(socket.rawValue, Token(.packets, number))
        if peer.waitsForRoom { unwatch(socket.rawValue, Token(.room, number)) }
        bus1_sys_close_on_fork(socket.rawValue, false)
        // Also for the heir's descriptor of it: what was sent can still be received.
        if service != nil { shutdown(socket.rawValue, Int32(SHUT_RDWR)) }
        peer.socket = nil
        peer.queue.removeAll()
        crowded.remove(peer.id)
        connectionCount -= 1
    }

    /// Names, look-ups, tickets and introductions under way of a peer that says nothing any more.
    private func withdraw(_ peer: BrokerPeer) {
        for name in peer.names { names[name] = nil }
        peer.names.removeAll()
        for (request, name) in peer.lookUps {
            stopWaiting(Waiting(peer: peer.id, request: request), for: name)
        }
        peer.lookUps.removeAll()
        for ticket in peer.tickets { tickets[ticket] = nil }
        peer.tickets.removeAll()
        // Shown, but never used: its issuer may still take it back.
        if let unused = peer.ticket, let issuer = peers[unused.issuer], issuer.isAlive {
            tickets[unused.key] = unused
            issuer.tickets.insert(unused.key)
        }
        peer.ticket = nil
        peer.redeeming = nil
        abandonIntroductions(of: peer)
        goOn(with: peer)
    }

    /// A process has ended: its pidfd says so.
    func processEnded(_ number: UInt64) {
        guard let process = processes[number] else { return }
        for id in process.peers.sorted(by: { $0.rawValue < $1.rawValue }) {
            if let peer = peers[id] { die(peer) }
        }
        forgetIfUnused(process)
    }

    /// Settles and announces a peer's death, as one transaction of the bus, and tells all who knew
    /// it.
    func die(_ peer: BrokerPeer, answering request: UInt32? = nil) {
        guard !dying.contains(where: { $0.peer === peer }) else { return }
        guard peer.phase == .member || peer.phase == .severed else {
            return isDead(peer, answering: request)
        }
        dying.append(Dying(peer: peer, request: request))
        goOnDying()
    }

    /// One after the other: the death word serves one death at a time. Those wait that the heir cannot know of yet.
    func goOnDying() {
        while let next = dying.first, !isHeirBehind {
            let peer = next.peer
            if !next.isNoted {
                // A successor announces it under the same number, if this broker does not come to the end.
                let number = peer.dyingAs ?? deaths &+ 1
                dying[0].isBegun = peer.dyingAs != nil
                dying[0].isNoted = true
                peer.dyingAs = number
                noteDying(peer, as: number)
                continue
            }
            dying.removeFirst()
            announce(peer, isBegun: next.isBegun)
            isDead(peer, answering: next.request)
        }
    }

    private func announce(_ peer: BrokerPeer, isBegun: Bool) {
        guard let number = peer.dyingAs else { return }
        peer.outbox?.settle(lanes: peer.lanes)
        shmring_fault_at(SHMRING_FAULT_BROKER_SETTLED)
        deaths = number
        let stamp = busPage.announce(peer.id, generation: number, clock: clock, isBegun: isBegun)
        peer.outbox?.setDead(at: stamp)
        shmring_fault_at(SHMRING_FAULT_BROKER_MARKED)
    }

    private func isDead(_ peer: BrokerPeer, answering request: UInt32?) {
        noteEnd(.died, of: peer)
        if let request, let socket = peer.socket {
            // Told only now: when a peer's close returns, its death stands in the order of the bus.
            let farewell = ControlMessage(.goodbye, request: request, EmptyBody())
            _ = bus1_sys_socket_send(
                socket.rawValue, farewell.bytes, farewell.bytes.count, nil, 0)
        }
        bury(peer)
    }

    /// What a death means for the tables.
    func bury(_ peer: BrokerPeer) {
        disconnect(peer)
        peer.phase = .dead
        withdraw(peer)
        let known = peer.introduced
        keepClaims(of: peer)
        forget(peer)
        for id in known where id != peer.id {
            guard let other = peers[id] else { continue }
            other.introduced.remove(peer.id)
            tell(.peerDied, to: other, PeerBody(peer: peer.id.rawValue))
        }
    }

    /// A dead claimer's words decide who may bury its slots, as long as there are rings that they
    /// name.
    private func keepClaims(of peer: BrokerPeer) {
        guard let all = peer.claims?.claims(lanes: peer.lanes) else { return }
        let claims = all.filter { claim in
            guard claim.count > 0, let ring = rings[RingID(rawValue: claim.ring)] else {
                return false
            }
            return ring.owner != peer.id && ring.senders[peer.id] != nil
        }
        guard !claims.isEmpty else { return }
        unburied[peer.id] = Unburied(uid: peer.account.uid, claims: claims)
        peersOfUser[peer.account.uid, default: 0] += 1
    }

    /// Drops everything about a peer; what others hold of it they hold by themselves.
    private func forget(_ peer: BrokerPeer) {
        peers[peer.id] = nil
        release(oneOf: peer.account.uid)
        for ring in peer.rings.values {
            rings[ring.id] = nil
            giveBack(ring.payer, ring.charge)
            dropClaims(on: ring.id)
        }
        peer.rings.removeAll()
        for id in peer.introduced {
            linkSockets.remove(PairKey(peer.id, id))
            giveBack(peer.account.uid, Self.linkCharge)
            if id != peer.id, let other = peers[id] {
                giveBack(other.account.uid, Self.linkCharge)
            }
            for ring in peers[id]?.rings.values ?? [:].values { ring.removeSender(peer.id) }
        }
        giveBack(peer.account.uid, peer.memoryCharge)
        peer.memoryCharge = Charges()
        waitingForRoom[peer.id] = nil
        peer.claims = nil
        peer.outbox = nil
        peer.process.peers.remove(peer.id)
        forgetIfUnused(peer.process)
    }

    private func dropClaims(on ring: RingID) {
        for (id, var entry) in unburied
        where entry.claims.contains(where: { $0.ring == ring.rawValue }) {
            entry.claims.removeAll { $0.ring == ring.rawValue }
            if entry.claims.isEmpty {
                unburied[id] = nil
                release(oneOf: entry.uid)
            } else {
                unburied[id] = entry
            }
        }
    }

    private func release(oneOf uid: UInt32) {
        let left = peersOfUser[uid, default: 1] - 1
        peersOfUser[uid] = left > 0 ? left : nil
        if left <= 0 { limitsOfUser[uid] = nil }
    }
}
