import Bus1Judge
import Bus1Shm
import CBench
import Glibc

/// One bus that lives through all of a soak: its broker, a resident, visitors that come and go, and round after round
/// of peers whose histories are judged.
final class SoakRun {
    struct Total {
        var rounds = 0
        var transactions: UInt64 = 0
        var messages: UInt64 = 0
        var notices: UInt64 = 0
        var kills = 0
        var stops = 0
        var joins = 0
        var violations: UInt64 = 0
    }

    private struct Guest {
        let role: SoakGuest.Role
        let pid: pid_t
        let control: Int32
    }

    private let plan: CheckPlan
    private let directory: TemporaryDirectory
    private let bus: Bus
    /// For guests, which need none.
    private let noStage: Int32
    private var broker: Guest?
    private var resident: Guest?
    private var visitors: [Guest] = []
    private var dice: SplitMix64
    private(set) var total = Total()
    private static let visitorCount = 2
    /// Guests beside the peers that are judged.
    static let guestCount = 2 + visitorCount
    private static let roundPatience_ns: UInt64 = 10_000_000_000

    init(_ plan: CheckPlan) throws {
        self.plan = plan
        dice = SplitMix64(state: plan.seed)
        directory = try TemporaryDirectory()
        chmod(directory.path, 0o755)
        bus = Bus(path: directory.path + "/bus", isolation: plan.isolation.value)
        noStage = try BenchError.check(open("/dev/null", O_RDONLY | O_CLOEXEC), "opening /dev/null")
        broker = try start(.broker)
        let deadline = bench_monotonic_ns() + 10_000_000_000
        while access(bus.path, F_OK) != 0 {
            guard bench_monotonic_ns() < deadline else {
                throw BenchError("the broker does not serve")
            }
            usleep(1000)
        }
        let resident = try start(.resident)
        self.resident = resident
        // It becomes the broker's heir before anybody else is there, and stays it: what an heir has in use is there from
        // the beginning. Where nobody is made an heir, it has one thread for good.
        let patience = bench_monotonic_ns() + 5_000_000_000
        while ProcessUse(of: resident.pid).threads < 2, bench_monotonic_ns() < patience {
            usleep(10_000)
        }
    }

    deinit {
        for guest in visitors + [resident, broker].compactMap({ $0 }) { end(guest) }
        close(noStage)
    }

    // MARK: Rounds

    /// One set of peers, from their joining to the last one's leaving; what they saw is judged.
    func round() throws {
        for _ in visitors.count..<Self.visitorCount { visitors.append(try start(.visitor)) }
        var plan = plan
        plan.seed = dice.next()
        let run = try CheckRun(plan, on: bus)
        try run.run(quota: .max) { try disturb(run) }
        total.joins += run.peerCount
        let verdict = try OrderVerdict(judging: try run.histories())
        print(verdict.text, terminator: "")
        total.rounds += 1
        total.transactions += verdict.transactions
        total.messages += verdict.messages
        total.notices += verdict.notices
        total.violations += verdict.violations
    }

    /// Kills, stops and lets others join, until enough was sent.
    private func disturb(_ run: CheckRun) throws {
        let until = bench_monotonic_ns() + Self.roundPatience_ns
        while run.sent < UInt64(plan.transactions), bench_monotonic_ns() < until {
            guard bench_interrupted() == 0 else { throw Interrupted() }
            usleep(UInt32(5_000 + dice.next() % 40_000))
            try lookAfterVisitors()
            let member = run.members[Int(dice.next() % UInt64(run.members.count))]
            switch dice.next() % 8 {
            case 0:
                try run.kill(member)
                total.kills += 1
            case 1:
                let index = Int(dice.next() % UInt64(visitors.count))
                Glibc.kill(visitors[index].pid, SIGKILL)
                total.kills += 1
            default:
                Glibc.kill(member.pid, SIGSTOP)
                usleep(UInt32(500 + dice.next() % 20_000))
                Glibc.kill(member.pid, SIGCONT)
                total.stops += 1
            }
        }
    }

    /// Those that ended are replaced; who was answered wrongly says so by its end.
    private func lookAfterVisitors() throws {
        for (index, visitor) in visitors.enumerated() {
            var status: Int32 = 0
            guard waitpid(visitor.pid, &status, WNOHANG) == visitor.pid else { continue }
            close(visitor.control)
            try judge(status, of: visitor)
            visitors[index] = try start(.visitor)
        }
        for guest in [broker, resident] {
            var status: Int32 = 0
            if let guest, waitpid(guest.pid, &status, WNOHANG) == guest.pid {
                throw BenchError("the \(guest.role) ended by itself, status \(status)")
            }
        }
    }

    private func judge(_ status: Int32, of visitor: Guest) throws {
        switch status {
        case 0, SIGKILL: break
        case SoakGuest.wrongAnswer << 8:
            print("violation: a visitor got what it had not asked for")
            total.violations += 1
        default: throw BenchError("a visitor ended by itself, status \(status)")
        }
    }

    // MARK: What is in use

    /// With nobody there but broker and resident.
    func use() throws -> (broker: ProcessUse, resident: ProcessUse, own: Int) {
        for visitor in visitors { end(visitor) }
        visitors = []
        let broker = ProcessUse.settled(of: broker!.pid)
        let resident = ProcessUse.settled(of: resident!.pid)
        return (broker, resident, ProcessUse(of: getpid()).descriptors)
    }

    /// Processes that ended and were not waited for.
    func zombies() -> Int {
        var count = 0
        var status: Int32 = 0
        while waitpid(-1, &status, WNOHANG) > 0 { count += 1 }
        return count
    }

    // MARK: Processes

    private func start(_ role: SoakGuest.Role) throws -> Guest {
        var ends: [Int32] = [-1, -1]
        try BenchError.check(bench_control_pair(&ends), "making a control socket")
        defer { close(ends[1]) }
        let arguments = [
            "bus1-bench", "soak-guest", "--role", role.rawValue, "--parent", "\(getpid())", "--bus",
            bus.path, "--seed", "\(dice.next())",
        ]
        var pointers = arguments.map { strdup($0) }
        pointers.append(nil)
        defer { pointers.forEach { free($0) } }
        let pid = try BenchError.check(
            bench_worker_spawn("/proc/self/exe", pointers, ends[1], noStage), "starting a guest")
        if role == .visitor { total.joins += 1 }
        return Guest(role: role, pid: pid, control: ends[0])
    }

    private func end(_ guest: Guest) {
        _ = bench_child_end(guest.pid, 1)
        close(guest.control)
    }
}
