import ArgumentParser
import Bus1Shm
import CBench
import CShmRing
import Glibc

/// What an introduced pair gets through in the second before its broker ends, or stands still, and in the one after.
struct BrokerGap {
    /// What is done to the broker between the two.
    enum Event: String, CaseIterable {
        case nothing, killed, stopped
    }

    private let stage: CheckRun
    private let servers: CheckServers
    private var pair: [CheckRun.Member] = []
    private var counter: UnsafeMutablePointer<bench_check_peer> { stage.at(0) }
    private static let span_ns: UInt64 = 1_000_000_000

    init() throws {
        var plan = CheckPlan()
        plan.transactions = 0
        plan.servers = 3
        // Two cores are for the pair.
        plan.serversRest_ms = 100
        stage = try CheckRun(plan)
        guard let servers = stage.servers else { throw BenchError("no broker") }
        self.servers = servers
        let cores = try usableCores()
        for (place, part) in ["receiver", "sender"].enumerated() {
            pair.append(
                try stage.spawn(
                    place,
                    [
                        "bus1-bench", "gap-peer", "--parent", "\(getpid())", "--bus",
                        stage.bus.path, "--core", "\(cores[place % cores.count])", "--part", part,
                    ], quota: 0))
        }
        guard servers.eventually({ stage.at(0).pointee.received > 10_000 }) else {
            throw BenchError("the pair does not talk")
        }
    }

    func end() {
        for member in pair {
            _ = bench_child_end(member.pid, 1)
            close(member.control)
        }
    }

    /// Received in a second after, by what was in the one before.
    func measure(_ event: Event) throws -> Double {
        guard try servers.isComplete(withSpare: true), let broker = servers.broker else {
            throw BenchError("nobody takes the broker's place")
        }
        // Who has just joined is done with that.
        usleep(300_000)
        let before = rate()
        switch event {
        case .nothing: break
        case .killed: servers.forget(broker, andEnd: true)
        case .stopped: Glibc.kill(broker.member.pid, SIGSTOP)
        }
        let after = rate()
        if event == .stopped {
            // Its heir has killed it, or is about to.
            let isSucceeded = try servers.eventually {
                try servers.reap()
                return servers.broker.map { $0.member.pid != broker.member.pid } ?? false
            }
            guard isSucceeded else {
                throw BenchError("nobody takes the place of a stopped broker")
            }
        }
        let last = counter.pointee.full
        guard last == 0 else { throw BenchError("\(last) messages were lost or came twice") }
        return after / before
    }

    private func rate() -> Double {
        let (from, since) = (counter.pointee.received, bench_monotonic_ns())
        usleep(UInt32(Self.span_ns / 1000))
        let (to, until) = (counter.pointee.received, bench_monotonic_ns())
        return Double(to - from) / Double(until - since)
    }
}

/// One of the pair: sends numbers for ever, or checks that they come one after the other.
struct GapPeer: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "gap-peer", abstract: "One of two that talk while their broker ends.",
        shouldDisplay: false)

    @Option var parent: Int32
    @Option var bus: String
    @Option var core: Int32
    @Option var part: String

    func run() throws {
        guard bench_worker_settle(parent) == 0, let stage = bench_check_map(BENCH_STAGE_FD) else {
            throw ExitCode(70)
        }
        _ = bench_pin(core)
        var options = Peer.Options()
        options.standsBy = false
        let peer = try Peer(on: Bus(path: bus), options)
        if part == "sender" { return try send(peer) }
        try receive(peer, bench_check_peer_at(stage, 0))
    }

    private func send(_ peer: borrowing Peer) throws {
        let handle = try peer.lookUp("gap", until: .after(.seconds(20)))
        var number: UInt64 = 0
        while true {
            number += 1
            // Neither sleeps: whether it does, and when, would be most of what is measured.
            while try peer.trySend(number, to: handle) == nil { sched_yield() }
        }
    }

    private func receive(_ peer: borrowing Peer, _ counts: UnsafeMutablePointer<bench_check_peer>)
        throws
    {
        let node = try peer.makeNode()
        try peer.publish(node, as: "gap")
        var expected: UInt64 = 1
        while true {
            guard case .message(let message)? = try peer.tryReceive() else { continue }
            let number = message.payload.unsafeLoadUnaligned(as: UInt64.self)
            if number != expected { counts.pointee.full += 1 }
            expected = number + 1
            counts.pointee.received += 1
        }
    }
}
