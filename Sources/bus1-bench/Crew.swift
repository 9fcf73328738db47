import CBench
import Glibc

/// The measured processes: real ones, started from this program, each pinned to its core. They stay
/// for a whole comparison and hold all channels of it, so that switching between cases costs nothing.
final class Crew {
    struct Member {
        let pid: pid_t
        let control: ControlSocket
        let core: Int32
    }

    /// A channel that all members have open.
    struct Channel {
        let number: Int
        let transport: any Transport
        let shape: Shape
        let variant: Variant
        let state: (any Sendable)?
    }

    let senders: Int
    let receivers: Int
    let cores: [Int32]
    private let stage: Int32
    private var members: [Member] = []
    private var nextChannel = 0
    private var arrivals: UInt32 = 0
    private var generation: UInt16 = 0
    /// Longest time that one run may take.
    private let patienceMs: Int32

    /// Starts the workers: senders first, then receivers. The first sender has a core of its own, and
    /// so have all receivers together; further senders take further cores while there are any.
    init(senders: Int, receivers: Int, patienceMs: Int32 = 30_000) throws {
        self.senders = senders
        self.receivers = receivers
        self.patienceMs = patienceMs
        cores = try usableCores()
        stage = try BenchError.check(
            bench_memory_create("bus1-bench-stage", UInt64(BENCH_STAGE_BYTES)), "making the stage")
        let further = cores.count > 2 ? [cores[0]] + cores[2...] : [cores[0]]
        for index in 0..<(senders + receivers) {
            let core =
                index < senders ? further[index % further.count] : cores[min(1, cores.count - 1)]
            try start(core: core, stage: stage)
        }
    }

    deinit {
        quit()
        Glibc.close(stage)
    }

    /// Ends all workers, and with them their ends of all channels.
    func quit() {
        members.forEach(end)
        members = []
    }

    private func end(_ member: Member) {
        // One that still works is not listening.
        try? member.control.send(Order.quit)
        if !over(member.pid, withinMs: 500) { _ = bench_child_end(member.pid, 1) }
    }

    private func start(core: Int32, stage: Int32) throws {
        var ends: [Int32] = [-1, -1]
        try BenchError.check(bench_control_pair(&ends), "making a control socket")
        defer { Glibc.close(ends[1]) }
        let control = ControlSocket(ends[0])
        let arguments = ["bus1-bench", "worker", "--core", "\(core)", "--parent", "\(getpid())"]
        var pointers = arguments.map { strdup($0) }
        pointers.append(nil)
        defer { pointers.forEach { free($0) } }
        let pid = try BenchError.check(
            bench_worker_spawn("/proc/self/exe", pointers, ends[1], stage), "starting a worker")
        members.append(Member(pid: pid, control: control, core: core))
    }

    private func over(_ pid: pid_t, withinMs: Int) -> Bool {
        for _ in 0..<withinMs {
            var status: Int32 = 0
            if waitpid(pid, &status, WNOHANG) == pid { return true }
            usleep(1000)
        }
        return false
    }

    var pids: [pid_t] { members.map(\.pid) }

    // MARK: channels

    func open(_ transport: any Transport, _ shape: Shape, _ variant: Variant) throws -> Channel {
        let (equipment, state): ([Equipment], (any Sendable)?)
        do {
            (equipment, state) = try transport.equip(shape, variant)
        } catch let error as BenchError {
            throw Unavailable(transport: transport.name, reason: error.description)
        }
        // A descriptor may go to several workers.
        defer { for fd in Set(equipment.flatMap(\.fds)) { Glibc.close(fd) } }
        let number = nextChannel
        nextChannel += 1
        for (place, member) in participants(shape) {
            let post = Post(
                role: place < shape.senders ? .sender : .receiver,
                index: place < shape.senders ? place : place - shape.senders, shape: shape,
                options: variant.options, address: equipment[place].address)
            try member.control.send(
                Order.open(channel: number, transport: transport.name, post: post),
                fds: equipment[place].fds)
        }
        for (_, member) in participants(shape) { _ = try answer(of: member) }
        return Channel(
            number: number, transport: transport, shape: shape, variant: variant, state: state)
    }

    func close(_ channel: Channel) throws {
        for (_, member) in participants(channel.shape) {
            try member.control.send(Order.close(channel: channel.number))
            _ = try answer(of: member)
        }
    }

    /// The workers that a shape needs, with their places: senders first, then receivers.
    private func participants(_ shape: Shape) -> [(place: Int, member: Member)] {
        let sending = members[..<shape.senders]
        let receiving = members[senders..<(senders + shape.receivers)]
        return (sending + receiving).enumerated().map { ($0.offset, $0.element) }
    }

    // MARK: runs

    /// Runs a channel once. Throws when a worker fails, hangs or dies; faults are in the outcome.
    func run(
        _ channel: Channel, count: Int, timed: Bool = false, sabotage: Sabotage = Sabotage()
    ) throws -> Outcome {
        let shape = channel.shape
        let parts = participants(shape)
        generation &+= 1
        arrivals &+= UInt32(parts.count)
        for (place, member) in parts {
            let isSender = place < shape.senders
            let part: Part =
                shape.isRoundTrip ? (isSender ? .ping : .pong) : isSender ? .send : .receive
            let assignment = Assignment(
                part: part, count: count, payloadBytes: shape.payloadBytes, batch: shape.batch,
                senders: shape.senders, receivers: shape.receivers,
                index: isSender ? place : place - shape.senders, generation: generation,
                timed: timed || shape.intervalNs > 0, intervalNs: shape.intervalNs,
                sabotage: sabotage, meeting: arrivals)
            try member.control.send(Order.run(channel: channel.number, assignment))
        }
        var reports: [WorkerReport] = []
        for (_, member) in parts {
            guard case .ran(let report) = try answer(of: member) else {
                throw BenchError("a worker gave the wrong answer")
            }
            reports.append(report)
        }
        return Outcome(
            shape: shape, count: count, senders: Array(reports[..<shape.senders]),
            receivers: Array(reports[shape.senders...]))
    }

    /// Asks both ends of a channel; returns what the senders and receivers said, together.
    func probe(_ channel: Channel, _ name: String) throws -> [String: Double] {
        let parts = participants(channel.shape)
        arrivals &+= UInt32(parts.count)
        for (place, member) in parts {
            let part: Part = place < channel.shape.senders ? .send : .receive
            try member.control.send(
                Order.probe(channel: channel.number, name: name, part: part, meeting: arrivals))
        }
        var found: [String: Double] = [:]
        for (_, member) in parts {
            guard case .probed(let values) = try answer(of: member) else {
                throw BenchError("a worker gave the wrong answer")
            }
            found.merge(values) { min($0, $1) }
        }
        return found
    }

    /// Starts one more process, which opens a channel to the first receiver and sends one message.
    /// Returns the times until the receiver has it, in us: from before the library's first call, and
    /// from before the process was started.
    func firstMessage(
        _ transport: any Transport, _ shape: Shape, _ variant: Variant
    ) throws -> (sinceFirstCall: Double, sinceExec: Double) {
        let (equipment, state) = try transport.equip(shape, variant)
        defer { for fd in Set(equipment.flatMap(\.fds)) { Glibc.close(fd) } }
        func post(_ role: Post.Role) -> Post {
            Post(
                role: role, index: 0, shape: shape, options: variant.options,
                address: equipment[role == .sender ? 0 : 1].address)
        }
        let number = nextChannel
        nextChannel += 1
        let receiver = members[senders]
        try receiver.control.send(
            Order.open(channel: number, transport: transport.name, post: post(.receiver)),
            fds: equipment[1].fds)
        _ = try answer(of: receiver)
        generation &+= 1
        arrivals &+= 2
        var assignment = Assignment(
            part: .receive, count: 1, payloadBytes: shape.payloadBytes, batch: 1, senders: 1,
            receivers: 1, index: 0, generation: generation, timed: false, intervalNs: 0,
            meeting: arrivals)
        try receiver.control.send(Order.run(channel: number, assignment))
        let exec = bench_ticks()
        try start(core: cores[0], stage: stage)
        let fresh = members.removeLast()
        defer { end(fresh) }
        assignment.part = .send
        try fresh.control.send(
            Order.first(transport: transport.name, post: post(.sender), assignment),
            fds: equipment[0].fds)
        guard case .ran(let sent) = try answer(of: fresh),
            case .ran(let received) = try answer(of: receiver)
        else { throw BenchError("a worker gave the wrong answer") }
        guard received.sum == sent.sum, received.faults == 0 else {
            throw BenchError("\(transport.name): the first message is not what was sent")
        }
        try receiver.control.send(Order.close(channel: number))
        _ = try answer(of: receiver)
        withExtendedLifetime(state) {}
        let ticksPerUs = bench_ticks_per_ns() * 1000
        return (
            Double(received.end - sent.begin) / ticksPerUs, Double(received.end - exec) / ticksPerUs
        )
    }

    /// The raw cache-line round trip between the first sender and the first receiver, in ns: the median
    /// of a few batches, so that one interrupt does not count. nil when both share one core.
    func canary(trips: Int = 2000, batches: Int = 5) throws -> Double? {
        guard cores.count > 1 else { return nil }
        arrivals &+= 2
        let pair = [(Part.ping, members[0]), (Part.pong, members[senders])]
        for (part, member) in pair {
            try member.control.send(
                Order.canary(part: part, trips: trips, batches: batches, meeting: arrivals))
        }
        var figures: [Double] = []
        for (part, member) in pair {
            guard case .canary(let ns) = try answer(of: member) else {
                throw BenchError("a worker gave the wrong answer")
            }
            if part == .ping { figures = ns }
        }
        return Statistics.median(figures)
    }

    private func answer(of member: Member) throws -> Answer {
        let ready = bench_control_wait(member.control.fd, patienceMs)
        if ready == -EINTR { throw Interrupted() }
        guard try BenchError.check(ready, "waiting for a worker") > 0 else {
            throw BenchError("a worker did not finish within \(patienceMs / 1000) s")
        }
        guard let (answer, _) = try member.control.receive(Answer.self) else {
            throw BenchError("a worker died")
        }
        if case .failed(let why) = answer { throw BenchError(why) }
        return answer
    }
}

/// A transport that this machine refuses: no failure of a measurement.
struct Unavailable: Error {
    let transport: String
    let reason: String
}

/// Ctrl-C.
struct Interrupted: Error {}

/// The cores that this process may use.
func usableCores() throws -> [Int32] {
    var cores = [Int32](repeating: 0, count: 1024)
    let count = try BenchError.check(
        bench_cores(&cores, Int32(cores.count)), "asking for the usable cores")
    return Array(cores[..<min(Int(count), cores.count)])
}

/// What came out of one run.
struct Outcome: Sendable {
    let shape: Shape
    let count: Int
    let senders: [WorkerReport]
    let receivers: [WorkerReport]

    var latency: Latency? { senders.first?.latency }
    var pageFaults: UInt64 { (senders + receivers).reduce(0) { $0 + $1.pageFaults } }
    var preemptions: UInt64 { (senders + receivers).reduce(0) { $0 + $1.preemptions } }

    /// From the first sender's start to the last receiver's end. A receiver that says when it began
    /// had no sender.
    var elapsedNs: Double {
        let begin = (senders + receivers).map(\.begin).filter { $0 > 0 }.min() ?? 0
        let end = shape.isRoundTrip ? senders[0].end : receivers.map(\.end).max()!
        return max(1, Double(Int64(bitPattern: end &- begin)) / bench_ticks_per_ns())
    }

    /// In the unit of the shape's metric.
    var figure: Double {
        let messages = Double(count * shape.senders)
        switch shape.workload {
        // Paced: from the intended starts, or a late one would hide the next ones' wait.
        case .pingPong, .idlePeers:
            return shape.intervalNs > 0 ? latency?.mean ?? .nan : elapsedNs / messages
        case .stream, .manySenders: return messages / elapsedNs * 1000
        case .multicast: return messages * Double(shape.receivers) / elapsedNs * 1000
        case .large: return messages * Double(shape.payloadBytes) / elapsedNs
        case .firstMessage: return elapsedNs / 1000
        }
    }

    /// What is wrong with the messages: lost, doubled, out of order, or not the sum that was sent.
    var fault: String? {
        for receiver in receivers + (shape.isRoundTrip ? senders : []) where receiver.faults > 0 {
            let want = receiver.faultWant & 0xffff_ffff
            let got = receiver.faultGot & 0xffff_ffff
            return
                "\(receiver.faults) messages out of order, the first \(got) where \(want) was due"
        }
        let sent = senders.reduce(0) { $0 &+ $1.sum }
        for receiver in receivers {
            if receiver.sum != sent { return "the receiver's sum differs from the sender's" }
            if receiver.messages != UInt64(count * shape.senders) {
                return "\(receiver.messages) messages came of \(count * shape.senders)"
            }
        }
        return nil
    }
}
