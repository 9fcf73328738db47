import CBus1System
import CShmRing
import Glibc

/// What a new peer wishes; the broker may grant less of what has a number.
struct ControlOptions {
    /// Sending threads: claim and commit words for each.
    var lanes: UInt32 = 4
    /// Of each ring that is made for this peer.
    var slots: UInt32 = 1024
    var slotBytes: UInt32 = 64
    /// What the parent gave at spawn.
    var ticket = Ticket.none
}

/// A peer's end of its connection to the broker.
///
/// Requests block until they are answered or their deadline passes; everything else returns at
/// once. What the broker says unasked is kept in the order in which it came, for ``nextEvent()``.
/// After it has put such a message on the socket, the broker counts up `attention` in the peer's
/// outbox and wakes whoever waits on that word. So a receiver reads one word of memory; when it
/// changed, it calls ``nextEvent()`` until that returns nil.
///
/// NOTE - not Sendable: it belongs to the isolation domain that receives.
final class ControlConnection {
    let socket: Descriptor
    /// Until ``takeWelcome()``.
    var welcome: Welcome?
    /// Of this peer, as the welcome said.
    private(set) var ownPeer = PeerID(rawValue: 0)
    /// Of the control protocol, as the broker speaks it with this peer. Fixed after the welcome.
    private(set) var version: UInt32 = 0
    /// Why nothing can be asked any more; nil as long as the connection works.
    var severedBecause: Bus1Error.Code?
    /// The broker has closed its end, or is gone.
    var hasEnded = false
    var lastRequest: UInt32 = 0
    /// Requests of which it is not known that the broker has carried them out, in their order.
    var unanswered: [ControlMessage] = []
    /// Of the last numbered message that was received.
    var lastSequence: UInt32 = 0
    /// This process would take the broker's place.
    private(set) var standsBy = false
    /// Requests whose answers are waited for, innermost last, and answers that came while an inner one was.
    var asked: [UInt32] = []
    var earlyAnswers: [UInt32: ControlMessage] = [:]
    /// Requests for sockets whose answers are taken when they have come, by the peer at the other end.
    private var openQuestions: [PeerID: UInt32] = [:]
    /// Questions whose answers nobody waits for, and those answers.
    var burials: [UInt32: (ring: RingID, position: UInt64)] = [:]
    var buried: [(ring: RingID, position: UInt64, answer: BuryAnswer)] = []
    /// Takes a ring in use while an answer is waited for that may depend on it. nil: rings wait with the rest.
    var takeRing: ((consuming RingOffer) throws(Bus1Error) -> Void)?
    private var unasked: [ControlMessage] = []
    private var firstUnasked = 0

    private init(socket: consuming Descriptor) {
        self.socket = socket
    }

    /// Connects to the bus's broker, or becomes it if there is none, and says hello.
    static func open(
        _ bus: Bus, _ options: ControlOptions = .init(),
        until deadline: Deadline = .after(.seconds(10))
    ) throws(Bus1Error) -> ControlConnection {
        while true {
            let connection = ControlConnection(socket: try Rendezvous.connect(bus, until: deadline))
            do {
                let welcome = try connection.hello(bus, options, until: deadline)
                connection.ownPeer = welcome.peer
                connection.version = welcome.version
                connection.welcome = consume welcome
                return connection
            } catch {
                // A broker that was just going away took the connection with it: there will be
                // another.
                guard error.code == .severed, connection.severedBecause == nil, !deadline.hasPassed
                else { throw error }
            }
        }
    }

    /// What the broker said first. Once.
    func takeWelcome() -> Welcome {
        guard let welcome = welcome.take() else {
            preconditionFailure("the welcome can be taken once")
        }
        return welcome
    }

    /// For poll(2) and epoll: readable when ``nextEvent()`` may return something, or the connection
    /// ended.
    var descriptor: Int32 { socket.rawValue }

    // MARK: Requests

    /// Claims and outbox are mapped: the broker seals them, and others may be introduced to this
    /// peer.
    func confirmMapped(until deadline: Deadline = .never) throws(Bus1Error) {
        _ = try ask(.mapped, EmptyBody(), "confirm the mappings", until: deadline)
    }

    /// From here on the broker may make this process its heir: a thread that keeps the broker's tables,
    /// and takes its place when it ends.
    func standBy(until deadline: Deadline) throws(Bus1Error) {
        guard version >= controlVersionOfSuccession else { return }
        standsBy = true
        _ = try ask(.standBy, EmptyBody(), "stand by", until: deadline)
    }

    /// Publishes a node under a name of 1 to 255 bytes. `node` returns in ``HolderAdded``.
    func publish(_ name: String, node: UInt64, access: Access, until deadline: Deadline = .never)
        throws(Bus1Error)
    {
        let name = try Self.nameBytes(name, "publish a node")
        var users: [UInt32] = []
        let rule: UInt32
        switch access {
        case .sameUser: rule = 1
        case .users(let listed): (rule, users) = (2, listed)
        case .anyone: rule = 3
        }
        guard users.count <= controlUsersMax else { throw Bus1Error(.tooLarge, "publish a node") }
        let body = PublishBody(
            node: node, access: rule, userCount: UInt32(users.count), nameLength: UInt32(name.count)
        )
        let tail = users.flatMap { user in withUnsafeBytes(of: user) { Array($0) } } + name
        _ = try ask(.publish, body, tail: tail, "publish a node", until: deadline)
    }

    /// Takes a name back that this peer published.
    func unpublish(_ name: String, until deadline: Deadline = .never) throws(Bus1Error) {
        let name = try Self.nameBytes(name, "take a name back")
        let body = NameBody(nameLength: UInt32(name.count), wait: 0)
        _ = try ask(.unpublish, body, tail: name, "take a name back", until: deadline)
    }

    /// The right to send to the node that is published under a name. If `wait`, waits until it is
    /// published, or the deadline. If the owner was not known yet, its
    /// ``ControlEvent/introduced(_:)`` is in the queue of events.
    func lookUp(_ name: String, wait: Bool = true, until deadline: Deadline) throws(Bus1Error)
        -> Grant
    {
        let name = try Self.nameBytes(name, "look a name up")
        let body = NameBody(nameLength: UInt32(name.count), wait: wait ? 1 : 0)
        let answer = try ask(.lookUp, body, tail: name, "look a name up", until: deadline)
        guard let granted = answer.wholeBody(GrantedBody.self) else {
            throw sever("look a name up")
        }
        return Grant(granted)
    }

    /// Gives `holder` the right to send to an own node, under a number of the caller's choice (top
    /// bit clear, never used before). The holder finds ``ControlEvent/granted(_:)``; both find
    /// `introduced` before, if they were not.
    ///
    /// Only to peers of the same process or trust domain, or already introduced: otherwise
    /// `denied`.
    func grant(
        _ number: GrantNumber, node: UInt64, to holder: PeerID, until deadline: Deadline = .never
    ) throws(Bus1Error) {
        let body = GrantBody(node: node, number: number.rawValue, holder: holder.rawValue)
        _ = try ask(.grant, body, "grant a node", until: deadline)
    }

    /// One thing that a ticket brings.
    enum TicketContent {
        /// An own node, under a grant number of the caller's choice (top bit clear, never used
        /// before).
        case own(node: UInt64, number: GrantNumber)
        /// What another peer's node has been granted to this peer: the broker makes a new grant of
        /// it.
        case held(owner: PeerID, number: GrantNumber)
        /// A copy that this peer has handed over to itself under that number: its owner gives it to
        /// whoever shows the ticket.
        case deposited(owner: PeerID, number: UInt32, word: UInt32)
    }

    /// A ticket that brings whoever shows it first, in hello, those rights in that order. Void when
    /// this peer dies.
    func makeTicket(_ contents: [TicketContent], until deadline: Deadline = .never)
        throws(Bus1Error) -> Ticket
    {
        guard contents.count <= controlTicketItemsMax else {
            throw Bus1Error(.tooLarge, "make a ticket")
        }
        let own = ownPeer
        let tail = contents.flatMap { content in
            let item =
                switch content {
                case .own(let node, let number):
                    TicketItem(node: node, owner: own.rawValue, number: number.rawValue)
                case .held(let owner, let number):
                    TicketItem(node: 0, owner: owner.rawValue, number: number.rawValue)
                case .deposited(let owner, let number, let word):
                    TicketItem(
                        node: TicketItem.deposited | UInt64(word), owner: owner.rawValue,
                        number: number)
                }
            return withUnsafeBytes(of: item) { Array($0) }
        }
        let body = TicketBody(count: UInt32(contents.count))
        let answer = try ask(.ticket, body, tail: tail, "make a ticket", until: deadline)
        guard let made = answer.wholeBody(TicketMadeBody.self), !made.ticket.isNone else {
            throw sever("make a ticket")
        }
        return made.ticket
    }

    /// Takes a ticket back. False when it was used already.
    func cancelTicket(_ ticket: Ticket, until deadline: Deadline = .never) throws(Bus1Error) -> Bool
    {
        do {
            _ = try ask(
                .ticketCancel, TicketMadeBody(ticket: ticket), "take a ticket back", until: deadline
            )
            return true
        } catch {
            guard error.code == .noSuchHandle else { throw error }
            return false
        }
    }

    /// Has the ring of this peer's own trust domain made now, so that introductions inside it need
    /// no acknowledgement. It comes as ``ControlEvent/ringAdded(_:)``, before the answer; also
    /// publish and grant see to it.
    func makeOwnRing(until deadline: Deadline = .never) throws(Bus1Error) -> RingID {
        let answer = try ask(.ownRing, EmptyBody(), "make a ring", until: deadline)
        guard let ring = answer.wholeBody(RingBody.self) else { throw sever("make a ring") }
        return RingID(rawValue: ring.ring)
    }

    /// Makes two peers known to each other, each of which knows this one or is it: before a handle to
    /// a node of the one is passed on to the other. Waits until a ring's owner has acknowledged it,
    /// if there must be a new one.
    func introduce(_ first: PeerID, _ second: PeerID, until deadline: Deadline = .never)
        throws(Bus1Error)
    {
        let pair = PairBody(first: first.rawValue, second: second.rawValue)
        _ = try ask(.introduce, pair, "introduce peers", until: deadline)
    }

    /// What is used of a resource that the broker counts, and how much may be: of the peer, or of its
    /// user. `set`: be content with that much. `waits`: answered when there is room.
    func limits(
        of resource: Resource, set limit: Int? = nil, waits: Bool = false, until deadline: Deadline
    ) throws(Bus1Error) -> (used: Int, limit: Int) {
        let verb: LimitsBody.Verb = limit != nil ? .set : waits ? .wait : .ask
        let body = LimitsBody(
            resource: resource.rawValue, verb: verb.rawValue,
            limit: UInt64(clamping: limit ?? 0))
        let answer = try ask(.limits, body, "ask for limits", until: deadline)
        guard let told = answer.wholeBody(LimitsBody.self) else { throw sever("ask for limits") }
        return (Int(clamping: told.used), Int(clamping: told.limit))
    }

    /// From now on this peer receives from that ring. Returns at once.
    func acknowledge(_ ring: RingID) throws(Bus1Error) {
        try tell(.ringAcknowledged, RingBody(ring: ring.rawValue), "acknowledge a ring")
    }

    /// A socket for descriptors between this peer and an introduced one, which finds
    /// ``ControlEvent/linkSocket(_:_:)``. nil when the other asked first: then that event is in
    /// this peer's queue. Asked for once: after `timedOut` the same question is still open, and the next call goes on
    /// waiting.
    func linkSocket(to peer: PeerID, until deadline: Deadline = .never) throws(Bus1Error)
        -> Descriptor?
    {
        let operation: StaticString = "make a link's socket"
        if openQuestions[peer] == nil {
            openQuestions[peer] = try begin(
                .linkSocket, PeerBody(peer: peer.rawValue), operation)
        }
        do {
            let answer = try answer(
                to: openQuestions[peer]!, .linkSocket, operation, until: deadline)
            openQuestions[peer] = nil
            return answer.take(.socket)
        } catch {
            if error.code != .timedOut { openQuestions[peer] = nil }
            throw error
        }
    }

    /// Whether the broker was asked for a link's socket, and has not answered.
    func isAskedForSocket(to peer: PeerID) -> Bool { openQuestions[peer] != nil }

    /// The other is dead: what the broker answers, or has answered already, is of no use.
    func dropQuestion(about peer: PeerID) {
        guard let request = openQuestions.removeValue(forKey: peer) else { return }
        earlyAnswers[request] = nil
    }

    /// Whoever writes into this ring of this peer's, now or later, gets this end of a doorbell to
    /// wake it with.
    func setRingEvent(_ ring: RingID, eventDescriptor: Int32, until deadline: Deadline = .never)
        throws(Bus1Error)
    {
        let copy = fcntl(eventDescriptor, F_DUPFD_CLOEXEC, 3)
        guard copy >= 0 else { throw Bus1Error(.system, "set a ring's event", errno: errno) }
        _ = try ask(
            .ringEvent, RingBody(ring: ring.rawValue), roles: .event,
            descriptors: [SharedDescriptor(Descriptor(owning: copy))],
            "set a ring's event", until: deadline)
    }

    /// Whether the claim words of the dead and of the living name this position.
    func askToBury(_ ring: RingID, position: UInt64, until deadline: Deadline = .never)
        throws(Bus1Error) -> BuryAnswer
    {
        let body = BuryBody(ring: ring.rawValue, position: position)
        let answer = try ask(.bury, body, "bury a claim", until: deadline)
        guard let verdict = answer.wholeBody(BuryAnswerBody.self) else {
            throw sever("bury a claim")
        }
        return BuryAnswer(verdict)
    }

    /// The same, without waiting: the answer comes to ``buried``, and `attention` is counted up for it. Throws `timedOut`
    /// when the broker is behind with its packets.
    func askToBuryLater(_ ring: RingID, position: UInt64) throws(Bus1Error) {
        guard !burials.values.contains(where: { $0 == (ring, position) }) else { return }
        let body = BuryBody(ring: ring.rawValue, position: position)
        let request = try begin(.bury, body, "bury a claim")
        burials[request] = (ring, position)
    }

    /// Asks for the abort of a commit word of a stalled peer. Returns at once; the word itself is
    /// the answer. Throws `timedOut` when the broker is behind with its packets.
    func askToAbort(_ peer: PeerID, commitIndex: UInt32, generation: UInt32) throws(Bus1Error) {
        let body = AbortAskBody(
            peer: peer.rawValue, commitIndex: commitIndex, generation: generation)
        try tell(.abortAsk, body, "ask for an abort", until: .now)
    }

    /// Has everybody flagged who was introduced to this peer: see `shmring_newcomers.h`. Never waits, touches nothing
    /// of the connection but its socket: any thread. False: it can't be asked.
    func askToFlagHolders(_ number: UInt32) -> Bool {
        guard version >= 2, number != 0 else { return false }
        let message = ControlMessage(
            .flagHolders, request: number, FlagHoldersBody(number: number))
        return bus1_sys_socket_send(
            socket.rawValue, message.bytes, message.bytes.count, nil, 0) == 0
    }

    /// Ends the connection in order: the broker announces this peer's death before it answers, and
    /// nothing may be sent afterwards. The connection is of no use any more, whatever the outcome.
    func goodbye(until deadline: Deadline = .after(.seconds(1))) throws(Bus1Error) {
        _ = try ask(.goodbye, EmptyBody(), "close a peer", until: deadline)
        severedBecause = .shutDown
    }

    // MARK: What comes unasked

    /// The next thing that the broker said unasked; nil when there is none now. Never waits.
    func nextEvent() throws(Bus1Error) -> ControlEvent? {
        while true {
            if firstUnasked < unasked.count {
                let message = unasked[firstUnasked]
                firstUnasked += 1
                if firstUnasked == unasked.count {
                    unasked.removeAll(keepingCapacity: true)
                    firstUnasked = 0
                }
                guard let event = ControlEvent(message) else { throw sever("read an event") }
                return event
            }
            guard let message = try receive("read an event") else { return nil }
            if message.kind.isUnasked { unasked.append(message) } else { keepIfWanted(message) }
        }
    }

    /// An answer that nobody waits for just now.
    func keepIfWanted(_ answer: ControlMessage) {
        let request = answer.header.request
        guard asked.contains(request) || openQuestions.values.contains(request) else { return }
        earlyAnswers[request] = answer
    }

    /// For ``nextEvent()``, later; rings at once, if somebody takes them.
    func keep(_ message: ControlMessage) throws(Bus1Error) {
        guard let takeRing, message.kind == .ringAdded else { return unasked.append(message) }
        guard case .ringAdded(let offer)? = ControlEvent(message) else {
            throw sever("read an event")
        }
        try takeRing(offer)
    }
}
