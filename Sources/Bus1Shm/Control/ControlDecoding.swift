import CBus1System
import CShmRing

// What a peer makes of the broker's messages. nil: malformed.

extension Welcome {
    init?(_ message: ControlMessage) {
        guard let body = message.wholeBody(WelcomeBody.self), body.peer != 0,
            (1...SHMRING_LANES_MAX).contains(body.lanes),
            body.grantsOfTicket <= controlTicketItemsMax,
            (SHMRING_LAYOUT_VERSION_MIN...SHMRING_LAYOUT_VERSION).contains(body.layout),
            let busPage = message.take(.busPage), let claims = message.take(.claims),
            let outbox = message.take(.outbox)
        else { return nil }
        self.init(
            peer: PeerID(rawValue: body.peer), domain: DomainID(rawValue: body.domain),
            account: Account(uid: body.uid, pid: body.pid),
            broker: Account(uid: body.brokerUID, pid: body.brokerPID), version: body.version,
            layoutVersion: body.layout,
            lanes: body.lanes,
            slots: body.slots, slotBytes: body.slotBytes, grantsOfTicket: Int(body.grantsOfTicket),
            clockNow: body.clockNow,
            busPage: busPage, claims: claims, outbox: outbox)
    }
}

extension Grant {
    init(_ body: GrantedBody) {
        self.init(
            owner: PeerID(rawValue: body.owner), number: GrantNumber(rawValue: body.number),
            ownerAccount: Account(uid: body.ownerUID, pid: body.ownerPID), word: body.word)
    }
}

extension RingOffer {
    init?(_ message: ControlMessage) {
        guard let body = message.wholeBody(RingBody.self), body.ring < SHMRING_RINGS_MAX,
            let descriptor = message.take(.ring)
        else { return nil }
        self.init(
            ring: RingID(rawValue: body.ring), domain: DomainID(rawValue: body.domain),
            slots: body.slots,
            slotBytes: body.slotBytes, mustAcknowledge: body.acknowledge != 0,
            descriptor: descriptor)
    }
}

extension Introduction {
    init?(_ message: ControlMessage) {
        guard let body = message.wholeBody(IntroducedBody.self), body.peer != 0,
            body.itsIndex < SHMRING_SENDERS_MAX, body.ownIndex < SHMRING_SENDERS_MAX,
            body.ownRing < SHMRING_RINGS_MAX, body.itsRing < SHMRING_RINGS_MAX,
            (1...SHMRING_LANES_MAX).contains(body.lanes), let boardOut = message.take(.boardOut)
        else { return nil }
        self.init(
            peer: PeerID(rawValue: body.peer), domain: DomainID(rawValue: body.domain),
            account: Account(uid: body.uid, pid: body.pid), ownRing: RingID(rawValue: body.ownRing),
            itsIndex: UInt16(body.itsIndex), itsRing: RingID(rawValue: body.itsRing),
            ownIndex: UInt16(body.ownIndex), slots: body.slots, slotBytes: body.slotBytes,
            lanes: body.lanes,
            ring: message.take(.ring), outbox: message.take(.outbox), boardOut: boardOut,
            boardIn: message.take(.boardIn), event: message.take(.event))
    }
}

extension ControlEvent {
    init?(_ message: ControlMessage) {
        switch message.kind {
        case .ringAdded:
            guard let offer = RingOffer(message) else { return nil }
            self = .ringAdded(offer)
        case .introduced:
            guard let introduction = Introduction(message) else { return nil }
            self = .introduced(introduction)
        case .holderAdded:
            guard let body = message.wholeBody(GrantBody.self) else { return nil }
            self = .holderAdded(
                HolderAdded(
                    node: body.node, number: GrantNumber(rawValue: body.number),
                    holder: PeerID(rawValue: body.holder)))
        case .holderMoved:
            guard let body = message.wholeBody(MovedBody.self) else { return nil }
            self = .holderMoved(
                HolderMoved(
                    key: GrantKey(granter: body.issuer, number: body.key),
                    number: GrantNumber(rawValue: body.number),
                    holder: PeerID(rawValue: body.holder)))
        case .granted:
            guard let body = message.wholeBody(GrantedBody.self) else { return nil }
            self = .granted(
                TicketGrant(
                    grant: Grant(body), ordinal: body.ordinal == .max ? nil : Int(body.ordinal),
                    failure: Bus1Error.Code(rawValue: body.failure)))
        case .peerDied:
            guard let body = message.wholeBody(PeerBody.self) else { return nil }
            self = .peerDied(PeerID(rawValue: body.peer))
        case .linkSocketMade:
            guard let body = message.wholeBody(PeerBody.self), let socket = message.take(.socket)
            else { return nil }
            self = .linkSocket(PeerID(rawValue: body.peer), socket)
        case .ringEventAdded:
            guard let body = message.wholeBody(RingBody.self), let event = message.take(.event)
            else { return nil }
            self = .ringEvent(RingID(rawValue: body.ring), event)
        default:
            return nil
        }
    }
}

extension Bus1Error {
    /// What an answer with a status says. nil when it says nothing that can be.
    init?(refusal message: ControlMessage, _ operation: StaticString) {
        guard let code = Code(rawValue: message.header.status),
            let body = message.wholeBody(RefusalBody.self)
        else { return nil }
        var refusal: Refusal?
        if let resource = Resource(rawValue: body.resource) {
            refusal = Refusal(
                resource: resource, used: Int(clamping: body.used),
                limit: Int(clamping: body.limit),
                account: Account(uid: body.uid, pid: body.pid))
        }
        self.init(code, operation, errno: body.errno, refusal: refusal)
    }
}

extension Bus1Error.Code {
    /// The kind of error that a positive result of CShmRing is.
    init(shmring result: Int32) {
        switch UInt32(result) {
        case SHMRING_E_FORKED.rawValue: self = .forked
        case SHMRING_E_CORRUPT.rawValue: self = .severed
        case SHMRING_E_TOO_LARGE.rawValue: self = .tooLarge
        default: self = .mismatch
        }
    }
}

/// The kernel's words for an error number.
func errnoText(_ number: Int32) -> String {
    String(cString: bus1_sys_errno_text(number))
}
