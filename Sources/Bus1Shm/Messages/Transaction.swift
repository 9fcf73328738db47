import CShmRing

/// Messages to any nodes and releases of any handles and nodes, that happen at one instant or not at all.
///
/// Filled, then committed or dropped. Payloads are copied, or moved in as slices, while it is filled;
/// nothing happens before ``commit(until:)``. Dropped without that, nothing has happened: its slices
/// go back, but handles and nodes that were moved in to be released are released one by one.
///
/// It belongs to the isolation domain of the peer (or the thread of the lane) that began it.
///
/// *Corresponds to `bus1_cmd_send` and `bus1_cmd_release` in one.*
public struct Transaction: ~Copyable {
    let state: LaneState
    var bytes: [UInt8] = []
    var messages: [OutgoingMessage] = []
    var handles: [HandleID] = []
    var nodes: [NodeID] = []

    init(_ state: LaneState) { self.state = state }

    /// Adds a message. Its bytes are copied now.
    ///
    /// - Parameters:
    ///   - handle: where it goes. Each handle once in a transaction; different handles of one peer make
    ///     several messages there, all but the last marked ``Message/moreFollow``.
    ///   - passing: handles of this peer of which the receiver gets copies, 253 at most; this peer keeps
    ///     its own.
    ///   - descriptors: open files of which the receiver gets duplicates, 253 at most; kept open by the
    ///     caller until the commit.
    /// - Throws: `tooLarge` when there are more messages, handles or descriptors than fit,
    ///   `duplicateDestination`. Whether the handles are held is seen by the commit.
    public mutating func send(
        _ payload: RawSpan, to handle: HandleID, passing: [HandleID] = [],
        descriptors: [Int32] = []
    ) throws(Bus1Error) {
        try payload.withUnsafeBytes { bytes throws(Bus1Error) in
            try add(copyOf: bytes, handle, passing, descriptors)
        }
    }

    /// Adds a message with one value.
    public mutating func send<T: BitwiseCopyable>(
        _ value: T, to handle: HandleID, passing: [HandleID] = [], descriptors: [Int32] = []
    ) throws(Bus1Error) {
        try withUnsafeBytes(of: value) { bytes throws(Bus1Error) in
            try add(copyOf: bytes, handle, passing, descriptors)
        }
    }

    /// Adds a message whose payload is a slice, without a copy. The slice is gone in any case.
    public mutating func send(
        _ slice: consuming Slice, to handle: HandleID, passing: [HandleID] = [],
        descriptors: [Int32] = []
    ) throws(Bus1Error) {
        let byteCount = slice.byteCount
        let (raw, pool) = slice.takeRawAndPool()
        let payload = OutgoingMessage.Payload.slice(raw, byteCount: byteCount, pool: pool)
        do throws(Bus1Error) {
            try add(
                OutgoingMessage(
                    handle: handle, payload: payload, passing: passing, descriptors: descriptors))
        } catch {
            Self.end(payload)
            throw error
        }
    }

    /// Adds a message whose payload is sealed memory, without a copy. The memory is gone in any case.
    ///
    /// - Throws: as for bytes, and `system` when it can't be sealed.
    public mutating func send(
        _ payload: consuming SealedPayload, to handle: HandleID, passing: [HandleID] = [],
        descriptors: [Int32] = []
    ) throws(Bus1Error) {
        let byteCount = payload.byteCount
        let memory = try payload.seal()
        try add(
            OutgoingMessage(
                handle: handle, payload: .sealed(memory, byteCount: byteCount), passing: passing,
                descriptors: descriptors))
    }

    /// Adds a message that asks for one reply, which comes to `node`: see ``Message/takeReply()``.
    public mutating func send(
        _ payload: RawSpan, to handle: HandleID, replyTo node: borrowing Node,
        passing: [HandleID] = []
    ) throws(Bus1Error) {
        try send(payload, to: handle, passing: passing)
        messages[messages.count - 1].replyNode = node.id
    }

    /// Adds a message with one value that asks for one reply.
    public mutating func send<T: BitwiseCopyable>(
        _ value: T, to handle: HandleID, replyTo node: borrowing Node, passing: [HandleID] = []
    ) throws(Bus1Error) {
        try send(value, to: handle, passing: passing)
        messages[messages.count - 1].replyNode = node.id
    }

    /// Adds the release of a handle. One of another peer is a mistake of the caller's, and traps.
    public mutating func release(_ handle: consuming Handle) {
        precondition(handle.entry.pointee.token == state.core.hot.pointee.token, "another peer's")
        handles.append(handle.detach())
    }

    /// Adds the release of a node.
    public mutating func release(_ node: consuming Node) { nodes.append(node.detach()) }

    /// Makes everything happen at one instant. Waits for room in all rings until the deadline.
    ///
    /// - Returns: the instant; for an empty transaction the present.
    /// - Throws: `noSuchHandle`, `nodeReleased`, `duplicateDestination`, `overQuota`, `timedOut`,
    ///   `severed`: nothing has happened then, but slices are gone, and handles and nodes that were to
    ///   be released go as if the transaction had been dropped.
    @discardableResult
    public consuming func commit(until deadline: Deadline = .never) throws(Bus1Error) -> Stamp {
        try state.commit(&self, each: false, until: deadline).stamp
    }

    /// The same, but a destination that refuses does not stop the others: they get their messages at one
    /// instant, and the releases happen then, too. Never waits: a ring without room refuses.
    ///
    /// - Returns: the instant, and for each destination left out why.
    /// - Throws: only what concerns the transaction as a whole.
    public consuming func commitEach() throws(Bus1Error) -> (
        stamp: Stamp, refused: [(HandleID, Bus1Error)]
    ) {
        try state.commit(&self, each: true, until: .now)
    }

    /// Adds a request whose reply handle may be kept by its receiver.
    mutating func add(
        request: UnsafeRawBufferPointer, to handle: HandleID, replyTo node: NodeID
    ) throws(Bus1Error) {
        try add(copyOf: request, handle, [], [])
        messages[messages.count - 1].replyNode = node
        messages[messages.count - 1].keepsReply = true
    }

    private mutating func add(
        copyOf payload: UnsafeRawBufferPointer, _ handle: HandleID, _ passing: [HandleID],
        _ descriptors: [Int32]
    ) throws(Bus1Error) {
        let start = bytes.count
        bytes.append(contentsOf: payload)
        do throws(Bus1Error) {
            try add(
                OutgoingMessage(
                    handle: handle, payload: .copied(start..<bytes.count), passing: passing,
                    descriptors: descriptors))
        } catch {
            bytes.removeSubrange(start...)
            throw error
        }
    }

    private mutating func add(_ message: OutgoingMessage) throws(Bus1Error) {
        guard messages.count < Int(SHMRING_CLAIM_WORDS),
            message.passing.count <= attachedHandlesMax,
            message.allDescriptors.count <= attachedDescriptorsMax
        else { throw Bus1Error(.tooLarge, "add to a transaction") }
        guard !messages.contains(where: { $0.handle == message.handle }) else {
            throw Bus1Error(.duplicateDestination, "add to a transaction")
        }
        messages.append(message)
    }

    static func end(_ payload: OutgoingMessage.Payload) {
        guard case .slice(let raw, _, let pool) = payload else { return }
        pool._withUnsafeGuaranteedRef { $0.endLater(raw) }
        pool.release()
    }

    deinit {
        for message in messages { Self.end(message.payload) }
        for id in handles { state.core.releaseHandle(id) }
        for id in nodes { state.core.releaseNode(id) }
    }
}

extension Peer {
    /// Begins a transaction. Nothing happens before it is committed.
    public func transaction() -> Transaction { Transaction(core.laneState) }

    /// Sends a copy of some bytes, and with them handles of this peer, of which the receiver gets copies
    /// of its own. Waits for room until the deadline.
    ///
    /// A handle to an own node costs no more than the message. One to somebody else's node makes its
    /// owner a further destination of the same transaction; the first time for a pair, the broker
    /// introduces the owner to the receiver, which waits for it.
    ///
    /// - Throws: as ``Transaction/commit(until:)``.
    @discardableResult
    public func send(
        _ bytes: RawSpan, to handle: borrowing Handle, passing: [HandleID],
        descriptors: [Int32] = [], until deadline: Deadline = .never
    ) throws(Bus1Error) -> Stamp {
        if descriptors.isEmpty {
            var failure: Bus1Error?
            let stamp = core.uncountedLane._withUnsafeGuaranteedRef { lane -> Stamp? in
                do throws(Bus1Error) {
                    return try lane.trySendFew(bytes, handle.id, passing: passing, core)
                } catch {
                    failure = error
                    return nil
                }
            }
            if let stamp { return stamp }
            if let failure { throw failure }
        }
        var one = transaction()
        try one.send(bytes, to: handle.id, passing: passing, descriptors: descriptors)
        return try one.commit(until: deadline)
    }

    /// Sends sealed memory: whoever receives it reads it in place, also as a stranger. Waits for room
    /// until the deadline.
    ///
    /// - Throws: as ``Transaction/commit(until:)``, and `system` when it can't be sealed.
    @discardableResult
    public func send(
        _ payload: consuming SealedPayload, to handle: borrowing Handle,
        passing: [HandleID] = [], descriptors: [Int32] = [], until deadline: Deadline = .never
    ) throws(Bus1Error) -> Stamp {
        var one = transaction()
        try one.send(payload, to: handle.id, passing: passing, descriptors: descriptors)
        return try one.commit(until: deadline)
    }

    /// Sends a copy of some bytes and asks for one reply, which comes to `node` like any message.
    /// If the receiver drops the request, or dies, without a reply, `node` gets
    /// ``Notice/Kind/replyLost(_:)``.
    @discardableResult
    public func send(
        _ bytes: RawSpan, to handle: borrowing Handle, replyTo node: borrowing Node,
        until deadline: Deadline = .never
    ) throws(Bus1Error) -> Stamp {
        var one = transaction()
        try one.send(bytes, to: handle.id, replyTo: node)
        return try one.commit(until: deadline)
    }
}

extension Peer {
    /// Sends a value and asks for one reply, which comes to `node` like any message.
    @discardableResult
    public func send<T: BitwiseCopyable>(
        _ value: T, to handle: borrowing Handle, replyTo node: borrowing Node,
        until deadline: Deadline = .never
    ) throws(Bus1Error) -> Stamp {
        var one = transaction()
        try one.send(value, to: handle.id, replyTo: node)
        return try one.commit(until: deadline)
    }
}

extension Lane {
    /// As ``Peer/transaction()``. A lane has no connection to the broker: if a handle to somebody else's node is passed
    /// on to a peer that does not know the node's owner, the commit waits until this peer's own thread receives, and so
    /// introduces the two, or until its deadline.
    public func transaction() -> Transaction { Transaction(state) }
}
