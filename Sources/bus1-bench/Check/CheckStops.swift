import ArgumentParser
import CBench
import Glibc

/// Stops processes of a check for a few ms, one at a time, each at whatever instruction it is.
struct CheckStops {
    private let count: Int
    private let share: UInt64
    private var done = 0
    private var stopped: (pid: pid_t, until_ns: UInt64)?

    init(_ plan: CheckPlan) {
        count = plan.stops
        share = UInt64(plan.transactions / (plan.stops + 1)) + 1
    }

    /// Stops the next one when it is time to, and lets go on who has stood still for long enough.
    mutating func goOn(_ members: [CheckRun.Member], sent: UInt64, _ dice: inout SplitMix64) {
        if let one = stopped {
            guard bench_monotonic_ns() >= one.until_ns else { return }
            end()
        }
        guard done < count, sent >= share * UInt64(done), !members.isEmpty else { return }
        let pid = members[Int(dice.next() % UInt64(members.count))].pid
        kill(pid, SIGSTOP)
        stopped = (pid, bench_monotonic_ns() + 1_000_000 + dice.next() % 3_000_000)
        done += 1
    }

    mutating func end() {
        if let one = stopped { kill(one.pid, SIGCONT) }
        stopped = nil
    }
}

/// What a check's bus tells the time by.
enum CheckClock: String, CaseIterable, ExpressibleByArgument, Codable, Sendable {
    case usual, coarse
}
