import CShmRing

/// Shared memory that this process has mapped, and its one owner. Dropping it unmaps it.
struct Mapping: ~Copyable {
    private(set) var raw: shmring_mapping

    /// Maps a segment after checking what it is. The descriptor may be closed afterwards.
    init(
        _ descriptor: borrowing Descriptor, _ kind: shmring_segment_kind, writable: Bool, byteCount: UInt64 = 0,
        requireFutureWrite: Bool = false, _ operation: StaticString
    ) throws(Bus1Error) {
        var raw = shmring_mapping()
        let result = shmring_segment_map(
            descriptor.rawValue, kind, writable ? SHMRING_READ_WRITE : SHMRING_READ_ONLY, byteCount,
            requireFutureWrite, false, nil, nil, &raw)
        guard result == 0 else { throw Bus1Error(result: result, operation) }
        self.raw = raw
    }

    /// Typed access to its first bytes. Valid as long as the mapping lives.
    func base<T>(as type: T.Type) -> UnsafeMutablePointer<T> {
        raw.base.assumingMemoryBound(to: type)
    }

    deinit {
        var raw = raw
        shmring_segment_unmap(&raw)
    }
}
