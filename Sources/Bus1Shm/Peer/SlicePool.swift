import CShmRing
import Synchronization

/// Payload memory of one lane toward one trust domain.
///
/// NOTE - the lane's thread uses it; only ``endLater(_:)`` may be called on any.
final class SlicePool: @unchecked Sendable {
    // @unchecked: one thread, but for the list under its lock.
    let domain: DomainID
    let pool: OpaquePointer
    private let lane: UInt32
    private let quotaBytes: Int
    private let laneCount: UInt32
    /// The pool's number of each link that it has lent on, and the link, whose board it reads.
    private var borrowers: [PeerID: (link: Link, number: UInt32)] = [:]
    /// Links whose slices were forwarded: their boards are written when those come back.
    private var origins: [PeerID: Link] = [:]
    /// Withdrawn segments whose receivers could not be told yet.
    var untold: [(link: Link, segment: UInt32)] = []
    private let ended = Mutex<[Ended]>([])

    /// How many stand in the list; written under its lock, read without.
    private let endedCount: UnsafeMutablePointer<UInt32>

    private struct Ended: @unchecked Sendable {
        // @unchecked: a plain description of memory that nobody uses any more.
        let slice: shmring_slice
    }

    init(
        domain: DomainID, lane: UInt32, laneCount: UInt32, quotaBytes: Int, _ placement: Placement?
    ) throws(Bus1Error) {
        self.domain = domain
        self.lane = lane
        self.quotaBytes = quotaBytes
        self.laneCount = laneCount
        var options = shmring_pool_options()
        options.quota_bytes = UInt64(quotaBytes)
        options.lane = lane
        options.placement.numa_node = -1
        if let placement { options.placement = placement.wishes }
        var made: OpaquePointer?
        let result = shmring_pool_init(&options, &made)
        endedCount = .allocate(capacity: 1)
        endedCount.initialize(to: 0)
        guard result == 0, let made else { throw Bus1Error(result: result, "make a pool") }
        pool = made
    }

    /// Takes in what has come back.
    func collect() {
        endEnded()
        _ = shmring_pool_collect(pool, true)
    }

    /// A slice of at least that size. nil: the quota is in use, or `limit_bytes`, which may be less.
    func loan(_ byteCount: Int, limit_bytes: Int) throws(Bus1Error) -> shmring_slice? {
        // Relaxed inside: a list that is missed now is taken with the next loan.
        if shmring_load_relaxed_u32(endedCount) != 0 { endEnded() }
        if limit_bytes < quotaBytes {
            collect()
            guard Int(usage.used_bytes) + byteCount <= limit_bytes else { return nil }
        }
        var slice = shmring_slice()
        let result = shmring_pool_loan(pool, UInt64(byteCount), &slice)
        switch result {
        case 0: return slice
        case Int32(SHMRING_E_FULL.rawValue): return nil
        default: throw Bus1Error(result: result, "loan a slice")
        }
    }

    /// Some MiB in flight are enough for any throughput: more than the caches hold only makes every payload slower.
    private static func enoughInFlight_bytes(_ byteCount: Int) -> Int {
        min(8 << 20, max(4 << 20, 8 * byteCount))
    }
    /// Turns to wait for slices to come back before more memory is used after all.
    private static let patience = 2000

    /// Gives receivers a moment to give back, where enough is out already. Tens of microseconds at most.
    func waitWhileEnoughIsOut(_ byteCount: Int) {
        let enough = Self.enoughInFlight_bytes(byteCount)
        var turn = 0
        while turn < Self.patience {
            let used = Int(usage.used_bytes)
            guard used > 0, used + byteCount > enough else { return }
            if shmring_pool_collect(pool, false) == 0 { shmring_pause() }
            turn += 1
        }
    }

    func end(_ slice: shmring_slice) {
        var slice = slice
        shmring_pool_end(pool, &slice)
    }

    /// Ends a loan from any thread: the pool's own does it with its next loan.
    func endLater(_ slice: shmring_slice) {
        ended.withLock { list in
            list.append(Ended(slice: slice))
            shmring_store_relaxed_u32(endedCount, UInt32(list.count))
        }
    }

    private func endEnded() {
        let slices = ended.withLock { list in
            defer { list.removeAll(keepingCapacity: true) }
            shmring_store_relaxed_u32(endedCount, 0)
            return list
        }
        for one in slices { end(one.slice) }
    }

    /// The pool's number of a link; lanes divide its return board between them.
    func number(of link: Link) throws(Bus1Error) -> UInt32 {
        if let known = borrowers[link.peer] { return known.number }
        let words = UInt32(SHMRING_LENDS) / laneCount
        var number: UInt32 = 0
        let result = shmring_pool_link_add(pool, link.boardOut, lane * words, words, &number)
        guard result == 0 else { throw Bus1Error(result: result, "lend a slice") }
        borrowers[link.peer] = (link, number)
        return number
    }

    /// The receiver is gone: everything lent to it comes back.
    func forget(_ link: Link) {
        guard let known = borrowers.removeValue(forKey: link.peer) else { return }
        _ = shmring_pool_link_remove(pool, known.number)
        untold.removeAll { $0.link === link }
    }

    /// The same, of all that were taken away.
    func forgetGone() {
        for (link, _) in borrowers.values where link.isGone { forget(link) }
    }

    /// The pool has taken a slice over that came on this link.
    func adopted(from link: Link) { origins[link.peer] = link }

    /// Of dead links no more is kept than what is still out.
    private func forgetOrigins() {
        for (peer, link) in origins
        where link.isGone && !shmring_pool_has_adopted(pool, link.boardIn) {
            origins[peer] = nil
        }
    }

    /// Gives segments back that were idle for so long; which receivers are to be told of which.
    func trim(now_ns: UInt64, idle_ns: UInt64) {
        endEnded()
        if !origins.isEmpty { forgetOrigins() }
        _ = shmring_pool_collect(pool, true)
        _ = shmring_pool_trim(pool, now_ns, idle_ns)
        // Those that made room for others since the last time, too.
        withUnsafeTemporaryAllocation(of: UInt32.self, capacity: 64) { numbers in
            while true {
                let count = Int(shmring_pool_take_retired(pool, numbers.baseAddress, 64))
                guard count > 0 else { return }
                for segment in numbers[..<count] {
                    for (link, number) in borrowers.values
                    where shmring_pool_withdraw(pool, number, segment) {
                        untold.append((link: link, segment: segment))
                    }
                }
            }
        }
    }

    var usage: shmring_pool_usage {
        var usage = shmring_pool_usage()
        shmring_pool_usage(pool, &usage)
        return usage
    }

    deinit {
        shmring_pool_deinit(pool)
        endedCount.deallocate()
    }
}
