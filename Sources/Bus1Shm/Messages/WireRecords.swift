import CShmRing

// What messages say to the library instead of to the program, byte for byte.
//
// Guarantees:
//   1. Every record is 16 bytes of plain integers in the machine's byte order; a body holds a whole
//      number of them.
//   2. Whoever reads one copies it first, then checks it: a record that no honest peer writes is
//      ignored or makes the message invalid, it never traps.
//
// NOTE - what a record means depends on when it is applied: a control message is applied where it
// stands in the order of the bus (Sources/CShmRing/inbox_look.c), never before.

/// Grant numbers that name no node. In a slot's route.
@usableFromInline
enum ReservedGrant {
    /// The link's socket has something to read. No body.
    @inlinable static var readSocket: UInt32 { .max }
    /// The body is a sequence of `ControlRecord`.
    @inlinable static var control: UInt32 { .max - 1 }
    /// Never sent: the handle that has it must be bound first (``ControlRecord/Kind/bind``).
    @inlinable static var unbound: UInt32 { .max - 2 }

    /// Numbers from here on are reserved.
    static let first: UInt32 = .max - 15
}

/// A right as its owner's list knows it before the holder has bound it to a number of its own:
/// whoever made it, and the maker's count. Unique for each owner, never reused.
@frozen @usableFromInline
struct GrantKey: Hashable, Sendable, BitwiseCopyable {
    /// The peer that handed it over; 0 is the broker (a name looked up, a ticket).
    @usableFromInline let granter: UInt32
    @usableFromInline let number: UInt32

    @usableFromInline init(granter: UInt32, number: UInt32) {
        self.granter = granter
        self.number = number
    }
}

/// What the libraries of two peers say to each other about rights, in a slot whose grant is
/// `ReservedGrant.control`.
struct ControlRecord: BitwiseCopyable {
    enum Kind: UInt32 {
        /// To an owner, by a holder that passes its handle on: `number` is the new grant's, counted
        /// by the sender; `first` the peer that holds it from now on; `second` the sender's own
        /// grant that is passed on, as its messages name it.
        case handOver = 1
        /// To an owner, by a holder: the grant (granter `first`, number `second`) is called `number`
        /// from now on, in this holder's messages. Top bit set; chosen by the holder.
        case bind = 2
        /// To an owner, by a holder: the grant that its messages call `number` is given up.
        case release = 3
        /// The same, of a grant never bound: granter `first`, number `second`.
        case releaseUnbound = 4
    }

    var rawKind: UInt32
    var number: UInt32
    var first: UInt32 = 0
    var second: UInt32 = 0

    init(_ kind: Kind, number: UInt32, first: UInt32 = 0, second: UInt32 = 0) {
        rawKind = kind.rawValue
        self.number = number
        self.first = first
        self.second = second
    }

    var kind: Kind? { Kind(rawValue: rawKind) }
}

/// The begin of the body of a message with `SHMRING_HEADER_ATTACHED`: 8 bytes, in the slot.
///
/// Behind it: the attempt (8 bytes, only if there are descriptors: lane << 48 | the lane's count of
/// attempts, under which they went over the link's socket), `handleCount` times an `AttachedHandle`,
/// then the payload; or, if the slot is marked SLICE as well, a `shmring_slice_ref` of the payload.
/// With ``Marks/recordsInSlice`` (and SLICE) only the header and a `shmring_slice_ref` are in the
/// slot, and the slice's bytes are attempt, records and payload.
struct AttachmentHeader: BitwiseCopyable {
    struct Marks: OptionSet, BitwiseCopyable {
        let rawValue: UInt32
        static let recordsInSlice = Marks(rawValue: 1)
        /// The last handle is a reply handle: `Message.takeReply()`.
        static let reply = Marks(rawValue: 2)
        /// The payload is the first descriptor: a memfd sealed against writing, payload from its
        /// first byte on. What stands where the payload would is its length, 8 bytes.
        static let sealedPayload = Marks(rawValue: 4)
        /// The reply handle is good for more than one message: whoever can keeps it for the next call
        /// (`CallHeader`), others end it after the first.
        static let keep = Marks(rawValue: 8)
        /// Nothing is attached; behind the header stands the number of a reply handle that the receiver
        /// keeps: it is the message's.
        static let again = Marks(rawValue: 16)
        /// The same, of a reply: the number under which its sender keeps the handle.
        static let answer = Marks(rawValue: 32)
    }

    var handleCount: UInt16
    var descriptorCount: UInt16
    var marks: Marks
}

/// A handle inside a message.
struct AttachedHandle: BitwiseCopyable {
    enum Kind: UInt8 {
        /// To a node of the sender: `number` is its own grant number.
        case ofSender = 1
        /// To a node of somebody else: the key is (sender, `number`).
        case ofThird = 2
        /// To a node of the receiver: `number` is what the sender's messages call it.
        case ofReceiver = 3
    }

    /// The peer that owns the node.
    var owner: UInt32
    var number: UInt32
    /// The node's release word, in its owner's outbox.
    var word: UInt32
    var rawKind: UInt8
    /// 1: a reply handle: one message, then it is gone.
    var oneShot: UInt8 = 0
    var reserved: UInt16 = 0

    var kind: Kind? { Kind(rawValue: rawKind) }
}
