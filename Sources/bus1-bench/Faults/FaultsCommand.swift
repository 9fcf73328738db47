import Bus1Judge
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

    @Option(help: "Times to make the clock of all processes jump, back and forth.")
    var jumps = 0

    @Option(
        help: """
            Times to kill and to stop the broker of a pair that talks, and to compare what it gets through in the second \
            after with the one before; then nothing else is done, and the build need not be special.
            """)
    var brokerGap = 0

    @Option(help: "Whom to kill: brokers and heirs, the other peers, or all.")
    var victims = FaultVictims.all

    @Option(help: "Kill brokers and heirs only at points whose names begin so.")
    var only = ""

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
        try inRange("--broker-gap", brokerGap, 0...1000)
        try inRange("--jumps", jumps, 0...10_000)
        guard killCount + stops + burials + jumps + brokerGap > 0 else {
            throw ValidationError("nobody to kill or stop")
        }
        try inRange("--processes", processes, 3...32)
        try inRange("--slots", slots, 16...65536)
        try inRange("--pace", pace, 0...10_000)
    }

    private var killCount: Int { kills ?? (stops + burials + jumps + brokerGap > 0 ? 0 : 300) }

    /// So many kills make a round: one bus, judged in the end.
    private static let killsInARound = 250

    func run() throws {
        guard brokerGap == 0 else { return try catching { try measureGap() } }
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
        if jumps > 0 { try jump(&total) }
        total.leaks += OpenThings.settled(at: before).leaks(since: before, of: "the coordinator")
        for zero in total.zeros { print("never hit: \(zero)") }
        for leak in total.leaks { print("leak: \(leak)") }
        for stall in total.stalls { print("a stop kept the others waiting: \(stall)") }
        print(
            "seed \(seed): \(total.killed) killed, \(total.stopped) stopped, "
                + "in \((bench_monotonic_ns() - began) / 1_000_000) ms")
        print("leaks: \(total.leaks.count)")
        print("violations: \(total.violations)")
        if !total.isGood || total.killed < killCount || total.stopped < stops { throw ExitCode(1) }
    }

    private static let roles: Set<UInt32> = [
        SHMRING_FAULT_SENDER.rawValue, SHMRING_FAULT_RECEIVER.rawValue,
        SHMRING_FAULT_BROKER.rawValue, SHMRING_FAULT_HEIR.rawValue,
    ]

    private func kill(_ total: inout FaultTotal) throws {
        var table = FaultTable(of: Self.roles, pairs: true)
        // A third of them among brokers and heirs, and those who see them end.
        let ofBrokers = victims == .brokers ? killCount : victims == .all ? killCount / 3 : 0
        if ofBrokers < killCount { try kill(killCount - ofBrokers, &table, &total) }
        if ofBrokers > 0 { try killBrokers(ofBrokers, &table, &total) }
        let victims = victims
        table.keep { victims == .all || FaultSweep.isOfBrokers($0) == (victims == .brokers) }
        print(table.text)
        total.zeros += table.zeros
    }

    private func kill(_ count: Int, _ table: inout FaultTable, _ total: inout FaultTotal) throws {
        var round = 0
        // Some more, for what was not hit by then.
        let most = count + count / 5
        let hasZeros = { (table: FaultTable) in
            table.cells.contains { !FaultSweep.isOfBrokers($0) && table.isZero($0) }
        }
        var killed = 0
        while killed < count || (hasZeros(table) && killed < most) {
            let limit = killed < count ? count : most
            let share = min(limit - killed, Self.killsInARound)
            let before = killed
            try play("kills, round \(round)", UInt64(round), &table, &total) { sweep in
                try sweep.kill(share, onlyZeros: limit == most)
                killed += sweep.killed
            }
            round += 1
            // None of the points comes by any more.
            if killed == before { break }
        }
        total.killed += killed
    }

    /// Each round is one bus, on which a broker is followed by its heir until both end at once.
    private func killBrokers(
        _ count: Int, _ table: inout FaultTable, _ total: inout FaultTotal
    ) throws {
        var round = 0
        let most = count + count / 2
        let hasZeros = { (table: FaultTable) in
            table.cells.contains { FaultSweep.isOfBrokers($0) && table.isZero($0) }
        }
        var killed = 0
        while killed < count || (hasZeros(table) && killed < most) {
            let ends = table.cells.count { FaultSweep.endsBus($0) && $0.hits == 0 }
            // So that a short run comes by at all those that end a bus.
            let share = min(Self.killsInARound / 4, max(1, (count - killed) / max(1, ends) - 2))
            let before = killed
            try play(
                "brokers, round \(round)", 1 << 34 + UInt64(round), servers: 3, &table, &total
            ) { sweep in
                try sweep.killBrokers(share)
                killed += sweep.killed
            }
            round += 1
            if killed == before { break }
        }
        total.killed += killed
    }

    private func stop(_ total: inout FaultTotal) throws {
        var table = FaultTable(of: Self.roles, pairs: false)
        var report = FaultSweep.StopReport()
        var stopped = 0
        try play("stops", 1 << 32, servers: 3, &table, &total) { sweep in
            try sweep.stop(stops, &report)
            stopped = sweep.stopped
        }
        total.stopped += stopped
        print(table.text)
        let ms = FaultTable.ms
        print(
            "without stops p99.9 of \(report.usualCount) gaps: \(ms(report.usual_ns)) ms; lease: "
                + "\(ms(report.lease_ns)) ms; allowed: \(ms(report.allowed_ns)) ms")
        let tooLong = table.longest_ns.filter { $0.value > report.allowed_ns }
        for (point, gap) in tooLong.sorted(by: { $0.key < $1.key }) {
            total.stalls.append("\(FaultTable.name(of: point)), for \(ms(gap)) ms")
        }
        let longest = table.longest_ns.values.max() ?? 0
        print(
            "longest gap: \(ms(longest)) ms; the bound holds at \(table.longest_ns.count - tooLong.count) "
                + "of \(table.longest_ns.count) points")
        total.zeros += table.zeros
        total.stalls += report.stalls
    }

    /// At least so much of what was before must come through while nobody serves.
    private static let gapShare = 0.95

    private func measureGap() throws {
        let gap = try BrokerGap()
        defer { gap.end() }
        var ratios: [BrokerGap.Event: [Double]] = [:]
        for _ in 0..<brokerGap {
            for event in BrokerGap.Event.allCases {
                guard bench_interrupted() == 0 else { throw Interrupted() }
                ratios[event, default: []].append(try gap.measure(event))
            }
        }
        let text = { (value: Double) in "\((value * 1000).rounded() / 1000)" }
        var isEnough = true
        for event in BrokerGap.Event.allCases {
            guard let values = ratios[event], let interval = Statistics.medianInterval(values)
            else { continue }
            let median = Statistics.median(values)
            print(
                "broker \(event.rawValue): \(text(median)) of before, in the median of \(values.count) "
                    + "(95 %: \(text(interval.lowerBound)) to \(text(interval.upperBound)); lowest "
                    + "\(text(values.min()!)))")
            if median < Self.gapShare { isEnough = false }
        }
        print("at least \(text(Self.gapShare)) of before: \(isEnough ? "yes" : "no")")
        if !isEnough { throw ExitCode(1) }
    }

    private func bury(_ total: inout FaultTotal) throws {
        var table = FaultTable(of: Self.roles, pairs: false)
        try play("burials", 1 << 33, &table, &total) { sweep in
            try sweep.bury(burials)
            print("positions that two named, perhaps the same: \(sweep.stopped)")
        }
    }

    private func jump(_ total: inout FaultTotal) throws {
        var table = FaultTable(of: Self.roles, pairs: false)
        try play("jumps", 1 << 35, &table, &total) { sweep in
            try sweep.jump(jumps)
            print("jumps of the clock: \(sweep.stopped)")
        }
    }

    /// One bus, and what its peers saw of it.
    private func play(
        _ title: String, _ number: UInt64, servers: Int = 0, _ table: inout FaultTable,
        _ total: inout FaultTotal, _ body: (inout FaultSweep) throws -> Void
    ) throws {
        var plan = CheckPlan(processes: processes, isolation: isolation, slots: slots)
        plan.transactions = 0
        plan.seed = seed &* 1_000_003 &+ number
        plan.habits.isLong = true
        plan.habits.pace_us = pace
        if burials > 0 {
            plan.processes = 3
            plan.habits.usesOneRing = true
        }
        plan.servers = servers
        let run = try CheckRun(plan)
        let before = OpenThings.now
        var sweep = FaultSweep(run, table, SplitMix64(state: plan.seed))
        sweep.only = only
        do {
            try run.run(quota: .max) { try body(&sweep) }
        } catch let error as BenchError {
            throw BenchError("\(title), \(sweep.doing): \(error)")
        }
        table = sweep.table
        for failure in sweep.failures { print("violation: \(failure)") }
        total.violations += UInt64(sweep.failures.count)
        total.leaks += OpenThings.settled(at: before).leaks(
            since: before, of: "the broker, \(title)")
        let histories = try run.histories()
        if let trace { try histories.write(to: trace) }
        let verdict = try OrderVerdict(judging: histories)
        print(verdict.text, terminator: "")
        print(
            "\(title): \(sweep.killed + sweep.stopped) hits, \(verdict.transactions) transactions, "
                + "\(verdict.messages) messages, \(verdict.notices) notices, "
                + "violations \(verdict.violations + UInt64(sweep.failures.count))")
        if verdict.violations + UInt64(sweep.failures.count) > 0, !sweep.done.isEmpty {
            print("this bus has seen, in this order: \(sweep.done.joined(separator: "; "))")
        }
        total.violations += verdict.violations
    }
}

/// Whom a sweep kills.
enum FaultVictims: String, CaseIterable, ExpressibleByArgument, Sendable {
    case all, peers, brokers
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
