// What the broker and a peer say to each other, byte for byte. docs/control-protocol.md is the
// prose.
//
// Guarantees:
//   1. One message is one packet of a SOCK_SEQPACKET socket: a ControlHeader, the body of its kind,
//      then the tail that the body announces; byteCount is the whole. Descriptors come in the order
//      of ControlRole's bits.
//   2. Each number has a fixed width and the machine's byte order: both ends are on one machine.
//   3. Whoever receives a message checks kind, lengths, roles and ranges before it uses a byte of
//      it. A message that fails the check ends the connection.
//
// NOTE - unknown kinds are malformed, not ignored: what both sides speak is settled once, in hello.

/// The version of this protocol that this build speaks, and the oldest that it still understands.
let controlVersion: UInt32 = 3
let controlVersionMin: UInt32 = 1
/// From this version on a connection outlives its broker: messages of the broker are numbered, and
/// questions are asked again.
let controlVersionOfSuccession: UInt32 = 2
/// From this version on the broker can be asked what the bus has.
let controlVersionOfInspection: UInt32 = 3

/// No message is longer, tail included.
let controlMessageBytesMax = 1024
/// No message carries more descriptors.
let controlDescriptorsMax = 8

/// A name has 1 to this many bytes of UTF-8.
let controlNameBytesMax = 255
/// So many users an access rule can list.
let controlUsersMax = 32
/// So many rights a ticket can bring.
let controlTicketItemsMax = 32

enum ControlKind: UInt32 {
    // Peer to broker. The answer repeats kind and request number.
    case hello = 1
    case mapped = 2
    case publish = 3
    case unpublish = 4
    case lookUp = 5
    case cancel = 6
    case grant = 7
    case ticket = 8
    case ticketCancel = 9
    case ownRing = 10
    case ringAcknowledged = 11
    case linkSocket = 12
    case ringEvent = 13
    case bury = 14
    case abortAsk = 15
    case goodbye = 16
    case introduce = 17
    case limits = 18
    /// Since version 2.
    case flagHolders = 19
    case standBy = 20
    case again = 21
    /// Since version 3.
    case inspect = 22
    // Broker to peer, unasked. The request number is 0.
    case ringAdded = 32
    case introduced = 33
    case holderAdded = 34
    case granted = 35
    case peerDied = 36
    case linkSocketMade = 37
    case ringEventAdded = 38
    case severed = 39
    /// Since version 2.
    case holderMoved = 40
    case inherit = 41
    case succeeded = 42

    var isUnasked: Bool { rawValue >= 32 }
    /// Said by a peer, and not answered.
    var isTold: Bool { self == .ringAcknowledged || self == .abortAsk || self == .again }
}

/// What the descriptors of a message are: one bit each, and they come in the order of the bits.
struct ControlRoles: OptionSet, BitwiseCopyable {
    let rawValue: UInt32

    static let busPage = ControlRoles(rawValue: 1 << 0)
    static let claims = ControlRoles(rawValue: 1 << 1)
    static let outbox = ControlRoles(rawValue: 1 << 2)
    static let ring = ControlRoles(rawValue: 1 << 3)
    static let boardOut = ControlRoles(rawValue: 1 << 4)
    static let boardIn = ControlRoles(rawValue: 1 << 5)
    static let event = ControlRoles(rawValue: 1 << 6)
    static let socket = ControlRoles(rawValue: 1 << 7)
}

struct ControlHeader: BitwiseCopyable {
    var kind: UInt32
    /// Chosen by the asker, never 0; repeated in the answer. 0 in what nobody asked for.
    var request: UInt32
    /// 0, or a `Bus1Error.Code`: then the body is a `RefusalBody`.
    var status: UInt32
    var byteCount: UInt32
    var roles: ControlRoles
    /// What the broker sends to one peer is numbered from 1 on: a successor sends again what may not
    /// have been sent. 0: not numbered, as all that peers send.
    var sequence: UInt32 = 0
}

/// The body of every message that has nothing to say.
struct EmptyBody: BitwiseCopyable {}

/// The body of an answer with a status, and of severed: the last that the broker says, and why.
struct RefusalBody: BitwiseCopyable {
    var errno: Int32 = 0
    /// `Resource`, or 0.
    var resource: UInt32 = 0
    var used: UInt64 = 0
    var limit: UInt64 = 0
    var uid: UInt32 = 0
    var pid: Int32 = 0
}

struct HelloBody: BitwiseCopyable {
    var versionMin: UInt32
    var version: UInt32
    var layoutMin: UInt32
    var layout: UInt32
    var lanes: UInt32
    var slots: UInt32
    var slotBytes: UInt32
    /// `Bus.Isolation`: 1 user, 2 process.
    var isolation: UInt32
    var ticket: Ticket
}

struct WelcomeBody: BitwiseCopyable {
    var version: UInt32
    var layout: UInt32
    var peer: UInt32
    var domain: UInt32
    var uid: UInt32
    var pid: Int32
    var brokerUID: UInt32
    var brokerPID: Int32
    var lanes: UInt32
    var slots: UInt32
    var slotBytes: UInt32
    /// How many `granted` messages the ticket will bring.
    var grantsOfTicket: UInt32
    var peersMax: UInt32
    var ringsMax: UInt32
    var namesMax: UInt32
    var lookUpsMax: UInt32
    var ticketsMax: UInt32
    var reserved: UInt32 = 0
    /// The bus's clock, read between the hello and this answer.
    var clockNow: UInt64
}

/// Tail: `userCount` user IDs of 4 bytes, then the name.
struct PublishBody: BitwiseCopyable {
    var node: UInt64
    /// 1 same user, 2 users of the tail, 3 anyone.
    var access: UInt32
    var userCount: UInt32
    var nameLength: UInt32
    var reserved: UInt32 = 0
}

/// Tail: the name. Of unpublish and lookUp.
struct NameBody: BitwiseCopyable {
    var nameLength: UInt32
    /// lookUp: 1 waits until the name is published.
    var wait: UInt32
}

/// Of cancel: the request that is not to be answered any more. The cancelled request itself is
/// answered `cancelled`, unless its answer is on the way already; cancel is answered in any case,
/// and last.
struct CancelBody: BitwiseCopyable {
    var request: UInt32
    var reserved: UInt32 = 0
}

/// The answer to lookUp, and the body of granted.
struct GrantedBody: BitwiseCopyable {
    var owner: UInt32
    var number: UInt32
    var ownerUID: UInt32
    var ownerPID: Int32
    /// granted: its place among those that the ticket brings, from 0; UInt32.max without a ticket.
    var ordinal: UInt32
    /// granted: 0, or the `Bus1Error.Code` that says why this one of the ticket could not be had.
    var failure: UInt32
    /// Index of the node's release word in the owner's outbox.
    var word: UInt32
    var reserved: UInt32 = 0
}

/// Of grant: the owner made it. Of holderAdded: somebody has been given a grant to the receiver's
/// node.
struct GrantBody: BitwiseCopyable {
    var node: UInt64
    var number: UInt32
    var holder: UInt32
}

/// Tail: `count` times a TicketItem.
struct TicketBody: BitwiseCopyable {
    var count: UInt32
    var reserved: UInt32 = 0
}

struct TicketItem: BitwiseCopyable {
    /// Own: the node. Held: 0. Deposited: ``deposited`` | the index of the node's release word.
    var node: UInt64
    /// Own: the issuer. Held, deposited: the node's owner.
    var owner: UInt32
    /// Own: the grant's number, chosen by the issuer. Held: the number of a grant that the issuer
    /// holds. Deposited: of the hand-over by which the issuer made itself a copy.
    var number: UInt32

    /// No node has such a number.
    static let deposited = UInt64(UInt32.max) << 32
    var isDeposited: Bool { node >= Self.deposited }
}

/// The answer to ticket, and the question of ticketCancel.
struct TicketMadeBody: BitwiseCopyable {
    var ticket: Ticket
}

/// Of introduce: two peers to which the asker has been introduced, or is one of them.
struct PairBody: BitwiseCopyable {
    var first: UInt32
    var second: UInt32
}

/// Of limits, question and answer.
struct LimitsBody: BitwiseCopyable {
    enum Verb: UInt32 {
        case ask = 0
        /// Be content with `limit`.
        case set = 1
        /// Answer when less than the limit is used.
        case wait = 2
    }

    /// `Resource`: peers, links, rings, names, lookUps or tickets.
    var resource: UInt32
    /// 0 in an answer.
    var verb: UInt32
    /// 0 in a question.
    var used: UInt64 = 0
    var limit: UInt64 = 0
}

/// Of holderMoved: the grant with the key (issuer, key) is the holder's from now on, under `number`.
struct MovedBody: BitwiseCopyable {
    var issuer: UInt32
    var key: UInt32
    var number: UInt32
    var holder: UInt32
}

/// Of flagHolders. Not answered by a message: `flagged` in the asker's outbox becomes this number.
struct FlagHoldersBody: BitwiseCopyable {
    var number: UInt32
    var reserved: UInt32 = 0
}

/// Of linkSocket, linkSocketMade and peerDied.
struct PeerBody: BitwiseCopyable {
    var peer: UInt32
    var reserved: UInt32 = 0
}

/// Of ringAdded, ringAcknowledged, ringEvent, ringEventAdded and the answer to ownRing.
struct RingBody: BitwiseCopyable {
    var ring: UInt32
    var domain: UInt32 = 0
    var slots: UInt32 = 0
    var slotBytes: UInt32 = 0
    /// ringAdded: 1 when the receiver must acknowledge before anybody gets to write into it.
    var acknowledge: UInt32 = 0
    var reserved: UInt32 = 0
}

struct IntroducedBody: BitwiseCopyable {
    var peer: UInt32
    var domain: UInt32
    var uid: UInt32
    var pid: Int32
    /// The ring of the receiver of this message in which the other writes, and the other's sender
    /// index there.
    var ownRing: UInt32
    var itsIndex: UInt32
    /// The ring of the other in which the receiver of this message writes, and its sender index
    /// there.
    var itsRing: UInt32
    var ownIndex: UInt32
    /// Of itsRing.
    var slots: UInt32
    var slotBytes: UInt32
    /// Of the other's outbox.
    var lanes: UInt32
    var reserved: UInt32 = 0
}

struct BuryBody: BitwiseCopyable {
    var ring: UInt32
    var reserved: UInt32 = 0
    var position: UInt64
}

struct BuryAnswerBody: BitwiseCopyable {
    var deadClaimerNamesIt: UInt32
    var livingClaimerNamesIt: UInt32
}

struct AbortAskBody: BitwiseCopyable {
    var peer: UInt32
    var commitIndex: UInt32
    var generation: UInt32
    var reserved: UInt32 = 0
}
