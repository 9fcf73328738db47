import ArgumentParser

@main
struct Bus1Bench: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "bus1-bench",
        abstract: "Measures bus1 against a pipe, other transports and what the hardware allows.",
        subcommands: [
            CompareCommand.self, RunCommand.self, OnceCommand.self, GateCommand.self,
            SelftestCommand.self, CheckCommand.self, FaultsCommand.self, SoakCommand.self,
            ListCommand.self, ServeCommand.self, Worker.self, CheckWorker.self,
            SoakGuest.self, CheckBroker.self, GapPeer.self,
        ],
        defaultSubcommand: CompareCommand.self)
}
