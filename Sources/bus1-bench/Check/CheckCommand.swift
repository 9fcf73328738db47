import Bus1Judge
import ArgumentParser
import CBench
import Glibc

/// `bus1-bench check`: does what peers see fit one order?
struct CheckCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "check",
        abstract: "Let processes do at random what peers can do, and judge what they saw.",
        discussion: """
            Judges by the times at which calls began and returned and by what each peer received, \
            never by stamps: O1 to O5, atomicity, authority, nothing lost, doubled or invented, \
            notices when they are due. Prints how often each rule acted, the first violations in \
            words, then how many there are; exit status 1 unless there are none and each rule \
            that the run should exercise has acted.

            docs/trace-format.md describes the files of --trace and --from, and how to write one \
            by hand.
            """)

    @Option(help: "Transactions, over all processes.")
    var transactions = 500_000

    @Option(help: "Processes at a time, 2 to 64: one peer each.")
    var processes = 6

    @Option(help: "Nodes at a time, shared out among the processes.")
    var nodes = 24

    @Option(help: "Users, 1 to 16: with more than 1 and as root, UIDs from 61001 on.")
    var users = 1

    @Option(help: "Which processes share a ring: those of one user, or none.")
    var isolation = CheckIsolation.user

    @Option(help: "Processes that are killed on the way, each at a random instruction.")
    var kills = 3

    @Option(
        help:
            "Stops of processes for some ms, each at a random instruction. Default: 1 for each 1,000 transactions."
    )
    var stops: Int?

    @Option(
        help:
            "The bus's clock: as the machine has it, or coarse, in steps of 20 us, with equal stamps."
    )
    var clock = CheckClock.usual

    @Option(help: "Of all that is random but the kernel's scheduling.")
    var seed: UInt64 = 1

    @Option(help: "Slots of each ring, a power of two from 16 on.")
    var slots = 256

    @Flag(
        inversion: .prefixedNo,
        help: "Also release nodes that are published, while others look them up.")
    var releasePublished = true

    @Option(help: "Keep the histories in this file.")
    var trace: String?

    @Option(help: "Run nothing: judge the histories in this file.")
    var from: String?

    func validate() throws {
        try inRange("--transactions", transactions, 1...1_000_000_000)
        try inRange("--processes", processes, 2...64)
        try inRange("--nodes", nodes, processes...processes * Int(BENCH_CHECK_PLACES))
        try inRange("--users", users, 1...16)
        try inRange("--kills", kills, 0...400)
        try inRange("--stops", stops ?? 0, 0...100_000)
        try inRange("--slots", slots, 16...65536)
    }

    func run() throws {
        try catching {
            if let from {
                try judge(try Histories(readingFrom: from))
            } else {
                try runAndJudge()
            }
        }
    }

    private func runAndJudge() throws {
        var plan = CheckPlan(
            transactions: transactions, processes: processes, nodes: nodes, users: users,
            isolation: isolation, kills: kills, seed: seed, slots: slots)
        plan.habits.releasesPublished = releasePublished
        plan.stops = stops ?? min(100_000, transactions / 1000)
        plan.clock = clock
        if users > 1 && getuid() != 0 {
            print("users: skipped, since only root can become others")
            plan.users = 1
        }
        let began = bench_monotonic_ns()
        let run = try CheckRun(plan)
        try run.run()
        let histories = try run.histories()
        let ran = bench_monotonic_ns()
        if let trace { try histories.write(to: trace) }
        print(
            "seed \(seed), isolation \(isolation.rawValue), \(plan.users) users, "
                + "\(run.peerCount) peers: ran for \((ran - began) / 1_000_000) ms")
        let idle = run.printCounts()
        try judge(histories, idle: idle)
    }

    private func judge(_ histories: borrowing Histories, idle: [String] = []) throws {
        let began = bench_monotonic_ns()
        let verdict = try OrderVerdict(judging: histories)
        print(verdict.text + verdict.summary)
        print("judged in \((bench_monotonic_ns() - began) / 1_000_000) ms")
        for rule in idle { print("never acted, and should have: \(rule)") }
        print("violations: \(verdict.violations)")
        if verdict.violations > 0 || !idle.isEmpty { throw ExitCode(1) }
    }
}
