public import CShmRing

@_spi(Raw)
extension Deadline {
    /// A moment of CLOCK_MONOTONIC; `UInt64.max` is never, 0 now.
    public static func raw(_ monotonic_ns: UInt64) -> Deadline {
        Deadline(monotonic_ns: monotonic_ns)
    }
}

@_spi(Raw)
extension HandleID {
    /// The handle of this number, which may be none.
    public static func raw(_ number: UInt64) -> HandleID { HandleID(rawValue: number) }
}

@_spi(Raw)
extension NodeID {
    /// The node of this number, which may be none.
    public static func raw(_ number: UInt64) -> NodeID { NodeID(rawValue: number) }
}

@_spi(Raw)
extension Message {
    /// A message of which ``detachCell()`` left this.
    @inlinable @inline(__always)
    public init(attaching cell: UnsafeMutablePointer<shmring_cell>) { self.init(cell: cell) }

    /// Nothing came with it, and its payload lies in its slot.
    @inlinable @inline(__always)
    public var isPlain: Bool { shmring_message_is_plain(shmring_cell_message(cell)) }

    /// Gives the message up without ending it. `shmring_cell_give_back` ends it, on any thread.
    @inlinable @inline(__always)
    public consuming func detachCell() -> UnsafeMutablePointer<shmring_cell> {
        let cell = cell
        discard self
        return cell
    }
}

@_spi(Raw)
extension Slice {
    /// Where the memory lies, until the slice ends.
    public var base: UnsafeMutableRawPointer? { raw.base }
}

@_spi(Raw)
extension Child {
    /// Its pidfd, the caller's from now on.
    public consuming func detachDescriptor() -> Int32 { pidfd.take() }
}

@_spi(Raw)
extension Peer {
    /// Calls with a node of this peer that is kept by its name.
    ///
    /// - Throws: `noSuchHandle` when it is no living node of this peer, and what the body throws.
    public func withNode<R: ~Copyable>(
        _ id: NodeID, _ body: (borrowing Node) throws(Bus1Error) -> R
    ) throws(Bus1Error) -> R {
        try core.requireOpen("use a node")
        guard isAlive(id) else { throw Bus1Error(.noSuchHandle, "use a node") }
        let node = Node(id: id, core: core)
        do throws(Bus1Error) {
            let result = try body(node)
            _ = node.detach()
            return result
        } catch {
            _ = node.detach()
            throw error
        }
    }

    /// Whether this is a node of this peer that was not released.
    public func isAlive(_ id: NodeID) -> Bool {
        core.nodes.withLock { $0.isAlive(id.rawValue) }
    }

    /// Whether the peer holds a handle of this name.
    public func holds(_ id: HandleID) -> Bool { core.handles.entry(id) != nil }

    /// Who owns the node behind a handle; see ``owner(of:)``.
    public func owner(ofHandle id: HandleID) throws(Bus1Error) -> Account {
        try core.requireOpen("ask for an owner")
        guard let entry = core.handles.entry(id), let link = core.link(of: entry) else {
            throw Bus1Error(.noSuchHandle, "ask for an owner")
        }
        return link.account
    }

    /// As ``send(_:to:until:)-(Slice,_,_)``. The slice is gone in any case.
    public func send(
        _ slice: consuming Slice, toHandle id: HandleID, until deadline: Deadline
    ) throws(Bus1Error) {
        try core.requireOpen("send a slice")
        _ = try core.laneState.send(slice, id, until: deadline)
    }

    /// Ends a handle whose node is gone: nobody needs to be told.
    public func retire(_ id: HandleID) { core.releaseHandle(id) }
}

@_spi(Raw)
extension Transaction {
    /// Adds the release of a handle, by its name.
    public mutating func release(handle id: HandleID) { handles.append(id) }

    /// Adds the release of a node, by its name.
    public mutating func release(node id: NodeID) { nodes.append(id) }

    /// Asks for a reply to the message that was added last, which comes to this living node of the peer.
    public mutating func ask(replyTo node: NodeID) {
        messages[messages.count - 1].replyNode = node
    }

    /// As ``commit(until:)`` or ``commitEach()``, but that handles and nodes which were to be released stay if it fails.
    public consuming func commit(
        each: Bool, keepingUntil deadline: Deadline
    ) throws(Bus1Error) -> (stamp: Stamp, refused: [(HandleID, Bus1Error)]) {
        do throws(Bus1Error) {
            return try state.commit(&self, each: each, until: each ? .now : deadline)
        } catch {
            forgetReleases()
            throw error
        }
    }

    /// What was to be released stays if this is dropped.
    public mutating func forgetReleases() {
        handles = []
        nodes = []
    }
}

@_spi(Raw)
extension Stamp {
    /// The stamp of this number.
    public static func raw(_ number: UInt64) -> Stamp { Stamp(rawValue: number) }
}
