import ArgumentParser
import Bus1Judge

/// `bus1 check`: does what peers saw fit one order?
struct CheckCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "check",
        abstract: "Judge whether what peers saw, as a trace has it, fits one order.",
        discussion: """
            By the times at which calls began and returned and by what each peer received, never by \
            stamps. docs/trace-format.md describes the file. Prints the first violations in words, \
            then how many there are; exit status 1 unless there are none. As bus1-bench check --from, \
            which also makes such files.
            """)

    @Argument(help: "The trace.")
    var file: String

    func run() throws {
        let verdict = try saying { try OrderVerdict(judging: try Histories(readingFrom: file)) }
        print(verdict.text + verdict.summary)
        print("violations: \(verdict.violations)")
        if verdict.violations > 0 { throw ExitCode(1) }
    }
}
