import ArgumentParser
import Bus1Shm
import Glibc

/// `bus1 ping`: is it there, and how fast does it answer?
struct PingCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "ping",
        abstract: "Measure calls to a name that bus1 ping --listen answers for.",
        discussion: """
            bus1 ping --listen NAME in one shell, bus1 ping NAME in another. Prints the fastest, the \
            middle and the 99th of 100 of the round trips, each timed singly from the call to its \
            answer. Both ends spin some microseconds before they sleep.
            """)

    @OptionGroup var options: BusOptions

    @Argument(help: "Under which the listener is published.")
    var name: String

    @Flag(help: "Answer, until killed.")
    var listen = false

    @Option(help: "Round trips.")
    var count = 10_000

    @Option(help: "Seconds to wait for the name, and for each answer.")
    var wait = 10

    @Flag(help: "The figures as JSON.")
    var json = false

    func validate() throws {
        guard (1...10_000_000).contains(count) else {
            throw ValidationError("--count is 1 to 10000000")
        }
        guard (0...1_000_000).contains(wait) else {
            throw ValidationError("--wait is 0 to 1000000 seconds")
        }
    }

    func run() throws {
        try saying { if listen { try answer() } else { try ask() } }
    }

    private func answer() throws {
        let peer = try Peer(on: options.bus)
        let node = try peer.makeNode()
        try peer.publish(node, as: name)
        complain("answers for \(name)")
        while let delivery = try next(of: peer) {
            guard case .message(var message) = delivery,
                let number = try? message.load(as: UInt64.self)
            else { continue }
            // Who asked may be gone.
            try? message.takeReply()?.send(number)
        }
    }

    private func ask() throws {
        let peer = try Peer(on: options.bus)
        let handle = try lookUp(name, on: peer, waiting: wait)
        var times_ns: [UInt64] = []
        times_ns.reserveCapacity(count)
        for number in 0..<UInt64(count) {
            let began = now_ns()
            let deadline = Deadline.after(.seconds(max(1, wait)))
            let answer: UInt64
            do throws(Bus1Error) {
                answer = try peer.call(number, on: handle, until: deadline)
            } catch {
                throw ended(error, name, after: "\(number) answers")
            }
            times_ns.append(now_ns() - began)
            guard answer == number else { throw ToolError("\(name) does not answer as ping does") }
        }
        times_ns.sort()
        report(times_ns)
    }

    private func report(_ sorted_ns: [UInt64]) {
        let (least, most) = (sorted_ns[0], sorted_ns[sorted_ns.count - 1])
        let median = sorted_ns[sorted_ns.count / 2]
        let p99 = sorted_ns[min(sorted_ns.count - 1, sorted_ns.count * 99 / 100)]
        if json {
            print(
                JSON.object([
                    ("name", .string(name)), ("count", .number(sorted_ns.count)),
                    ("min_ns", .number(least)), ("median_ns", .number(median)),
                    ("p99_ns", .number(p99)), ("max_ns", .number(most)),
                ]).text)
        } else {
            print(
                "\(name): \(sorted_ns.count) round trips, min \(duration(least)), "
                    + "median \(duration(median)), p99 \(duration(p99)), max \(duration(most))")
        }
    }

    private func duration(_ ns: UInt64) -> String {
        ns < 10_000
            ? "\(ns) ns" : ns < 10_000_000 ? "\(ns / 1000) us" : "\(ns / 1_000_000) ms"
    }

    private func now_ns() -> UInt64 {
        var time = timespec()
        clock_gettime(CLOCK_MONOTONIC, &time)
        return UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
    }
}

/// What comes next. A ring that was cut for what its senders did is said, and the others go on.
func next(of peer: borrowing Peer) throws(Bus1Error) -> Delivery? {
    while true {
        do throws(Bus1Error) {
            return try peer.receive()
        } catch {
            guard error.breach != nil else { throw error }
            complain("\(error)")
        }
    }
}

/// A handle to what is published there.
func lookUp(_ name: String, on peer: borrowing Peer, waiting seconds: Int) throws -> Handle {
    do throws(Bus1Error) {
        return try peer.lookUp(name, until: .after(.seconds(seconds)))
    } catch {
        guard error.code == .timedOut else { throw error }
        throw ToolError("nobody has published \(name) within \(seconds) s", status: 3)
    }
}

/// Why a conversation ended, in a sentence.
func ended(_ error: Bus1Error, _ name: String, after what: String) -> ToolError {
    switch error.code {
    case .replyLost, .nodeReleased: ToolError("\(name) is gone, after \(what)")
    case .timedOut: ToolError("\(name) does not answer any more, after \(what)", status: 3)
    default: ToolError("\(error), after \(what)")
    }
}
