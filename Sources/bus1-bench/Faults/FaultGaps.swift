import CBench

/// How long processes wait for the next thing that they receive, as seen from outside every 200 us.
struct FaultGaps {
    private var since: [Int: (received: UInt64, time_ns: UInt64)] = [:]
    private(set) var gaps_ns: [UInt64] = []

    /// Looks once. Gaps that have not ended yet are not counted, nor those in which a process waits for the broker.
    mutating func look(at peers: [Int], of run: CheckRun) {
        let now = bench_monotonic_ns()
        for peer in peers {
            guard bench_check_load(&run.at(peer).pointee.asks) == 0 else {
                since[peer] = nil
                continue
            }
            let received = run.at(peer).pointee.received
            guard let last = since[peer] else {
                since[peer] = (received, now)
                continue
            }
            if last.received == received { continue }
            gaps_ns.append(now - last.time_ns)
            since[peer] = (received, now)
        }
    }

    /// The longest, those included that last still.
    func longest_ns(of peers: [Int]) -> UInt64 {
        let now = bench_monotonic_ns()
        let open = peers.compactMap { since[$0].map { now - $0.time_ns } }
        return max(gaps_ns.max() ?? 0, open.max() ?? 0)
    }

    /// So many of a thousand are not longer. 0 when there were none.
    func quantile_ns(perMille: Int) -> UInt64 {
        let sorted = gaps_ns.sorted()
        guard !sorted.isEmpty else { return 0 }
        return sorted[min(sorted.count - 1, sorted.count * perMille / 1000)]
    }
}
