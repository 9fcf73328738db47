import ArgumentParser

@main
struct Bus1Bench: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "bus1-bench", abstract: "Measures bus1 against a pipe and others.")
}
