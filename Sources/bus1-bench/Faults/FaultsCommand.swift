import ArgumentParser
import CBench
import CShmRing
import Glibc

/// `bus1-bench faults`: kills processes at every step that they take.
struct FaultsCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "faults",
        abstract: "Kill processes at every step of what they do, and judge what the others saw.",
        discussion: """
            Only in a special build (BUS1_SWITCHES=1, see tools/check-faults). A hit means that the \
            process said it had arrived at the point, and the kernel that it ended there. Prints a \
            table of points and roles: a zero is a failure. The others' histories are judged as by \
            `bus1-bench check`; descriptors and mappings are counted. Ends with the number of \
            violations; exit status 1 unless there is none, nor a zero, nor a leak.
            """)

    @Option(
        help: "Processes to be killed, one or two at a time. Default 300, unless there are stops.")
    var kills: Int?

    @Option(help: "Processes to be stopped, until the others have sent four laps of their rings.")
    var stops = 0

    @Option(
        help:
            "Times to try the one case in which a dead claim must not be buried; then nothing else is done."
    )
    var burials = 0

    @Option(help: "Of all that is random but the kernel's scheduling.")
    var seed: UInt64 = 1

    @Option(help: "Processes at a time, 3 to 32: one peer each.")
    var processes = 6

    @Option(help: "Which processes share a ring: those of one user, or none.")
    var isolation = CheckIsolation.user

    @Option(help: "Slots of each ring, a power of two from 16 on.")
    var slots = 64

    @Option(help: "Microseconds that a process rests now and then, 0 to 10000.")
    var pace = 1000

    @Option(help: "Keep the histories of the latest round in this file.")
    var trace: String?

    func validate() throws {
        try inRange("--kills", kills ?? 1, 0...1_000_000)
        try inRange("--stops", stops, 0...1_000_000)
        try inRange("--burials", burials, 0...100_000)
        guard killCount + stops + burials > 0 else {
            throw ValidationError("nobody to kill or stop")
        }
        try inRange("--processes", processes, 3...32)
        try inRange("--slots", slots, 16...65536)
        try inRange("--pace", pace, 0...10_000)
    }

    private var killCount: Int { kills ?? (stops > 0 || burials > 0 ? 0 : 300) }

    /// So many kills make a round: one bus, judged in the end.
    private static let killsInARound = 250

    func run() throws {
        guard shmring_fault_count() > 0 else {
            printError(
                "bus1-bench faults: this build has no fault points; see tools/check-faults\n")
            throw ExitCode(69)
        }
        try catching { try sweep() }
    }

    private func sweep() throws {
        var total = FaultTotal()
        let before = OpenThings.now
        let began = bench_monotonic_ns()
        if killCount > 0 { try kill(&total) }
        if stops > 0 { try stop(&total) }
        if burials > 0 { try bury(&total) }
        total.leaks += OpenThings.settled(at: before).leaks(since: before, of: "the coordinator")
        for zero in total.zeros { print("never hit: \(zero)") }
        for leak in total.leaks { print("leak: \(leak)") }
        for stall in total.stalls { print("a stop kept the others from sending: \(stall)") }
        print(
            "seed \(seed): \(total.killed) killed, \(total.stopped) stopped, "
                + "in \((bench_monotonic_ns() - began) / 1_000_000) ms")
        print("leaks: \(total.leaks.count)")
        print("violations: \(total.violations)")
        if !total.isGood || total.killed < killCount || total.stopped < stops { throw ExitCode(1) }
    }

    private var roles: Set<UInt32> {
        [SHMRING_FAULT_SENDER.rawValue, SHMRING_FAULT_RECEIVER.rawValue]
    }

    private func kill(_ total: inout FaultTotal) throws {
        var table = FaultTable(of: roles, pairs: true)
        var round = 0
        // Some more, for what was not hit by then.
        let most = killCount + killCount / 5
        while total.killed < killCount || (!table.zeros.isEmpty && total.killed < most) {
            let limit = total.killed < killCount ? killCount : most
            let share = min(limit - total.killed, Self.killsInARound)
            let before = total.killed
            try play("kills, round \(round)", UInt64(round), &table, &total) { sweep, total in
                try sweep.kill(share, onlyZeros: limit == most)
                total.killed += sweep.killed
            }
            round += 1
            // None of the points comes by any more.
            if total.killed == before { break }
        }
        print(table.text)
        total.zeros += table.zeros
    }

    private func stop(_ total: inout FaultTotal) throws {
        var table = FaultTable(of: roles.union([SHMRING_FAULT_BROKER.rawValue]), pairs: false)
        var report = FaultSweep.StopReport()
        try play("stops", 1 << 32, &table, &total) { sweep, total in
            try sweep.stop(stops, &report)
            total.stopped += sweep.stopped
        }
        print(table.text)
        let ms = { (ns: UInt64) in "\(ns / 1_000_000).\(ns / 100_000 % 10) ms" }
        print(
            "longest gap: \(ms(report.longest_ns)), at \(report.longestAt); without stops p99.9: "
                + "\(ms(report.usual_ns)); allowed \(ms(report.allowed_ns)); while the broker stood still: "
                + ms(report.longestOfBroker_ns))
        if report.longest_ns > report.allowed_ns {
            total.stalls.append("\(report.longestAt), for too long")
        }
        total.zeros += table.zeros
        total.stalls += report.stalls
    }

    private func bury(_ total: inout FaultTotal) throws {
        var table = FaultTable(of: roles, pairs: false)
        try play("burials", 1 << 33, &table, &total) { sweep, total in
            try sweep.bury(burials)
            print("positions that two named, perhaps the same: \(sweep.stopped)")
        }
    }

    /// One bus, and what its peers saw of it.
    private func play(
        _ title: String, _ number: UInt64, _ table: inout FaultTable, _ total: inout FaultTotal,
        _ body: (inout FaultSweep, inout FaultTotal) throws -> Void
    ) throws {
        var plan = CheckPlan(processes: processes, isolation: isolation, slots: slots)
        plan.transactions = 0
        plan.seed = seed &* 1_000_003 &+ number
        plan.habits.isLong = true
        plan.habits.pace_us = pace
        if burials > 0 { plan.processes = 3 }
        plan.isBrokerApart = stops > 0
        let run = try CheckRun(plan)
        let before = OpenThings.now
        var sweep = FaultSweep(run, table, SplitMix64(state: plan.seed))
        try run.run(quota: .max) { try body(&sweep, &total) }
        table = sweep.table
        total.leaks += OpenThings.settled(at: before).leaks(
            since: before, of: "the broker, \(title)")
        let histories = try run.histories()
        if let trace { try histories.write(to: trace) }
        let verdict = try OrderVerdict(judging: histories)
        print(verdict.text, terminator: "")
        print(
            "\(title): \(sweep.killed + sweep.stopped) hits, \(verdict.transactions) transactions, "
                + "\(verdict.messages) messages, \(verdict.notices) notices, "
                + "violations \(verdict.violations)")
        total.violations += verdict.violations
    }
}

/// What all rounds have come to.
struct FaultTotal {
    var killed = 0
    var stopped = 0
    var violations: UInt64 = 0
    var leaks: [String] = []
    var zeros: [String] = []
    var stalls: [String] = []

    var isGood: Bool { violations == 0 && leaks.isEmpty && zeros.isEmpty && stalls.isEmpty }
}
