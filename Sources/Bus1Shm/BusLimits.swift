typealias BusLimits = Bus.Limits

extension Bus {
    /// What the broker of a bus lets one user have, and one peer. Whoever starts the broker decides.
    ///
    /// A peer may be content with less: ``Peer/setLimit(_:_:)``.
    public struct Limits: Sendable, Hashable, BitwiseCopyable {
        /// Of one user.
        public var peers: UInt32 = 4096
        /// Of one user: rings that were made so that its peers can send, to themselves or others.
        public var ringsOfUser: UInt32 = 65_536
        /// Of one user: introductions of its peers.
        public var linksOfUser: UInt32 = 262_144
        /// Of one user: shared memory that the broker made for its peers: claim words, outboxes, rings, boards.
        public var bytesOfUser: UInt64 = 64 << 30
        /// Of one peer: in which others write to it.
        public var rings: UInt32 = 1024
        /// Of one peer.
        public var names: UInt32 = 256
        /// Of one peer, waiting.
        public var lookUps: UInt32 = 256
        /// Of one peer, not yet used.
        public var tickets: UInt32 = 256

        /// The defaults.
        public init() {}
    }
}
