import CBench
import FoundationEssentials
import Glibc

/// What the coordinator tells a worker.
enum Order: Codable, Sendable {
    case open(channel: Int, transport: String, post: Post)
    case close(channel: Int)
    case run(channel: Int, Assignment)
    /// The yardstick, `batches` times `trips` round trips; nothing when `part` is `alone`.
    case canary(part: Part, trips: Int, batches: Int, meeting: UInt32)
    /// Open a channel and send the first message: timed from before the opening.
    case first(transport: String, post: Post, Assignment)
    /// A question that only some endpoints can answer.
    case probe(channel: Int, name: String, part: Part, meeting: UInt32)
    case quit
}

/// One run of a channel, seen by one worker.
struct Assignment: Codable, Sendable {
    var part: Part
    var count: Int
    var payloadBytes: Int
    var batch: Int
    var senders: Int
    var receivers: Int
    /// This worker's place among those of its part.
    var index: Int
    var generation: UInt16
    /// Time each round trip singly.
    var timed: Bool
    var intervalNs: Int
    var sabotage = Sabotage()
    /// How many come to the barrier in all before the run begins.
    var meeting: UInt32
}

/// What a negative control does to a run.
struct Sabotage: Codable, Hashable, Sendable {
    enum Fault: String, Codable, Sendable { case none, dropped, doubled, swapped }
    var delayNs = 0
    var systemCalls = 0
    var allocations = 0
    var repeats = 0
    var fault = Fault.none
    var faultAt = 0

    var isNone: Bool { self == Sabotage() }
}

enum Answer: Codable, Sendable {
    case done
    case ran(WorkerReport)
    case canary(nsPerTrip: [Double])
    case probed([String: Double])
    case failed(String)
}

struct WorkerReport: Codable, Sendable {
    var messages: UInt64
    var sum: UInt64
    var faults: UInt64
    var faultWant: UInt64
    var faultGot: UInt64
    var begin: UInt64
    var end: UInt64
    var pageFaults: UInt64
    var preemptions: UInt64
    var latency: Latency?
}

/// One end of the socket between coordinator and worker.
final class ControlSocket {
    let fd: Int32
    private var buffer = [UInt8](repeating: 0, count: 64 << 10)

    /// Takes the descriptor over.
    init(_ fd: Int32) { self.fd = fd }

    deinit { close(fd) }

    func send(_ message: some Encodable, fds: [Int32] = []) throws {
        let bytes = [UInt8](try JSONEncoder().encode(message))
        try BenchError.check(
            bench_control_send(fd, bytes, UInt64(bytes.count), fds, UInt32(fds.count)),
            "talking to a worker")
    }

    /// nil when the other end is gone.
    func receive<M: Decodable>(_ type: M.Type) throws -> (message: M, fds: [Int32])? {
        var fds = [Int32](repeating: -1, count: Int(BENCH_FDS_MAX))
        var fdCount: UInt32 = 0
        let length = try BenchError.check(
            bench_control_receive(fd, &buffer, UInt64(buffer.count), &fds, &fdCount),
            "listening to a worker")
        guard length > 0 else { return nil }
        let message = try JSONDecoder().decode(type, from: Data(buffer[..<Int(length)]))
        return (message, Array(fds[..<Int(fdCount)]))
    }
}
