import ArgumentParser
import CBench
import Glibc

/// A worker: started by the coordinator, pinned to a core, does what it is told until it is told to
/// quit or the coordinator is gone.
struct Worker: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "worker", abstract: "One of the measured processes.", shouldDisplay: false)

    @Option var core: Int32
    @Option var parent: Int32

    func run() throws {
        guard bench_worker_settle(parent) == 0, bench_pin(core) == 0 else {
            throw ExitCode(70)
        }
        bench_clock_begin()
        let control = ControlSocket(BENCH_CONTROL_FD)
        let stage = try SharedMapping(BENCH_STAGE_FD, byteCount: UInt64(BENCH_STAGE_BYTES))
        var desk = Desk(stage: stage)
        while let (order, fds) = try control.receive(Order.self) {
            if case .quit = order { break }
            do {
                try control.send(try desk.follow(order, fds: fds))
            } catch {
                try control.send(Answer.failed("\(error)"))
            }
        }
    }
}

/// A worker's open channels.
private struct Desk {
    let stageMapping: SharedMapping
    let stage: UnsafeMutablePointer<bench_stage>
    var endpoints: [Int: any Endpoint] = [:]

    init(stage: SharedMapping) {
        stageMapping = stage
        self.stage = stage.base.assumingMemoryBound(to: bench_stage.self)
    }

    mutating func follow(_ order: Order, fds: [Int32]) throws -> Answer {
        switch order {
        case .open(let channel, let name, let post):
            endpoints[channel] = try transport(named: name).open(post, fds: fds)
            return .done
        case .close(let channel):
            endpoints[channel] = nil
            return .done
        case .run(let channel, let assignment):
            guard let endpoint = endpoints[channel] else {
                throw BenchError("channel \(channel) is not open")
            }
            return .ran(try run(assignment, endpoint))
        case .canary(let part, let trips, let batches, let meeting):
            return .canary(nsPerTrip: canary(part, trips, batches, meeting))
        case .first(let name, let post, let assignment):
            bench_stage_meet(stage, assignment.meeting)
            let begin = bench_ticks()
            let endpoint = try transport(named: name).open(post, fds: fds)
            var job = bench_job(assignment)
            var report = WorkerReport(try endpoint.run(assignment.part, &job))
            report.begin = begin
            return .ran(report)
        case .probe(let channel, let name, let part, let meeting):
            guard let endpoint = endpoints[channel] as? any ProbedEndpoint else {
                throw BenchError("this transport knows no probe \(name)")
            }
            bench_stage_meet(stage, meeting)
            return .probed(try endpoint.probe(name, part))
        case .quit:
            return .done
        }
    }

    private func run(_ assignment: Assignment, _ endpoint: any Endpoint) throws -> WorkerReport {
        var job = bench_job(assignment)
        let samples = UnsafeMutableBufferPointer<UInt64>.allocate(
            capacity: assignment.timed && assignment.part == .ping ? assignment.count : 0)
        samples.initialize(repeating: 0)
        defer { samples.deallocate() }
        if !samples.isEmpty { job.samples = samples.baseAddress }
        bench_stage_meet(stage, assignment.meeting)
        let faults = bench_page_faults()
        let preemptions = bench_preemptions()
        let outcome = try endpoint.run(assignment.part, &job)
        var report = WorkerReport(outcome)
        report.pageFaults = bench_page_faults() - faults
        report.preemptions = bench_preemptions() - preemptions
        if !samples.isEmpty {
            report.latency = Latency(ticks: .init(samples), ticksPerNs: bench_ticks_per_ns())
        }
        return report
    }

    private func canary(_ part: Part, _ trips: Int, _ batches: Int, _ meeting: UInt32) -> [Double] {
        let line = UnsafeMutableRawPointer(stage).advanced(
            by: MemoryLayout<bench_stage>.offset(of: \.line)!
        ).assumingMemoryBound(to: UInt64.self)
        let ticksPerNs = bench_ticks_per_ns()
        bench_stage_meet(stage, meeting)
        return (0..<batches).map { _ in
            let begin = bench_ticks()
            if part == .ping {
                bench_line_ping(line, UInt64(trips))
            } else {
                bench_line_pong(line, UInt64(trips))
            }
            return Double(bench_ticks() - begin) / ticksPerNs / Double(trips)
        }
    }
}

extension bench_job {
    init(_ assignment: Assignment) {
        self.init()
        count = UInt64(assignment.count)
        payload_bytes = UInt64(assignment.payloadBytes)
        let sender = assignment.part == .send ? UInt64(assignment.index) : 0
        first_sequence =
            sender << UInt64(BENCH_SENDER_SHIFT)
            | UInt64(assignment.generation) << UInt64(BENCH_GENERATION_SHIFT)
        batch = UInt32(assignment.batch)
        senders = UInt32(assignment.senders)
        receivers = UInt32(assignment.receivers)
        if assignment.intervalNs > 0 {
            interval_ticks = UInt64(Double(assignment.intervalNs) * bench_ticks_per_ns())
        }
        sabotaged = !assignment.sabotage.isNone
        guard sabotaged else { return }
        sabotage.delay_ticks = UInt64(
            Double(assignment.sabotage.delayNs) * bench_ticks_per_ns())
        sabotage.system_calls = UInt32(assignment.sabotage.systemCalls)
        sabotage.allocations = UInt32(assignment.sabotage.allocations)
        sabotage.repeats = UInt32(assignment.sabotage.repeats)
        sabotage.fault_at = UInt64(assignment.sabotage.faultAt)
        sabotage.fault =
            switch assignment.sabotage.fault {
            case .none: BENCH_FAULT_NONE.rawValue
            case .dropped: BENCH_FAULT_DROP.rawValue
            case .doubled: BENCH_FAULT_DOUBLE.rawValue
            case .swapped: BENCH_FAULT_SWAP.rawValue
            }
    }
}

extension WorkerReport {
    init(_ outcome: bench_outcome) {
        self.init(
            messages: outcome.messages, sum: outcome.sum, faults: outcome.faults,
            faultWant: outcome.fault_want, faultGot: outcome.fault_got, begin: outcome.begin,
            end: outcome.end, pageFaults: 0, preemptions: 0)
    }
}
