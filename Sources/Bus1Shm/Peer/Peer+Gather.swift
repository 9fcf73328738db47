import CShmRing

extension Peer {
    /// Sends one message whose payload is several pieces, one behind the other: a header and a body,
    /// say. They are copied once. Waits for room until the deadline.
    ///
    /// - Throws: as ``send(_:to:until:)-(RawSpan,_,_)``; `tooLarge` when the lengths' sum overflows.
    @discardableResult
    public func send(
        _ first: RawSpan, _ second: RawSpan, to handle: borrowing Handle,
        until deadline: Deadline = .never
    ) throws(Bus1Error) -> Stamp {
        try send(first, second, RawSpan(), to: handle, until: deadline)
    }

    /// Sends one message whose payload is three pieces.
    @discardableResult
    public func send(
        _ first: RawSpan, _ second: RawSpan, _ third: RawSpan, to handle: borrowing Handle,
        until deadline: Deadline = .never
    ) throws(Bus1Error) -> Stamp {
        let (two, overflow) = first.byteCount.addingReportingOverflow(second.byteCount)
        let (total, overflow2) = two.addingReportingOverflow(third.byteCount)
        guard !overflow, !overflow2 else { throw Bus1Error(.tooLarge, "send") }
        let producer = try usableProducer(handle.entry, handle.id)
        guard total > Int(producer.pointee.body_bytes) else {
            let pieces = core.laneState.gathered
            Self.copy(first, second, third, to: pieces)
            if let stamp = try trySend(bytes: pieces, total, handle.entry, handle.id) {
                return stamp
            }
            return try sendSlowly(pieces, total, handle.entry, handle.id, until: deadline)
        }
        let slice = try loan(total, until: deadline)
        Self.copy(first, second, third, to: slice.raw.base)
        return try send(slice, to: handle, until: deadline)
    }

    private static func copy(
        _ first: RawSpan, _ second: RawSpan, _ third: RawSpan, to place: UnsafeMutableRawPointer
    ) {
        var place = place
        func append(_ piece: RawSpan) {
            piece.withUnsafeBytes { bytes in
                guard let base = bytes.baseAddress else { return }
                place.copyMemory(from: base, byteCount: bytes.count)
                place += bytes.count
            }
        }
        append(first)
        append(second)
        append(third)
    }
}
