import CShmRing
import Glibc

/// Shared memory that this process has mapped, and its one owner. Dropping it unmaps it.
struct Mapping: ~Copyable {
    private(set) var raw: shmring_mapping

    /// Maps a segment after checking what it is. The descriptor may be closed afterwards.
    init(
        _ descriptor: borrowing Descriptor, _ kind: shmring_segment_kind, writable: Bool,
        byteCount: UInt64 = 0,
        requireFutureWrite: Bool = false, placement: Placement? = nil, _ operation: StaticString
    ) throws(Bus1Error) {
        var raw = shmring_mapping()
        let access = writable ? SHMRING_READ_WRITE : SHMRING_READ_ONLY
        let result: Int32
        if let placement {
            var wishes = placement.wishes
            var report = shmring_placement_report()
            result = shmring_segment_map(
                descriptor.rawValue, kind, access, byteCount, requireFutureWrite, false, &wishes,
                &report, &raw)
            placement.report(report)
        } else {
            // No report is asked for: it reads /proc/self/smaps.
            result = shmring_segment_map(
                descriptor.rawValue, kind, access, byteCount, requireFutureWrite, false, nil, nil,
                &raw)
        }
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

/// How a peer wishes its memory to be placed, and what became of that.
final class Placement {
    let wishes: shmring_placement
    private(set) var reported: shmring_placement_report?

    init?(_ options: Peer.Options) {
        guard options.prefault || options.locked || options.hugePages || options.numaNode != nil
        else { return nil }
        wishes = shmring_placement(
            prefault: options.prefault, lock: options.locked, huge: options.hugePages,
            numa_node: options.numaNode.map { Int32(clamping: $0) } ?? -1)
    }

    /// The latest mapping's.
    func report(_ report: shmring_placement_report) { reported = report }

    /// In words, for `Peer.facts`.
    var facts: [String: String] {
        guard let report = reported else { return [:] }
        func outcome(_ isMet: Bool, _ error: Int32) -> String {
            isMet ? "yes" : error == 0 ? "no" : "no: \(errnoText(error))"
        }
        var facts: [String: String] = [:]
        if wishes.prefault { facts["prefaulted"] = outcome(report.prefaulted, 0) }
        if wishes.lock { facts["locked"] = outcome(report.locked, report.lock_errno) }
        if wishes.huge { facts["huge_pages"] = outcome(report.huge_bytes != 0, report.huge_errno) }
        if wishes.numa_node >= 0 {
            facts["numa_node"] = outcome(report.numa_errno == 0, report.numa_errno)
        }
        return facts
    }
}
