import CBench
import Glibc

/// The rivals that move bytes through descriptors: pipe, sockets, POSIX message queue.
struct WireTransport: Transport {
    enum Kind: UInt32, Sendable {
        case pipe, stream, seqpacket, queue, tcp

        var isDatagram: Bool { self == .seqpacket || self == .queue }
    }

    let name: String
    let kind: Kind

    func variants(for shape: Shape) -> [Variant] {
        switch shape.workload {
        case .idlePeers: return []
        case .firstMessage: return [Variant(name: "made before the start", options: ["spin": 0])]
        case .manySenders where kind == .tcp: return []
        // A write to a pipe is whole only up to PIPE_BUF.
        case .manySenders where shape.payloadBytes * shape.batch > 4096: return []
        default: break
        }
        var found: [Variant] = []
        for (waiting, spin) in [("blocking", 0), ("non-blocking", 1)] where allows(spin, shape.mode)
        {
            for buffer in buffers(for: shape) {
                for (cut, chunk) in chunks(for: shape) {
                    let size = buffer == 0 ? "default buffer" : "\(ByteCount(buffer)) buffer"
                    let name = [waiting, kind == .queue ? "" : size, cut].filter { !$0.isEmpty }
                        .joined(separator: ", ")
                    found.append(
                        Variant(
                            name: name, options: ["spin": spin, "buffer": buffer, "chunk": chunk]))
                }
            }
        }
        return found
    }

    private func allows(_ spin: Int, _ mode: Shape.Mode) -> Bool {
        switch mode {
        case .best: true
        case .spin: spin == 1
        case .park: spin == 0
        case .adaptive, .eventfd: false
        }
    }

    private func buffers(for shape: Shape) -> [Int] {
        switch kind {
        case .queue: [0]
        case .pipe: [0, 1 << 20]
        // A datagram must fit the buffer.
        case .seqpacket: shape.payloadBytes > 65536 ? [4 << 20] : [0, 4 << 20]
        case .stream, .tcp: [0, 4 << 20]
        }
    }

    /// Small and full-size writes: large payloads whole or by 64 KiB, batches as they are or joined.
    private func chunks(for shape: Shape) -> [(String, Int)] {
        if kind == .queue { return [("", 0)] }
        if shape.payloadBytes > 65536 { return [("whole writes", 0), ("64 KiB writes", 65536)] }
        if shape.batch > 1 && !kind.isDatagram {
            return [("one write a batch", 0), ("64 KiB writes", 65536)]
        }
        return [("", 0)]
    }

    /// Queues no larger than the payload asks for: all queues of a user share one small limit.
    private func datagramMax(_ shape: Shape) -> Int {
        switch kind {
        case .queue: min(Int(bench_queue_message_max()), shape.payloadBytes)
        case .seqpacket: 1 << 20
        default: 0
        }
    }

    func equip(_ shape: Shape, _ variant: Variant) throws -> (
        equipment: [Equipment], state: (any Sendable)?
    ) {
        var senders = [Equipment](repeating: Equipment(), count: shape.senders)
        var receivers: [Equipment] = []
        for receiver in 0..<shape.receivers {
            var link = bench_link()
            try BenchError.check(
                bench_link_make(
                    kind.rawValue, UInt64(variant.options["buffer"] ?? 0),
                    UInt64(datagramMax(shape)),
                    &link),
                "making a \(name)")
            for sender in senders.indices {
                senders[sender].fds.append(link.sender_send)
                if receiver == 0 { senders[sender].fds.insert(link.sender_receive, at: 0) }
            }
            receivers.append(Equipment(fds: [link.receiver_receive, link.receiver_send]))
            if receiver > 0 && link.sender_receive != link.sender_send {
                receivers[receiver].fds.append(link.sender_receive)
            }
        }
        return (senders + receivers, nil)
    }

    func open(_ post: Post, fds: [Int32]) throws -> any Endpoint {
        var wire = bench_wire()
        wire.kind = kind.rawValue
        wire.spin = post.options["spin"] == 1
        wire.receive_fd = fds[0]
        wire.chunk_bytes = UInt64(post.options["chunk"] ?? 0)
        wire.datagram_max = UInt64(datagramMax(post.shape))
        let sending = post.role == .sender ? fds.dropFirst() : fds.dropFirst().prefix(1)
        wire.send_fd_count = UInt32(sending.count)
        withUnsafeMutableBytes(of: &wire.send_fds) { places in
            for (place, fd) in sending.enumerated() {
                places.storeBytes(
                    of: fd, toByteOffset: place * MemoryLayout<Int32>.size, as: Int32.self)
            }
        }
        return try WireEndpoint(wire, payloadMax: post.shape.payloadBytes * post.shape.batch)
    }
}

final class WireEndpoint: Endpoint {
    private var wire: bench_wire

    init(_ wire: bench_wire, payloadMax: Int) throws {
        self.wire = wire
        try BenchError.check(
            bench_wire_open(&self.wire, UInt64(payloadMax)), "setting up a descriptor")
    }

    deinit { bench_wire_close(&wire) }

    func run(_ part: Part, _ job: inout bench_job) throws -> bench_outcome {
        var outcome = bench_outcome()
        let result =
            switch part {
            case .ping: bench_wire_ping(&wire, &job, &outcome)
            case .pong: bench_wire_pong(&wire, &job, &outcome)
            case .send: bench_wire_send(&wire, &job, &outcome)
            case .receive: bench_wire_receive(&wire, &job, &outcome)
            case .alone: -EINVAL
            }
        try BenchError.check(result, "\(part.rawValue) through a descriptor")
        return outcome
    }
}
