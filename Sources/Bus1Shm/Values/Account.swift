/// Who did it, as the kernel vouched when the connection was made: no claim of the process itself.
@frozen
public struct Account: Hashable, Sendable, BitwiseCopyable {
    /// The effective user ID, in the broker's user namespace.
    public let uid: UInt32
    /// The process ID, in the broker's PID namespace; 0 when the process has none there.
    public let pid: Int32

    @usableFromInline
    init(uid: UInt32, pid: Int32) {
        self.uid = uid
        self.pid = pid
    }
}

/// What is counted and limited.
public enum Resource: UInt32, Sendable {
    /// Peers of one user.
    case peers = 1
    /// Nodes that a peer has made and not released.
    case nodes = 2
    /// Handles that a peer holds.
    case handles = 3
    /// Messages that wait for a peer.
    case messages = 4
    /// Shared memory: of a peer's loaned and lent slices; of one user: what the broker made for its peers.
    case bytes = 5
    /// Open files: in messages that a peer has received and not given back; of one user: what the broker keeps for it.
    case descriptors = 6
    /// Rings, one for each pair of a receiving peer and a trust domain that writes to it.
    case rings = 7
    /// Published names.
    case names = 8
    /// Look-ups that wait for a name.
    case lookUps = 9
    /// Tickets for children, not yet used.
    case tickets = 10
    /// Sending threads of one peer.
    case lanes = 11
    /// Other peers to which a user's peers have been introduced.
    case links = 12
}
