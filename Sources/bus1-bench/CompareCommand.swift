import ArgumentParser

/// `bus1-bench` without anything: bus1 against a pipe, in under a minute.
struct CompareCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "compare",
        abstract: "bus1 against a pipe: two processes, each on its core, in under a minute.")

    @OptionGroup var measuring: MeasuringOptions

    static let shapes =
        [
            Shape(workload: .pingPong, payloadBytes: 64, slotBytes: 128),
            // Rare messages, so that the receiver sleeps each time.
            Shape(workload: .pingPong, payloadBytes: 64, mode: .park, intervalNs: 200_000),
            Shape(workload: .stream, payloadBytes: 64, slotBytes: 128),
            Shape(workload: .stream, payloadBytes: 64, batch: 64, slotBytes: 128),
        ]
        + [4 << 10, 64 << 10, 1 << 20, 16 << 20].map {
            Shape(workload: .large, payloadBytes: $0)
        }

    func run() throws {
        try catching {
            var suite = try Suite(measuring.comparison)
            if suite.machine.cores == 1 {
                print("There is one core only: both processes share it, and nobody spins.\n")
            }
            let names = ["bus1", "pipe"].filter { name in
                transports.contains { $0.name == name }
            }
            for shape in Self.shapes { try suite.measure(shape, on: names) }
            var measuring = measuring
            measuring.plot = measuring.plot ?? "bench-out"
            try suite.finish(measuring)
        }
    }
}

/// `bus1-bench list`: what can be measured here.
struct ListCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "list", abstract: "The transports, and whether each is available here.")

    func run() {
        let rows = transports.map { transport -> [String] in
            let workloads = Shape.Workload.allCases.filter { workload in
                let shape = Shape(
                    workload: workload, payloadBytes: 64,
                    receivers: workload == .multicast ? 2 : 1)
                return !transport.variants(for: shape).isEmpty
            }
            return [
                transport.name + (transport.isYardstick ? " (yardstick)" : ""),
                transport.obstacle.map { "not available: \($0)" } ?? "available",
                workloads.map(\.rawValue).joined(separator: ", "),
            ]
        }
        print(Report.align(rows))
    }
}
