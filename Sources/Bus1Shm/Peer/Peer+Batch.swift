public import CShmRing

extension Peer {
    /// Sends many values, one message each, with one claim and one stamp: as many as there is room for now.
    ///
    /// - Returns: how many were sent, from the first on; 0 when the ring is full. At most 4,095.
    /// - Throws: as ``trySend(_:to:)-(T,_)``; `tooLarge` when the type does not fit a slot.
    @inlinable @inline(__always)
    public func trySend<T: BitwiseCopyable>(
        contentsOf values: Span<T>, to handle: borrowing Handle
    ) throws(Bus1Error) -> Int {
        try trySend(eachOf: values.bytes, byteCount: MemoryLayout<T>.stride, to: handle)
    }

    /// Sends many payloads of `byteCount` bytes that lie one behind the other, one message each, with one claim and one
    /// stamp: as many as there is room for now. What is left over at the end is not sent.
    @inlinable @inline(__always)
    public func trySend(
        eachOf bytes: RawSpan, byteCount: Int, to handle: borrowing Handle
    ) throws(Bus1Error) -> Int {
        let producer = try usableProducer(handle.entry, handle.id)
        guard byteCount > 0, byteCount <= Int(producer.pointee.body_bytes) else {
            throw Bus1Error.tooLargeForBatch
        }
        let wanted = bytes.byteCount / byteCount
        guard wanted > 0 else { return 0 }
        var batch = shmring_batch()
        let result = shmring_batch_begin(producer, UInt64(wanted), &batch)
        guard result == 0 else {
            if result == Int32(SHMRING_E_FULL.rawValue) {
                guard try bindLate(handle.entry) else { return 0 }
                return try trySend(eachOf: bytes, byteCount: byteCount, to: handle)
            }
            throw Bus1Error.send(result)
        }
        let base = bytes.withUnsafeBytes { $0.baseAddress.unsafelyUnwrapped }
        let grant = handle.entry.pointee.grant
        var sent = 0
        while sent < wanted,
            shmring_batch_put(producer, &batch, grant, base + sent * byteCount, UInt64(byteCount))
                == 0
        {
            sent += 1
        }
        _ = shmring_batch_commit(producer, hot.pointee.clock, &batch)
        return sent
    }
}

extension Bus1Error {
    @usableFromInline static let tooLargeForBatch = Bus1Error(.tooLarge, "send a batch")
}
