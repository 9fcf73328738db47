import CShmRing

/// What the broker knows about one connection, and the peer behind it.
final class BrokerPeer {
    /// How far it has come. Each phase allows more requests than the one before.
    enum Phase: UInt32 {
        /// Connected; may say hello.
        case new = 1
        /// Has its outbox; may say that it has mapped it.
        case welcomed
        /// A peer like any other.
        case member
        /// Its connection is cut, its process lives: its words may still change, and nobody is told
        /// that it is dead.
        case severed
        /// Announced, or about to be.
        case dead
    }

    let id: PeerID
    let account: Account
    let process: BrokerProcess
    var phase = Phase.new
    /// Until it is severed.
    var socket: SharedDescriptor?

    // Fixed by hello.
    var version = controlVersionMin
    var lanes: UInt32 = 0
    var slots: UInt32 = 0
    var slotBytes: UInt32 = 0
    var isolation = Bus.Isolation.user
    var domainByUser = DomainID(rawValue: 0)
    var domainByProcess = DomainID(rawValue: 0)
    var ticket: BrokerTicket?
    /// Its ticket, from when it is given what that brings.
    var redeeming: BrokerTicket?
    /// The bus's, or less where it is content with that.
    var limits: BusLimits
    /// Claim words and outbox: charged to its user.
    var memoryCharge = Charges()

    // Its memory. The descriptors bear the right to map it for writing, until they are sealed; kept
    // for heirs.
    var claims: BrokerMapping?
    var outbox: BrokerMapping?
    var claimsDescriptor: SharedDescriptor?
    var outboxDescriptor: SharedDescriptor?
    /// Nobody else can map it for writing.
    var isOutboxSealed = false

    /// In which others write, by the trust domain that does.
    var rings: [DomainID: BrokerRing] = [:]
    var introduced: Set<PeerID> = []
    var names: Set<[UInt8]> = []
    /// Look-ups that wait, by request.
    var lookUps: [UInt32: [UInt8]] = [:]
    var tickets: Set<Ticket> = []
    /// By lane: its commit words that others had to wait for.
    var stalls: [UInt32: Broker.Stall] = [:]
    var lastGrant: UInt32 = 0
    /// To how many the broker gave something of this peer's: the count in its outbox.
    var given: UInt64 = 0
    /// The latest grants that the broker made to this peer, so that it can pass them on by ticket.
    private(set) var held: [HeldGrant: UInt64] = [:]
    private(set) var heldOrder: [HeldGrant] = []
    private var heldOldest = 0

    /// What could not be sent yet.
    var queue: [ControlMessage] = []
    var waitsForRoom = false
    /// As its outbox says; nil: not known to this broker.
    private var isSomethingQueued: Bool?
    /// Introductions that go on when it has received what is queued.
    var heldBack: [() -> Void] = []

    // For a successor.
    /// Of the last message that was put into the queue.
    var lastSequence: UInt32 = 0
    /// The last request of this peer, and which of those before it are still to be answered.
    var lastHandled: UInt32 = 0
    var unanswered: Set<UInt32> = []
    /// Its former broker is gone, and what it says before it knows that is dropped: it will ask again.
    var asksAgain = false
    /// Of what it asks again some was carried out.
    var isRecovered = false
    /// Its death is being announced, under this number.
    var dyingAs: UInt32?

    init(
        _ id: PeerID, _ account: Account, _ process: BrokerProcess, socket: SharedDescriptor?,
        _ limits: BusLimits
    ) {
        self.id = id
        self.limits = limits
        self.account = account
        self.process = process
        self.socket = socket
    }

    var isAlive: Bool { phase == .member }

    /// The trust domain as which this peer writes to another one: the stricter wish of the two
    /// holds.
    func domain(toward receiver: BrokerPeer) -> DomainID {
        receiver.isolation == .process ? domainByProcess : domain
    }

    var domain: DomainID { isolation == .process ? domainByProcess : domainByUser }

    /// A grant number that this peer, as an owner, has not seen yet; nil when there is none any
    /// more.
    func nextGrantNumber() -> GrantNumber? {
        guard lastGrant < GrantNumber.madeByBroker - 1 else { return nil }
        lastGrant += 1
        return GrantNumber(rawValue: lastGrant | GrantNumber.madeByBroker)
    }

    /// Who receives from a stranger asks here whether it was told of that one.
    func tellWhetherSomethingIsQueued() {
        guard isSomethingQueued != !queue.isEmpty else { return }
        isSomethingQueued = !queue.isEmpty
        outbox?.setQueued(!queue.isEmpty)
    }

    struct HeldGrant: Hashable {
        let owner: PeerID
        let number: GrantNumber
    }

    private static let heldMax = 4096

    func remember(_ number: GrantNumber, of owner: PeerID, node: UInt64) {
        let grant = HeldGrant(owner: owner, number: number)
        held[grant] = node
        if heldOrder.count < Self.heldMax {
            heldOrder.append(grant)
        } else {
            held[heldOrder[heldOldest]] = nil
            heldOrder[heldOldest] = grant
            heldOldest = (heldOldest + 1) % Self.heldMax
        }
    }

    /// Those that can be passed on, oldest first.
    var heldInOrder: [HeldGrant] { Array(heldOrder[heldOldest...] + heldOrder[..<heldOldest]) }

    func node(of number: GrantNumber, of owner: PeerID) -> UInt64? {
        held[HeldGrant(owner: owner, number: number)]
    }
}

/// A process with at least one peer, and how its end is seen. Shared by all its peers.
final class BrokerProcess {
    let pidfd: SharedDescriptor
    /// Of the broker, never reused.
    let number: UInt64
    /// Of the kernel; 0 where it tells none: then each connection counts as a process.
    let identity: UInt64
    var peers: Set<PeerID> = []
    /// It could harm the broker anyway: see `bus1_sys_process_is_like_own`.
    var isLikeOwn = false
    /// The peer through which it can be asked to be the heir.
    var standBy: PeerID?
    var timesAsked = 0

    init(pidfd: SharedDescriptor, number: UInt64, identity: UInt64) {
        self.pidfd = pidfd
        self.number = number
        self.identity = identity
    }
}

/// A ring, and who writes into it.
final class BrokerRing {
    let id: RingID
    let owner: PeerID
    let domain: DomainID
    let slots: UInt32
    let slotBytes: UInt32
    let descriptor: SharedDescriptor
    /// The user for whose peers it was made, and what that user is charged.
    let payer: UInt32
    let charge: Charges
    /// The owner receives from it.
    var isAcknowledged: Bool
    /// With which the owner wants to be woken.
    var event: SharedDescriptor?
    /// Who writes here, and as which sender index.
    private(set) var senders: [PeerID: UInt16] = [:]
    private(set) var nextIndex: UInt32 = 0
    private var freed: [UInt16] = []
    private var firstFreed = 0
    /// How many have become free before this broker's eyes and are not used again, those found by a successor not
    /// counted: of them it is not known since when.
    private var freedHere = 0

    init(
        _ id: RingID, owner: PeerID, domain: DomainID, slots: UInt32, slotBytes: UInt32,
        descriptor: SharedDescriptor, isAcknowledged: Bool, payer: UInt32, charge: Charges
    ) {
        self.payer = payer
        self.charge = charge
        self.id = id
        self.owner = owner
        self.domain = domain
        self.slots = slots
        self.slotBytes = slotBytes
        self.descriptor = descriptor
        self.isAcknowledged = isAcknowledged
    }

    /// Nobody gets an index of which the ring's owner may not have read yet that its last sender is dead: what the broker
    /// keeps for a peer that does not read, and what fits its socket, are fewer news than that.
    private static let freeForAtLeast = 4096

    /// An index for a new sender: the one that has been free for longest, if many have become free since; else a fresh
    /// one, as long as there is one. So the receiver's tables do not grow with each sender that comes and goes.
    func addSender(_ peer: PeerID) -> UInt16? {
        var index: UInt16
        let isFresh = nextIndex < SHMRING_SENDERS_MAX
        if firstFreed < freed.count, !isFresh || freedHere > Self.freeForAtLeast {
            index = freed[firstFreed]
            firstFreed += 1
            freedHere -= 1
        } else if isFresh {
            index = UInt16(nextIndex)
            nextIndex += 1
        } else {
            return nil
        }
        senders[peer] = index
        return index
    }

    /// A sender that has its index already.
    func addSender(_ peer: PeerID, at index: UInt16) {
        senders[peer] = index
        nextIndex = max(nextIndex, UInt32(index) + 1)
    }

    /// As the ring's former broker says: its own list of those that are free again is not known.
    func indicesAreUsed(below next: UInt32) {
        nextIndex = max(nextIndex, min(next, UInt32(SHMRING_SENDERS_MAX)))
    }

    /// What follows from the senders: which indices are free again.
    func findFreed() {
        let used = Set(senders.values)
        freed = (0..<nextIndex).map { UInt16($0) }.filter { !used.contains($0) }
        firstFreed = 0
    }

    func removeSender(_ peer: PeerID) {
        if let index = senders.removeValue(forKey: peer) {
            freed.append(index)
            freedHere += 1
        }
        if firstFreed > 1024 {
            freed.removeFirst(firstFreed)
            firstFreed = 0
        }
    }
}

/// What somebody set aside for a child.
final class BrokerTicket {
    let key: Ticket
    let issuer: PeerID
    let items: [TicketItem]
    /// Which of them whoever showed it has been given, or refused.
    var done: UInt32 = 0

    init(_ key: Ticket, issuer: PeerID, items: [TicketItem]) {
        self.key = key
        self.issuer = issuer
        self.items = items
    }
}
