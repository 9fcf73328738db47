import ArgumentParser
import Bus1Shm
import CBench
import CShmRing
import Glibc

/// The broker of a check in a process of its own: the first peer, which does nothing else.
struct CheckBroker: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "check-broker", abstract: "The broker of checked processes.",
        shouldDisplay: false)

    @Option var parent: Int32
    @Option var bus: String

    func run() throws {
        guard bench_worker_settle(parent) == 0, let stage = bench_check_map(BENCH_STAGE_FD) else {
            throw ExitCode(70)
        }
        shmring_fault_attach(bench_check_faults(stage, BENCH_CHECK_PEERS))
        let peer = try Peer(on: Bus(path: bus))
        // Until its parent ends it.
        while pause() != 0 {}
        withExtendedLifetime(peer) {}
    }
}
