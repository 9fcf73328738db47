/// What the broker tells a peer unasked. Everything that an answer refers to has been told before
/// that answer.
enum ControlEvent: ~Copyable {
    /// A ring of this peer's own has been made: map it for receiving. If `mustAcknowledge`, do so
    /// between two deliveries with ``ControlConnection/acknowledge(_:)``: nobody writes into it
    /// before.
    case ringAdded(RingOffer)
    /// This peer and another can send to each other from now on. Comes once for each pair.
    case introduced(Introduction)
    /// Somebody has been given the right to send to a node of this peer, by the broker: a holder
    /// more.
    case holderAdded(HolderAdded)
    /// Somebody has been given a grant to a node of this peer that another one had set aside for it.
    case holderMoved(HolderMoved)
    /// This peer has been given the right to send to a node: by its owner, or by the ticket shown
    /// in hello.
    case granted(TicketGrant)
    /// A peer to which this one had been introduced is dead; the stamp stands in its outbox.
    case peerDied(PeerID)
    /// The other made a socket for descriptors between the two.
    case linkSocket(PeerID, Descriptor)
    /// The receiver of that ring wants to be woken by this doorbell, when it parks on it.
    case ringEvent(RingID, Descriptor)
}

/// A ring of the peer's own, in which one trust domain writes.
struct RingOffer: ~Copyable {
    let ring: RingID
    let domain: DomainID
    let slots: UInt32
    let slotBytes: UInt32
    let mustAcknowledge: Bool
    /// Map it for reading and writing.
    var descriptor: Descriptor
}

/// Everything that two peers need to send to each other. Each of the two gets one, told from its
/// side.
struct Introduction: ~Copyable {
    let peer: PeerID
    let domain: DomainID
    let account: Account
    /// The ring of this peer in which the other writes (told by ``ControlEvent/ringAdded(_:)``
    /// before), and the other's sender index in its slots.
    let ownRing: RingID
    let itsIndex: UInt16
    /// The ring of the other in which this peer writes, and this peer's sender index there.
    let itsRing: RingID
    let ownIndex: UInt16
    let slots: UInt32
    let slotBytes: UInt32
    /// Of the other's outbox.
    let lanes: UInt32
    /// itsRing, to be mapped for reading and writing. nil when the other is this peer itself.
    var ring: Descriptor?
    /// The other's outbox, to be mapped read-only. nil when the other is this peer itself.
    var outbox: Descriptor?
    /// The return board for slices that this peer sends to the other.
    var boardOut: Descriptor
    /// The return board for slices that the other sends to this peer. nil when the other is this
    /// peer itself: then boardOut is both.
    var boardIn: Descriptor?
    /// By which the other wants to be woken when it parks on it; may also come later, as
    /// `ringEvent`.
    var event: Descriptor?
}

/// Given by the broker: whoever looked a name up, or showed a ticket.
struct HolderAdded: BitwiseCopyable {
    /// The number with which the owner published or granted.
    let node: UInt64
    let number: GrantNumber
    let holder: PeerID
}

/// Given by ticket, by somebody who is not the owner.
struct HolderMoved: BitwiseCopyable {
    /// What the grant was called: the issuer of the ticket, and the number of its hand-over.
    let key: GrantKey
    let number: GrantNumber
    let holder: PeerID
}

/// The right to send to one node: what goes into a slot's route with the own sender index.
struct Grant: BitwiseCopyable {
    let owner: PeerID
    let number: GrantNumber
    let ownerAccount: Account
    /// Index of the node's release word in the owner's outbox.
    let word: UInt32
}

/// A grant that came unasked.
struct TicketGrant {
    let grant: Grant
    /// Its place among those of the ticket; nil when no ticket brought it.
    let ordinal: Int?
    /// Why this one of the ticket could not be had; nil when it could.
    let failure: Bus1Error.Code?
}

/// What the broker says to a new peer.
struct Welcome: ~Copyable {
    let peer: PeerID
    let domain: DomainID
    /// This process, as the kernel vouched to the broker.
    let account: Account
    let broker: Account
    let version: UInt32
    let layoutVersion: UInt32
    let lanes: UInt32
    /// Of each ring that is made for this peer.
    let slots: UInt32
    let slotBytes: UInt32
    /// How many ``ControlEvent/granted(_:)`` the ticket brings.
    let grantsOfTicket: Int
    /// The bus's clock as the broker read it after the hello.
    let clockNow: UInt64
    /// To be mapped read-only.
    var busPage: Descriptor
    /// To be mapped for reading and writing, before ``ControlConnection/confirmMapped()``.
    var claims: Descriptor
    /// To be mapped for reading and writing, before ``ControlConnection/confirmMapped()``.
    var outbox: Descriptor
}

/// Whether a receiver's question whose slot a dead claimer left unwritten can be answered with yes.
struct BuryAnswer: BitwiseCopyable {
    let deadClaimerNamesIt: Bool
    let livingClaimerNamesIt: Bool
    /// The slot belongs to the dead, if it is still unwritten when read again now.
    var mayBury: Bool { deadClaimerNamesIt && !livingClaimerNamesIt }

    init(_ body: BuryAnswerBody) {
        deadClaimerNamesIt = body.deadClaimerNamesIt != 0
        livingClaimerNamesIt = body.livingClaimerNamesIt != 0
    }
}
