// What the broker says of the bus to who looks at it, page by page. Records have fixed widths and no gaps.

/// Of inspect, question and answer. Tail of an answer: `count` records of the subject's kind, those of names each with
/// the name behind it.
struct InspectBody: BitwiseCopyable {
    enum Subject: UInt32 {
        /// One ``InspectedBus``.
        case bus = 1
        case peers, users
        /// Of one peer.
        case names, rings, links, grants
    }

    var subject: UInt32
    /// 0 in a question.
    var count: UInt32 = 0
    /// The peer, or 0.
    var of: UInt64 = 0
    /// Of a question: what the answer before said, or 0. Of an answer: where the next page begins; 0: this was the last.
    var cursor: UInt64 = 0
}

/// The bus as a whole.
package struct InspectedBus: BitwiseCopyable {
    package var brokerUID: UInt32
    package var brokerPID: Int32
    /// 0: nobody would go on in the broker's place.
    package var heirPID: Int32
    /// 1: the broker serves as long as somebody is connected; 2: until it is told to end.
    package var mode: UInt32
    package var version: UInt32
    /// Whether the asker is told of everybody, or of its own user's peers only.
    package var isWhole: UInt32
    package var connections: UInt32
    package var names: UInt32
    package var rings: UInt32
    package var deaths: UInt32
    /// Commit words of the living that were aborted.
    package var aborts: UInt64
}

/// One peer.
package struct InspectedPeer: BitwiseCopyable {
    package var peer: UInt32
    package var uid: UInt32
    package var pid: Int32
    /// `BrokerPeer.Phase`.
    package var phase: UInt32
    /// `Bus.Isolation`.
    package var isolation: UInt32
    package var domain: UInt32
    package var version: UInt32
    package var lanes: UInt32
    package var rings: UInt32
    package var links: UInt32
    package var names: UInt32
    package var lookUps: UInt32
    package var tickets: UInt32
    package var grants: UInt32
    /// Messages of the broker that it has not received.
    package var queued: UInt32
    /// Bits: 1 its process is the broker's heir, 2 would be.
    package var flags: UInt32
}

/// What a user has, and may have.
package struct InspectedUser: BitwiseCopyable {
    package var uid: UInt32
    package var peers: UInt32
    package var peersMax: UInt32
    package var rings: UInt32
    package var ringsMax: UInt32
    package var links: UInt32
    package var linksMax: UInt32
    package var reserved: UInt32 = 0
    package var bytes: UInt64
    package var bytesMax: UInt64
}

/// A name. The name follows.
struct InspectedName: BitwiseCopyable {
    var node: UInt64
    /// As `PublishBody.access`.
    var access: UInt32
    var nameLength: UInt32
}

/// A ring, by its owner.
package struct InspectedRing: BitwiseCopyable {
    package var ring: UInt32
    /// Which trust domain writes there.
    package var domain: UInt32
    package var slots: UInt32
    package var slotBytes: UInt32
    package var senders: UInt32
    /// The user that is charged for it.
    package var payer: UInt32
    package var isAcknowledged: UInt32
    package var reserved: UInt32 = 0
}

/// A peer that another one knows.
package struct InspectedLink: BitwiseCopyable {
    package var peer: UInt32
    package var reserved: UInt32 = 0
}

/// A right that the broker gave to a peer, by a name or a ticket: it may have given it up since.
package struct InspectedGrant: BitwiseCopyable {
    package var owner: UInt32
    package var number: UInt32
    package var node: UInt64
}
