import CShmRing

/// The right to send, for one further thread of the peer's process. Sends only to handles of its peer.
public struct Lane: ~Copyable, @unchecked Sendable {
    let core: PeerCore
    init(core: PeerCore, number: UInt32) throws(Bus1Error) { self.core = core }
}
