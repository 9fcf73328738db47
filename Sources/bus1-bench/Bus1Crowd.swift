import Bus1Shm
import CBench
import Glibc
import Synchronization

// What others do to a peer: somebody else's flood, and a thousand neighbours that leave at once.

extension Bus1Endpoint {
    private static let floodWord: UInt64 = 1
    private static let workWord: UInt64 = 2
    private static let endWord: UInt64 = 3
    private static let period_ms = 150

    // MARK: A flood

    /// The second sender, which is another user when root asks: floods the receiver, or is as busy without it.
    func flood(really: Bool) throws -> [String: Double] {
        let handle = handles[0]
        let deadline = Deadline.after(.milliseconds(Self.period_ms))
        var turns: UInt64 = 0
        repeat {
            for _ in 0..<1000 {
                if really {
                    // A full ring is no reason to stop.
                    _ = try peer.trySend(Self.floodWord, to: handle.handle)
                } else {
                    turns &+= bench_ticks() & 1
                }
            }
        } while !deadline.hasPassed
        return ["spun": Double(turns & 1)]
    }

    /// The first sender: as much as goes, for the middle of the time.
    func workBesideFlood() throws -> [String: Double] {
        let handle = handles[0]
        let begin = bench_ticks()
        let deadline = Deadline.after(.milliseconds(Self.period_ms * 2 / 3))
        var sent = 0.0
        repeat {
            for _ in 0..<256 where try peer.trySend(Self.workWord, to: handle.handle) != nil {
                sent += 1
            }
        } while !deadline.hasPassed
        try peer.send(Self.endWord, to: handle.handle)
        let elapsed_ns = Double(bench_ticks() - begin) / bench_ticks_per_ns()
        return ["per_us": sent / elapsed_ns * 1000]
    }

    /// The receiver of both: until the worker has sent its last.
    func receiveFlood() throws -> [String: Double] {
        while true {
            if try hotPathReceive(peer) == Self.endWord { return [:] }
        }
    }

    // MARK: A thousand leave

    /// A thousand peers with a hundred handles to a sibling each are closed by many threads; this one holds a handle to
    /// each, and must be told a thousand times.
    func closeThousand() throws -> [String: Double] {
        // On all processors: this is no matter of one.
        var pinned = cpu_set_t()
        try BenchError.check(bench_unpin(&pinned), "leaving the processor")
        defer { _ = bench_repin(&pinned) }
        let crowd = try Crowd(bus, known: peer, count: 1000, handles: 100)
        let begin = bench_monotonic_ns()
        crowd.beginToClose(threads: 8)
        var notices = 0
        let deadline = Deadline.after(.seconds(20))
        while notices < 1000 {
            if case .notice(let notice) = try peer.receive(until: deadline),
                case .nodeReleased = notice.kind
            {
                notices += 1
            }
        }
        let seconds = Double(bench_monotonic_ns() - begin) / 1e9
        crowd.awaitClosed()
        while let delivery = try peer.tryReceive() {
            if case .notice(let notice) = delivery, case .nodeReleased = notice.kind {
                notices += 1
            }
        }
        guard notices == 1000 else { throw BenchError("\(notices) notices") }
        return ["seconds": seconds]
    }
}

/// Many peers of one process, in pairs that hold handles to each other.
final class Crowd: @unchecked Sendable {
    // @unchecked: each member is used by one thread at a time, which took its number.
    private final class Member {
        var peer: Peer?
        let node: Node
        init(_ peer: consuming Peer, _ node: consuming Node) {
            self.peer = consume peer
            self.node = node
        }
    }

    private var members: [Member] = []
    private var threads: [pthread_t] = []
    private let next = Atomic<Int>(0)

    /// `known` gets a handle to each of them.
    init(_ bus: Bus, known: borrowing Peer, count: Int, handles: Int) throws {
        var options = Peer.Options()
        options.slots = 64
        options.lanes = 1
        for _ in 0..<count {
            let peer = try Peer(on: bus, options)
            let node = try peer.makeNode()
            _ = try peer.give(node, to: known)
            members.append(Member(peer, node))
        }
        for place in members.indices where place ^ 1 < count {
            for _ in 0..<handles {
                _ = try members[place].peer!.give(members[place].node, to: members[place ^ 1].peer!)
            }
        }
    }

    func beginToClose(threads count: Int) {
        for _ in 0..<count {
            var thread = pthread_t()
            let result = pthread_create(
                &thread, nil,
                { context in
                    Unmanaged<Crowd>.fromOpaque(context!).takeRetainedValue().close()
                    return nil
                }, Unmanaged.passRetained(self).toOpaque())
            precondition(result == 0, "no thread")
            threads.append(thread)
        }
    }

    private func close() {
        while true {
            let place = next.wrappingAdd(1, ordering: .relaxed).oldValue
            guard place < members.count else { return }
            members[place].peer = nil
        }
    }

    func awaitClosed() {
        for thread in threads { pthread_join(thread, nil) }
        threads = []
    }
}
