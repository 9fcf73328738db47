import CBench

/// What is measured against each other: a transport and a shape.
struct Contender: Sendable {
    let transport: any Transport
    let shape: Shape
    /// Of all variants, only the one with this name; nil: the best one.
    var variant: String?
    /// What a negative control does to it.
    var sabotage = Sabotage()
}

/// What a contender did, run by run.
struct Record: Sendable {
    let transport: String
    let isYardstick: Bool
    let shape: Shape
    let variant: String
    let count: Int
    /// Every run, in the order of the rounds.
    var runs: [Run]

    var kept: [Run] { runs.filter(\.kept) }
    var figures: [Double] { kept.map(\.figure) }
    var median: Double { Statistics.median(figures) }
    var latency: Latency? { Latency.median(of: kept.compactMap(\.latency)) }
}

/// An interleaved comparison: A B A B in one crew, the yardstick between all of them.
struct Comparison {
    struct Options: Sendable {
        var rounds = 11
        /// Of one run.
        var runMs = 30.0
        /// Fixed messages a run instead.
        var count: Int?
        /// Time round trips singly, too.
        var timed = true
        /// Throw away runs in which something else took a worker's core. Right where both spin on a
        /// core of their own; wrong where workers share one.
        var discardsPreempted = false
        var patienceMs: Int32 = 30_000
    }

    let records: [Record]
    let placement: Placement?
    /// Who could not take part, and why.
    let absent: [String]

    init(
        _ contenders: [Contender], _ options: Options = Options(),
        progress: (String) -> Void = { _ in }
    ) throws {
        let crew = try Crew(
            senders: contenders.map(\.shape.senders).max() ?? 1,
            receivers: contenders.map(\.shape.receivers).max() ?? 1, patienceMs: options.patienceMs)
        var entries: [Entry] = []
        var absent: [String] = []
        for contender in contenders {
            progress("\(contender.shape.title): preparing \(contender.transport.name)")
            do {
                entries.append(try Entry(contender, crew, options))
            } catch let error as Unavailable {
                absent.append("\(error.transport): \(error.reason)")
            }
        }
        self.absent = absent
        var runs = [[Run]](repeating: [], count: entries.count)
        var before = try crew.canary()
        for round in 1...options.rounds {
            for (place, entry) in entries.enumerated() {
                progress(
                    "\(entry.contender.shape.title): \(entry.contender.transport.name), "
                        + "round \(round) of \(options.rounds)")
                let measured = try entry.measure(crew, timed: options.timed)
                let after = try crew.canary()
                var run = Run(
                    figure: measured.figure, before: before, after: after,
                    latency: measured.latency, pageFaults: measured.pageFaults,
                    preemptions: measured.preemptions)
                run.sinceExecUs = measured.sinceExecUs
                if options.discardsPreempted && run.kept && run.preemptions > 0 {
                    run.kept = false
                    run.reason = "another process took a core \(run.preemptions) times"
                }
                runs[place].append(run)
                before = after
            }
        }
        // Before the channels' states: a daemon waits for whoever has not left it.
        crew.quit()
        placement = Run.settle(&runs)
        records = zip(entries, runs).map { entry, runs in
            Record(
                transport: entry.contender.transport.name,
                isYardstick: entry.contender.transport.isYardstick, shape: entry.contender.shape,
                variant: entry.variant.name, count: entry.count, runs: runs)
        }
    }

    /// The figures of two records, round by round, where both runs were kept.
    func pairs(_ place: Int, _ other: Int) -> [(Double, Double)] {
        zip(records[place].runs, records[other].runs).filter { $0.kept && $1.kept }
            .map { ($0.figure, $1.figure) }
    }

    /// What two records come to, round by round, where both runs were kept.
    func kept(_ place: Int, _ other: Int, _ value: (Run, Run) -> Double?) -> [Double] {
        zip(records[place].runs, records[other].runs).filter { $0.kept && $1.kept }
            .compactMap { value($0, $1) }
    }

    /// The ratios of two records, round by round, where both runs were kept.
    func ratios(_ place: Int, over other: Int) -> [Double] {
        pairs(place, other).map { $0 / $1 }
    }

    /// The ratios of a record to the raw cache-line round trip around each run.
    func ratiosToLine(_ place: Int) -> [Double] {
        records[place].kept.compactMap { run in run.canaryNs.map { run.figure / $0 } }
    }

    /// The record of a transport with a shape's yardstick, if one took part.
    func place(of transport: String) -> Int? { records.firstIndex { $0.transport == transport } }
}

/// One run of a contender.
private struct Measured {
    var figure: Double
    var latency: Latency?
    var pageFaults: UInt64 = 0
    var preemptions: UInt64 = 0
    var sinceExecUs: Double?

    init(figure: Double) { self.figure = figure }

    init(_ outcome: Outcome) {
        figure = outcome.figure
        latency = outcome.latency
        pageFaults = outcome.pageFaults
        preemptions = outcome.preemptions
    }
}

/// A contender with an open channel and a count that fits the time of a run.
private struct Entry {
    let contender: Contender
    let variant: Variant
    /// nil for first messages, which open one each time.
    let channel: Crew.Channel?
    let count: Int

    init(_ contender: Contender, _ crew: Crew, _ options: Comparison.Options) throws {
        self.contender = contender
        let name = contender.transport.name
        if let obstacle = contender.transport.obstacle {
            throw Unavailable(transport: name, reason: obstacle)
        }
        var variants = contender.transport.variants(for: contender.shape)
        if let wanted = contender.variant { variants = variants.filter { $0.name == wanted } }
        guard !variants.isEmpty else {
            throw Unavailable(transport: name, reason: "can't do \(contender.shape.title)")
        }
        if crew.cores.count == 1 {
            // Who spins keeps the other from running.
            variants = variants.filter { $0.options["spin"] == 0 }
            guard !variants.isEmpty else {
                throw Unavailable(transport: name, reason: "spins, and there is one core only")
            }
        }
        if contender.shape.workload == .firstMessage {
            variant = variants[0]
            channel = nil
            count = 1
            return
        }
        variant =
            variants.count == 1
            ? variants[0] : try Self.best(of: variants, contender, crew, options)
        let open = try crew.open(contender.transport, contender.shape, variant)
        channel = open
        count = try options.count ?? Self.calibrate(open, contender, crew, runMs: options.runMs)
    }

    /// One run; round trips once more, timed singly.
    func measure(_ crew: Crew, timed: Bool) throws -> Measured {
        guard let channel else {
            let (call, exec) = try crew.firstMessage(
                contender.transport, contender.shape, variant)
            var measured = Measured(figure: call)
            measured.sinceExecUs = exec
            return measured
        }
        var measured = Measured(try Self.run(channel, contender, crew, count))
        if timed, contender.shape.isRoundTrip, measured.latency == nil {
            let singly = try Self.run(
                channel, contender, crew, min(count, 1_000_000), timed: true)
            measured.latency = singly.latency
        }
        return measured
    }

    private static func run(
        _ channel: Crew.Channel, _ contender: Contender, _ crew: Crew, _ count: Int,
        timed: Bool = false
    ) throws -> Outcome {
        let outcome = try crew.run(
            channel, count: count, timed: timed, sabotage: contender.sabotage)
        if let fault = outcome.fault { throw BenchError("\(contender.transport.name): \(fault)") }
        return outcome
    }

    /// The count that takes about runMs; the runs on the way are the warm-up.
    private static func calibrate(
        _ channel: Crew.Channel, _ contender: Contender, _ crew: Crew, runMs: Double
    ) throws -> Int {
        var count = contender.shape.payloadBytes >= 1 << 20 ? 2 : 64
        while true {
            var elapsedMs = try run(channel, contender, crew, count).elapsedNs / 1e6
            if elapsedMs * 2 > runMs {
                // About to settle: not on a run that something else made long.
                for _ in 0..<2 {
                    elapsedMs = min(
                        elapsedMs, try run(channel, contender, crew, count).elapsedNs / 1e6)
                }
            }
            let scale = runMs / max(elapsedMs, 0.001)
            if scale < 2 { return max(2, Int(Double(count) * scale)) }
            count = min(Int(Double(count) * min(scale, 16)), 1 << 30)
        }
    }

    /// A short trial of all variants, interleaved; the best median wins.
    private static func best(
        of variants: [Variant], _ contender: Contender, _ crew: Crew, _ options: Comparison.Options
    ) throws -> Variant {
        var trials: [(channel: Crew.Channel, count: Int, figures: [Double])] = []
        for variant in variants {
            let channel = try crew.open(contender.transport, contender.shape, variant)
            let count = try calibrate(channel, contender, crew, runMs: options.runMs / 3)
            trials.append((channel, count, []))
        }
        for _ in 0..<3 {
            for place in trials.indices {
                let (channel, count, _) = trials[place]
                trials[place].figures.append(try run(channel, contender, crew, count).figure)
            }
        }
        for trial in trials { try crew.close(trial.channel) }
        let sign = contender.shape.metric.lowerIsBetter ? 1.0 : -1.0
        let winner = trials.min {
            sign * Statistics.median($0.figures) < sign * Statistics.median($1.figures)
        }
        return winner!.channel.variant
    }
}
