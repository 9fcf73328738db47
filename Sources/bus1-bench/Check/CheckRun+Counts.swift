import CBench

extension CheckRun {
    /// The names of what ``Peer/ruleCounts`` counts, in its order.
    static let ruleNames = [
        "passed over", "re-read", "looks", "look-ahead waits", "reordered by look-ahead",
        "several-rings waits", "notices told", "notice waits", "aborted commits", "voids", "holes",
        "indices retired", "indices returned", "stamps raised", "parked", "notices withdrawn",
        "commit waits",
    ]

    /// The rules that a run like this must exercise, or it proves nothing.
    private var required: Set<String> {
        var names: Set<String> = plan.clock == .coarse ? ["commit waits"] : []
        guard plan.transactions >= 500_000, plan.processes >= 4 else { return names }
        names.formUnion([
            "passed over", "re-read", "looks", "look-ahead waits", "reordered by look-ahead",
            "notices told", "notices withdrawn",
        ])
        if plan.users > 1 || plan.isolation == .process { names.insert("several-rings waits") }
        // How many come depends on where a process is when it is stopped: only a long run has some for certain. In a ring
        // of one sender nobody else passes a slot that is not written.
        if plan.stops >= 2000, plan.transactions >= 5_000_000 {
            names.insert("aborted commits")
            if plan.isolation == .user { names.formUnion(["indices retired", "indices returned"]) }
        }
        return names
    }

    /// Prints how often each rule acted, over all peers; returns those that should have and did not.
    func printCounts() -> [String] {
        var idle: [String] = []
        var parts: [String] = []
        for (index, name) in Self.ruleNames.enumerated() {
            let count = (0..<peerCount).reduce(UInt64(0)) {
                $0 + bench_check_count(stage, UInt32($1), UInt32(index)).pointee
            }
            parts.append("\(name) \(count)")
            if count == 0 && required.contains(name) { idle.append(name) }
        }
        print("rules acted: \(parts.joined(separator: ", "))")
        let sum = { (key: KeyPath<bench_check_peer, UInt64>) in
            (0..<self.peerCount).reduce(UInt64(0)) { $0 + self.at($1).pointee[keyPath: key] }
        }
        print(
            "hand-overs: \(sum(\.passed)), nodes released: \(sum(\.released)), attempts without effect: \(sum(\.full)), "
                + "forged messages: \(sum(\.forged))")
        return idle
    }
}
