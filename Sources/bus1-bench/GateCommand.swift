import ArgumentParser

/// `bus1-bench gate`: every row of what bus1 must show.
struct GateCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "gate", abstract: "Measure every target, and say which hold.",
        discussion: """
            A row holds when the worse end of a 95 % bootstrap interval of its median lies within the \
            target. Exit status: 0 when all hold, 1 when one falls short, 2 when one was not measured.
            """)

    @Option(help: "Only rows whose title contains this.")
    var only: String?

    @Option(help: "Rounds of each comparison, 11 to 1000.")
    var runs = 15

    @Option(help: "Milliseconds of each run, 1 to 10000.")
    var runMs = 30.0

    @Option(help: "Seconds to wait, before each comparison, for the cores to be near; 0 to 600.")
    var patience = 20.0

    @Option(help: "Write all results to this file as JSON.", completion: .file())
    var json: String?

    func validate() throws {
        try inRange("--runs", runs, 11...1000)
        try inRange("--run-ms", runMs, 1...10000)
        try inRange("--patience", patience, 0...600)
    }

    func run() throws {
        try catching {
            var options = Comparison.Options()
            options.rounds = runs
            options.runMs = runMs
            let bench = try GateBench(options, patienceS: patience)
            var table: [[String]] = [["", "row", "target", "figure"]]
            var short = 0
            var missing = 0
            for row in gateRows where only.map({ row.title.contains($0) }) ?? true {
                let verdict = row.judge(try row.find(bench))
                switch verdict {
                case .holds: break
                case .fallsShort: short += 1
                case .notMeasured: missing += 1
                }
                table.append([
                    verdict.word, row.title, "\(row.bound.text) \(row.unit)", verdict.figure,
                ])
            }
            print(Report.align(table, left: [0, 1, 2, 3]))
            print(
                "gate: \(table.count - 1 - short - missing) hold, \(short) fall short, "
                    + "\(missing) not measured")
            if let json {
                try Result.write(bench.results, to: json)
                print("results: \(json)")
            }
            if short > 0 { throw ExitCode(1) }
            if missing > 0 { throw ExitCode(2) }
        }
    }
}
