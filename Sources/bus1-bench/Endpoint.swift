import CBench
import Glibc

/// The part that a worker plays in a run.
enum Part: String, Codable, Sendable {
    case ping, pong, send, receive
    /// Nobody at the other end: a yardstick of one process.
    case alone
}

/// Where a worker stands in a channel.
struct Post: Codable, Sendable {
    enum Role: String, Codable, Sendable { case sender, receiver }
    var role: Role
    /// Among those of its role.
    var index: Int
    var shape: Shape
    /// The variant's settings, as the transport named them.
    var options: [String: Int]
    /// What the coordinator prepared besides descriptors: an address, a directory.
    var address = ""
}

/// One worker's end of a channel.
///
/// A whole loop is one call: nothing here is paid for each message. Everything that can be prepared is
/// prepared when the endpoint is made; `run` sends or receives what the job says, with the work of
/// `bench_fill`, `bench_read` and `bench_check_note`, and puts times into `job.samples` when that is
/// set. It is called many times, on one thread.
protocol Endpoint: AnyObject {
    func run(_ part: Part, _ job: inout bench_job) throws -> bench_outcome
}

/// An endpoint that can be asked about more than speed. Both ends of a channel are asked at the same
/// time; what a probe's name means and what it returns stands beside the gate's rows.
protocol ProbedEndpoint: Endpoint {
    func probe(_ name: String, _ part: Part) throws -> [String: Double]
}

/// One way of doing what a transport can do; the best one counts and is named.
struct Variant: Codable, Hashable, Sendable {
    var name: String
    var options: [String: Int] = [:]
}

/// What the coordinator hands to one worker when a channel is opened.
struct Equipment {
    var fds: [Int32] = []
    var address = ""
}

/// A way to move messages between processes. All of them stand in `transports`.
protocol Transport: Sendable {
    var name: String { get }
    /// Why it can't be used here; nil when it can.
    var obstacle: String? { get }
    /// A yardstick is shown, never ranked.
    var isYardstick: Bool { get }
    /// The variants to try for a shape; empty when it can't do that.
    func variants(for shape: Shape) -> [Variant]
    /// In the coordinator: what the workers need, senders first, then receivers. The coordinator closes
    /// the descriptors once they are sent; `state` lives until the channel is closed.
    func equip(_ shape: Shape, _ variant: Variant) throws -> (
        equipment: [Equipment], state: (any Sendable)?
    )
    /// In a worker: its end. Owns the descriptors.
    func open(_ post: Post, fds: [Int32]) throws -> any Endpoint
}

extension Transport {
    var obstacle: String? { nil }
    var isYardstick: Bool { false }
}
