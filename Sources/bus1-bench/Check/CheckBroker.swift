import ArgumentParser
@_spi(Checking) import Bus1Shm
import CBench
import CShmRing
import Glibc

/// A process of a check that serves the bus or stands by for it, and does nothing else: the first is the broker.
struct CheckBroker: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "check-broker", abstract: "The broker of checked processes, or its heir.",
        shouldDisplay: false)

    @Option var parent: Int32
    @Option var bus: String
    /// Of those that live at a time.
    @Option var place: UInt32
    /// Under which its node can be looked up.
    @Option var name: String
    /// How often it says what it is.
    @Option(name: .customLong("rest")) var rest_ms = 2

    func run() throws {
        guard bench_worker_settle(parent) == 0, let stage = bench_check_map(BENCH_STAGE_FD) else {
            throw ExitCode(70)
        }
        shmring_fault_attach(bench_check_faults(stage, BENCH_CHECK_PEERS + place))
        let mine = bench_check_server_at(stage, place)!
        do {
            var options = Peer.Options()
            options.slots = 16
            let peer = try Peer(on: Bus(path: bus), options)
            let node = try peer.makeNode()
            try peer.publish(node, as: name)
            try serve(peer, mine)
            withExtendedLifetime(node) {}
        } catch {
            printError("bus1-bench check, \(name): \(error)\n")
            throw ExitCode(1)
        }
    }

    /// Until its parent ends it. Says what it is, and looks at what the broker says.
    private func serve(
        _ peer: borrowing Peer, _ mine: UnsafeMutablePointer<bench_check_server>
    ) throws {
        while true {
            bench_check_store(&mine.pointee.role, BrokerRole.ofThisProcess.rawValue)
            do throws(Bus1Error) {
                guard case .message = try peer.receive(until: .after(.milliseconds(rest_ms))) else {
                    continue
                }
                bench_check_store(&mine.pointee.received, mine.pointee.received + 1)
            } catch {
                guard error.code == .timedOut else { throw error }
            }
        }
    }
}
