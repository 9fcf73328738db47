import CShmRing

extension Peer {
    /// Shared memory to be filled in and sent without a copy. Its content is undefined.
    ///
    /// It is for receivers of this process's own trust domain, and copied once more when it is sent to another.
    /// The first use of a size asks the kernel for memory; later ones do not.
    ///
    /// - Parameter deadline: how long to wait for slices to come back when all memory is in use. Not at all by default.
    /// - Throws: `overQuota` when ``Options/poolBytes`` are in use, `tooLarge`, `system`.
    public func loan(_ byteCount: Int, until deadline: Deadline = .now) throws(Bus1Error) -> Slice {
        try core.requireOpen("loan a slice")
        return try core.laneState.loan(byteCount, toward: core.ownDomain, until: deadline)
    }

    /// Sends a slice without a copy. Waits for room; the slice is gone in any case.
    ///
    /// - Throws: as ``trySend(_:to:)-(T,_)``, and `timedOut`.
    @discardableResult
    public func send(
        _ slice: consuming Slice, to handle: borrowing Handle, until deadline: Deadline = .never
    ) throws(Bus1Error) -> Stamp {
        guard handle.entry.pointee.token == hot.pointee.token else {
            throw core.noSuchHandleToSend
        }
        return Stamp(rawValue: try core.laneState.send(slice, handle.id, until: deadline))
    }

    /// Makes ready for lending slices where a handle leads: asks the broker for the link's socket.
    /// The first slice does it by itself, but a lane can't: call this before one sends slices or
    /// long payloads there.
    ///
    /// - Throws: `noSuchHandle`, `nodeReleased`, `severed`, `timedOut`.
    public func prepareToLend(to handle: borrowing Handle) throws(Bus1Error) {
        try core.requireOpen("prepare to lend")
        let entry = try core.usableEntry(handle.id)
        guard let link = core.link(at: Int(entry.pointee.link)) else {
            throw core.noSuchHandleToSend
        }
        _ = try core.linkSocket(of: link, lane: 0, until: .after(.seconds(5)))
    }

    /// Makes a received payload a slice again, to be sent on without a copy. Its sender gets it back when the last
    /// receiver has given it back.
    ///
    /// - Throws: `mismatch` when the payload lies in no slice of the own trust domain: short ones don't, nor do those of
    ///   strangers; copy those.
    public func forward(_ message: consuming Message) throws(Bus1Error) -> Slice {
        try core.requireOpen("forward a payload")
        return try core.forward(message)
    }
}

extension PeerCore {
    func forward(_ message: consuming Message) throws(Bus1Error) -> Slice {
        let cell = message.cell
        guard shmring_message_is_slice(shmring_cell_message(cell)), cell.pointee.held.base != nil,
            cell.pointee.held.base == cell.pointee.payload
        else { throw Bus1Error(.mismatch, "forward a payload") }
        let byteCount = message.byteCount
        let pool = try laneState.pool(toward: ownDomain)
        var raw = shmring_slice()
        let result = shmring_pool_adopt(pool.pool, &cell.pointee.held, &raw)
        guard result == 0 else { throw Bus1Error(result: result, "forward a payload") }
        // The pool holds the slice now, and the link, whose board it will write.
        cell.pointee.give_back = nil
        cell.pointee.give_back_payload = nil
        if let attachments = cell.pointee.attachments {
            cell.pointee.attachments = nil
            Unmanaged<Attachments>.fromOpaque(attachments).release()
        }
        pool.adopted(from: Unmanaged<Link>.fromOpaque(cell.pointee.owner).takeRetainedValue())
        var slice = Slice(raw, byteCount: byteCount, of: pool)
        slice.isForwarded = true
        return slice
    }
}

extension Peer {
    @usableFromInline
    func sendLong(
        _ bytes: UnsafeRawPointer?, _ count: Int, _ entry: UnsafeMutablePointer<HandleEntry>
    ) throws(Bus1Error) -> Stamp? {
        try core.laneState.sendLong(bytes, count, entry).map { Stamp(rawValue: $0) }
    }
}
