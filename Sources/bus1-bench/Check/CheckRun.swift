import Bus1Judge
import Bus1Shm
import CBench
import CShmRing
import Glibc

/// What `bus1-bench check` was asked to run.
struct CheckPlan: Sendable {
    var transactions = 500_000
    var processes = 6
    var nodes = 24
    var users = 1
    var isolation = CheckIsolation.user
    var kills = 3
    var stops = 0
    var clock = CheckClock.usual
    /// So many processes do nothing but serve the bus or stand by for it, so that they can be stopped and killed. 0: this
    /// process serves it.
    var servers = 0
    /// How often each of them looks at what it is for the bus.
    var serversRest_ms = 2
    var seed: UInt64 = 1
    var slots = 256
    var habits = CheckHabits()

    var placesEach: Int { max(1, nodes / processes) }
}

/// One run of real processes that do at random what peers can do. Keeps what they wrote down.
final class CheckRun {
    struct Member {
        let peer: Int
        let pid: pid_t
        let control: Int32
        fileprivate let quota: UInt64
    }

    let plan: CheckPlan
    let stage: UnsafeMutablePointer<bench_check_stage>
    private let stageFD: Int32
    let bus: Bus
    /// Unless somebody else serves the bus.
    private let host: BusHost?
    private let directory: TemporaryDirectory?
    private(set) var servers: CheckServers?
    private(set) var members: [Member] = []
    private(set) var peerCount = 0
    private var dice: SplitMix64
    /// So long may a run stand still.
    private static let patience_ns: UInt64 = 20_000_000_000

    /// `bus`: one that is served already; else the run has one of its own.
    init(_ plan: CheckPlan, on bus: Bus? = nil) throws {
        self.plan = plan
        dice = SplitMix64(state: plan.seed)
        // Room for a run in which one peer gets everything; pages exist once they are written.
        let room = UInt64(plan.transactions) * 400 + 1 << 26
        stageFD = try BenchError.check(bench_check_create(room), "making the shared file")
        guard let stage = bench_check_map(stageFD) else {
            throw BenchError("mapping the shared file: \(String(cString: strerror(errno)))")
        }
        self.stage = stage
        // Read by the broker that is made next.
        if plan.clock == .coarse { setenv("BUS1_CLOCK", "coarse", 1) }
        directory = bus == nil && plan.servers > 0 ? try TemporaryDirectory() : nil
        host = bus == nil && plan.servers == 0 ? try BusHost() : nil
        self.bus = bus ?? host?.bus ?? Bus(path: directory!.path + "/bus")
        // Other users must find the socket.
        if let host { chmod(host.directoryPath, 0o755) }
        if directory != nil { servers = try CheckServers(plan.servers, of: self) }
    }

    deinit {
        for member in members { _ = bench_child_end(member.pid, 1) }
        servers?.end()
        for member in members { close(member.control) }
        close(stageFD)
        bench_check_unmap(stage)
    }

    // MARK: The run

    /// Runs all phases. Throws when a process ends by itself, or nothing moves any more.
    func run() throws {
        try run(quota: UInt64(plan.transactions / plan.processes), act)
    }

    /// The same with what is done while the processes act: when it returns they stop acting.
    func run(quota: UInt64, _ act: () throws -> Void) throws {
        bench_check_store(&stage.pointee.phase, BENCH_CHECK_GATHER.rawValue)
        for _ in 0..<plan.processes { try start(quota: quota) }
        try wait(for: BENCH_CHECK_GATHER)
        bench_check_store(&stage.pointee.phase, BENCH_CHECK_ACT.rawValue)
        try act()
        for phase in [
            BENCH_CHECK_EMPTY, BENCH_CHECK_LET_GO, BENCH_CHECK_SETTLE, BENCH_CHECK_LEAVE,
        ] {
            bench_check_store(&stage.pointee.phase, phase.rawValue)
            try wait(for: phase)
        }
        for member in members {
            let status = bench_child_end(member.pid, 0)
            close(member.control)
            guard status == 0 else {
                members = []
                throw BenchError("peer \(member.peer) ended with status \(status)")
            }
        }
        members = []
    }

    /// Until all have done their part; kills some on the way and starts others in their place, and stops some for a
    /// moment.
    private func act() throws {
        var killed = 0
        var stops = CheckStops(plan)
        defer { stops.end() }
        var threshold = nextKill(after: 0)
        try watch { [self] in
            if killed < plan.kills, sent >= threshold {
                stops.end()
                try kill(members[Int(dice.next() % UInt64(members.count))])
                killed += 1
                threshold = nextKill(after: killed)
            }
            stops.goOn(members, sent: sent, &dice)
            return members.allSatisfy { self.phase(of: $0) == BENCH_CHECK_ACT.rawValue }
        }
    }

    private func nextKill(after killed: Int) -> UInt64 {
        let share = UInt64(plan.transactions / (plan.kills + 1))
        return share * UInt64(killed) + dice.next() % (share + 1)
    }

    private func wait(for phase: bench_check_phase) throws {
        try watch { [self] in
            members.allSatisfy { self.phase(of: $0) == phase.rawValue }
        }
    }

    /// Looks every now and then, until `isDone`.
    private func watch(_ isDone: () throws -> Bool) throws {
        var last = progress
        var since = bench_monotonic_ns()
        while try !isDone() {
            guard bench_interrupted() == 0 else { throw Interrupted() }
            usleep(200)
            let leaving = bench_check_load(&stage.pointee.phase) == BENCH_CHECK_LEAVE.rawValue
            for member in members where !leaving {
                var status: Int32 = 0
                if waitpid(member.pid, &status, WNOHANG) == member.pid {
                    members.removeAll { $0.pid == member.pid }
                    throw BenchError("peer \(member.peer) ended by itself, status \(status)")
                }
            }
            let now = progress
            if now != last {
                last = now
                since = bench_monotonic_ns()
            } else if bench_monotonic_ns() - since > Self.patience_ns {
                let where_ = members.map { "peer \($0.peer) in phase \(phase(of: $0))" }
                throw BenchError("nothing moves: \(where_.joined(separator: ", "))")
            }
        }
    }

    var sent: UInt64 { (0..<peerCount).reduce(0) { $0 + at($1).pointee.sent } }

    private var progress: UInt64 {
        (0..<peerCount).reduce(0) { $0 &+ at($1).pointee.sent &+ UInt64(at($1).pointee.phase) }
    }

    func at(_ peer: Int) -> UnsafeMutablePointer<bench_check_peer> {
        bench_check_peer_at(stage, UInt32(peer))
    }

    func phase(of member: Member) -> UInt32 {
        bench_check_load(&at(member.peer).pointee.phase)
    }

    // MARK: Processes

    /// Whether the stage has a place for one more peer; the places of dead ones are not given again.
    var hasRoom: Bool { peerCount < Int(BENCH_CHECK_PEERS) }

    /// `arming`: gives the process its first order, before there is a process.
    @discardableResult
    func start(
        quota: UInt64, arming: (UnsafeMutablePointer<shmring_fault_control>) -> Void = { _ in }
    ) throws -> Member {
        guard hasRoom else { throw BenchError("too many peers") }
        let peer = peerCount
        let user = plan.users > 1 ? 61001 + peer % plan.users : 0
        bench_recorder_init(
            bench_check_recorder(stage, UInt32(peer)), stage.pointee.recorder_bytes)
        var arguments = [
            "bus1-bench", "check-peer", "--peer", "\(peer)", "--parent", "\(getpid())", "--bus",
            bus.path, "--isolation", plan.isolation.rawValue, "--user", "\(user)", "--places",
            "\(plan.placesEach)", "--quota", "\(quota)", "--seed",
            "\(plan.seed &* 1000 &+ UInt64(peer))", "--slots", "\(plan.slots)",
        ]
        var habits = plan.habits
        habits.forges = habits.forges && peer == 0
        arguments += habits.arguments
        if servers != nil { arguments.append("--no-heir") }
        arming(faults(of: peer))
        let member = try spawn(peer, arguments, quota: quota)
        members.append(member)
        peerCount += 1
        bench_check_store(&stage.pointee.peer_count, UInt32(peerCount))
        return member
    }

    func spawn(_ place: Int, _ arguments: [String], quota: UInt64) throws -> Member {
        var ends: [Int32] = [-1, -1]
        try BenchError.check(bench_control_pair(&ends), "making a control socket")
        defer { close(ends[1]) }
        var pointers = arguments.map { strdup($0) }
        pointers.append(nil)
        defer { pointers.forEach { free($0) } }
        let pid = try BenchError.check(
            bench_worker_spawn("/proc/self/exe", pointers, ends[1], stageFD), "starting a process")
        return Member(peer: place, pid: pid, control: ends[0], quota: quota)
    }

    /// Kills one at whatever instruction it is, and starts another one that does the rest.
    func kill(_ member: Member) throws {
        let begin = bench_recorder_now()
        _ = bench_child_end(member.pid, 1)
        lost(member, since: begin)
        let done = at(member.peer).pointee.sent
        try start(quota: member.quota > done ? member.quota - done : 0)
    }

    /// One of them was killed, at that time or later, and has ended.
    func lost(_ member: Member, since time: UInt64) {
        close(member.control)
        members.removeAll { $0.pid == member.pid }
        let recorder = bench_check_recorder(stage, UInt32(member.peer))
        bench_recorder_add(recorder, BENCH_RECORD_KILLED.rawValue, time, 0, nil, 0)
        bench_check_store(&at(member.peer).pointee.dead, 1)
    }

    /// By which a process can be killed or stopped at a point of a special build.
    func faults(of peer: Int) -> UnsafeMutablePointer<shmring_fault_control> {
        bench_check_faults(stage, UInt32(peer))
    }

    // MARK: Afterwards

    /// What all peers wrote down. Lies in this run's memory.
    func histories() throws -> Histories {
        let histories = Histories()
        for peer in 0..<peerCount {
            let recorder = bench_check_recorder(stage, UInt32(peer))!
            guard recorder.pointee.full == 0 else {
                throw BenchError("the history of peer \(peer) found no room")
            }
            try histories.add(peer: peer, recorder)
        }
        return histories
    }
}
