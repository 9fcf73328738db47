import CBench
import CBenchRivals
import Glibc

#if BUS1_WITH_BOOST
    import CBenchBoost
#endif

/// Other people's message systems, where their Debian packages are installed and were built in.
struct RivalTransport: Transport {
    let name: String
    /// What apt installs it, and what the build is told.
    let package: String
    let variable: String

    private var operations: UnsafePointer<bench_rival_operations>? {
        #if BUS1_WITH_BOOST
            if name == "boost-spsc" { return bench_boost_spsc() }
        #endif
        return bench_rival_find(name)
    }

    var obstacle: String? {
        operations == nil
            ? "not built in: apt-get install \(package), then build with \(variable)=1" : nil
    }

    func variants(for shape: Shape) -> [Variant] {
        guard shape.senders == 1, shape.receivers == 1, shape.batch == 1 else { return [] }
        switch shape.workload {
        case .pingPong, .stream, .large: break
        default: return []
        }
        // Not built in: one variant, so that the obstacle is what people read.
        guard let operations else { return [Variant(name: "not built in")] }
        guard shape.payloadBytes <= operations.pointee.payload_max else { return [] }
        let blocking = Variant(name: "blocking", options: ["spin": 0])
        let spinning = Variant(name: "non-blocking", options: ["spin": 1])
        let can = operations.pointee.can_block ? [blocking, spinning] : [spinning]
        switch shape.mode {
        case .best: return can
        case .spin: return [spinning]
        case .park: return operations.pointee.can_block ? [blocking] : []
        case .adaptive, .eventfd: return []
        }
    }

    func equip(_ shape: Shape, _ variant: Variant) throws -> (
        equipment: [Equipment], state: (any Sendable)?
    ) {
        guard let operations else { throw BenchError(obstacle ?? "not built in") }
        var equipment = Equipment(address: Self.address(name))
        let shared = operations.pointee.shared_bytes
        if shared > 0 {
            let fd = try BenchError.check(bench_memory_create(name, shared), "making a memfd")
            equipment.fds = [fd]
            guard let base = bench_memory_map(fd, shared) else {
                throw BenchError("mapping a memfd")
            }
            operations.pointee.prepare?(base)
            bench_memory_unmap(base, shared)
        }
        let daemon = name == "iceoryx" ? try RouDi.shared() : nil
        return ([equipment, equipment], daemon)
    }

    /// Abstract names: unique to this process and channel, gone with the sockets.
    private static func address(_ name: String) -> String {
        let unique = "bus1-bench-\(getpid())-\(bench_ticks())"
        if name == "iceoryx" { return unique }
        return name == "nng" ? "abstract://\(unique)" : "ipc://@\(unique)"
    }

    func open(_ post: Post, fds: [Int32]) throws -> any Endpoint {
        guard let operations else { throw BenchError(obstacle ?? "not built in") }
        return try RivalEndpoint(operations, post, fds)
    }
}

/// iceoryx's daemon: there can be one on a machine. Runs while a channel needs it.
final class RouDi: Sendable {
    private let pid: pid_t
    nonisolated(unsafe) private static weak var running: RouDi?

    static func shared() throws -> RouDi {
        if let running { return running }
        let fresh = try RouDi()
        running = fresh
        return fresh
    }

    private init() throws {
        pid = try BenchError.check(bench_daemon_spawn("iox-roudi"), "starting iox-roudi")
    }

    deinit { bench_daemon_end(pid) }
}

final class RivalEndpoint: Endpoint {
    private let operations: UnsafePointer<bench_rival_operations>
    private let shared: SharedMapping?
    private var rival: UnsafeMutableRawPointer?

    init(_ operations: UnsafePointer<bench_rival_operations>, _ post: Post, _ fds: [Int32]) throws {
        self.operations = operations
        shared = try fds.first.map {
            try SharedMapping($0, byteCount: operations.pointee.shared_bytes)
        }
        let shared = shared?.base
        // Their own threads go where the kernel likes, as they do in life.
        var before = cpu_set_t()
        try BenchError.check(bench_unpin(&before), "unpinning")
        defer { bench_repin(&before) }
        let result = post.address.withCString { address in
            var end = bench_rival_post(
                address: address, shared: shared, payload_bytes: UInt64(post.shape.payloadBytes),
                sends: post.role == .sender, spin: post.options["spin"] == 1)
            return operations.pointee.open(&end, &rival)
        }
        try BenchError.check(result, "opening \(String(cString: operations.pointee.name))")
    }

    deinit { if let rival { operations.pointee.close(rival) } }

    func run(_ part: Part, _ job: inout bench_job) throws -> bench_outcome {
        var outcome = bench_outcome()
        let result =
            switch part {
            case .ping: bench_rival_ping(operations, rival, &job, &outcome)
            case .pong: bench_rival_pong(operations, rival, &job, &outcome)
            case .send: bench_rival_send(operations, rival, &job, &outcome)
            case .receive: bench_rival_receive(operations, rival, &job, &outcome)
            case .alone: -EINVAL
            }
        try BenchError.check(
            result, "\(part.rawValue) through \(String(cString: operations.pointee.name))")
        return outcome
    }
}
