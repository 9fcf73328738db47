import ArgumentParser

/// `bus1-bench selftest`: the negative controls. A benchmark that can't see a known fault proves
/// nothing.
struct SelftestCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "selftest",
        abstract: "The negative controls: known faults and costs must show in the figures.")

    @Option(help: "Rounds of each comparison, 3 to 1000.")
    var runs = 51

    func validate() throws { try inRange("--runs", runs, 3...1000) }

    func run() throws {
        try catching {
            var passed = 0
            var failed = 0
            for control in controls() {
                var (holds, figure) = try control.measure()
                // Something else may have run meanwhile; a real blindness stays.
                for _ in 1..<control.attempts where !holds {
                    let again = try control.measure()
                    holds = again.0
                    figure += ", again: \(again.1)"
                }
                print("\(holds ? "holds" : "FAILS")  \(control.title): \(figure)")
                if holds { passed += 1 } else { failed += 1 }
            }
            print("selftest: \(passed) passed, \(failed) failed")
            if failed > 0 { throw ExitCode(1) }
        }
    }

    private struct Control {
        let title: String
        var attempts = 1
        let measure: () throws -> (Bool, String)
    }

    private func controls() -> [Control] {
        // The carriers of the controls: the measuring is the same for all transports, bus1 included.
        let names = ["bus1", "spsc", "pipe"].filter { name in
            transports.contains { $0.name == name && $0.obstacle == nil }
        }
        var list: [Control] = []
        for name in names {
            list.append(
                Control(
                    title: "\(name): 100 ns of delay raise the figure by 80 to 120 ns", attempts: 3
                ) {
                    try delayed(name)
                })
        }
        for name in names where name != "pipe" {
            list.append(
                Control(
                    title: "\(name): one getppid and one malloc a message read as 1.00 and 1.00"
                ) {
                    try counted(name)
                })
        }
        for name in names {
            for fault in [Sabotage.Fault.none, .dropped, .doubled, .swapped] {
                let wanted = fault == .none ? 0 : 1
                let what = fault == .none ? "no fault" : "a \(fault.rawValue) message"
                list.append(
                    Control(title: "\(name): \(what) is exit status \(wanted)") {
                        let outside = Outside(
                            arguments: ["--transport", name, "--payload", "40"], count: 20_000)
                        let (status, _) = try outside.run(["--fault", fault.rawValue])
                        return (status == wanted, "exit status \(status)")
                    })
            }
        }
        list.append(
            Control(title: "a pipe handicapped twofold shows as half", attempts: 3) {
                try handicapped()
            })
        return list
    }

    private func options() -> Comparison.Options {
        var options = Comparison.Options()
        options.rounds = runs
        // Short runs, many of them: some fit between two visits of whatever else runs here.
        options.runMs = 2
        options.timed = false
        options.discardsPreempted = true
        return options
    }

    /// Both have a delay, so that nothing else of the sending can hide behind the added one, or come
    /// out from behind it; and what the delay itself takes too long is the same in both.
    private func delayed(_ name: String) throws -> (Bool, String) {
        let shape = Shape(workload: .stream, payloadBytes: 8, mode: .spin)
        let transport = try transport(named: name)
        var plain = Contender(
            transport: transport, shape: shape, variant: transport.variants(for: shape).first?.name)
        plain.sabotage.delayNs = 300
        var slow = plain
        slow.sabotage.delayNs = 400
        let comparison = try Comparison([plain, slow], options())
        let differences = comparison.pairs(1, 0).map { 1000 / $0 - 1000 / $1 }
        guard !differences.isEmpty else { return (false, "no run counts") }
        let added = Statistics.median(differences)
        return ((80...120).contains(added), "\(Report.number(added)) ns")
    }

    private func counted(_ name: String) throws -> (Bool, String) {
        let arguments = ["--transport", name, "--payload", "40"]
        let added = ["--add-system-calls", "1", "--add-allocations", "1"]
        let with = Outside(arguments: arguments + added, count: 100_000)
        let calls = try with.systemCalls()
        let allocations = try with.allocations()
        let holds = abs(calls.perMessage - 1) < 0.01 && abs(allocations.perMessage - 1) < 0.01
        return (
            holds,
            "\(Report.fixed(calls.perMessage, 2)) (\(calls.tool)) and "
                + "\(Report.fixed(allocations.perMessage, 2)) (\(allocations.tool))"
        )
    }

    private func handicapped() throws -> (Bool, String) {
        let shape = Shape(workload: .large, payloadBytes: 64 << 10, mode: .spin)
        let pipe = try transport(named: "pipe")
        let plain = Contender(
            transport: pipe, shape: shape, variant: pipe.variants(for: shape).first?.name)
        var slow = plain
        slow.sabotage.repeats = 1
        let comparison = try Comparison([plain, slow], options())
        let ratios = comparison.ratios(1, over: 0)
        guard !ratios.isEmpty else { return (false, "no run counts") }
        let ratio = Statistics.median(ratios)
        return ((0.42...0.58).contains(ratio), "\(Report.number(ratio)) of the plain one")
    }
}
