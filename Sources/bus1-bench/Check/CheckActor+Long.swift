import Bus1Shm
import CBench

extension CheckActor {
    /// What does not fit a slot, and so takes a slice that comes back when its receiver is done.
    mutating func sendLong() throws {
        let parcel = Parcel(transaction: nextTransaction())
        let words = MemoryLayout<Parcel>.size / 8
        var payload = [UInt64](repeating: parcel.transaction, count: words + 20 + roll(1000))
        // What it carries: nothing.
        for word in 1..<words { payload[word] = 0 }
        // No memory left within the quota, or the other end of the socket is gone or stands still: nothing was sent.
        try send(parcel, failing: [.nodeReleased, .noSuchHandle, .overQuota, .severed, .timedOut]) {
            peer, handle throws(Bus1Error) in
            try peer.trySend(payload.span.bytes, to: handle) != nil
        }
    }

    /// Waits for room where there is none.
    mutating func sendPatiently() throws {
        let parcel = Parcel(transaction: nextTransaction())
        try send(parcel, failing: [.nodeReleased, .noSuchHandle, .timedOut]) {
            peer, handle throws(Bus1Error) in
            try peer.send(parcel, to: handle, until: .after(.milliseconds(3)))
            return true
        }
    }

    /// One message to one node, in some way that wants the handle itself.
    private mutating func send(
        _ parcel: Parcel, failing codes: [Bus1Error.Code],
        _ body: (borrowing Peer, borrowing Handle) throws(Bus1Error) -> Bool
    ) throws {
        let one = handles[roll(handles.count)]
        // None: the notice that its node is gone is on its way.
        guard let handle = peer.adopt(one.id) else { return }
        bench_recorder_begin(
            recorder, BENCH_RECORD_SEND.rawValue, parcel.transaction, [one.node], 1)
        var isSent: Bool?
        var failure: Bus1Error?
        do throws(Bus1Error) { isSent = try body(peer, handle) ? true : nil } catch {
            failure = error
        }
        _ = handle.detach()
        if let failure { try expect(failure, codes) } else { sent(isSent) }
    }
}
