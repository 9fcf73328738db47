@_spi(Hostile) import Bus1Shm
import CBench
import Glibc

// Two ways of doing one thing, by turns in one process and with the same receivers: a ratio of times
// that nothing but the difference of the two can move.

/// What the sender of such a pair asks of the process at the other end, in its first word.
private enum Wish: UInt64 {
    /// An answer, after the handles that came with the message have been released.
    case answer = 1
    /// An answer when every peer of the process has taken what was sent to it.
    case drained = 2
    case end = 3
}

/// Further peers of a receiving process, which its only thread serves as well.
final class Company {
    let peer: Peer
    private let node: Node

    init(_ bus: Bus, as name: String, slots: Int) throws {
        var options = Peer.Options()
        options.slots = slots
        let peer = try Peer(on: bus, options)
        node = try peer.makeNode()
        try peer.publish(node, as: name)
        self.peer = peer
    }

    /// Takes what is there.
    func drain() throws {
        while try peer.tryReceive() != nil {}
    }
}

extension Bus1Endpoint {
    /// Receivers of a multicast, and the unicasts that it is held against.
    static let multicastWidth = 8

    // MARK: The sending end

    /// The sender's own time: no ring is ever full in the timed part, and the receivers spin.
    func multicastTurns() throws -> [String: Double] {
        let far = try (1..<Self.multicastWidth).map { try handle(to: "company-\($0)") }
        let first = handles[0].handle.id
        let others = far.map { $0.handle.id }
        let ids = InlineArray<8, HandleID> { $0 == 0 ? first : others[$0 - 1] }
        let all = [handles[0]] + far
        // Half a ring, so that head is a lap's eighth behind at most and nothing waits.
        return try turns(of: 256) { count in
            for i in 0..<count {
                let payload = InlineArray<8, UInt64>(repeating: UInt64(i) << 8)
                try peer.send(payload.span.bytes, to: ids)
            }
        } against: { count in
            for i in 0..<count {
                let payload = InlineArray<8, UInt64>(repeating: UInt64(i) << 8)
                for one in all { try peer.send(payload, to: one.handle) }
            }
        }
    }

    /// Cycles of send, receive, release and answer: with a handle and without.
    func handOverTurns(ofOwn: Bool) throws -> [String: Double] {
        let passed =
            ofOwn
            ? HandleBox(try peer.makeHandle(to: node)) : try handle(to: "company-1")
        let ids = [passed.handle.id]
        let to = handles[0]
        return try turns(of: 64) { count in
            for _ in 0..<count {
                let payload = InlineArray<1, UInt64>(repeating: Wish.answer.rawValue)
                try peer.send(payload.span.bytes, to: to.handle, passing: ids)
                try awaitAnswer()
            }
        } against: { count in
            for _ in 0..<count {
                let payload = InlineArray<1, UInt64>(repeating: Wish.answer.rawValue)
                try peer.send(payload.span.bytes, to: to.handle)
                try awaitAnswer()
            }
        }
    }

    /// Both by turns for about 25 ms; the ratio of the medians, which no interruption moves.
    private func turns(
        of count: Int, _ this: (Int) throws -> Void, against that: (Int) throws -> Void
    ) throws -> [String: Double] {
        try turns(of: count, this, against: that) {
            try ask(.drained)
        } end: {
            try ask(.end)
        }
    }

    /// `settle`: between two turns; `end`: when there have been enough.
    func turns(
        of count: Int, _ this: (Int) throws -> Void, against that: (Int) throws -> Void,
        settle: () throws -> Void, end: () throws -> Void
    ) throws -> [String: Double] {
        try this(8)
        try that(8)
        try settle()
        var times: (this: [Double], that: [Double]) = ([], [])
        let deadline = Deadline.after(.milliseconds(25))
        repeat {
            var begin = bench_ticks()
            try this(count)
            times.this.append(Double(bench_ticks() - begin))
            try settle()
            begin = bench_ticks()
            try that(count)
            times.that.append(Double(bench_ticks() - begin))
            try settle()
        } while !deadline.hasPassed
        try end()
        let ticks = Double(count) * bench_ticks_per_ns()
        let (this, that) = (Statistics.median(times.this), Statistics.median(times.that))
        return ["ratio": this / that, "this_ns": this / ticks, "that_ns": that / ticks]
    }

    private func ask(_ wish: Wish) throws {
        try peer.send(wish.rawValue, to: handles[0].handle)
        try awaitAnswer()
    }

    @inline(__always)
    private func awaitAnswer() throws {
        while true {
            if case .message = try peer.receive() { return }
        }
    }

    private func handle(to name: String) throws -> HandleBox {
        HandleBox(try peer.lookUp(name, until: .after(.seconds(20))))
    }

    // MARK: The receiving end

    /// Serves this peer until the sender has had enough: the further ones as busily as this, or when
    /// they are to be empty.
    func serveTurns(companyToo: Bool) throws -> [String: Double] {
        if company.isEmpty {
            for place in 1..<Self.multicastWidth {
                company.append(
                    try Company(bus, as: "company-\(place)", slots: Peer.Options().slots))
            }
        }
        let answer = try handle(to: "sender-0")
        while true {
            if companyToo { for one in company { try one.drain() } }
            guard case .message(let message)? = try peer.tryReceive(),
                let wish = Wish(rawValue: try firstWord(message))
            else { continue }
            if wish != .answer { for one in company { try one.drain() } }
            try peer.send(UInt64(0), to: answer.handle)
            // As a server does: first the answer, then what it holds for it.
            releaseHandle(in: message)
            if wish == .end { return [:] }
        }
    }

    private func releaseHandle(in message: consuming Message) {
        if message.handleCount > 0 { message.takeHandle()?.release() }
    }

    private func firstWord(_ message: borrowing Message) throws -> UInt64 {
        guard message.byteCount >= 8 else { throw BenchError("a payload of too few bytes") }
        return message.payload.unsafeLoad(as: UInt64.self)
    }
}
