import CBench
import Glibc

/// A mapping of a memfd that both ends were handed.
final class SharedMapping {
    let base: UnsafeMutableRawPointer
    private let byteCount: UInt64

    /// Maps and closes the descriptor.
    init(_ fd: Int32, byteCount: UInt64) throws {
        guard let base = bench_memory_map(fd, byteCount) else {
            throw BenchError("mapping \(byteCount) bytes: \(String(cString: strerror(errno)))")
        }
        close(fd)
        self.base = base
        self.byteCount = byteCount
    }

    deinit { bench_memory_unmap(base, byteCount) }
}

/// A yardstick in a memfd: the same descriptor goes to both ends.
protocol SharedYardstick: Transport {
    func byteCount(_ shape: Shape) -> UInt64
    func endpoint(_ mapping: SharedMapping, _ post: Post) -> any Endpoint
}

extension SharedYardstick {
    var isYardstick: Bool { true }

    func equip(_ shape: Shape, _ variant: Variant) throws -> (
        equipment: [Equipment], state: (any Sendable)?
    ) {
        let fd = try BenchError.check(bench_memory_create(name, byteCount(shape)), "making a memfd")
        return ([Equipment(fds: [fd]), Equipment(fds: [fd])], nil)
    }

    func open(_ post: Post, fds: [Int32]) throws -> any Endpoint {
        endpoint(try SharedMapping(fds[0], byteCount: byteCount(post.shape)), post)
    }
}

/// The plain ring with one producer and one consumer.
struct SpscTransport: SharedYardstick {
    var name = "spsc"

    func variants(for shape: Shape) -> [Variant] {
        guard shape.mode == .spin || shape.mode == .best, shape.senders == 1, shape.receivers == 1,
            shape.workload == .pingPong || shape.workload == .stream,
            shape.payloadBytes <= shape.slotBytes
        else { return [] }
        return [Variant(name: "\(slots(shape)) slots of \(shape.slotBytes) B")]
    }

    private func slots(_ shape: Shape) -> Int { shape.slots == 0 ? 1024 : shape.slots }

    func byteCount(_ shape: Shape) -> UInt64 {
        bench_spsc_bytes(UInt32(slots(shape)), UInt32(shape.slotBytes))
    }

    func endpoint(_ mapping: SharedMapping, _ post: Post) -> any Endpoint {
        let ring = bench_spsc(
            base: mapping.base, slots: UInt32(slots(post.shape)),
            slot_bytes: UInt32(post.shape.slotBytes))
        return SharedEndpoint(mapping) { part, job, outcome in
            var ring = ring
            switch part {
            case .ping: bench_spsc_ping(&ring, &job, &outcome)
            case .pong: bench_spsc_pong(&ring, &job, &outcome)
            case .send: bench_spsc_send(&ring, &job, &outcome)
            case .receive: bench_spsc_receive(&ring, &job, &outcome)
            case .alone: return -EINVAL
            }
            return 0
        }
    }
}

/// Payloads written and read where they lie, with two counters around them.
struct HandoffTransport: SharedYardstick {
    let name = "handoff"

    func variants(for shape: Shape) -> [Variant] {
        guard shape.mode == .spin || shape.mode == .best, shape.workload == .large else {
            return []
        }
        return [Variant(name: "\(Self.slots(shape)) slots")]
    }

    /// As many as the bus1 run; by default 4 MiB of them, 2 at least, 64 at most.
    static func slots(_ shape: Shape) -> Int {
        shape.slots == 0 ? min(64, max(2, (4 << 20) / shape.payloadBytes)) : shape.slots
    }

    func byteCount(_ shape: Shape) -> UInt64 {
        bench_handoff_bytes(UInt32(Self.slots(shape)), UInt64(shape.payloadBytes))
    }

    func endpoint(_ mapping: SharedMapping, _ post: Post) -> any Endpoint {
        let slots = UInt32(Self.slots(post.shape))
        return SharedEndpoint(mapping) { part, job, outcome in
            switch part {
            case .send: bench_handoff_send(mapping.base, slots, &job, &outcome)
            case .receive: bench_handoff_receive(mapping.base, slots, &job, &outcome)
            default: return -EINVAL
            }
            return 0
        }
    }
}

/// Two words and FUTEX_WAIT: the least that a round trip between sleepers costs.
struct FutexTransport: SharedYardstick {
    let name = "futex"

    func variants(for shape: Shape) -> [Variant] {
        guard shape.mode == .park, shape.workload == .pingPong else {
            return []
        }
        return [Variant(name: "one word each way")]
    }

    func byteCount(_ shape: Shape) -> UInt64 { 4096 }

    func endpoint(_ mapping: SharedMapping, _ post: Post) -> any Endpoint {
        SharedEndpoint(mapping) { part, job, outcome in
            switch part {
            case .ping: bench_futex_ping(mapping.base, &job, &outcome)
            case .pong: bench_futex_pong(mapping.base, &job, &outcome)
            default: -EINVAL
            }
        }
    }
}

/// How fast one core reads memory.
struct MemoryReadTransport: SharedYardstick {
    let name = "memory-read"

    func variants(for shape: Shape) -> [Variant] {
        guard shape.workload == .large else { return [] }
        return [Variant(name: "one word a line")]
    }

    /// More than any cache holds.
    func byteCount(_ shape: Shape) -> UInt64 { 256 << 20 }

    func endpoint(_ mapping: SharedMapping, _ post: Post) -> any Endpoint {
        let byteCount = byteCount(post.shape)
        return SharedEndpoint(mapping) { part, job, outcome in
            switch part {
            // The other core stays idle.
            case .send: break
            case .receive: bench_memory_read(mapping.base, byteCount, &job, &outcome)
            default: return -EINVAL
            }
            return 0
        }
    }
}

/// An end whose loops are C functions over one mapping.
final class SharedEndpoint: Endpoint {
    typealias Loop = (Part, inout bench_job, inout bench_outcome) -> Int32
    private let mapping: SharedMapping
    private let loop: Loop

    init(_ mapping: SharedMapping, _ loop: @escaping Loop) {
        self.mapping = mapping
        self.loop = loop
    }

    func run(_ part: Part, _ job: inout bench_job) throws -> bench_outcome {
        var outcome = bench_outcome()
        try BenchError.check(loop(part, &job, &outcome), "\(part.rawValue) in shared memory")
        return outcome
    }
}
