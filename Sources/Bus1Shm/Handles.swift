import CShmRing

/// The right to send to one node. Held by one peer; dropping it gives the right up.
///
/// *Corresponds to a bus1 handle.*
@frozen
public struct Handle: ~Copyable, @unchecked Sendable {
    // @unchecked: the entry is written before the handle exists; ending it is allowed on any thread.
    /// Names the handle in lists and dictionaries, for as long as it is held.
    public let id: HandleID
    @usableFromInline let entry: UnsafeMutablePointer<HandleEntry>
    /// Keeps the entry's memory alive: retained by the handle, released by deinit and detach.
    @usableFromInline let core: Unmanaged<PeerCore>

    init?(_ id: HandleID, of core: PeerCore) {
        guard let entry = core.handles.entry(id) else { return nil }
        self.id = id
        self.entry = entry
        self.core = .passRetained(core)
    }

    /// Gives the right up now. From here on sends to it fail, also by its ``id``.
    public consuming func release() {}

    /// The peer keeps the handle from now on; only its identifier is left. ``Peer/adopt(_:)`` undoes that,
    /// ``Peer/release(_:)`` ends it.
    public consuming func detach() -> HandleID {
        let id = id
        core.release()
        discard self
        return id
    }

    deinit {
        core._withUnsafeGuaranteedRef { $0.releaseHandle(id) }
        core.release()
    }
}

/// The receiving end of a channel. Owned by the peer that made it; dropping it releases the node: whoever holds handles to
/// it can't reach it any more.
///
/// *Corresponds to a bus1 node.*
public struct Node: ~Copyable, @unchecked Sendable {
    // @unchecked: the release is handed to the peer's own domain under a lock.
    /// Names the node in messages and lists.
    public let id: NodeID
    /// Kept alive by the node: retained by it, released by deinit and detach.
    private let core: Unmanaged<PeerCore>

    init(id: NodeID, core: PeerCore) {
        self.id = id
        self.core = .passRetained(core)
    }

    /// Releases the node now: whoever holds handles to it is told, at one instant.
    public consuming func release() {}

    /// The peer keeps the node from now on; only its identifier is left, for ``Peer/release(_:nodes:)``.
    public consuming func detach() -> NodeID {
        let id = id
        core.release()
        discard self
        return id
    }

    deinit {
        core._withUnsafeGuaranteedRef { $0.releaseNode(id) }
        core.release()
    }
}
