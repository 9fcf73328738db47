import CBench
import CShmRing
import Glibc

/// Kills processes of a check at chosen points, one or two at a time, and puts others in their place.
struct FaultSweep {
    let run: CheckRun
    var table: FaultTable
    var dice: SplitMix64
    var killed = 0
    /// What works no more after a broker's end.
    var failures: [String] = []
    /// With which the names of points begin at which brokers and heirs are killed.
    var only = ""
    /// Whom it is about to kill or stop, for whoever reads that it failed.
    var doing = "" { didSet { done.append(doing) } }
    /// The same so far, on this bus.
    private(set) var done: [String] = []
    /// The bus has ended with its broker and its heir: nobody else can be killed.
    var isOver = false
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

    mutating func roll(_ sides: Int) -> Int { Int(dice.next() % UInt64(sides)) }

    /// Kills until there are so many, or none of the points comes by any more; `onlyZeros`: what was never hit, until
    /// everything was.
    mutating func kill(_ count: Int, onlyZeros: Bool) throws {
        var inVain = 0
        while killed < count, inVain < 100 {
            let zeros = table
            let isWanted = { (cell: FaultTable.Cell) in
                !Self.isOfBrokers(cell) && (!onlyZeros || zeros.isZero(cell))
            }
            guard let cell = table.neediest(&dice, where: isWanted) else { return }
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
        let others = cellsAtOnce
        guard !others.isEmpty,
            var other = try arm(
                others[roll(others.count)], SIGSTOP, without: first.member.peer,
                provoker?.member.peer)
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
            table.hit(other.cell, inPair: true)
        }
    }

    /// At which some peer is likely to come by at once.
    var cellsAtOnce: [Int] {
        table.cells.indices.filter {
            !isOfNewcomers($0) && provocation(of: $0) == nil && table.cells[$0].missesInARow == 0
                && !Self.isOfBrokers(table.cells[$0])
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
        if Self.isOfServers(table.cells[cell]) { return armServer(cell, signal) }
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
        let deadline =
            bench_monotonic_ns()
            + (isOfNewcomers(victim.cell)
                ? 2_000_000_000
                : Self.isOfBrokers(table.cells[victim.cell])
                    ? serverPatience_ns(victim.cell) : patience_ns)
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
        if byKill { try hasEnded(victim) }
        return true
    }

    /// One who was to end at a point, and has ended.
    mutating func reap(_ victim: Victim) throws {
        killed += 1
        guard isThere(victim.member) else { return }
        var status: Int32 = 0
        while waitpid(victim.member.pid, &status, 0) < 0 && errno == EINTR {}
        guard status & 0x7f == SIGKILL else {
            throw BenchError("peer \(victim.member.peer) ended with status \(status)")
        }
        try hasEnded(victim)
    }

    private func isThere(_ member: CheckRun.Member) -> Bool {
        run.members.contains { $0.pid == member.pid } || server(of: member) != nil
    }

    func server(of member: CheckRun.Member) -> CheckServers.Server? {
        run.servers?.all.first { $0.member.pid == member.pid }
    }

    private func hasEnded(_ victim: Victim) throws {
        if let server = server(of: victim.member) {
            run.servers?.forget(server)
            return
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
        let isVictim = { [run] (member: CheckRun.Member) in
            member.pid == expected.pid || shmring_fault_arrived(run.faults(of: member.peer)) != 0
        }
        for member in run.members where !isVictim(member) {
            var status: Int32 = 0
            if waitpid(member.pid, &status, WNOHANG) == member.pid {
                throw BenchError("peer \(member.peer) ended by itself, status \(status)")
            }
        }
        for server in run.servers?.all ?? [] where !isVictim(server.member) {
            var status: Int32 = 0
            if waitpid(server.member.pid, &status, WNOHANG) == server.member.pid {
                run.servers?.forget(server)
                // A broker that stands still for too long is killed by its heir.
                guard status & 0x7f == SIGKILL else {
                    throw BenchError("\(server.name) ended by itself, status \(status)")
                }
            }
        }
    }
}
