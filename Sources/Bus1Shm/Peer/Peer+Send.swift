public import CShmRing

// A send: look the handle up, see that the owner lives, claim, copy, stamp, publish. No lock, no allocation, no system
// call, unless the receiver sleeps.

extension Peer {
    /// Sends a value of a fixed size. Never waits: nil means that the receiver's ring is full.
    ///
    /// - Returns: the stamp, once the message is visible to every processor.
    /// - Throws: `noSuchHandle`, `nodeReleased` when the node's owner is dead, `severed`, `shutDown`; `overQuota` when
    ///   it does not fit a slot and there is no memory for a copy.
    @inlinable @inline(__always)
    @discardableResult
    public func trySend<T: BitwiseCopyable>(
        _ value: T, to handle: borrowing Handle
    ) throws(Bus1Error) -> Stamp? {
        var value = value
        return try trySend(bytes: &value, MemoryLayout<T>.size, handle.entry, handle.id)
    }

    /// Sends a copy of some bytes. Never waits: nil means that the receiver's ring is full.
    @inlinable @inline(__always)
    @discardableResult
    public func trySend(
        _ bytes: RawSpan, to handle: borrowing Handle
    ) throws(Bus1Error) -> Stamp? {
        let (start, count) = bytes.withUnsafeBytes { ($0.baseAddress, $0.count) }
        return try trySend(bytes: start, count, handle.entry, handle.id)
    }

    /// Sends a value. Waits for room until the deadline.
    ///
    /// - Throws: as ``trySend(_:to:)``, and `timedOut`.
    @inlinable @inline(__always)
    @discardableResult
    public func send<T: BitwiseCopyable>(
        _ value: T, to handle: borrowing Handle, until deadline: Deadline = .never
    ) throws(Bus1Error) -> Stamp {
        var value = value
        let size = MemoryLayout<T>.size
        if let stamp = try trySend(bytes: &value, size, handle.entry, handle.id) { return stamp }
        return try withUnsafeBytes(of: value) { bytes throws(Bus1Error) in
            try sendSlowly(bytes.baseAddress, size, handle.entry, handle.id, until: deadline)
        }
    }

    /// Sends a copy of some bytes. Waits for room until the deadline.
    @inlinable @inline(__always)
    @discardableResult
    public func send(
        _ bytes: RawSpan, to handle: borrowing Handle, until deadline: Deadline = .never
    ) throws(Bus1Error) -> Stamp {
        let (start, count) = bytes.withUnsafeBytes { ($0.baseAddress, $0.count) }
        if let stamp = try trySend(bytes: start, count, handle.entry, handle.id) { return stamp }
        return try sendSlowly(start, count, handle.entry, handle.id, until: deadline)
    }

    /// Sends a value by the handle's identifier, for handles kept in lists (``Handle/detach()``).
    @inlinable @inline(__always)
    @discardableResult
    public func trySend<T: BitwiseCopyable>(
        _ value: T, to handle: HandleID
    ) throws(Bus1Error) -> Stamp? {
        guard let entry = entry(handle) else { throw core.noSuchHandleToSend }
        var value = value
        return try trySend(bytes: &value, MemoryLayout<T>.size, entry, handle)
    }

    @usableFromInline
    func entry(_ id: HandleID) -> UnsafeMutablePointer<HandleEntry>? { core.handles.entry(id) }

    /// The one way of a message that goes to one node and fits a slot.
    @inlinable @inline(__always)
    func trySend(
        bytes: UnsafeRawPointer?, _ count: Int, _ entry: UnsafeMutablePointer<HandleEntry>,
        _ id: HandleID
    ) throws(Bus1Error) -> Stamp? {
        let producer = try usableProducer(entry, id)
        guard count <= Int(producer.pointee.body_bytes) else {
            return try sendLong(bytes, count, entry)
        }
        var stamp: UInt64 = 0
        let result = shmring_producer_send(
            producer, hot.pointee.clock, entry.pointee.grant, 0, bytes, UInt64(count), &stamp)
        if _fastPath(result == 0) { return Stamp(rawValue: stamp) }
        if result == Int32(SHMRING_E_FULL.rawValue) {
            return try trySendUnbound(bytes: bytes, count, entry, id)
        }
        throw Bus1Error.send(result)
    }

    /// The handle is this peer's, and held; the node's owner lives.
    @inlinable @inline(__always)
    func usableProducer(
        _ entry: UnsafeMutablePointer<HandleEntry>, _ id: HandleID
    ) throws(Bus1Error) -> UnsafeMutablePointer<shmring_producer> {
        guard shmring_load_relaxed(entry.pointer(to: \.id)!) == id.rawValue,
            entry.pointee.token == hot.pointee.token
        else { throw core.noSuchHandleToSend }
        guard entry.pointee.leadsSomewhere else {
            throw Bus1Error.nodeReleasedToSend
        }
        return entry.pointee.producer
    }

    /// Waits for room, again and again.
    @usableFromInline
    func sendSlowly(
        _ bytes: UnsafeRawPointer?, _ count: Int, _ entry: UnsafeMutablePointer<HandleEntry>,
        _ id: HandleID,
        until deadline: Deadline
    ) throws(Bus1Error) -> Stamp {
        var turn = 0
        while true {
            _ = try usableProducer(entry, id)
            // The link's: that of a handle not yet bound never gets room.
            let producer = try core.laneState.laneProducer(at: Int(entry.pointee.link))
            // A moment is usually enough: the receiver publishes its head each eighth of a lap.
            if turn >= 64 {
                let result = shmring_producer_wait(
                    producer, producer.pointee.unicast_room, deadline.monotonic_ns)
                guard result != Int32(SHMRING_E_CORRUPT.rawValue) else {
                    throw Bus1Error.send(result)
                }
                if result != 0 && deadline.hasPassed { throw Bus1Error(.timedOut, "send") }
            } else {
                shmring_pause()
            }
            turn += 1
            if let stamp = try trySend(bytes: bytes, count, entry, id) { return stamp }
            // The ring has room: what is missing may be the broker's answer, or that somebody reads the link's socket.
            if turn > 64, deadline.hasPassed { throw Bus1Error(.timedOut, "send") }
        }
    }
}

extension Peer {
    /// Writes what an honest peer never does: a message under a grant that this peer was not given. For showing that
    /// the receiver's check drops it; any process can do this to rings that it may write to.
    @_spi(Hostile)
    public func sendForged<T: BitwiseCopyable>(
        _ value: T, grantsBeyond distance: UInt32, to handle: borrowing Handle
    ) throws(Bus1Error) {
        var value = value
        _ = try core.laneState.bind(handle.entry)
        let producer = try usableProducer(handle.entry, handle.id)
        var stamp: UInt64 = 0
        let result = shmring_producer_send(
            producer, hot.pointee.clock, handle.entry.pointee.grant &+ distance, 0, &value,
            UInt64(MemoryLayout<T>.size), &stamp)
        guard result == 0 else { throw Bus1Error.send(result) }
    }
}

extension Bus1Error {
    @usableFromInline static let nodeReleasedToSend = Bus1Error(.nodeReleased, "send")

    @usableFromInline @inline(never)
    static func send(_ result: Int32) -> Bus1Error { Bus1Error(result: result, "send") }
}
