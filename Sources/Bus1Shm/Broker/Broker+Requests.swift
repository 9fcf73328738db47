import CBus1System
import CShmRing
import Glibc

/// What is not sent at once waits; who lets more than this wait is severed.
private let queuedMessagesMax = 2048
/// Who has more than this waiting gets no further news on account of others: those others are
/// refused.
private let queuedNewsMax = 1024

extension Broker {
    // MARK: Dispatch

    func handle(_ message: ControlMessage, from peer: BrokerPeer) throws(Failure) {
        guard message.header.request != 0, message.header.status == 0,
            message.header.sequence == 0
        else { throw .sever }
        switch (peer.phase, message.kind) {
        case (.new, .hello): try hello(message, from: peer)
        case (.welcomed, .mapped): try mapped(message, from: peer)
        case (.new, .goodbye), (.welcomed, .goodbye), (.member, .goodbye):
            goodbye(message, from: peer)
        case (.member, .publish): try publish(message, from: peer)
        case (.member, .unpublish): try unpublish(message, from: peer)
        case (.member, .lookUp): try lookUp(message, from: peer)
        case (.member, .cancel): try cancel(message, from: peer)
        case (.member, .grant): try grant(message, from: peer)
        case (.member, .ticket): try makeTicket(message, from: peer)
        case (.member, .ticketCancel): try cancelTicket(message, from: peer)
        case (.member, .ownRing): try ownRing(message, from: peer)
        case (.member, .ringAcknowledged): try ringAcknowledged(message, from: peer)
        case (.member, .linkSocket): try linkSocket(message, from: peer)
        case (.member, .ringEvent): try ringEvent(message, from: peer)
        case (.member, .bury): try bury(message, from: peer)
        case (.member, .introduce): try introduceOthers(message, from: peer)
        case (.member, .limits): try limits(message, from: peer)
        case (.member, .flagHolders): try flagHolders(message, from: peer)
        case (.member, .abortAsk): try abortAsk(message, from: peer)
        case (.member, .standBy): try standBy(message, from: peer)
        case (.member, .inspect): try inspect(message, from: peer)
        default: throw .sever
        }
    }

    /// The body of a message that must be exactly that long and bear exactly those descriptors.
    func whole<Body: BitwiseCopyable>(
        _ message: ControlMessage, _ type: Body.Type, roles: ControlRoles = []
    ) throws(Failure) -> Body {
        guard let body = message.wholeBody(type), message.header.roles == roles else {
            throw .sever
        }
        return body
    }

    // MARK: Answers

    func answer<Body: BitwiseCopyable>(
        _ message: ControlMessage, from peer: BrokerPeer, _ body: Body, roles: ControlRoles = [],
        descriptors: [SharedDescriptor] = []
    ) {
        answer(
            message.kind, message.header.request, to: peer, body, roles: roles,
            descriptors: descriptors)
    }

    func answer<Body: BitwiseCopyable>(
        _ kind: ControlKind, _ request: UInt32, to peer: BrokerPeer, _ body: Body,
        tail: [UInt8] = [], roles: ControlRoles = [],
        descriptors: [SharedDescriptor] = []
    ) {
        send(
            ControlMessage(
                kind, request: request, body, tail: tail, roles: roles, descriptors: descriptors),
            to: peer)
    }

    func refuse(_ message: ControlMessage, from peer: BrokerPeer, _ error: Bus1Error) {
        refuse(message.kind, message.header.request, to: peer, error)
    }

    func refuse(_ kind: ControlKind, _ request: UInt32, to peer: BrokerPeer, _ error: Bus1Error) {
        send(
            ControlMessage(kind, request: request, status: error.code.rawValue, RefusalBody(error)),
            to: peer)
    }

    /// Tells a peer what it did not ask for. Its attention follows.
    func tell<Body: BitwiseCopyable>(
        _ kind: ControlKind, to peer: BrokerPeer, _ body: Body, roles: ControlRoles = [],
        descriptors: [SharedDescriptor] = []
    ) {
        send(ControlMessage(kind, body, roles: roles, descriptors: descriptors), to: peer)
    }

    /// Whether news on account of another peer can still be queued for this one.
    func checkQueue(of peer: BrokerPeer) throws(Failure) {
        let used = peer.queue.count + peer.heldBack.count
        guard used < queuedNewsMax else {
            throw .refuse(overQuota(.messages, used: used, limit: queuedNewsMax, peer.account))
        }
    }

    /// Whether what is queued for a peer keeps so many descriptors open that it must receive first.
    func mustReceiveFirst(_ peer: BrokerPeer) -> Bool {
        guard peer.heldBack.isEmpty else { return true }
        return peer.queue.reduce(0) { $0 + $1.borrowedDescriptors.count } >= queuedDescriptorsMax
    }

    func overQuota(_ resource: Resource, used: Int, limit: Int, _ account: Account) -> Bus1Error {
        Bus1Error(
            .overQuota, "ask the broker",
            refusal: Bus1Error.Refusal(
                resource: resource, used: used, limit: limit, account: account))
    }

    // MARK: Sending

    private func send(_ message: ControlMessage, to peer: BrokerPeer) {
        guard peer.socket != nil, service != nil else { return }
        guard peer.queue.count < queuedMessagesMax else {
            sever(peer, .overQuota)
            return
        }
        if peer.version >= controlVersionOfSuccession {
            peer.lastSequence += 1
            message.number(peer.lastSequence)
        }
        let request = message.header.request
        if request != 0 { peer.unanswered.remove(request) }
        peer.queue.append(message)
        // A new heir that is still being told everything is told this, too, and holds nobody up.
        noteOutput(message, to: peer)
        guard heir?.isWhole != true, unflushed.isEmpty, !isFlushing else {
            // The heir knows it before anybody else does; and what was said before goes first, also when the heir is lost.
            unflushed.append(peer)
            return
        }
        if peer.queue.count == 1 || crowded.contains(peer.id) { flush(peer) }
    }

    /// Sends what waits, `most` of it at most, as far as the socket takes it.
    func flush(_ peer: BrokerPeer, most: Int = .max) {
        guard let socket = peer.socket, !peer.waitsForRoom else { return }
        guard !isHeirBehind else {
            unflushed.append(peer)
            return
        }
        crowded.remove(peer.id)
        var sent = 0
        var news = false
        var failed = false
        sending: while sent < min(most, peer.queue.count) {
            let message = peer.queue[sent]
            let descriptors = message.borrowedDescriptors
            let result = bus1_sys_socket_send(
                socket.rawValue, message.bytes, message.bytes.count, descriptors,
                Int32(descriptors.count))
            switch -result {
            case 0:
                sent += 1
                // A receiver does not wait for what it asked about the dead's claims.
                news = news || message.kind.isUnasked || message.kind == .bury
            case EAGAIN:
                peer.waitsForRoom = true
                _ = watchReady(
                    socket.rawValue, writable: true, Token(.room, UInt64(peer.id.rawValue)))
                break sending
            case ETOOMANYREFS, ENOBUFS, ENOMEM:
                crowded.insert(peer.id)
                break sending
            default:
                failed = true
                break sending
            }
        }
        if sent > 0 { noteSent(peer.queue[sent - 1], to: peer) }
        peer.queue.removeFirst(sent)
        // Before anybody else is sent what follows from it.
        peer.tellWhetherSomethingIsQueued()
        // After it is on the socket: who sees the attention finds the message.
        if news {
            shmring_fault_at(SHMRING_FAULT_BROKER_SENT)
            peer.outbox?.attend()
        }
        // The end of the connection is reported by the loop as well, with what the peer had sent
        // before.
        if failed { peer.queue.removeAll() }
        if peer.queue.isEmpty { goOn(with: peer) }
    }

    /// Introductions that waited until a peer received those before them, or was gone.
    func goOn(with peer: BrokerPeer) {
        guard !peer.heldBack.isEmpty else { return }
        let heldBack = peer.heldBack
        peer.heldBack = []
        for introduce in heldBack { introduce() }
    }

    /// The last words to somebody who is not a peer yet, or no more.
    func dismiss(_ socket: Int32, _ error: Bus1Error) {
        let message = ControlMessage(.severed, status: error.code.rawValue, RefusalBody(error))
        _ = bus1_sys_socket_send(socket, message.bytes, message.bytes.count, nil, 0)
    }
}

extension RefusalBody {
    init(_ error: Bus1Error) {
        self.init(errno: error.errno)
        if let refusal = error.refusal {
            resource = refusal.resource.rawValue
            used = UInt64(clamping: refusal.used)
            limit = UInt64(clamping: refusal.limit)
            uid = refusal.account.uid
            pid = refusal.account.pid
        }
    }
}
