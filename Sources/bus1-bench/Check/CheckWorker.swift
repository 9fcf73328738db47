import ArgumentParser
import Bus1Shm
import CBench
import Glibc

/// One peer of `bus1-bench check`, in a process of its own, which may be killed at any instruction.
struct CheckWorker: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "check-peer", abstract: "One of the checked processes.", shouldDisplay: false)

    @Option var peer: Int
    @Option var parent: Int32
    @Option var bus: String
    @Option var isolation: CheckIsolation
    /// 0: stay who we are.
    @Option var user: UInt32
    @Option var places: Int
    @Option var quota: UInt64
    @Option var seed: UInt64
    @Option var slots: Int
    @Flag var forges = false
    @Flag var passes = false
    @Flag var releasesPublished = false

    func run() throws {
        guard bench_worker_settle(parent) == 0,
            user == 0 || bench_check_become(user, parent) == 0,
            let stage = bench_check_map(BENCH_STAGE_FD)
        else { throw ExitCode(70) }
        do {
            var options = Peer.Options()
            options.slots = slots
            let peer = try Peer(on: Bus(path: bus, isolation: isolation.value), options)
            var actor = CheckActor(
                peer: peer, stage: stage, me: self.peer, quota: quota,
                dice: SplitMix64(state: seed), access: user == 0 ? .sameUser : .anyone,
                forges: forges, passes: passes,
                releasesPublished: releasesPublished)
            try actor.gather(places: places)
            try actor.run()
        } catch {
            printError("bus1-bench check, peer \(self.peer): \(error)\n")
            throw ExitCode(1)
        }
    }
}

/// How the peers of a check stand to each other.
enum CheckIsolation: String, CaseIterable, ExpressibleByArgument, Codable, Sendable {
    case user, process

    var value: Bus.Isolation { self == .user ? .user : .process }
}

/// What each message says.
struct Parcel: BitwiseCopyable {
    var transaction: UInt64
    /// The nodes of the handles that come with it, in their order; 0: none.
    var carried: (UInt32, UInt32) = (0, 0)
}
