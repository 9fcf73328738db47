import CBench
import CShmRing
import Glibc

extension FaultSweep {
    /// What stops have shown.
    struct StopReport {
        /// Without any stop, before the first.
        var usual_ns: UInt64 = 0
        var longest_ns: UInt64 = 0
        /// Where that was.
        var longestAt = ""
        /// While the broker stood still: whoever had asked it something waits.
        var longestOfBroker_ns: UInt64 = 0
        /// A lease, and what the machine does to all of them.
        var allowed_ns: UInt64 { Self.lease_ns + 3 * usual_ns }
        /// SHMRING_LEASE_FIRST_NS, which Swift does not import.
        private static let lease_ns: UInt64 = 1_000_000
        /// Points at which a stop kept the others from going on.
        var stalls: [String] = []
    }

    /// The others must do so many laps of all their rings while one stands still.
    private static let laps = 4
    private static let patience_ns: UInt64 = 5_000_000_000

    /// Stops one process after the other at its point, and lets it go on when the others have sent enough.
    mutating func stop(_ count: Int, _ report: inout StopReport) throws {
        report.usual_ns = try usualGap()
        var inVain = 0
        while stopped < count, inVain < 200 {
            guard let cell = table.neediest(&dice) else { return }
            let before = stopped
            // Newcomers bring introductions.
            if stopped % 8 == 7 { try renew() }
            try stopOne(cell, &report)
            inVain = stopped > before ? 0 : inVain + 1
        }
    }

    private mutating func renew() throws {
        let member = run.members[Int(dice.next() % UInt64(run.members.count))]
        let now = bench_recorder_now()
        _ = bench_child_end(member.pid, 1)
        run.lost(member, since: now)
        try run.start(quota: .max)
    }

    /// p99.9 of what processes wait for the next thing that they receive, while all of them go on.
    private func usualGap() throws -> UInt64 {
        var gaps = FaultGaps()
        let peers = run.members.map(\.peer)
        let until = bench_monotonic_ns() + 1_000_000_000
        while bench_monotonic_ns() < until {
            guard bench_interrupted() == 0 else { throw Interrupted() }
            gaps.look(at: peers, of: run)
            usleep(200)
        }
        return gaps.quantile_ns(perMille: 999)
    }

    private mutating func stopOne(_ cell: Int, _ report: inout StopReport) throws {
        let provoker = try provoke(cell)
        guard var victim = try arm(cell, SIGSTOP, without: provoker?.member.peer) else { return }
        let isBroker = table.cells[cell].role == SHMRING_FAULT_BROKER
        // Somebody goes and somebody comes, which is all that a broker does.
        if isBroker { try renew() }
        let isThere = try arrival(of: &victim, provokedBy: provoker)
        if let provoker { Glibc.kill(provoker.member.pid, SIGCONT) }
        guard isThere else {
            table.missed(cell)
            return try end(victim)
        }
        stopped += 1
        table.hit(cell, inPair: false)
        bench_check_store(&run.stage.pointee.is_broker_away, isBroker ? 1 : 0)
        defer { bench_check_store(&run.stage.pointee.is_broker_away, 0) }
        let others = run.members.map(\.peer).filter { $0 != victim.member.peer }
        // Those who are known to many, and have been sent to all the time.
        let known = others.filter { run.at($0).pointee.received > 500 }
        let sent = { [run] in others.reduce(UInt64(0)) { $0 + run.at($1).pointee.sent } }
        let enough = sent() + UInt64((isBroker ? 1 : Self.laps) * run.plan.slots * others.count)
        // A broker that stands still for a second is killed by its heir.
        let deadline = bench_monotonic_ns() + (isBroker ? 600_000_000 : Self.patience_ns)
        var gaps = FaultGaps()
        let name = FaultTable.name(of: table.cells[cell].point)
        while sent() < enough {
            guard bench_interrupted() == 0 else { throw Interrupted() }
            gaps.look(at: known, of: run)
            guard bench_monotonic_ns() < deadline else {
                report.stalls.append("\(name), as \(FaultTable.word(table.cells[cell].role))")
                break
            }
            usleep(200)
        }
        let longest = gaps.longest_ns(of: known)
        if isBroker {
            report.longestOfBroker_ns = max(report.longestOfBroker_ns, longest)
        } else if longest > report.longest_ns {
            report.longest_ns = longest
            report.longestAt = name
        }
        Glibc.kill(victim.member.pid, SIGCONT)
        try end(victim)
    }
}
