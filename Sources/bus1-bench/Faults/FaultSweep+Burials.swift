import CBench
import CShmRing
import Glibc

extension FaultSweep {
    /// The one case in which a dead claim may not be buried: a process is killed between its claim word and the
    /// compare-and-swap, while a living one has won just that position and not written it yet. With three processes
    /// the other two of which one stands still for a while, it happens in some of these attempts; who buries the
    /// position all the same loses the message that is written there later.
    mutating func bury(_ count: Int) throws {
        let cell = { [table] (point: shmring_fault_point) in
            table.cells.firstIndex {
                $0.point == point.rawValue && $0.role == SHMRING_FAULT_SENDER
            }
        }
        guard let named = cell(SHMRING_FAULT_CLAIM_NAMED),
            let moved = cell(SHMRING_FAULT_CLAIM_MOVED)
        else { return }
        // Whose messages get lost must live to the end, or nobody can tell.
        guard let receiver = run.members.first?.peer else { return }
        // Newcomers must have joined first: so long is enough on a busy machine, too.
        let until = bench_monotonic_ns() + UInt64(count) * 300_000_000
        // Each try costs a peer, and many end without two at one position.
        while stopped < count, run.hasRoom, bench_monotonic_ns() < until {
            guard bench_interrupted() == 0 else { throw Interrupted() }
            guard var loser = try arm(named, SIGSTOP, without: receiver) else { continue }
            guard try arrival(of: &loser) else { continue }
            var winner = try arm(moved, SIGSTOP, without: receiver, loser.member.peer, passing: 0)
            let hasWon = winner != nil ? try arrival(of: &winner!) : false
            Glibc.kill(loser.member.pid, SIGKILL)
            try reap(loser)
            guard hasWon, let winner else { continue }
            table.hit(named, inPair: false)
            table.hit(moved, inPair: false)
            stopped += 1
            // The receiver asks the broker as soon as it hears of the death, and again some ms later.
            usleep(10_000)
            letGoOn(winner)
        }
    }
}
