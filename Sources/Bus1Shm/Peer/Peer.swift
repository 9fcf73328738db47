import CShmRing
import CBus1System

/// A participant of the bus: one queue, the nodes that it made, the handles that it holds.
///
/// A new peer cannot be addressed: without a handle nothing reaches it. It is not `Sendable`: one isolation domain
/// receives and makes requests; each further thread that sends takes a ``Lane``.
///
/// Closing it, or dropping it, releases its nodes and handles and drops its queue; what it sent stays with the receivers.
///
/// *Corresponds to a bus1 peer.*
@frozen
public struct Peer: ~Copyable {
    @usableFromInline let hot: UnsafeMutablePointer<PeerHot>
    @usableFromInline let core: PeerCore

    /// How a peer is made. The defaults suit most.
    public struct Options: Sendable {
        /// Slots of each ring that is made for this peer: messages that may wait. A power of two from 16 on.
        public var slots = 1024
        /// Bytes of a slot, a power of two from 64 on; 24 of them are not payload. Longer payloads take a slice.
        public var slotBytes = 128
        /// How long ``Peer/receive(until:)`` spins before it sleeps. None on a machine with one processor.
        public var spin = Duration.microseconds(20)
        /// Threads that may send: the peer's own and ``Peer/lane()``.
        public var lanes = 4
        /// Handles that it may hold at a time.
        public var handlesMax = 65_536
        /// Shared memory for loaned and long payloads, of each lane toward each trust domain.
        public var poolBytes = 1 << 34

        /// Touch the pages of rings and pools when they are made: no page fault later.
        public var prefault = false
        /// Keep rings and pools out of swap, as far as RLIMIT_MEMLOCK allows.
        public var locked = false
        /// Ask for huge pages.
        public var hugePages = false
        /// Bind the memory of this peer's rings and pools to a NUMA node. What can't be had falls
        /// back to the kernel's choice, like all of these; ``Peer/facts`` says what was done.
        public var numaNode: Int?

        /// This process may become the heir of the bus's broker, if that asks: a thread that wakes twice a second,
        /// with about three descriptors for each peer of the bus. It takes the broker's place when that ends. Only a
        /// process of the broker's user is asked. Set it to false where the process is going to be confined.
        public var standsBy = true

        /// The defaults.
        public init() {}
    }

    /// Joins a bus, and starts its broker in this process if there is none.
    ///
    /// Blocks until the broker has answered, some hundred microseconds; 10 s at most.
    ///
    /// - Throws: `denied` when the bus's directory belongs to somebody else, `overQuota` when the user has too many
    ///   peers, `mismatch` when the broker speaks another version or this process's
    ///   clock is of another time namespace, `timedOut`, `system`.
    public init(on bus: Bus = .default, _ options: Options = .init()) throws(Bus1Error) {
        core = try PeerCore(bus, options, ticket: .none, until: .after(.seconds(10)))
        hot = core.hot
    }

    init(core: PeerCore) {
        self.core = core
        hot = core.hot
    }

    /// The peer for which whoever spawned this process set handles aside (``spawn(_:_:giving:)``). They wait in
    /// ``takeInherited(_:)``.
    ///
    /// - Throws: as ``init(on:_:)``; `denied` when this process was given nothing, or has taken it already.
    public static func inherited(_ options: Options = .init()) throws(Bus1Error) -> Peer {
        let (bus, ticket) = try Inheritance.read()
        return Peer(core: try PeerCore(bus, options, ticket: ticket, until: .after(.seconds(10))))
    }

    /// The handle that stood at this place of the list given to ``spawn(_:_:giving:)``. nil when it was taken, or its
    /// node was gone.
    public func takeInherited(_ index: Int = 0) -> Handle? {
        guard core.inherited.indices.contains(index), let id = core.inherited[index] else {
            return nil
        }
        core.inherited[index] = nil
        return adopt(id)
    }

    /// Leaves the bus now. Blocks until the broker knows, some 200 ms at most.
    public consuming func close() {}

    deinit { core.close() }

    /// A right to send, for one further thread.
    ///
    /// - Throws: `overQuota` when all of ``Options/lanes`` are taken.
    public func lane() throws(Bus1Error) -> Lane {
        try core.requireOpen("make a lane")
        return Lane(core: core, try core.takeLane())
    }

    // MARK: Nodes and handles

    /// Makes a node. Nobody can send to it until somebody is given a handle. The tag returns in each of its messages.
    public func makeNode(tag: UInt64 = 0) throws(Bus1Error) -> Node {
        try core.requireOpen("make a node")
        let limit = core.limits[.nodes]
        let made = core.nodes.withLock { nodes in
            nodes.nodes.count < limit ? nodes.makeNode(count: bus1_sys_unique(), tag: tag) : nil
        }
        guard let id = made else { throw core.overQuota(.nodes, "make a node") }
        return Node(id: id, core: core)
    }

    /// A handle of this peer to its own node.
    ///
    /// - Throws: `overQuota` when the peer holds as many handles as it may.
    public func makeHandle(to node: borrowing Node) throws(Bus1Error) -> Handle {
        try core.requireOpen("make a handle")
        let id = try core.makeOwnHandle(node.id)
        guard let handle = adopt(id) else { throw Bus1Error(.nodeReleased, "make a handle") }
        return handle
    }

    /// Hands a handle to an own node to another peer of this process; the identifier is the other's, for
    /// ``adopt(_:)``. Blocks until the broker has introduced the two.
    public func give(_ node: borrowing Node, to other: borrowing Peer) throws(Bus1Error) -> HandleID
    {
        try core.grant(node.id, to: other.core)
    }

    /// Hands copies of handles that this peer holds to another peer of this process, which may be this
    /// one: each a handle of its own, in their order. All or none. Blocks until the broker has
    /// introduced the other to the nodes' owners, the first time.
    ///
    /// - Throws: `noSuchHandle` or `nodeReleased` when one of them can't be given, `overQuota`,
    ///   `timedOut`: nothing has changed then.
    ///
    /// *Corresponds to `bus1_cmd_transfer`.*
    public func give(_ ids: [HandleID], to other: borrowing Peer) throws(Bus1Error) -> [HandleID] {
        try core.give(ids, to: other.core)
    }

    /// Takes a handle over that the peer holds under this identifier: undoes ``Handle/detach()``. nil when the peer
    /// holds none of that name.
    public func adopt(_ id: HandleID) -> Handle? { Handle(id, of: core) }

    /// Ends a handle by its identifier.
    ///
    /// - Throws: `noSuchHandle` when the peer holds none of that name.
    public func release(_ id: HandleID) throws(Bus1Error) {
        try core.requireOpen("release a handle")
        guard let entry = core.handles.end(id) else {
            throw Bus1Error(.noSuchHandle, "release a handle")
        }
        core.giveUp(EndedHandle(entry))
    }

    /// Ends handles and nodes at one instant, or none of them: whoever is told of several of them is told of all with
    /// one stamp. Never waits.
    ///
    /// - Returns: the instant; nil when nobody needed to be told.
    /// - Throws: `noSuchHandle` when one of them is not held, is no living node of this peer, or stands there twice;
    ///   `overQuota` when owners have not yet read of thousands of handles that were given up. Nothing has changed then.
    ///
    /// *Corresponds to `bus1_cmd_release`.*
    @discardableResult
    public func release(_ handles: [HandleID], nodes: [NodeID] = []) throws(Bus1Error) -> Stamp? {
        try core.release(handles, nodes: nodes)
    }

    /// Publishes a node under a name of 1 to 255 bytes: whoever the rule admits may look it up, and is given a handle.
    /// The name goes with the node.
    ///
    /// - Throws: `nameTaken`, `overQuota`, `tooLarge`.
    public func publish(
        _ node: borrowing Node, as name: String, to access: Access = .sameUser
    ) throws(Bus1Error) {
        try core.requireOpen("publish a node")
        core.takeNamesBack()
        try core.connection.publish(
            name, node: node.id.rawValue, access: access, until: .after(.seconds(10)))
        try core.readEvents()
        let id = node.id.rawValue
        core.nodes.withLock { $0.addName(name, to: id) }
    }

    /// A handle to the node that is published under a name; waits for a service that comes late.
    ///
    /// - Throws: `timedOut`, `denied` when the rule does not admit this process, `overQuota`, `nodeReleased` when the
    ///   node was released just now and its name not taken back yet.
    public func lookUp(_ name: String, until deadline: Deadline = .never) throws(Bus1Error)
        -> Handle
    {
        try core.requireOpen("look a name up")
        while true {
            let grant = try core.takingRings { () throws(Bus1Error) in
                try core.connection.lookUp(name, until: deadline)
            }
            shmring_fault_at(SHMRING_FAULT_INTRODUCE_GRANTED)
            try core.readEvents()
            if let id = core.makeHandle(grant), let handle = adopt(id) { return handle }
            guard !core.handles.isFull else {
                throw core.tooManyHandles("look a name up")
            }
            guard !deadline.hasPassed else { throw Bus1Error(.timedOut, "look a name up") }
            // The owner died between the answer and now: there may be a next one. A released node's name is its
            // owner's to take back: asking again and again would only fill that one's queue.
            guard !core.isAlive(grant.owner) else {
                throw Bus1Error(.nodeReleased, "look a name up")
            }
        }
    }

    /// Who owns the node that a handle leads to, as the kernel vouched to the broker. nil: the handle is of another peer.
    ///
    /// A name belongs to whoever published it first: who looks one up that others could have taken asks this before it
    /// says anything.
    public func owner(of handle: borrowing Handle) -> Account? {
        guard let entry = core.handles.entry(handle.id) else { return nil }
        return core.link(of: entry)?.account
    }

    // MARK: Facts

    /// Who this process is to others, as the kernel vouched to the broker.
    public var account: Account { core.account }
    /// Nanoseconds since boot of a stamp of this bus.
    public func nanosecondsSinceBoot(_ stamp: Stamp) -> UInt64 {
        shmring_clock_ns(core.clock, stamp.rawValue)
    }
    /// What is used for the clock, for sleeping and for memory, how many messages were dropped because their sender had no
    /// right to send them, and how many payloads were copied for other trust domains: in words, for logs and reports.
    public var facts: [String: String] {
        let own = [
            "clock": String(cString: shmring_clock_source_name(core.clock.pointee.source)),
            "doorbell": String(cString: shmring_doorbell_name()),
            "spin_ns": "\(hot.pointee.spin_ns)",
            "messages_refused": "\(core.refused)",
            "copies_for_other_domains": "\(core.laneState.foreignCopies)",
        ]
        return own.merging(core.placement?.facts ?? [:]) { _, new in new }
    }
}

extension PeerCore {
    func tooManyHandles(_ operation: StaticString) -> Bus1Error {
        Bus1Error(
            .overQuota, operation,
            refusal: .init(
                resource: .handles, used: handles.used, limit: limits[.handles], account: account))
    }

    /// Gives `other`, which may be this peer itself, the right to send to an own node.
    func grant(_ node: NodeID, to other: PeerCore) throws(Bus1Error) -> HandleID {
        try requireOpen("give a handle")
        try other.requireOpen("give a handle")
        guard !other.handles.isFull else {
            throw other.tooManyHandles("give a handle")
        }
        guard nodes.withLock({ $0.isAlive(node.rawValue) }) else {
            throw Bus1Error(.nodeReleased, "give a handle")
        }
        guard let raw = nodes.withLock({ $0.takeNumber() }) else {
            throw Bus1Error(.tooLarge, "give a handle")
        }
        let number = GrantNumber(rawValue: raw)
        do throws(Bus1Error) {
            try connection.grant(
                number, node: node.rawValue, to: other.ownPeer, until: .after(.seconds(10)))
            try readEvents()
        } catch {
            nodes.withLock { $0.giveNumber(raw) }
            throw error
        }
        guard addHolder(node.rawValue, number, other.ownPeer) else {
            nodes.withLock { $0.giveNumber(raw) }
            throw Bus1Error(.nodeReleased, "give a handle")
        }
        if other !== self { try other.readAllEvents() }
        let index = other.given.firstIndex { $0.owner == ownPeer && $0.number == number }
        guard let index else { throw Bus1Error(.severed, "give a handle") }
        return other.given.remove(at: index).id
    }
}
