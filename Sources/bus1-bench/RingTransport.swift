import CBench
import CShmRing
import Glibc

/// The library's own ring without peers, nodes and handles: the same operations driven from C, or from
/// Swift, to see what the language costs.
struct RingTransport: Transport {
    enum Language: String, Sendable { case c, swift }

    let language: Language

    var name: String { "ring-\(language.rawValue)" }

    func variants(for shape: Shape) -> [Variant] {
        guard shape.workload == .stream, shape.mode == .spin, shape.batch == 1,
            shape.payloadBytes <= shape.slotBytes - Int(SHMRING_SLOT_HEADER_BYTES)
        else { return [] }
        return [Variant(name: "\(slots(shape)) slots of \(shape.slotBytes) B")]
    }

    private func slots(_ shape: Shape) -> Int { shape.slots == 0 ? 1024 : shape.slots }

    func equip(_ shape: Shape, _ variant: Variant) throws -> (
        equipment: [Equipment], state: (any Sendable)?
    ) {
        var fds = [Int32](repeating: -1, count: Int(BENCH_RING_FDS))
        try Self.check(
            bench_ring_make(UInt32(slots(shape)), UInt32(shape.slotBytes), &fds), "making a ring")
        return ([Equipment(fds: fds), Equipment(fds: fds)], nil)
    }

    func open(_ post: Post, fds: [Int32]) throws -> any Endpoint {
        try RingEndpoint(fds, sends: post.role == .sender, language)
    }

    static func check(_ result: Int32, _ operation: String) throws {
        guard result != 0 else { return }
        throw BenchError("\(operation): \(String(cString: shmring_error_text(result)))")
    }
}

final class RingEndpoint: Endpoint {
    private let ring: UnsafeMutablePointer<bench_ring>
    private let language: RingTransport.Language

    init(_ fds: [Int32], sends: Bool, _ language: RingTransport.Language) throws {
        var opened: UnsafeMutablePointer<bench_ring>?
        try RingTransport.check(bench_ring_open(fds, sends, &opened), "mapping a ring")
        fds.forEach { close($0) }
        ring = opened!
        self.language = language
    }

    deinit { bench_ring_close(ring) }

    func run(_ part: Part, _ job: inout bench_job) throws -> bench_outcome {
        var outcome = bench_outcome()
        let result =
            switch (part, language) {
            case (.send, .c): bench_ring_send(ring, &job, &outcome)
            case (.receive, .c): bench_ring_receive(ring, &job, &outcome)
            case (.send, .swift): send(&job, &outcome)
            case (.receive, .swift): receive(&job, &outcome)
            default: Int32(-EINVAL)
            }
        try RingTransport.check(result, "\(part.rawValue) through a ring")
        return outcome
    }

    // As bench_ring_send and bench_ring_receive.

    private func send(_ job: inout bench_job, _ outcome: inout bench_outcome) -> Int32 {
        let producer = ring.pointer(to: \.producer)!
        let clock = UnsafePointer(ring.pointer(to: \.clock)!)
        let scratch = UnsafeMutableRawPointer.allocate(
            byteCount: Int(SHMRING_SLOT_BYTES_MAX), alignment: 64)
        defer { scratch.deallocate() }
        scratch.initializeMemory(as: UInt8.self, repeating: 0, count: Int(SHMRING_SLOT_BYTES_MAX))
        let bytes = job.payload_bytes
        let first = job.first_sequence
        let count = job.count
        var sum: UInt64 = 0
        var stamp: UInt64 = 0
        outcome.begin = bench_ticks()
        for i in 0..<count {
            sum &+= bench_fill(scratch, bytes, first &+ i)
            var result: Int32
            repeat {
                result = shmring_producer_send(producer, clock, 1, 0, scratch, bytes, &stamp)
                if result == Int32(SHMRING_E_FULL.rawValue) { shmring_pause() }
            } while result == Int32(SHMRING_E_FULL.rawValue)
            if result != 0 { return result }
        }
        outcome.end = bench_ticks()
        outcome.sum = sum
        outcome.messages = count
        return 0
    }

    private func receive(_ job: inout bench_job, _ outcome: inout bench_outcome) -> Int32 {
        let inbox = ring.pointer(to: \.inbox)!
        let message = ring.pointee.message!
        let bytes = job.payload_bytes
        var check = bench_check()
        bench_check_begin(&check, &job)
        while check.remaining != 0 {
            var result: Int32
            repeat {
                result = shmring_inbox_take(inbox, message)
            } while result == Int32(SHMRING_E_EMPTY.rawValue)
            if result != 0 { return result }
            var sequence: UInt64 = 0
            let sum = bench_read(shmring_message_body(message), bytes, &sequence)
            bench_check_note(&check, sequence, sum)
        }
        outcome.end = bench_ticks()
        bench_check_end(&check, &outcome)
        return 0
    }
}
