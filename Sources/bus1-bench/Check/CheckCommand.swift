import ArgumentParser
import CBench

/// `bus1-bench check`: does what peers saw fit one order?
struct CheckCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "check",
        abstract: "Check that histories of peers show one order and break no promise.",
        discussion: """
            Judges by the times at which calls began and returned and by what each peer received, \
            never by stamps: O1 to O5, atomicity, authority, nothing lost, doubled or invented, \
            notices when they are due. Prints the first violations in words, then how many there \
            are; exit status 1 unless there are none.

            docs/trace-format.md says how to write a history by hand.
            """)

    @Option(help: "Judge the histories in this file.")
    var from: String?

    func run() throws {
        try catching {
            guard let from else { throw BenchError("say --from FILE") }
            let histories = try Histories(readingFrom: from)
            let verdict = try OrderVerdict(judging: histories)
            print(verdict.text + verdict.summary)
            print("violations: \(verdict.violations)")
            if verdict.violations > 0 { throw ExitCode(1) }
        }
    }
}
