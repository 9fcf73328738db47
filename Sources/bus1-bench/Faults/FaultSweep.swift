import CBench
import CShmRing
import Glibc

/// Kills processes of a check at chosen points, one or two at a time, and puts others in their place.
struct FaultSweep {
    let run: CheckRun
    var table: FaultTable
    var dice: SplitMix64
    private(set) var killed = 0
    var stopped = 0

    struct Victim {
        let member: CheckRun.Member
        let cell: Int
        let control: UnsafeMutablePointer<shmring_fault_control>
        /// Later than all that it was seen to do.
        var before: UInt64
        var isThere = false
    }

    init(_ run: CheckRun, _ table: FaultTable, _ dice: SplitMix64) {
        self.run = run
        self.table = table
        self.dice = dice
    }

    /// What a process passes only while it joins, or at its first look-up.
    private func isOfNewcomers(_ cell: Int) -> Bool {
        switch table.cells[cell].point {
        case SHMRING_FAULT_CONNECT_GREETED.rawValue, SHMRING_FAULT_CONNECT_MAPPED.rawValue,
            SHMRING_FAULT_CONNECT_SEALED.rawValue, SHMRING_FAULT_INTRODUCE_RING.rawValue:
            true
        case SHMRING_FAULT_INTRODUCE_ASKED.rawValue, SHMRING_FAULT_INTRODUCE_GRANTED.rawValue: true
        case SHMRING_FAULT_INTRODUCE_LINK.rawValue: table.cells[cell].role == SHMRING_FAULT_SENDER
        default: false
        }
    }

    /// Where another process must stand still, so that somebody comes by at a point at all.
    private func provocation(of cell: Int) -> shmring_fault_point? {
        switch table.cells[cell].point {
        case SHMRING_FAULT_CLAIM_HOLE.rawValue, SHMRING_FAULT_HEAD_RETIRED.rawValue,
            SHMRING_FAULT_HEAD_RETURNED.rawValue:
            SHMRING_FAULT_CLAIM_MOVED
        case SHMRING_FAULT_TAKE_WAITS.rawValue: SHMRING_FAULT_COMMIT_STAMPED
        default: nil
        }
    }

    private mutating func roll(_ sides: Int) -> Int { Int(dice.next() % UInt64(sides)) }

    /// Kills until there are so many, or none of the points comes by any more; `onlyZeros`: what was never hit, until
    /// everything was.
    mutating func kill(_ count: Int, onlyZeros: Bool) throws {
        var inVain = 0
        while killed < count, inVain < 100 {
            let zeros = table
            guard let cell = table.neediest(&dice, where: { !onlyZeros || zeros.isZero($0) }) else {
                return
            }
            let before = killed
            if table.wantsPair(cell) { try killTwo(cell) } else { try killOne(cell) }
            inVain = killed > before ? 0 : inVain + 1
        }
    }

    /// Those that have joined, and act.
    private func acting() -> [CheckRun.Member] {
        run.members.filter { run.at($0.peer).pointee.phase != 0 }
    }

    private mutating func killOne(_ cell: Int) throws {
        let provoker = try provoke(cell)
        defer { if let provoker { letGoOn(provoker) } }
        guard var victim = try arm(cell, SIGKILL, without: provoker?.member.peer) else { return }
        guard try arrival(of: &victim, provokedBy: provoker) else {
            table.missed(cell)
            return try end(victim)
        }
        try reap(victim)
        table.hit(cell, inPair: false)
    }

    /// Stops somebody where that makes others come by at the cell's point; nil: no need, or nobody stopped.
    mutating func provoke(_ cell: Int) throws -> Victim? {
        guard let point = provocation(of: cell),
            let index = table.cells.firstIndex(where: {
                $0.point == point.rawValue && $0.role == SHMRING_FAULT_SENDER
            }), var victim = try arm(index, SIGSTOP, without: nil)
        else { return nil }
        return try arrival(of: &victim) ? victim : nil
    }

    /// Stops one at its point, then another one at any, and kills both.
    private mutating func killTwo(_ cell: Int) throws {
        let provoker = try provoke(cell)
        defer { if let provoker { letGoOn(provoker) } }
        guard var first = try arm(cell, SIGSTOP, without: provoker?.member.peer) else { return }
        guard try arrival(of: &first, provokedBy: provoker) else {
            table.missed(cell)
            return try end(first)
        }
        if let provoker, table.cells[cell].point != SHMRING_FAULT_HEAD_RETURNED.rawValue {
            for one in [first, provoker] { Glibc.kill(one.member.pid, SIGKILL) }
            for one in [first, provoker] {
                try reap(one)
                table.hit(one.cell, inPair: true)
            }
            return
        }
        // One that is likely to come by at once.
        let others = table.cells.indices.filter {
            !isOfNewcomers($0) && provocation(of: $0) == nil && table.cells[$0].missesInARow == 0
        }
        guard !others.isEmpty else {
            Glibc.kill(first.member.pid, SIGKILL)
            try reap(first)
            return table.hit(cell, inPair: false)
        }
        let second = others[roll(others.count)]
        guard
            var other = try arm(second, SIGSTOP, without: first.member.peer, provoker?.member.peer)
        else {
            Glibc.kill(first.member.pid, SIGKILL)
            try reap(first)
            return table.hit(cell, inPair: false)
        }
        let isPair = try arrival(of: &other)
        Glibc.kill(first.member.pid, SIGKILL)
        if isPair { Glibc.kill(other.member.pid, SIGKILL) }
        try reap(first)
        table.hit(cell, inPair: isPair)
        if isPair {
            try reap(other)
            table.hit(second, inPair: true)
        }
    }

    func letGoOn(_ victim: Victim) {
        if run.members.contains(where: { $0.pid == victim.member.pid }) {
            Glibc.kill(victim.member.pid, SIGCONT)
        }
    }

    /// Gives a process the order; nil: there is none that could take it.
    mutating func arm(_ cell: Int, _ signal: Int32, without others: Int?..., passing: Int? = nil)
        throws -> Victim?
    {
        let (point, role) = (table.cells[cell].point, table.cells[cell].role.rawValue)
        if isOfNewcomers(cell) {
            let isLater =
                point == SHMRING_FAULT_INTRODUCE_ASKED.rawValue
                || point == SHMRING_FAULT_INTRODUCE_GRANTED.rawValue
                || point == SHMRING_FAULT_INTRODUCE_LINK.rawValue
            let pass = isLater ? roll(4) : 0
            let now = bench_recorder_now()
            let member = try run.start(quota: .max) {
                shmring_fault_arm($0, point, role, UInt32(pass), signal)
            }
            return Victim(
                member: member, cell: cell, control: run.faults(of: member.peer), before: now)
        }
        if role == SHMRING_FAULT_BROKER.rawValue {
            guard let broker = run.broker else { return nil }
            let control = run.faults(of: broker.peer)
            shmring_fault_arm(control, point, role, UInt32(roll(2)), signal)
            return Victim(
                member: broker, cell: cell, control: control, before: bench_recorder_now())
        }
        let candidates = acting().filter { !others.contains($0.peer) }
        guard !candidates.isEmpty else {
            usleep(1000)
            return nil
        }
        // Who has come by most often will come by soon; but not always the same one.
        let some = [candidates[roll(candidates.count)], candidates[roll(candidates.count)]]
        let run = run
        let passes = { (member: CheckRun.Member) in
            shmring_fault_arrivals(run.faults(of: member.peer), point, role)
        }
        let member = passes(some[0]) >= passes(some[1]) ? some[0] : some[1]
        let often = Int(min(passes(member) / 8, 100))
        let control = run.faults(of: member.peer)
        let now = bench_recorder_now()
        shmring_fault_arm(control, point, role, UInt32(passing ?? roll(often + 1)), signal)
        return Victim(member: member, cell: cell, control: control, before: now)
    }

    /// Until it says that it has arrived, and the kernel that it has stopped or ended. False: it does not come by.
    mutating func arrival(
        of victim: inout Victim, provokedBy provoker: Victim? = nil
    ) throws -> Bool {
        let patience_ns = UInt64(60_000_000 * (1 + min(4, table.cells[victim.cell].missesInARow)))
        let isNew = isOfNewcomers(victim.cell)
        let deadline = bench_monotonic_ns() + (isNew ? 2_000_000_000 : patience_ns)
        // What was out of service returns once its claimer goes on.
        var goesOn =
            table.cells[victim.cell].point == SHMRING_FAULT_HEAD_RETURNED.rawValue ? provoker : nil
        while true {
            if let one = goesOn, bench_monotonic_ns() + patience_ns * 3 / 4 > deadline {
                Glibc.kill(one.member.pid, SIGCONT)
                goesOn = nil
            }
            let now = bench_recorder_now()
            if shmring_fault_arrived(victim.control) != 0 { break }
            victim.before = now
            if bench_monotonic_ns() > deadline, shmring_fault_disarm(victim.control) {
                return false
            }
            try lookAfter(victim.member)
            usleep(100)
        }
        var status: Int32 = 0
        let until = bench_monotonic_ns() + 2_000_000_000
        while waitpid(victim.member.pid, &status, WNOHANG | WUNTRACED) != victim.member.pid {
            guard bench_monotonic_ns() < until else {
                throw BenchError(
                    "peer \(victim.member.peer) arrived at \(FaultTable.name(of: table.cells[victim.cell].point)) and goes on"
                )
            }
            usleep(50)
        }
        victim.isThere = true
        let byKill = status & 0x7f == SIGKILL
        let byStop = status & 0xff == 0x7f && status >> 8 & 0xff == SIGSTOP
        guard byKill || byStop else {
            throw BenchError("peer \(victim.member.peer) ended with status \(status)")
        }
        if byKill {
            run.lost(victim.member, since: victim.before)
            try replace(victim)
        }
        return true
    }

    /// One who was to end at a point, and has ended.
    mutating func reap(_ victim: Victim) throws {
        killed += 1
        guard run.members.contains(where: { $0.pid == victim.member.pid }) else { return }
        var status: Int32 = 0
        while waitpid(victim.member.pid, &status, 0) < 0 && errno == EINTR {}
        guard status & 0x7f == SIGKILL else {
            throw BenchError("peer \(victim.member.peer) ended with status \(status)")
        }
        run.lost(victim.member, since: victim.before)
        try replace(victim)
    }

    /// A newcomer who did not die while it joined goes anyway: there are enough.
    func end(_ victim: Victim) throws {
        guard isOfNewcomers(victim.cell) else { return }
        let now = bench_recorder_now()
        _ = bench_child_end(victim.member.pid, 1)
        run.lost(victim.member, since: now)
    }

    private func replace(_ victim: Victim) throws {
        if run.members.count < run.plan.processes { try run.start(quota: .max) }
    }

    /// Nobody but the one that is waited for may end.
    private func lookAfter(_ expected: CheckRun.Member) throws {
        guard bench_interrupted() == 0 else { throw Interrupted() }
        for member in run.members where member.pid != expected.pid {
            var status: Int32 = 0
            if waitpid(member.pid, &status, WNOHANG) == member.pid {
                throw BenchError("peer \(member.peer) ended by itself, status \(status)")
            }
        }
    }
}
