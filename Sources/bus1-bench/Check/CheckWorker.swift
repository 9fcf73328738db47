import ArgumentParser
import Bus1Shm
import CBench
import CShmRing
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
    @Flag(name: .customLong("long")) var isLong = false
    @Option(name: .customLong("pace")) var pace_us = 0
    @Flag(name: .customLong("one-ring")) var usesOneRing = false
    /// It never takes the broker's place.
    @Flag var noHeir = false

    /// Again, if broker and heir went in the middle: then there is another bus.
    private func join(
        _ options: Peer.Options, _ stage: UnsafeMutablePointer<bench_check_stage>
    ) throws(Bus1Error) -> Peer {
        while true {
            do throws(Bus1Error) {
                return try Peer(on: Bus(path: bus, isolation: isolation.value), options)
            } catch {
                guard error.code == .severed, bench_check_load(&stage.pointee.may_bus_end) != 0
                else { throw error }
            }
        }
    }

    func run() throws {
        guard bench_worker_settle(parent) == 0,
            user == 0 || bench_check_become(user, parent) == 0,
            let stage = bench_check_map(BENCH_STAGE_FD)
        else { throw ExitCode(70) }
        shmring_fault_attach(bench_check_faults(stage, UInt32(self.peer)))
        do {
            var options = Peer.Options()
            options.slots = slots
            // Little enough that senders of long payloads wait for what they have lent.
            if isLong { options.poolBytes = 1 << 20 }
            if noHeir { options.standsBy = false }
            let peer = try join(options, stage)
            var actor = CheckActor(
                peer: peer, stage: stage, me: self.peer, quota: quota,
                dice: SplitMix64(state: seed), access: user == 0 ? .sameUser : .anyone,
                habits: CheckHabits(
                    forges: forges, passes: passes, releasesPublished: releasesPublished,
                    isLong: isLong, pace_us: pace_us, usesOneRing: usesOneRing))
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

/// What a peer of a check does besides sending and receiving.
struct CheckHabits: Sendable {
    /// Under grants of others.
    var forges = true
    /// Handles on to others.
    var passes = true
    var releasesPublished = true
    /// Also sends what does not fit a slot, and waits for room.
    var isLong = false
    /// Rests up to so long, now and then.
    var pace_us = 0
    /// All send to the first peer, and that one only receives.
    var usesOneRing = false

    /// As the worker's command line says it.
    var arguments: [String] {
        var list = ["--pace", "\(pace_us)"]
        if forges { list.append("--forges") }
        if passes { list.append("--passes") }
        if releasesPublished { list.append("--releases-published") }
        if isLong { list.append("--long") }
        if usesOneRing { list.append("--one-ring") }
        return list
    }
}

/// What each message says.
struct Parcel: BitwiseCopyable {
    var transaction: UInt64
    /// The nodes of the handles that come with it, in their order; 0: none.
    var carried: (UInt32, UInt32) = (0, 0)

    init(transaction: UInt64) { self.transaction = transaction }

    /// A long message repeats its transaction behind the parcel, to its end. Where another one's stands there, nobody
    /// sent this message: its transaction is 0.
    init(of message: borrowing Message) {
        let payload = message.payload
        let head = payload.unsafeLoadUnaligned(as: Parcel.self)
        self = head
        guard payload.byteCount > MemoryLayout<Parcel>.size else { return }
        for offset in stride(from: MemoryLayout<Parcel>.size, to: payload.byteCount, by: 8) {
            let word = payload.unsafeLoadUnaligned(fromByteOffset: offset, as: UInt64.self)
            if word != head.transaction { transaction = 0 }
        }
    }
}
