import CShmRing
import Glibc

/// Shared memory that this process has mapped, and its one owner. Dropping it unmaps it.
struct Mapping: ~Copyable {
    private(set) var raw: shmring_mapping

    /// Maps a segment after checking what it is. The descriptor may be closed afterwards.
    init(
        _ descriptor: borrowing Descriptor, _ kind: shmring_segment_kind, writable: Bool,
        byteCount: UInt64 = 0,
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

/// Private memory for one value, empty in a forked child: what it refers to is not mapped there.
enum WipedOnFork {
    static func allocate<T>(_ operation: StaticString) throws(Bus1Error) -> UnsafeMutablePointer<T>
    {
        let memory = mmap(
            nil, MemoryLayout<T>.size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
        guard let memory, memory != MAP_FAILED else {
            throw Bus1Error(.system, operation, errno: errno)
        }
        madvise(memory, MemoryLayout<T>.size, MADV_WIPEONFORK)
        return memory.assumingMemoryBound(to: T.self)
    }

    static func deallocate<T>(_ pointer: UnsafeMutablePointer<T>) {
        munmap(pointer, MemoryLayout<T>.size)
    }
}
