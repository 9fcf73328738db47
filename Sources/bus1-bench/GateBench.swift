import CBench
import Glibc

/// Measures what the gate's rows ask for; rows that share a comparison share its runs.
final class GateBench {
    private let options: Comparison.Options
    private let progress = Progress()
    private let machine: Machine
    /// How long to wait for the cores to be near each other before each comparison.
    private let patienceS: Double
    private var comparisons: [String: Comparison] = [:]
    private var probes: [String: [String: Double]] = [:]
    private(set) var results: [Result] = []

    init(_ options: Comparison.Options, patienceS: Double) throws {
        self.options = options
        self.patienceS = patienceS
        machine = try Machine.here()
    }

    // MARK: comparisons

    func compare(
        _ entrants: [Entrant], _ evaluate: (Comparison) throws -> Finding
    ) throws -> Finding {
        var contenders: [Contender] = []
        for (name, shape) in entrants {
            guard let transport = transports.first(where: { $0.name == name }) else {
                return .missing("there is no transport \(name)")
            }
            if let obstacle = transport.obstacle { return .missing("\(name): \(obstacle)") }
            if transport.variants(for: shape).isEmpty {
                return .missing("\(name) can't do \(shape.title), \(shape.mode.rawValue)")
            }
            contenders.append(Contender(transport: transport, shape: shape))
        }
        let key = entrants.map { "\($0.transport) \($0.shape)" }.joined(separator: "|")
        let comparison: Comparison
        if let known = comparisons[key] {
            comparison = known
        } else {
            try awaitNear()
            comparison = try Comparison(contenders, options) { progress($0) }
            comparisons[key] = comparison
            results += comparison.records.indices.map {
                Result($0, of: comparison, machine: machine)
            }
            progress.clear()
        }
        if let absent = comparison.absent.first { return .missing(absent) }
        return try evaluate(comparison)
    }

    /// The cores move; most targets are stated for near ones.
    private func awaitNear() throws {
        let crew = try Crew(senders: 1, receivers: 1)
        let end = bench_monotonic_ns() + UInt64(patienceS * 1e9)
        while bench_monotonic_ns() < end {
            guard let canary = try crew.canary(), Placement(canaryNs: canary) != .near else {
                return
            }
            progress("waiting for the cores to be near: \(Report.number(canary)) ns")
            usleep(200_000)
        }
    }

    // MARK: probes

    func probe(
        _ name: String, _ shape: Shape, _ value: String, scale: Double = 1,
        alsoSay: String? = nil
    ) throws -> Finding {
        let (found, reason) = try onBus1(shape) { transport, variant in
            if let known = probes[name] { return known }
            let crew = try Crew(senders: shape.senders, receivers: shape.receivers)
            let channel = try crew.open(transport, shape, variant)
            let found = try crew.probe(channel, name)
            probes[name] = found
            return found
        }
        guard let found else { return .missing(reason) }
        guard let figure = found[value] else {
            return .missing("the probe says nothing of \(value)")
        }
        let note = alsoSay.flatMap { name in found[name].map { "\(name) \(Report.number($0))" } }
        return .count(figure * scale, note: note ?? "")
    }

    /// A ratio of what two probes say, by turns.
    func probes(
        _ name: String, over other: String, _ shape: Shape, _ value: String, note: String = ""
    ) throws -> Finding {
        let (found, reason) = try onBus1(shape) { transport, variant -> Finding in
            let crew = try Crew(senders: shape.senders, receivers: shape.receivers)
            let channel = try crew.open(transport, shape, variant)
            _ = try crew.probe(channel, name)
            var ratios: [Double] = []
            for round in 1...options.rounds {
                progress("\(name), round \(round) of \(options.rounds)")
                let this = try crew.probe(channel, name)
                let that = try crew.probe(channel, other)
                guard let this = this[value], let that = that[value] else { continue }
                ratios.append(this / that)
            }
            progress.clear()
            return .values(ratios, tries: options.rounds, nil, note: note)
        }
        return found ?? .missing(reason)
    }

    /// A ratio of two things that one process does by turns: one probe a round, which says `ratio` and, in
    /// ns, `this_ns` and `that_ns`.
    func turns(_ name: String, _ shape: Shape) throws -> Finding {
        try awaitNear()
        let (found, reason) = try onBus1(shape) { transport, variant -> Finding in
            let crew = try Crew(senders: shape.senders, receivers: shape.receivers)
            let channel = try crew.open(transport, shape, variant)
            _ = try crew.probe(channel, name)
            var times: (this: [Double], that: [Double]) = ([], [])
            var runs: [Run] = []
            var before = try crew.canary()
            for round in 1...options.rounds {
                progress("\(name), round \(round) of \(options.rounds)")
                let said = try crew.probe(channel, name)
                let after = try crew.canary()
                runs.append(Run(figure: said["ratio"] ?? .nan, before: before, after: after))
                times.this.append(said["this_ns"] ?? .nan)
                times.that.append(said["that_ns"] ?? .nan)
                before = after
            }
            progress.clear()
            var all = [runs]
            let placement = Run.settle(&all)
            let (this, that) = (Statistics.median(times.this), Statistics.median(times.that))
            return .values(
                all[0].filter(\.kept).map(\.figure), tries: options.rounds, placement,
                note: "\(Report.number(this)) ns to \(Report.number(that)) ns")
        }
        return found ?? .missing(reason)
    }

    /// Runs `body` with bus1 and its variant for a shape; says why not when it can't.
    private func onBus1<Found>(
        _ shape: Shape, _ body: (any Transport, Variant) throws -> Found
    ) throws -> (Found?, String) {
        guard let transport = transports.first(where: { $0.name == "bus1" }) else {
            return (nil, "there is no transport bus1")
        }
        if let obstacle = transport.obstacle { return (nil, obstacle) }
        guard let variant = transport.variants(for: shape).first else {
            return (nil, "bus1 can't do \(shape.title)")
        }
        do {
            return (try body(transport, variant), "")
        } catch let error as Unavailable {
            return (nil, error.reason)
        } catch let error as BenchError {
            return (nil, error.description)
        }
    }

    // MARK: counts from outside

    private var once: Outside {
        Outside(
            arguments: ["--transport", "bus1", "--payload", "40", "--mode", "spin"],
            count: 200_000)
    }

    private var spinning: Shape {
        Shape(workload: .stream, payloadBytes: 40, mode: .spin)
    }

    /// Counts are exact to some calls of the set-up; two decimals say zero or not.
    private func rounded(_ count: () throws -> Outside.Count) throws -> Finding {
        let (found, reason) = try onBus1(spinning) { _, _ in try count() }
        guard let found else { return .missing(reason) }
        let hundredths = (found.perMessage * 100).rounded() / 100
        return .count(hundredths == 0 ? 0 : hundredths, note: found.tool)
    }

    func systemCalls() throws -> Finding { try rounded { try once.systemCalls() } }

    func allocations() throws -> Finding { try rounded { try once.allocations() } }

    func pageFaults() throws -> Finding {
        let (found, reason) = try onBus1(spinning) { _, _ in
            try once.run(["--warm-up", "200000"])
        }
        guard let found else { return .missing(reason) }
        for line in found.output.split(separator: "\n") where line.hasPrefix("page faults: ") {
            if let faults = Double(line.dropFirst(13)) { return .count(faults) }
        }
        return .missing("the run failed: \(found.output.split(separator: "\n").last ?? "")")
    }

    // MARK: idle peers

    /// What shared and private memory grow by when the idle peers are opened, for each, in KiB.
    func idleMemory(_ entrant: Entrant) throws -> Finding {
        let (found, reason) = try onBus1(entrant.shape) { transport, variant in
            let crew = try Crew(senders: 1, receivers: 1)
            var alone = entrant.shape
            alone.idlePeers = 0
            alone.workload = .pingPong
            // What is paid once for the first pair does not belong to the idle ones.
            let pair = try crew.open(transport, alone, variant)
            _ = try crew.run(pair, count: 1000)
            let before = Self.memory(crew.pids)
            let channel = try crew.open(transport, entrant.shape, variant)
            _ = try crew.run(channel, count: 1000)
            return Double(Self.memory(crew.pids) - before) / Double(entrant.shape.idlePeers)
        }
        return found.map { .count($0) } ?? .missing(reason)
    }

    /// KiB of shared memory on the machine and of private memory of the processes. Memory in a memfd
    /// counts once, as shared, whoever maps it.
    private static func memory(_ pids: [pid_t]) -> Int {
        func field(_ name: String, _ path: String) -> Int {
            for line in readFile(path)?.split(separator: "\n") ?? [] where line.hasPrefix(name) {
                return line.split(separator: " ").dropFirst().first.flatMap { Int($0) } ?? 0
            }
            return 0
        }
        return pids.reduce(field("Shmem:", "/proc/meminfo")) {
            $0 + field("Anonymous:", "/proc/\($1)/smaps_rollup")
        }
    }

    /// With 1,024 descriptors: 1 when it works, or ends with an error that speaks of descriptors.
    func fewDescriptors() throws -> Finding {
        let shape = Shape(workload: .idlePeers, payloadBytes: 8, mode: .spin, idlePeers: 1000)
        let (found, reason) = try onBus1(shape) { _, _ in
            try Outside(
                arguments: [
                    "--transport", "bus1", "--workload", "idle-peers", "--payload", "8",
                    "--idle-peers", "1000",
                ], count: 10_000
            ).run([], prefix: "ulimit -n 1024; ")
        }
        guard let found else { return .missing(reason) }
        if found.status == 0 { return .count(1, note: "works") }
        let last = found.output.split(separator: "\n").last.map(String.init) ?? ""
        let clear =
            found.status == 1 && (last.contains("descriptor") || last.contains("open files"))
        return .count(clear ? 1 : 0, note: last)
    }
}

extension Finding {
    static func figures(_ comparison: Comparison, _ place: Int) -> Finding {
        perRun(comparison, place) { $0.figure }
    }

    static func ratiosToLine(_ comparison: Comparison, _ place: Int) -> Finding {
        .values(
            comparison.ratiosToLine(place), tries: comparison.records[place].runs.count,
            comparison.placement)
    }

    static func ratios(_ comparison: Comparison, _ place: Int, over other: Int) -> Finding {
        .values(
            comparison.ratios(place, over: other), tries: comparison.records[place].runs.count,
            comparison.placement)
    }

    static func perRun(
        _ comparison: Comparison, _ place: Int, _ value: (Run) -> Double?
    ) -> Finding {
        .values(
            comparison.records[place].kept.compactMap(value),
            tries: comparison.records[place].runs.count, comparison.placement)
    }
}
