import Glibc

/// Every row that bus1 must show and that is a measurement, with its target.
///
/// What the probes return, both ends asked at the same time:
/// - `huge-send`: `extra_us`, how much longer the call that sends 256 MiB from a mapped segment takes
///   than one that sends 64 bytes; `first_use_us`, the same with a segment not yet mapped;
///   `left_bytes`, shared memory still there 100 ms after the payload was given back.
/// - `released-handle`: `refused` 1 when, in the middle of a run, the send after the handle's release
///   failed.
/// - `flood`, `busy`: `per_us`, messages that the first sender sent each us beside the second, which
///   floods the same receiver as another user, or keeps the processor as busy without the bus.
/// - `close-thousand`: `seconds` from the begin of the closing to the last of exactly 1,000 notices.
/// - `forged-node`: `refused` 1 when a slot with a forged node ID was not delivered.
let gateRows: [GateRow] = [
    GateRow("round trip 8 B, spinning", .atMost(2), "x raw cache line", nearOnly: true) {
        try $0.compare([roundTrip()]) { .ratiosToLine($0, 0) }
    },
    GateRow("its p99, timed singly", .atMost(2), "x p50", nearOnly: true) {
        try $0.compare([roundTrip()]) { comparison in
            .perRun(comparison, 0) { run in run.latency.map { $0.p99 / $0.p50 } }
        }
    },
    GateRow("stream 40 B, one by one", .atLeast(25), "M/s", nearOnly: true) {
        try $0.compare(stream40) { .figures($0, 0) }
    },
    GateRow("stream 40 B, one by one", .atLeast(0.4), "x plain SPSC ring") {
        try $0.compare(stream40) { .ratios($0, 0, over: 1) }
    },
    GateRow("stream 64 B, one by one", .atLeast(20), "M/s", nearOnly: true) {
        try $0.compare(stream64) { .figures($0, 0) }
    },
    GateRow("stream 64 B, one by one", .atLeast(0.35), "x plain SPSC ring") {
        try $0.compare(stream64) { .ratios($0, 0, over: 1) }
    },
    GateRow("stream 64 B, batched", .atLeast(0.8), "x plain SPSC ring, one by one") {
        try $0.compare(batched64) { .ratios($0, 0, over: 1) }
    },
    GateRow("stream 64 B from 2 processes", .atLeast(0.6), "x one sender") {
        try $0.compare(manySenders(2)) { .ratios($0, 0, over: 1) }
    },
    GateRow("stream 64 B from 4 processes", .atLeast(0.6), "x one sender") {
        try $0.compare(manySenders(4)) { .ratios($0, 0, over: 1) }
    },
    GateRow("parked round trip", .atMost(1.1), "x raw futex") {
        try $0.compare(parked) { .ratios($0, 0, over: 1) }
    },
    GateRow("async receive, parked: p50", .atMost(1.5), "x blocking, parked") {
        try $0.compare(parkedTasks) { comparison in
            .values(
                comparison.kept(0, 1) { task, thread in
                    guard let this = task.latency?.p50, let that = thread.latency?.p50 else {
                        return nil
                    }
                    return this / that
                }, tries: comparison.records[0].runs.count, comparison.placement)
        }
    },
    GateRow("call and reply 64 B, spinning", .atMost(1.3), "x two plain messages") {
        try $0.turns("call-turns", stream(64))
    },
    GateRow("adaptive, steady ping-pong", .atMost(1.2), "x spinning") {
        try $0.compare([roundTrip(.adaptive), roundTrip()]) { .ratios($0, 0, over: 1) }
    },
    GateRow("64 KiB loaned", .atLeast(0.9), "x bare hand-off") {
        try $0.compare(loaned(64 << 10, slots: 64)) { .ratios($0, 0, over: 1) }
    },
    GateRow("64 KiB loaned", .atLeast(10), "x pipe") {
        try $0.compare(loaned(64 << 10, slots: 64)) { .ratios($0, 0, over: 2) }
    },
    GateRow("1 MiB loaned", .atLeast(0.9), "x bare hand-off") {
        try $0.compare(loaned(1 << 20, slots: 8)) { .ratios($0, 0, over: 1) }
    },
    GateRow("1 MiB loaned", .atLeast(10), "x pipe") {
        try $0.compare(loaned(1 << 20, slots: 8)) { .ratios($0, 0, over: 2) }
    },
    GateRow("256 MiB in one message, sending it", .atMost(2), "us more than a small one") {
        try $0.probe("huge-send", large(256 << 20, slots: 2), "extra_us", alsoSay: "first_use_us")
    },
    GateRow("its memory, 100 ms after it went idle", .atMost(1), "MiB left") {
        try $0.probe("huge-send", large(256 << 20, slots: 2), "left_bytes", scale: 1 / 1048576.0)
    },
    GateRow("multicast 64 B, 1 to 4, parking", .atLeast(5), "M deliveries/s") {
        try $0.compare([
            ("bus1", Shape(workload: .multicast, payloadBytes: 64, receivers: 4, mode: .park))
        ]) { .figures($0, 0) }
    },
    GateRow("multicast 64 B to 8, sending it", .atMost(1.3), "x 8 unicasts to the same") {
        try $0.turns("multicast-turns", stream(64))
    },
    GateRow("a cycle that passes an own node's handle", .atMost(1.5), "x the cycle without") {
        try $0.turns("hand-over-own", stream(8))
    },
    GateRow("a cycle that passes another's handle", .atMost(4), "x the cycle without") {
        try $0.turns("hand-over-foreign", stream(8))
    },
    GateRow("throughput beside another user's flood", .atLeast(0.8), "x beside as busy a process") {
        try $0.probes(
            "flood", over: "busy", floodedPair, "per_us",
            note: floodedPair.otherUser ? "UID 61001 floods" : "one user: not root")
    },
    GateRow("1,000 peers with 100 handles each, closed", .atMost(10), "s to 1,000 notices") {
        try $0.probe("close-thousand", stream(8), "seconds")
    },
    GateRow("system calls a message, spinning", .atMost(0), "") { try $0.systemCalls() },
    GateRow("allocations a message, spinning", .atMost(0), "") { try $0.allocations() },
    GateRow("page faults of a run after a warm-up", .atMost(0), "") { try $0.pageFaults() },
    GateRow("running process to first message", .atMost(1000), "us") {
        try $0.compare([("bus1", Shape(workload: .firstMessage, payloadBytes: 64))]) {
            .figures($0, 0)
        }
    },
    GateRow("1,000 idle peers: the active pair", .atMost(1.1), "x alone") {
        try $0.compare([idlePeers, roundTrip()]) { .ratios($0, 0, over: 1) }
    },
    GateRow("1,000 idle peers: memory of each", .atMost(64), "KiB") {
        try $0.idleMemory(idlePeers)
    },
    GateRow("1,000 idle peers at ulimit -n 1024", .atLeast(1), "works or refuses clearly") {
        try $0.fewDescriptors()
    },
    GateRow("Swift against C, the same ring operations", .atMost(1.05), "x the time of C") {
        try $0.compare(swiftAndC) { .ratios($0, 1, over: 0) }
    },
    GateRow("C interface: round trip 64 B, spinning", .atMost(1.1), "x the Swift path") {
        try $0.compare([roundTrip(bytes: 64, by: "bus1-c"), roundTrip(bytes: 64)]) {
            .ratios($0, 0, over: 1)
        }
    },
    GateRow("C interface: stream 64 B, one by one", .atMost(1.1), "x the time of the Swift path") {
        try $0.compare([("bus1", stream(64)), ("bus1-c", stream(64))]) { .ratios($0, 0, over: 1) }
    },
    GateRow("a released handle in mid-run: the next send", .atLeast(1), "refused") {
        try $0.probe("released-handle", stream(40), "refused")
    },
    GateRow("a slot with a forged node ID", .atLeast(1), "refused") {
        try $0.probe("forged-node", stream(40), "refused")
    },
]

// MARK: shapes

typealias Entrant = (transport: String, shape: Shape)

private func roundTrip(
    _ mode: Shape.Mode = .spin, bytes: Int = 8, by transport: String = "bus1"
) -> Entrant {
    (transport, Shape(workload: .pingPong, payloadBytes: bytes, mode: mode))
}

private func stream(_ bytes: Int, batch: Int = 1) -> Shape {
    Shape(
        workload: .stream, payloadBytes: bytes, mode: .spin, batch: batch,
        slotBytes: 128)
}

private func large(_ bytes: Int, slots: Int) -> Shape {
    Shape(workload: .large, payloadBytes: bytes, mode: .spin, slots: slots)
}

private let stream40: [Entrant] = [("bus1", stream(40)), ("spsc", stream(40))]
private let stream64: [Entrant] = [("bus1", stream(64)), ("spsc", stream(64))]
private let batched64: [Entrant] = [("bus1", stream(64, batch: 64)), ("spsc", stream(64))]
private let swiftAndC: [Entrant] = [("ring-swift", stream(40)), ("ring-c", stream(40))]

private func manySenders(_ count: Int) -> [Entrant] {
    var many = stream(64)
    many.workload = .manySenders
    many.senders = count
    return [("bus1", many), ("bus1", stream(64))]
}

/// The second sender floods the receiver of the first; it shares the first one's core, if there are two.
private let floodedPair: Shape = {
    var shape = stream(8)
    shape.workload = .manySenders
    shape.senders = 2
    shape.otherUser = geteuid() == 0
    return shape
}()

/// Rare messages, so that both sides sleep at every one.
private let parked: [Entrant] = ["bus1", "futex"].map {
    ($0, Shape(workload: .pingPong, payloadBytes: 8, mode: .park, intervalNs: 200_000))
}

/// The same, by tasks and by threads.
private let parkedTasks: [Entrant] = ["bus1-async", "bus1"].map {
    ($0, Shape(workload: .pingPong, payloadBytes: 8, mode: .park, intervalNs: 200_000))
}

private func loaned(_ bytes: Int, slots: Int) -> [Entrant] {
    var pipe = large(bytes, slots: 0)
    pipe.mode = .best
    return [
        ("bus1", large(bytes, slots: slots)), ("handoff", large(bytes, slots: slots)),
        ("pipe", pipe),
    ]
}

private let idlePeers: Entrant = (
    "bus1", Shape(workload: .idlePeers, payloadBytes: 8, mode: .spin, idlePeers: 1000)
)
