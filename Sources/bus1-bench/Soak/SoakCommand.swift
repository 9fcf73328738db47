import ArgumentParser
import CBench
import Glibc

/// `bus1-bench soak`: one bus under random load for a long time.
struct SoakCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "soak",
        abstract:
            "Load one bus at random for minutes or hours, and look for what is lost or leaks.",
        discussion: """
            A broker and a peer that answers visitors live through all of it; visitors join, ask and leave; \
            round after round of peers do what those of `bus1-bench check` do, and are judged like them. \
            Meanwhile processes are killed and stopped. After each round, with nobody else there, what broker \
            and resident have in use is counted; from minute 2 on, or from the first round of a shorter soak, \
            nothing may grow: descriptors, shared mappings and threads not at all, memory by less than 1 MiB. Ends \
            with the number of violations; exit status 1 unless there is none, nor a leak.
            """)

    @Option(help: "How long, in minutes.")
    var minutes = 60.0

    @Option(help: "Processes at a time, 8 to 64: broker, resident and visitors included.")
    var processes = 16

    @Option(help: "Transactions in each round, over all processes.")
    var transactions = 200_000

    @Option(help: "Users, 1 to 16: with more than 1 and as root, UIDs from 61001 on.")
    var users = 1

    @Option(help: "Which processes share a ring: those of one user, or none.")
    var isolation = CheckIsolation.user

    @Option(help: "Of all that is random but the kernel's scheduling.")
    var seed: UInt64 = 1

    func validate() throws {
        try inRange("--minutes", minutes, 0.01...100_000)
        try inRange("--processes", processes, 8...64)
        try inRange("--transactions", transactions, 1000...10_000_000)
        try inRange("--users", users, 1...16)
    }

    func run() throws {
        try catching { try soak() }
    }

    private func soak() throws {
        bench_interrupt_catch()
        let peers = processes - SoakRun.guestCount
        var plan = CheckPlan(
            transactions: transactions, processes: peers, nodes: 2 * peers, users: users,
            isolation: isolation, kills: 0, seed: seed)
        if users > 1 && getuid() != 0 {
            print("users: skipped, since only root can become others")
            plan.users = 1
        }
        let run = try SoakRun(plan)
        let began = bench_monotonic_ns()
        let length_ns = UInt64(minutes * 60e9)
        let warm_ns: UInt64 = minutes > 3 ? 120_000_000_000 : 0
        var baseline: (broker: ProcessUse, resident: ProcessUse, own: Int)?
        var latest = baseline
        var failure: (any Error)?
        var nextLine_ns: UInt64 = 0
        while bench_monotonic_ns() - began < length_ns {
            do {
                try run.round()
                latest = try run.use()
            } catch is Interrupted {
                break
            } catch {
                failure = error
                break
            }
            let passed_ns = bench_monotonic_ns() - began
            if baseline == nil, passed_ns >= warm_ns { baseline = latest }
            if passed_ns >= nextLine_ns, let latest {
                nextLine_ns = passed_ns + 60_000_000_000
                print(
                    "minute \(passed_ns / 60_000_000_000): \(run.total.transactions) transactions, broker "
                        + "\(latest.broker.text); resident \(latest.resident.text)")
            }
        }
        try conclude(run, from: baseline, to: latest, failure)
    }

    private func conclude(
        _ run: SoakRun, from baseline: (broker: ProcessUse, resident: ProcessUse, own: Int)?,
        to latest: (broker: ProcessUse, resident: ProcessUse, own: Int)?, _ failure: (any Error)?
    ) throws {
        var leaks: [String] = []
        if let baseline, let latest {
            leaks = latest.broker.leaks(since: baseline.broker, of: "broker")
            leaks += latest.resident.leaks(since: baseline.resident, of: "resident")
            if latest.own > baseline.own {
                leaks.append("\(latest.own - baseline.own) descriptors of the coordinator")
            }
        }
        if run.zombies() > 0 { leaks.append("processes that nobody has waited for") }
        let total = run.total
        print(
            "seed \(seed): \(total.rounds) rounds, \(total.transactions) transactions, "
                + "\(total.messages) messages, \(total.notices) notices, \(total.kills) kills, "
                + "\(total.stops) stops, \(total.joins) joins")
        for leak in leaks { print("leak: \(leak)") }
        print("leaks: \(leaks.count)")
        if let failure { print("ended early: \(failure)") }
        print("violations: \(total.violations)")
        guard total.violations == 0, leaks.isEmpty, failure == nil, total.rounds > 0 else {
            throw ExitCode(1)
        }
    }
}
