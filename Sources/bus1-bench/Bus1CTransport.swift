import Bus1C
import CBench
import CBus1
import Glibc

/// bus1 through its interface for C: each message is a call of a C function in and out. To be compared with
/// ``Bus1Transport``, which is inlined.
struct Bus1CTransport: Transport {
    let name = "bus1-c"
    let isYardstick = true

    func variants(for shape: Shape) -> [Variant] {
        guard shape.mode == .spin, shape.senders == 1, shape.receivers == 1, shape.batch == 1,
            shape.workload == .pingPong || shape.workload == .stream
        else { return [] }
        return [Variant(name: "through C", options: ["spin": 1])]
    }

    func equip(_ shape: Shape, _ variant: Variant) throws -> (
        equipment: [Equipment], state: (any Sendable)?
    ) { try Bus1Transport().equip(shape, variant) }

    func open(_ post: Post, fds: [Int32]) throws -> any Endpoint { try Bus1CEndpoint(post) }
}

/// One worker's peer, by the functions of bus1.h.
private final class Bus1CEndpoint: Endpoint {
    private let post: Post
    private let peer: OpaquePointer
    private var handle: UInt64 = 0
    private let scratch: UnsafeMutableRawPointer

    init(_ post: Post) throws {
        self.post = post
        var options = bus1_options()
        options.size = MemoryLayout<bus1_options>.size
        options.spin_ns = 3600 * 1_000_000_000
        var made: OpaquePointer?
        try Self.check(bus1_open(post.address, &options, &made), "joining the bus")
        peer = made!
        var node: UInt64 = 0
        try Self.check(bus1_node_make(peer, 0, &node), "making a node")
        try Self.check(
            bus1_publish(
                peer, node, "\(post.role.rawValue)-\(post.index)", Int32(BUS1_ACCESS_SAME_USER), 0,
                nil), "publishing")
        scratch = .allocate(byteCount: max(64, post.shape.payloadBytes), alignment: 64)
        scratch.initializeMemory(
            as: UInt8.self, repeating: 0, count: max(64, post.shape.payloadBytes))
    }

    deinit {
        bus1_close(peer)
        scratch.deallocate()
    }

    @inline(__always)
    private static func check(_ result: Int32, _ operation: StaticString) throws {
        guard result != 0 else { return }
        throw BenchError("\(operation): \(String(cString: bus1_strerror(result)))")
    }

    func run(_ part: Part, _ job: inout bench_job) throws -> bench_outcome {
        if handle == 0, part != .receive {
            let name = post.role == .sender ? "receiver-0" : "sender-0"
            try Self.check(
                bus1_look_up(peer, name, bus1_after(20_000_000_000), &handle), "looking up")
        }
        switch part {
        case .ping: return try ping(&job)
        case .pong: return try pong(&job)
        case .receive: return try receive(&job)
        case .send, .alone: return try send(&job)
        }
    }

    @inline(__always)
    private func send(_ bytes: UInt64) throws {
        try Self.check(
            bus1_send(peer, handle, scratch, Int(bytes), UInt64.max), "sending")
    }

    @inline(__always) @discardableResult
    private func note(_ check: inout bench_check, _ bytes: UInt64) throws -> UInt64 {
        var received = bus1_received()
        received.size = MemoryLayout<bus1_received>.size
        repeat {
            try Self.check(bus1_receive(peer, UInt64.max, &received), "receiving")
        } while received.message == nil
        guard received.n_data == bytes else {
            throw BenchError("a payload of \(received.n_data) B, not \(bytes)")
        }
        var sequence: UInt64 = 0
        let sum = bench_read(received.data, bytes, &sequence)
        bench_check_note(&check, sequence, sum)
        try Self.check(bus1_give_back(&received), "giving back")
        return sequence
    }

    private func ping(_ job: inout bench_job) throws -> bench_outcome {
        var outcome = bench_outcome()
        var check = bench_check()
        bench_check_begin(&check, &job)
        let bytes = job.payload_bytes
        var sum: UInt64 = 0
        outcome.begin = bench_ticks()
        var before = outcome.begin
        for i in 0..<job.count {
            if job.interval_ticks != 0 { before = bench_pace(&job, outcome.begin, i) }
            sum &+= bench_fill(scratch, bytes, job.first_sequence + i)
            try send(bytes)
            try note(&check, bytes)
            before = bench_sample(&job, i, before)
        }
        outcome.end = bench_ticks()
        bench_check_end(&check, &outcome)
        outcome.faults += sum == outcome.sum ? 0 : 1
        return outcome
    }

    private func pong(_ job: inout bench_job) throws -> bench_outcome {
        var outcome = bench_outcome()
        var check = bench_check()
        bench_check_begin(&check, &job)
        while check.remaining != 0 {
            let sequence = try note(&check, job.payload_bytes)
            _ = bench_fill(scratch, job.payload_bytes, sequence)
            try send(job.payload_bytes)
        }
        bench_check_end(&check, &outcome)
        return outcome
    }

    private func send(_ job: inout bench_job) throws -> bench_outcome {
        var outcome = bench_outcome()
        outcome.begin = bench_ticks()
        for i in 0..<job.count {
            outcome.sum &+= bench_fill(scratch, job.payload_bytes, job.first_sequence + i)
            try send(job.payload_bytes)
        }
        outcome.end = bench_ticks()
        outcome.messages = job.count
        return outcome
    }

    private func receive(_ job: inout bench_job) throws -> bench_outcome {
        var outcome = bench_outcome()
        var check = bench_check()
        bench_check_begin(&check, &job)
        while check.remaining != 0 { try note(&check, job.payload_bytes) }
        outcome.end = bench_ticks()
        bench_check_end(&check, &outcome)
        return outcome
    }
}
