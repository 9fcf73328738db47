public import CShmRing

/// The right to send, for one further thread of the peer's process. Sends only to handles of its peer; those that it
/// borrows must stay held meanwhile, as the compiler sees to.
///
/// May be moved to another thread; one thread at a time uses it. It may outlive its peer: then its sends fail.
@frozen
public struct Lane: ~Copyable, @unchecked Sendable {
    // @unchecked: everything in it belongs to the one thread that has it, but for the core's shared tables.
    @usableFromInline let state: LaneState
    @usableFromInline let token: UInt64
    @usableFromInline let clock: UnsafePointer<shmring_clock>
    /// Of `state`: whatever looks up links or handles does it inside.
    @usableFromInline let gate: UnsafeMutablePointer<shmring_gate>
    /// Keeps the mappings.
    @usableFromInline let core: PeerCore

    init(core: PeerCore, _ state: LaneState) {
        self.core = core
        self.state = state
        token = core.hot.pointee.token
        clock = core.hot.pointee.clock
        gate = state.gate
        core.gates.add(state)
    }

    /// As ``Peer/trySend(_:to:)-(T,_)``.
    @inlinable @inline(__always)
    @discardableResult
    public func trySend<T: BitwiseCopyable>(_ value: T, to handle: borrowing Handle)
        throws(Bus1Error) -> Stamp?
    {
        var value = value
        return try trySend(bytes: &value, MemoryLayout<T>.size, handle.entry, handle.id)
    }

    /// As ``Peer/trySend(_:to:)-(RawSpan,_)``.
    @inlinable @inline(__always)
    @discardableResult
    public func trySend(_ bytes: RawSpan, to handle: borrowing Handle) throws(Bus1Error) -> Stamp? {
        let (start, count) = bytes.withUnsafeBytes { ($0.baseAddress, $0.count) }
        return try trySend(bytes: start, count, handle.entry, handle.id)
    }

    /// Sends a value. Waits for room until the deadline.
    @inlinable @inline(__always)
    @discardableResult
    public func send<T: BitwiseCopyable>(
        _ value: T, to handle: borrowing Handle, until deadline: Deadline = .never
    ) throws(Bus1Error) -> Stamp {
        while true {
            if let stamp = try trySend(value, to: handle) { return stamp }
            try waitForRoom(handle.entry, until: deadline)
        }
    }

    /// Sends a copy of some bytes. Waits for room until the deadline.
    @inlinable @inline(__always)
    @discardableResult
    public func send(
        _ bytes: RawSpan, to handle: borrowing Handle, until deadline: Deadline = .never
    ) throws(Bus1Error) -> Stamp {
        while true {
            if let stamp = try trySend(bytes, to: handle) { return stamp }
            try waitForRoom(handle.entry, until: deadline)
        }
    }

    /// As ``Peer/loan(_:until:)``. Before the first slice goes to a handle from a lane, the peer
    /// itself must have called ``Peer/prepareToLend(to:)``, or have lent there; otherwise sending
    /// throws `denied`.
    public func loan(_ byteCount: Int, until deadline: Deadline = .now) throws(Bus1Error) -> Slice {
        try core.requireOpen("loan a slice")
        return try state.loan(byteCount, toward: core.ownDomain, until: deadline)
    }

    /// As ``Peer/send(_:to:until:)-(Slice,_,_)``.
    @discardableResult
    public func send(
        _ slice: consuming Slice, to handle: borrowing Handle, until deadline: Deadline = .never
    ) throws(Bus1Error) -> Stamp {
        shmring_gate_enter(gate)
        defer { shmring_gate_leave(gate) }
        return Stamp(rawValue: try state.send(slice, handle.id, until: deadline))
    }

    /// As ``Peer/send(_:to:until:)-(RawSpan,[HandleID],_)``.
    @discardableResult
    public func send(
        _ bytes: RawSpan, to handles: [HandleID], until deadline: Deadline = .never
    ) throws(Bus1Error) -> Stamp {
        shmring_gate_enter(gate)
        defer { shmring_gate_leave(gate) }
        return try state.sendToAll(bytes, handles, until: deadline)
    }

    @inlinable @inline(__always)
    func trySend(
        bytes: UnsafeRawPointer?, _ count: Int, _ entry: UnsafeMutablePointer<HandleEntry>,
        _ id: HandleID
    ) throws(Bus1Error) -> Stamp? {
        shmring_gate_enter(gate)
        defer { shmring_gate_leave(gate) }
        guard shmring_load_relaxed(entry.pointer(to: \.id)!) == id.rawValue,
            entry.pointee.token == token
        else { throw state.noSuchHandle() }
        guard entry.pointee.leadsSomewhere else {
            throw Bus1Error.nodeReleasedToSend
        }
        let producer = try state.producer(entry)
        var stamp: UInt64 = 0
        // Relaxed: see LaneState.bind.
        if shmring_load_relaxed_u32(entry.pointer(to: \.grant)!) == ReservedGrant.unbound {
            guard try state.bind(entry) else { return nil }
        }
        guard count <= Int(producer.pointee.body_bytes) else {
            return try state.sendLong(bytes, count, entry).map { Stamp(rawValue: $0) }
        }
        let result = shmring_producer_send(
            producer, clock, entry.pointee.grant, 0, bytes, UInt64(count), &stamp)
        if _fastPath(result == 0) { return Stamp(rawValue: stamp) }
        if result == Int32(SHMRING_E_FULL.rawValue) { return nil }
        throw Bus1Error.send(result)
    }

    @usableFromInline
    func waitForRoom(_ entry: UnsafeMutablePointer<HandleEntry>, until deadline: Deadline)
        throws(Bus1Error)
    {
        guard !deadline.hasPassed else { throw Bus1Error(.timedOut, "send") }
        shmring_gate_enter(gate)
        defer { shmring_gate_leave(gate) }
        guard shmring_load_relaxed(entry.pointer(to: \.id)!) != 0 else { return }
        let producer = try state.producer(entry)
        _ = shmring_producer_wait(
            producer, producer.pointee.unicast_room,
            Deadline.earlier(deadline, .after(.milliseconds(1))).monotonic_ns)
    }

    deinit {
        core.gates.remove(state)
        shmring_lane_deinit(state.lane)
        state.lane.deallocate()
    }
}
