import CShmRing

// What the C interface needs and no Swift program should use: identifiers as numbers, payloads as pointers, ownership
// by hand. Imported with @_spi(Raw), by Bus1C only.

/// A peer whose handles and nodes are named by numbers. Whoever has it sees to it that one thread at a time uses it.
@_spi(Raw)
@frozen
public struct RawPeer: ~Copyable {
    /// All of its handles and nodes are detached: the peer keeps them.
    public let peer: Peer
    /// The peer's table of handles, which never moves.
    @usableFromInline let entries: UnsafeMutablePointer<HandleEntry>
    @usableFromInline let entryCount: UInt64

    /// Takes a peer over.
    public init(_ peer: consuming Peer) {
        entries = peer.core.handles.base
        entryCount = UInt64(peer.core.handles.countMax)
        self.peer = peer
    }

    /// As ``Peer/trySend(_:to:)-(RawSpan,_)``.
    @inlinable @inline(__always)
    public func trySend(
        _ bytes: UnsafeRawPointer?, _ count: Int, to handle: UInt64
    ) throws(Bus1Error) -> Stamp? {
        guard let entry = rawEntry(handle, entries, entryCount) else {
            throw peer.core.noSuchHandleToSend
        }
        return try peer.trySend(bytes: bytes, count, entry, HandleID(rawValue: handle))
    }

    /// As ``Peer/send(_:to:until:)-(RawSpan,_,_)``.
    @inlinable @inline(__always)
    public func send(
        _ bytes: UnsafeRawPointer?, _ count: Int, to handle: UInt64, until monotonic_ns: UInt64
    ) throws(Bus1Error) {
        guard let entry = rawEntry(handle, entries, entryCount) else {
            throw peer.core.noSuchHandleToSend
        }
        let id = HandleID(rawValue: handle)
        if try peer.trySend(bytes: bytes, count, entry, id) != nil { return }
        _ = try peer.sendSlowly(bytes, count, entry, id, until: .raw(monotonic_ns))
    }
}

/// The right to send of one further thread, by numbers.
@_spi(Raw)
@frozen
public struct RawLane: ~Copyable, Sendable {
    /// As it was taken.
    public let lane: Lane
    @usableFromInline let entries: RawEntries
    @usableFromInline let entryCount: UInt64

    /// Takes a lane over.
    public init(_ lane: consuming Lane) {
        entries = RawEntries(base: lane.core.handles.base)
        entryCount = UInt64(lane.core.handles.countMax)
        self.lane = lane
    }

    /// As ``Lane/trySend(_:to:)-(RawSpan,_)``.
    @inlinable @inline(__always)
    public func trySend(
        _ bytes: UnsafeRawPointer?, _ count: Int, to handle: UInt64
    ) throws(Bus1Error) -> Stamp? {
        guard let entry = rawEntry(handle, entries.base, entryCount) else {
            throw lane.state.noSuchHandle()
        }
        return try lane.trySend(bytes: bytes, count, entry, HandleID(rawValue: handle))
    }

    /// As ``Lane/send(_:to:until:)-(RawSpan,_,_)``.
    @inlinable @inline(__always)
    public func send(
        _ bytes: UnsafeRawPointer?, _ count: Int, to handle: UInt64, until monotonic_ns: UInt64
    ) throws(Bus1Error) {
        while true {
            if try trySend(bytes, count, to: handle) != nil { return }
            try waitForRoom(handle, until: monotonic_ns)
        }
    }

    @usableFromInline
    func waitForRoom(_ handle: UInt64, until monotonic_ns: UInt64) throws(Bus1Error) {
        guard let entry = rawEntry(handle, entries.base, entryCount) else {
            throw lane.state.noSuchHandle()
        }
        try lane.waitForRoom(entry, until: .raw(monotonic_ns))
    }
}

/// A table of handles that a lane may read.
@frozen @usableFromInline
struct RawEntries: @unchecked Sendable {
    // @unchecked: entries are words that lanes read by themselves; see HandleTable.
    @usableFromInline let base: UnsafeMutablePointer<HandleEntry>

    init(base: UnsafeMutablePointer<HandleEntry>) { self.base = base }
}

/// Where the handle of this name would stand. nil: it names none. Whether it is still that one is for the send to see.
@inlinable @inline(__always)
func rawEntry(
    _ handle: UInt64, _ entries: UnsafeMutablePointer<HandleEntry>, _ count: UInt64
) -> UnsafeMutablePointer<HandleEntry>? {
    // As HandleTable.indexBits.
    let index = handle & 0xff_ffff
    guard handle != 0, index < count else { return nil }
    return entries + Int(index)
}
