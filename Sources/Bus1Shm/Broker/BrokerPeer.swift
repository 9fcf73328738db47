import CShmRing

/// What the broker knows about one connection, and the peer behind it.
final class BrokerPeer {
    /// How far it has come. Each phase allows more requests than the one before.
    enum Phase {
        /// Connected; may say hello.
        case new
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
    var lanes: UInt32 = 0
    var slots: UInt32 = 0
    var slotBytes: UInt32 = 0
    var isolation = Bus.Isolation.user
    var domainByUser = DomainID(rawValue: 0)
    var domainByProcess = DomainID(rawValue: 0)
    var ticket: BrokerTicket?
    /// The bus's, or less where it is content with that.
    var limits: BusLimits
    /// Claim words and outbox: charged to its user.
    var memoryCharge = Charges()

    // Its memory. The descriptors bear the right to map it for writing, and are closed once both
    // sides have.
    var claims: BrokerMapping?
    var outbox: BrokerMapping?
    var claimsWritable: SharedDescriptor?
    var outboxWritable: SharedDescriptor?
    var outboxReadable: SharedDescriptor?

    /// In which others write, by the trust domain that does.
    var rings: [DomainID: BrokerRing] = [:]
    var introduced: Set<PeerID> = []
    var names: Set<[UInt8]> = []
    /// Look-ups that wait, by request.
    var lookUps: [UInt32: [UInt8]] = [:]
    var tickets: Set<Ticket> = []
    /// By lane: its commit words that others had to wait for.
    var stalls: [UInt32: Broker.Stall] = [:]
    private var lastGrant: UInt32 = 0
    /// The latest grants that the broker made to this peer, so that it can pass them on by ticket.
    private var held: [HeldGrant: UInt64] = [:]
    private var heldOrder: [HeldGrant] = []
    private var heldOldest = 0

    /// What could not be sent yet.
    var queue: [ControlMessage] = []
    var waitsForRoom = false
    /// Introductions that go on when it has received what is queued.
    var heldBack: [() -> Void] = []

    init(
        _ id: PeerID, _ account: Account, _ process: BrokerProcess, socket: SharedDescriptor,
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
    private var nextIndex: UInt32 = 0
    private var freed: [UInt16] = []
    private var firstFreed = 0

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

    /// An index for a new sender: a fresh one, and only when there is none, the one that has been
    /// free for longest.
    func addSender(_ peer: PeerID) -> UInt16? {
        var index: UInt16
        if nextIndex < SHMRING_SENDERS_MAX {
            index = UInt16(nextIndex)
            nextIndex += 1
        } else if firstFreed < freed.count {
            index = freed[firstFreed]
            firstFreed += 1
        } else {
            return nil
        }
        senders[peer] = index
        return index
    }

    func removeSender(_ peer: PeerID) {
        if let index = senders.removeValue(forKey: peer) { freed.append(index) }
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

    init(_ key: Ticket, issuer: PeerID, items: [TicketItem]) {
        self.key = key
        self.issuer = issuer
        self.items = items
    }
}
