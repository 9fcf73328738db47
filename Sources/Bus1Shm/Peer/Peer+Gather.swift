import CShmRing

extension Peer {
    /// Sends one message whose payload is several pieces, one behind the other. They are copied once. Waits for room
    /// until the deadline.
    ///
    /// - Throws: as ``send(_:to:until:)-(RawSpan,_,_)``; `tooLarge` when there are more pieces than
    ///   ``Gather/countMax``, or their lengths' sum overflows.
    @discardableResult
    public func send(
        _ pieces: borrowing Gather, to handle: borrowing Handle, until deadline: Deadline = .never
    ) throws(Bus1Error) -> Stamp {
        try pieces.requireSendable()
        let total = pieces.byteCount
        let producer = try usableProducer(handle.entry, handle.id)
        guard total > Int(producer.pointee.body_bytes) else {
            let gathered = core.laneState.gathered
            pieces.copy(to: gathered)
            if let stamp = try trySend(bytes: gathered, total, handle.entry, handle.id) {
                return stamp
            }
            return try sendSlowly(gathered, total, handle.entry, handle.id, until: deadline)
        }
        let slice = try loan(total, until: deadline)
        pieces.copy(to: slice.raw.base)
        return try send(slice, to: handle, until: deadline)
    }

    /// Sends one message whose payload is two pieces: a header and a body, say.
    @discardableResult
    public func send(
        _ first: RawSpan, _ second: RawSpan, to handle: borrowing Handle,
        until deadline: Deadline = .never
    ) throws(Bus1Error) -> Stamp {
        var pieces = Gather()
        pieces.append(first)
        pieces.append(second)
        return try send(pieces, to: handle, until: deadline)
    }

    /// Sends one message whose payload is three pieces.
    @discardableResult
    public func send(
        _ first: RawSpan, _ second: RawSpan, _ third: RawSpan, to handle: borrowing Handle,
        until deadline: Deadline = .never
    ) throws(Bus1Error) -> Stamp {
        var pieces = Gather()
        pieces.append(first)
        pieces.append(second)
        pieces.append(third)
        return try send(pieces, to: handle, until: deadline)
    }
}
