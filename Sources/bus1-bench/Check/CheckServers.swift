@_spi(Checking) import Bus1Shm
import CBench
import CShmRing
import Glibc

/// The processes of a check that serve its bus or stand by for it: one is the broker, another its heir, and the others
/// wait to be asked.
final class CheckServers {
    struct Server {
        let member: CheckRun.Member
        /// Of those that live at a time.
        let place: UInt32
        let name: String
    }

    private(set) var all: [Server] = []
    private let wanted: Int
    private unowned let run: CheckRun
    private let stage: UnsafeMutablePointer<bench_check_stage>
    private var started = 0
    private static let patience_ns: UInt64 = 20_000_000_000

    /// Starts the broker, then the others.
    init(_ wanted: Int, of run: CheckRun) throws {
        self.wanted = wanted
        self.run = run
        stage = run.stage
        try start()
        guard eventually({ self.with(.broker) != nil }) else {
            throw BenchError("the broker does not start")
        }
        try refill()
    }

    func end() {
        for server in all { forget(server, andEnd: true) }
    }

    /// As many as there should be.
    func refill() throws {
        try reap()
        while all.count < wanted { try start() }
    }

    /// A broker that stands still for too long is killed by its heir.
    func reap() throws {
        for server in all {
            var status: Int32 = 0
            if waitpid(server.member.pid, &status, WNOHANG) == server.member.pid {
                guard status & 0x7f == SIGKILL else {
                    throw BenchError("\(server.name) ended by itself, status \(status)")
                }
                forget(server)
            }
        }
    }

    private func start() throws {
        let used = all.map(\.place)
        let place = (0..<BENCH_CHECK_SERVERS).first { !used.contains($0) }!
        let name = "s\(started)"
        started += 1
        bench_check_store(&at(place).pointee.role, 0)
        bench_check_store(&at(place).pointee.received, 0)
        shmring_fault_arm(run.faults(of: Int(BENCH_CHECK_PEERS + place)), 0, 0, 0, 0)
        let member = try run.spawn(
            Int(BENCH_CHECK_PEERS + place),
            [
                "bus1-bench", "check-broker", "--parent", "\(getpid())", "--bus", run.bus.path,
                "--place", "\(place)", "--name", name, "--rest", "\(run.plan.serversRest_ms)",
            ], quota: 0)
        all.append(Server(member: member, place: place, name: name))
    }

    // MARK: Who is what

    private func at(_ place: UInt32) -> UnsafeMutablePointer<bench_check_server> {
        bench_check_server_at(stage, place)
    }

    func role(of server: Server) -> BrokerRole? {
        BrokerRole(rawValue: bench_check_load(&at(server.place).pointee.role))
    }

    func received(by server: Server) -> UInt32 {
        bench_check_load(&at(server.place).pointee.received)
    }

    func with(_ role: BrokerRole) -> Server? { all.first { self.role(of: $0) == role } }

    var broker: Server? { with(.broker) }
    var heir: Server? { with(.heir) }
    /// Joined, and neither.
    var spare: Server? { with(.none) }

    /// Until somebody serves and somebody else would take his place. False: in vain.
    func isComplete(withSpare: Bool = false) throws -> Bool {
        try refill()
        return eventually {
            self.broker != nil && self.heir != nil && (!withSpare || self.spare != nil)
        }
    }

    /// Looks now and then, for a bounded time.
    func eventually(_ isSo: () throws -> Bool) rethrows -> Bool {
        let until = bench_monotonic_ns() + Self.patience_ns
        while try !isSo() {
            guard bench_monotonic_ns() < until, bench_interrupted() == 0 else { return false }
            usleep(200)
        }
        return true
    }

    // MARK: Ends

    /// One that ended is known no more.
    func forget(_ server: Server, andEnd: Bool = false) {
        if andEnd { _ = bench_child_end(server.member.pid, 1) }
        close(server.member.control)
        bench_check_store(&at(server.place).pointee.role, 0)
        all.removeAll { $0.place == server.place }
    }
}
