import ArgumentParser
import CBench

/// `bus1-bench once`: one run of a fixed count and nothing else, to be counted from outside, and with
/// the faults of the negative controls.
struct OnceCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "once",
        abstract: "One run of a fixed number of messages, to be looked at from outside.",
        discussion: "Prints what was sent and received. Wrong sum, count or order: exit status 1.")

    @Option(help: "The transport; see `bus1-bench list`.")
    var transport = "bus1"

    @Option(help: "The workload.")
    var workload = Shape.Workload.stream

    @Option(help: "Bytes of a payload.")
    var payload = 64

    @Option(help: "Messages of each sender, or round trips, 1 to 10^9.")
    var count = 100_000

    @Option(help: "Messages of a run before, 0 to 10^9.")
    var warmUp = 0

    @Option(help: "How receivers wait.")
    var mode = Shape.Mode.spin

    @Option(help: "Messages handed over at once.")
    var batch = 1

    @Option(help: "Sending processes.")
    var senders = 1

    @Option(help: "Receiving processes.")
    var receivers = 1

    @Option(help: "Peers that stay idle.")
    var idlePeers = 0

    @Option(help: "getppid calls before each message.")
    var addSystemCalls = 0

    @Option(help: "malloc calls before each message.")
    var addAllocations = 0

    @Option(help: "Spoil one message in the middle: none, dropped, doubled, swapped.")
    var fault = Sabotage.Fault.none

    func validate() throws {
        try inRange("--count", count, 1...1_000_000_000)
        try inRange("--warm-up", warmUp, 0...1_000_000_000)
        try inRange("--payload", payload, 8...(256 << 20))
        try inRange("--batch", batch, 1...4096)
        try inRange("--senders", senders, 1...16)
        try inRange("--receivers", receivers, 1...16)
        try inRange("--idle-peers", idlePeers, 0...1000)
        try inRange("--add-system-calls", addSystemCalls, 0...100)
        try inRange("--add-allocations", addAllocations, 0...100)
        guard payload % 8 == 0 else { throw ValidationError("--payload is a multiple of 8") }
    }

    func run() throws {
        try catching {
            let shape = Shape(
                workload: workload, payloadBytes: payload, senders: senders, receivers: receivers,
                mode: mode, batch: batch, slotBytes: payload > 40 ? 128 : 64, idlePeers: idlePeers)
            let transport = try bus1_bench.transport(named: transport)
            if let obstacle = transport.obstacle { throw BenchError(obstacle) }
            guard let variant = transport.variants(for: shape).first else {
                throw BenchError(
                    "\(transport.name) can't do \(shape.title) in mode \(mode.rawValue)")
            }
            let crew = try Crew(senders: senders, receivers: receivers, patienceMs: 20_000)
            let channel = try crew.open(transport, shape, variant)
            if warmUp > 0 { _ = try crew.run(channel, count: warmUp) }
            let sabotage = Sabotage(
                systemCalls: addSystemCalls, allocations: addAllocations, fault: fault,
                faultAt: count / 2)
            let outcome = try crew.run(channel, count: count, sabotage: sabotage)
            for (role, reports) in [("sender", outcome.senders), ("receiver", outcome.receivers)] {
                for report in reports {
                    print("\(role): \(report.messages) messages, sum \(report.sum)")
                }
            }
            print("page faults: \(outcome.pageFaults)")
            if let fault = outcome.fault { throw BenchError(fault) }
        }
    }
}

extension Sabotage.Fault: ExpressibleByArgument {}
