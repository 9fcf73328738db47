@_spi(Hostile) import Bus1Shm
import CBench
import Glibc

/// bus1 through its public Swift interface: unrelated processes that meet by name.
struct Bus1Transport: Transport {
    let name = "bus1"

    func variants(for shape: Shape) -> [Variant] {
        switch shape.mode {
        case .best, .spin: [Variant(name: "spinning", options: ["spin": 1])]
        case .park: [Variant(name: "parking", options: ["park": 1])]
        case .adaptive: [Variant(name: "spinning, then parking")]
        case .eventfd: [Variant(name: "sleeping on the descriptor", options: ["event": 1])]
        }
    }

    func equip(_ shape: Shape, _ variant: Variant) throws -> (
        equipment: [Equipment], state: (any Sendable)?
    ) {
        let host = try BusHost()
        // Other users must find the socket.
        if shape.otherUser { chmod(host.directoryPath, 0o755) }
        let one = Equipment(fds: [], address: host.bus.path)
        return (Array(repeating: one, count: shape.senders + shape.receivers), host)
    }

    func open(_ post: Post, fds: [Int32]) throws -> any Endpoint { try Bus1Endpoint(post) }
}

/// The same, by tasks that suspend, each side on a `BusExecutor`.
struct Bus1TaskTransport: Transport {
    let name = "bus1-async"

    func variants(for shape: Shape) -> [Variant] {
        shape.isRoundTrip && shape.mode == .park
            ? [Variant(name: "suspending a task", options: ["park": 1, "task": 1])] : []
    }

    func equip(_ shape: Shape, _ variant: Variant) throws -> (
        equipment: [Equipment], state: (any Sendable)?
    ) { try Bus1Transport().equip(shape, variant) }

    func open(_ post: Post, fds: [Int32]) throws -> any Endpoint { try Bus1Endpoint(post) }
}

/// The first peer of a bus, and with it the broker's thread: in the coordinator, which is pinned to no
/// processor. In a worker it would share one with a receiver that spins.
final class BusHost: @unchecked Sendable {
    // @unchecked: nobody uses the peer; it only lives.
    let bus: Bus
    private let directory: TemporaryDirectory
    private let peer: Peer
    var directoryPath: String { directory.path }

    init() throws {
        directory = try TemporaryDirectory()
        bus = Bus(path: directory.path + "/bus")
        peer = try Peer(on: bus)
    }
}

/// Goes with everything that a bus may have left in it.
final class TemporaryDirectory: Sendable {
    let path: String

    init() throws {
        var template = Array("/tmp/bus1-bench-XXXXXX".utf8CString)
        guard let made = mkdtemp(&template) else {
            throw BenchError("making a directory: \(String(cString: strerror(errno)))")
        }
        path = String(cString: made)
    }

    deinit {
        for name in ["bus", "bus.lock"] { unlink("\(path)/\(name)") }
        rmdir(path)
    }
}

/// One worker's peer. Everything measured goes through the public interface.
final class Bus1Endpoint: Endpoint, ProbedEndpoint {
    let bus: Bus
    let post: Post
    let peer: Peer
    let node: Node
    /// To the receivers (of a sender), or to the first sender (of a receiver).
    private(set) var handles: [HandleBox] = []
    private var idle: [IdlePeer] = []
    /// Further receivers in this process.
    var company: [Company] = []
    let scratch: UnsafeMutableRawBufferPointer
    private let sleepsOnDescriptor: Bool
    private let isAsync: Bool

    init(_ post: Post) throws {
        self.post = post
        if post.shape.otherUser && post.role == .sender && post.index > 0 {
            try BenchError.check(bench_check_become(61001, getppid()), "becoming another user")
        }
        bus = Bus(path: post.address)
        var options = Peer.Options()
        if post.options["spin"] == 1 { options.spin = .seconds(3600) }
        if post.options["park"] == 1 || post.options["event"] == 1 { options.spin = .zero }
        sleepsOnDescriptor = post.options["event"] == 1
        isAsync = post.options["task"] == 1
        peer = try Peer(on: bus, options)
        node = try peer.makeNode()
        try peer.publish(
            node, as: "\(post.role.rawValue)-\(post.index)",
            to: post.shape.otherUser ? .anyone : .sameUser)
        let shape = post.shape
        scratch = .allocate(
            byteCount: max(64, shape.payloadBytes * (shape.workload == .large ? 1 : shape.batch)),
            alignment: 64)
        scratch.initializeMemory(as: UInt8.self, repeating: 0)
    }

    deinit { scratch.deallocate() }

    /// Looks the others up, once both sides run: each waits for the other's name.
    private func connect() throws {
        guard handles.isEmpty else { return }
        let names =
            post.role == .sender
            ? (0..<post.shape.receivers).map { "receiver-\($0)" }
            : post.shape.isRoundTrip ? ["sender-0"] : []
        for name in names {
            handles.append(HandleBox(try peer.lookUp(name, until: .after(.seconds(20)))))
        }
        if post.role == .sender && post.index == 0 {
            for _ in 0..<post.shape.idlePeers { idle.append(try IdlePeer(bus)) }
        }
    }

    func run(_ part: Part, _ job: inout bench_job) throws -> bench_outcome {
        try connect()
        if isAsync { return try runInTask(part, job) }
        if part == .ping || part == .pong {
            switch job.payload_bytes {
            case 8: return try roundTrips(part, &job, UInt64.self)
            case 64: return try roundTrips(part, &job, InlineArray<8, UInt64>.self)
            default: return try roundTrips(part, &job)
            }
        }
        if part == .receive { return try receive(&job) }
        if post.shape.workload == .large { return try sendSlices(&job) }
        if post.shape.receivers > 1 { return try multicast(&job) }
        if job.sabotaged { return try sendSabotaged(&job) }
        if job.batch > 1 { return try sendBatches(&job) }
        switch job.payload_bytes {
        case 8: return try send(&job, UInt64.self)
        case 40: return try send(&job, InlineArray<5, UInt64>.self)
        case 64: return try send(&job, InlineArray<8, UInt64>.self)
        default: return try send(&job)
        }
    }

    // MARK: Round trips

    private func roundTrips<T: BitwiseCopyable>(
        _ part: Part, _ job: inout bench_job, _ type: T.Type
    ) throws -> bench_outcome {
        let handle = handles[0]
        let scratch = scratch.baseAddress!
        return try roundTrips(part, &job) { peer throws(Bus1Error) in
            _ = try peer.send(scratch.load(as: T.self), to: handle.handle)
        }
    }

    private func roundTrips(_ part: Part, _ job: inout bench_job) throws -> bench_outcome {
        let handle = handles[0]
        let scratch = UnsafeRawBufferPointer(rebasing: scratch[..<Int(job.payload_bytes)])
        return try roundTrips(part, &job) { peer throws(Bus1Error) in
            _ = try peer.send(scratch.bytes, to: handle.handle)
        }
    }

    @inline(__always)
    private func roundTrips(
        _ part: Part, _ job: inout bench_job, _ send: (borrowing Peer) throws(Bus1Error) -> Void
    ) throws -> bench_outcome {
        part == .ping ? try ping(&job, send) : try pong(&job, send)
    }

    @inline(__always)
    private func ping(
        _ job: inout bench_job, _ send: (borrowing Peer) throws(Bus1Error) -> Void
    ) throws -> bench_outcome {
        var outcome = bench_outcome()
        var check = bench_check()
        bench_check_begin(&check, &job)
        let bytes = job.payload_bytes
        var sum: UInt64 = 0
        outcome.begin = bench_ticks()
        var before = outcome.begin
        for i in 0..<job.count {
            if job.interval_ticks != 0 { before = bench_pace(&job, outcome.begin, i) }
            if job.sabotaged {
                var index = i
                _ = bench_sabotage_step(&job, &index)
            }
            sum &+= bench_fill(scratch.baseAddress!, bytes, job.first_sequence + i)
            try send(peer)
            try note(&check, bytes)
            before = bench_sample(&job, i, before)
        }
        outcome.end = bench_ticks()
        bench_check_end(&check, &outcome)
        outcome.faults += sum == outcome.sum ? 0 : 1
        return outcome
    }

    @inline(__always)
    private func pong(
        _ job: inout bench_job, _ send: (borrowing Peer) throws(Bus1Error) -> Void
    ) throws -> bench_outcome {
        var outcome = bench_outcome()
        var check = bench_check()
        bench_check_begin(&check, &job)
        let bytes = job.payload_bytes
        while check.remaining != 0 {
            let sequence = try note(&check, bytes)
            _ = bench_fill(scratch.baseAddress!, bytes, sequence)
            try send(peer)
        }
        bench_check_end(&check, &outcome)
        return outcome
    }

    /// Receives one message and takes it down; its sequence number.
    @inline(__always) @discardableResult
    private func note(_ check: inout bench_check, _ bytes: UInt64) throws -> UInt64 {
        while true {
            switch sleepsOnDescriptor ? try receiveInLoop() : try peer.receive() {
            case .message(let message): return try note(message, &check, bytes)
            case .notice: continue
            }
        }
    }

    /// A borrowed parameter: a span of a `let` would be allocated for each message (Swift 6.3).
    @inline(__always)
    func note(
        _ message: borrowing Message, _ check: inout bench_check, _ bytes: UInt64
    ) throws -> UInt64 {
        guard UInt64(message.byteCount) == bytes else {
            throw BenchError("a payload of \(message.byteCount) B, not \(bytes)")
        }
        var sequence: UInt64 = 0
        let sum = message.payload.withUnsafeBytes {
            bench_read($0.baseAddress!, bytes, &sequence)
        }
        bench_check_note(&check, sequence, sum)
        return sequence
    }

    /// As an event loop does that has nothing else to wait for.
    private func receiveInLoop() throws -> Delivery {
        while true {
            if let delivery = try peer.tryReceive() { return delivery }
            var wanted = pollfd(fd: try peer.descriptor(), events: Int16(POLLIN), revents: 0)
            poll(&wanted, 1, -1)
        }
    }

    // MARK: Streams

    private func send<T: BitwiseCopyable>(_ job: inout bench_job, _ type: T.Type) throws
        -> bench_outcome
    {
        let handle = handles[0]
        let scratch = scratch.baseAddress!
        let bytes = UInt64(MemoryLayout<T>.size)
        return try sendEach(&job, bytes) { peer throws(Bus1Error) in
            _ = try peer.send(scratch.load(as: T.self), to: handle.handle)
        }
    }

    private func send(_ job: inout bench_job) throws -> bench_outcome {
        let handle = handles[0]
        let scratch = UnsafeRawBufferPointer(rebasing: scratch[..<Int(job.payload_bytes)])
        return try sendEach(&job, job.payload_bytes) { peer throws(Bus1Error) in
            _ = try peer.send(scratch.bytes, to: handle.handle)
        }
    }

    private func multicast(_ job: inout bench_job) throws -> bench_outcome {
        let ids = handles.map { $0.handle.id }
        let scratch = UnsafeRawBufferPointer(rebasing: scratch[..<Int(job.payload_bytes)])
        return try sendEach(&job, job.payload_bytes) { peer throws(Bus1Error) in
            _ = try peer.send(scratch.bytes, to: ids)
        }
    }

    @inline(__always)
    private func sendEach(
        _ job: inout bench_job, _ bytes: UInt64, _ send: (borrowing Peer) throws(Bus1Error) -> Void
    ) throws -> bench_outcome {
        var outcome = bench_outcome()
        var sum: UInt64 = 0
        let base = scratch.baseAddress!
        let first = job.first_sequence
        outcome.begin = bench_ticks()
        for i in 0..<job.count {
            sum &+= bench_fill(base, bytes, first + i)
            try send(peer)
        }
        outcome.end = bench_ticks()
        outcome.sum = sum
        outcome.messages = job.count
        return outcome
    }

    private func sendSabotaged(_ job: inout bench_job) throws -> bench_outcome {
        var outcome = bench_outcome()
        outcome.begin = bench_ticks()
        for i in 0..<job.count {
            var index = i
            for _ in 0..<bench_sabotage_step(&job, &index) {
                outcome.sum &+= bench_fill(
                    scratch.baseAddress!, job.payload_bytes, job.first_sequence + index)
                let bytes = UnsafeRawBufferPointer(rebasing: scratch[..<Int(job.payload_bytes)])
                try peer.send(bytes.bytes, to: handles[0].handle)
            }
        }
        outcome.end = bench_ticks()
        outcome.messages = job.count
        return outcome
    }

    private func sendBatches(_ job: inout bench_job) throws -> bench_outcome {
        var outcome = bench_outcome()
        let handle = handles[0]
        let bytes = Int(job.payload_bytes)
        outcome.begin = bench_ticks()
        var done: UInt64 = 0
        while done < job.count {
            let many = Int(min(UInt64(job.batch), job.count - done))
            for k in 0..<many {
                outcome.sum &+= bench_fill(
                    scratch.baseAddress! + k * bytes, job.payload_bytes,
                    job.first_sequence + done + UInt64(k))
            }
            var sent = 0
            while sent < many {
                let rest = UnsafeRawBufferPointer(
                    rebasing: scratch[(sent * bytes)..<(many * bytes)])
                sent += try peer.trySend(eachOf: rest.bytes, byteCount: bytes, to: handle.handle)
            }
            done += UInt64(many)
        }
        outcome.end = bench_ticks()
        outcome.messages = job.count
        return outcome
    }

    private func sendSlices(_ job: inout bench_job) throws -> bench_outcome {
        var outcome = bench_outcome()
        let bytes = Int(job.payload_bytes)
        let deadline = Deadline.after(.seconds(3600))
        outcome.begin = bench_ticks()
        for i in 0..<job.count {
            var slice = try peer.loan(bytes, until: deadline)
            var room = slice.bytes
            outcome.sum &+= room.withUnsafeMutableBytes {
                bench_fill($0.baseAddress!, job.payload_bytes, job.first_sequence + i)
            }
            try peer.send(slice, to: handles[0].handle)
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

    // MARK: Probes

    func probe(_ name: String, _ part: Part) throws -> [String: Double] {
        try connect()
        switch (name, part) {
        case ("huge-send", .send), ("huge-send", .ping): return try sendHuge()
        case ("huge-send", _): return try takeHuge()
        case ("released-handle", .send), ("released-handle", .ping): return try sendAfterRelease()
        case ("released-handle", _): return try takeUntilLast()
        case ("forged-node", .send), ("forged-node", .ping): return try sendForged()
        case ("forged-node", _): return try takeUntilLast(isJudge: true)
        case ("flood", .send), ("busy", .send):
            return post.index == 0 ? try workBesideFlood() : try flood(really: name == "flood")
        case ("flood", _), ("busy", _): return try receiveFlood()
        case ("close-thousand", .send): return try closeThousand()
        case ("close-thousand", _): return [:]
        case ("multicast-turns", .send): return try multicastTurns()
        case ("hand-over-own", .send): return try handOverTurns(ofOwn: true)
        case ("hand-over-foreign", .send): return try handOverTurns(ofOwn: false)
        case ("call-turns", .send), ("call-turns", .ping): return try callTurns()
        case ("call-turns", _): return try serveCalls()
        case ("multicast-turns", _): return try serveTurns(companyToo: true)
        case ("hand-over-own", _), ("hand-over-foreign", _):
            return try serveTurns(companyToo: false)
        default: throw BenchError("bus1 knows no probe \(name)")
        }
    }

    private static let hugeRounds = 9

    /// What the call takes that sends 256 MiB, over what it takes for 64 bytes; the memory left 100 ms after.
    private func sendHuge() throws -> [String: Double] {
        let ticksPerUs = bench_ticks_per_ns() * 1000
        var huge: [Double] = []
        var small: [Double] = []
        let before = sharedBytes()
        for _ in 0..<Self.hugeRounds {
            var slice = try peer.loan(post.shape.payloadBytes, until: .after(.seconds(30)))
            // Each is sent right after 256 MiB were written: the difference is the size's, not that of
            // caches which the writing has emptied.
            var few = try peer.loan(64)
            for isHuge in [false, true] {
                var room = slice.bytes
                room.withUnsafeMutableBytes {
                    _ = bench_fill($0.baseAddress!, UInt64($0.count), 1)
                }
                if isHuge { break }
                var fewRoom = few.bytes
                fewRoom.withUnsafeMutableBytes { _ = bench_fill($0.baseAddress!, 64, 1) }
                let begin = bench_ticks()
                try peer.send(few, to: handles[0].handle)
                small.append(Double(bench_ticks() - begin) / ticksPerUs)
                _ = try peer.receive()
                few = try peer.loan(64)
            }
            let begin = bench_ticks()
            try peer.send(slice, to: handles[0].handle)
            huge.append(Double(bench_ticks() - begin) / ticksPerUs)
            _ = try peer.receive()
        }
        // Idle: both sides only wait for messages, as servers do.
        let deadline = Deadline.after(.milliseconds(100))
        while !deadline.hasPassed { _ = try? peer.receive(until: deadline) }
        let left = max(0, sharedBytes() - before)
        let last = try peer.loan(64)
        try peer.send(last, to: handles[0].handle)
        let median = { (values: ArraySlice<Double>) in values.sorted()[values.count / 2] }
        return [
            "extra_us": median(huge.dropFirst()) - median(small.dropFirst()),
            "first_use_us": huge[0],
            "left_bytes": left,
        ]
    }

    private func takeHuge() throws -> [String: Double] {
        let answer = HandleBox(try peer.lookUp("sender-0", until: .after(.seconds(20))))
        for _ in 0..<(2 * Self.hugeRounds) {
            if case .message(let message) = try peer.receive() {
                var sequence: UInt64 = 0
                let bytes = UInt64(message.byteCount)
                _ = message.payload.withUnsafeBytes {
                    bench_read($0.baseAddress!, bytes, &sequence)
                }
            }
            try peer.send(UInt64(0), to: answer.handle)
        }
        _ = try peer.receive()
        return [:]
    }

    /// Half a run, then the handle is released: the next send must fail.
    private func sendAfterRelease() throws -> [String: Double] {
        let handle = try peer.lookUp("receiver-0", until: .after(.seconds(20)))
        let id = handle.detach()
        for _ in 0..<1000 {
            while try peer.trySend(UInt64(1), to: id) == nil {}
        }
        try peer.release(id)
        var refused = 0.0
        do {
            _ = try peer.trySend(UInt64(2), to: id)
        } catch {
            refused = error.code == .noSuchHandle ? 1 : 0
        }
        try peer.send(UInt64(3), to: handles[0].handle)
        return ["refused": refused]
    }

    /// Messages under grants that nobody gave, between honest ones.
    private func sendForged() throws -> [String: Double] {
        for distance in [1, 2, 100, 1 << 20, 1 << 31] as [UInt32] {
            while try !hotPathSend(peer, 1, handles[0].handle) {}
            try peer.sendForged(UInt64(2), grantsBeyond: distance, to: handles[0].handle)
        }
        try peer.send(UInt64(3), to: handles[0].handle)
        return [:]
    }

    private func takeUntilLast(isJudge: Bool = false) throws -> [String: Double] {
        var strays = 0.0
        while true {
            guard let value = try hotPathReceive(peer) else { continue }
            if value == 2 { strays += 1 }
            if value == 3 { return strays > 0 ? ["refused": 0] : isJudge ? ["refused": 1] : [:] }
        }
    }

    /// Pages of shared memory in use on the whole machine.
    private func sharedBytes() -> Double {
        guard let file = fopen("/proc/meminfo", "r") else { return 0 }
        defer { fclose(file) }
        var line = [CChar](repeating: 0, count: 256)
        while fgets(&line, 256, file) != nil {
            let words = String(
                decoding: line.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self
            )
            .split(separator: " ")
            if words.first == "Shmem:", words.count > 1 { return (Double(words[1]) ?? 0) * 1024 }
        }
        return 0
    }
}

/// Arrays take no noncopyable elements.
final class HandleBox {
    let handle: Handle
    init(_ handle: consuming Handle) { self.handle = handle }
}

/// A peer that was introduced to the receiver and says nothing.
final class IdlePeer {
    private let peer: Peer
    private let handle: Handle

    init(_ bus: Bus) throws {
        let peer = try Peer(on: bus)
        handle = try peer.lookUp("receiver-0", until: .after(.seconds(20)))
        self.peer = peer
    }
}
