import CBench
import CShmRing
import Glibc

extension FaultSweep {
    /// What stops have shown.
    struct StopReport {
        /// p99.9 without any stop, before the first, and how many gaps that is of.
        var usual_ns: UInt64 = 0
        var usualCount = 0
        /// SHMRING_LEASE_FIRST_NS, which Swift does not import.
        let lease_ns: UInt64 = 1_000_000
        /// A lease, and what the machine does to all of them.
        var allowed_ns: UInt64 { lease_ns + 3 * usual_ns }
        /// Points at which a stop kept the others from going on.
        var stalls: [String] = []
    }

    /// The others must do so many laps of all their rings while one stands still.
    private static let laps = 4
    private static let patience_ns: UInt64 = 5_000_000_000

    /// Stops one process after the other at its point, and lets it go on when the others have sent enough.
    mutating func stop(_ count: Int, _ report: inout StopReport) throws {
        try measureUsual(&report)
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

    /// Somebody goes and somebody comes, which is all that a broker does.
    mutating func renew(without other: Int? = nil) throws {
        let some = run.members.filter { $0.peer != other }
        let member = some[roll(some.count)]
        let now = bench_recorder_now()
        _ = bench_child_end(member.pid, 1)
        run.lost(member, since: now)
        try run.start(quota: .max)
    }

    /// What processes wait for the next thing that they receive, while all of them go on.
    private func measureUsual(_ report: inout StopReport) throws {
        var gaps = FaultGaps()
        let peers = run.members.map(\.peer)
        let until = bench_monotonic_ns() + 3_000_000_000
        while bench_monotonic_ns() < until {
            guard bench_interrupted() == 0 else { throw Interrupted() }
            gaps.look(at: peers, of: run)
            usleep(200)
        }
        report.usual_ns = gaps.quantile_ns(perMille: 999)
        report.usualCount = gaps.gaps_ns.count
    }

    private mutating func stopOne(_ cell: Int, _ report: inout StopReport) throws {
        let what = table.cells[cell]
        if Self.isOfBrokers(what), try run.servers?.isComplete(withSpare: true) != true {
            throw BenchError("nobody takes the place of a broker that ended")
        }
        let provoker = try provoke(cell)
        guard var victim = try arm(cell, SIGSTOP, without: provoker?.member.peer) else { return }
        doing = FaultTable.name(of: what.point)
        let isAway = what.role == SHMRING_FAULT_BROKER || Self.isTakingOver(what)
        defer { bench_check_store(&run.stage.pointee.is_broker_away, 0) }
        if Self.isTakingOver(what), pointBeforeTakeOver(what.point) == nil {
            // Nobody serves from here on.
            bench_check_store(&run.stage.pointee.is_broker_away, 1)
            usleep(50_000)
        }
        if Self.isOfBrokers(what) { try provokeStop(cell) }
        let isThere = try arrival(of: &victim, provokedBy: provoker)
        if let provoker { Glibc.kill(provoker.member.pid, SIGCONT) }
        guard isThere else {
            table.missed(cell)
            return try end(victim)
        }
        stopped += 1
        table.hit(cell, inPair: false)
        // Nobody answers as long as it stands still.
        bench_check_store(&run.stage.pointee.is_broker_away, isAway ? 1 : 0)
        try watchOthers(victim, cell, &report)
        Glibc.kill(victim.member.pid, SIGCONT)
        try end(victim)
    }

    /// Until they have sent enough. What they wait for what they receive is noted, unless they have asked the broker for
    /// something just then.
    private mutating func watchOthers(
        _ victim: Victim, _ cell: Int, _ report: inout StopReport
    ) throws {
        let others = run.members.map(\.peer).filter { $0 != victim.member.peer }
        // Those who are known to many, and have been sent to all the time.
        let known = others.filter { run.at($0).pointee.received > 500 }
        let sent = { [run] in others.reduce(UInt64(0)) { $0 + run.at($1).pointee.sent } }
        let enough = sent() + UInt64(Self.laps * run.plan.slots * others.count)
        // A broker that stands still for a second is killed by its heir.
        let isBroker = table.cells[cell].role == SHMRING_FAULT_BROKER
        let deadline = bench_monotonic_ns() + (isBroker ? 900_000_000 : Self.patience_ns)
        var gaps = FaultGaps()
        while sent() < enough {
            guard bench_interrupted() == 0 else { throw Interrupted() }
            gaps.look(at: known, of: run)
            guard bench_monotonic_ns() < deadline else {
                report.stalls.append(
                    "\(FaultTable.name(of: table.cells[cell].point)), as "
                        + FaultTable.word(table.cells[cell].role))
                break
            }
            usleep(200)
        }
        table.waited(cell, gaps.longest_ns(of: known))
    }

    /// Makes a server come by at its point, or a peer whose broker has ended.
    private mutating func provokeStop(_ cell: Int) throws {
        let what = table.cells[cell]
        guard let servers = run.servers else { return }
        if what.point == SHMRING_FAULT_HEIR_KILLED.rawValue {
            if let broker = servers.broker { Glibc.kill(broker.member.pid, SIGSTOP) }
        } else if let death = pointBeforeTakeOver(what.point),
            let before = table.cell(of: death, SHMRING_FAULT_BROKER),
            var broker = try arm(before, SIGKILL, without: nil)
        {
            try renew()
            _ = try arrival(of: &broker)
        } else if Self.isTakingOver(what) || what.role == SHMRING_FAULT_RECEIVER {
            if let broker = servers.broker { servers.forget(broker, andEnd: true) }
        } else if Self.isWithoutHeir(what) {
            if let heir = servers.heir { servers.forget(heir, andEnd: true) }
        } else if var claimer = try provokeServer(cell, without: nil) {
            if try arrival(of: &claimer) { try reap(claimer) }
        }
    }

    /// Where a broker must end, so that its heir comes by there.
    private func pointBeforeTakeOver(_ point: UInt32) -> shmring_fault_point? {
        switch point {
        case SHMRING_FAULT_OVER_DEATH.rawValue: SHMRING_FAULT_BROKER_DEATH
        case SHMRING_FAULT_OVER_RESENT.rawValue: SHMRING_FAULT_JOURNAL_ENTRY
        default: nil
        }
    }
}
