import CShmRing

/// Shared memory on loan: filled in place and sent without a copy, whatever its size.
///
/// Sending moves it; touching it afterwards does not compile. Dropping it unsent gives the memory back.
public struct Slice: ~Copyable, @unchecked Sendable {
    // @unchecked: the memory is this value's alone until it is sent; dropping it is allowed on any thread.
    /// Bytes that will be sent.
    public private(set) var byteCount: Int
    let raw: shmring_slice
    let pool: Unmanaged<SlicePool>
    /// The pool's own, for comparing without touching it.
    let poolPointer: OpaquePointer

    init(_ raw: shmring_slice, byteCount: Int, of pool: SlicePool) {
        self.raw = raw
        self.byteCount = byteCount
        self.pool = .passRetained(pool)
        poolPointer = pool.pool
    }

    /// The memory, to be filled in. Undefined at first. Of a forwarded slice this is read-only memory: see
    /// ``isForwarded``.
    public var bytes: MutableRawSpan {
        @_lifetime(&self)
        mutating get {
            let buffer = UnsafeMutableRawBufferPointer(
                start: raw.base, count: isForwarded ? 0 : byteCount)
            return _overrideLifetime(MutableRawSpan(_unsafeBytes: buffer), mutating: &self)
        }
    }

    /// The memory, to be read.
    public var readableBytes: RawSpan {
        @_lifetime(borrow self)
        get {
            let buffer = UnsafeRawBufferPointer(start: raw.base, count: byteCount)
            return _overrideLifetime(RawSpan(_unsafeBytes: buffer), borrowing: self)
        }
    }

    /// True when it was received and is passed on (``Peer/forward(_:)``): nothing of it can be changed, and ``bytes`` is
    /// empty.
    public internal(set) var isForwarded = false

    /// Sends fewer bytes than were loaned. More than ``byteCount`` is a mistake of the caller's, and traps.
    public mutating func shorten(to byteCount: Int) {
        precondition((0...self.byteCount).contains(byteCount), "a slice can only become shorter")
        self.byteCount = byteCount
    }

    /// Gives up the loan without ending it: somebody else will.
    consuming func takeRaw() -> shmring_slice {
        let raw = raw
        pool.release()
        discard self
        return raw
    }

    /// The same, for somebody who ends it in the pool, and releases the pool.
    consuming func takeRawAndPool() -> (shmring_slice, Unmanaged<SlicePool>) {
        let (raw, pool) = (raw, pool)
        discard self
        return (raw, pool)
    }

    /// It was sent: the loan is ended by the sender, on its own thread.
    consuming func end() {
        pool._withUnsafeGuaranteedRef { $0.end(raw) }
        pool.release()
        discard self
    }

    deinit {
        pool._withUnsafeGuaranteedRef { $0.endLater(raw) }
        pool.release()
    }
}
