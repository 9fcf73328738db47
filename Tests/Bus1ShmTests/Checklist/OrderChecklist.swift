import Bus1Shm
import Synchronization
import Testing

/// The lines O1 to O5 and X3 of docs/checklist.md, with threads that have nothing in common but what is said
/// here. O6 is shown where the clock can be chosen: Tests/CShmRingTests/test_stress.c, test_clock.c.
@Suite(.timeLimit(.minutes(2)))
struct OrderChecklist {
    /// Two receivers and senders that hold handles to both.
    private final class Field: @unchecked Sendable {
        // @unchecked: each peer is used by one thread; which one, each test says.
        let test = TestBus()
        let receivers: [PeerBox]
        let senders: [Sender]

        final class Sender {
            let peer: Peer
            let handles: [HandleID]
            init(_ peer: consuming Peer, _ handles: [HandleID]) {
                self.peer = peer
                self.handles = handles
            }

            func send(_ value: UInt64, to index: Int) throws {
                while try peer.trySend(value, to: handles[index]) == nil {}
            }

            func sendToAll(_ value: UInt64, reversed: Bool = false) throws {
                let value = [value]
                let to = reversed ? Array(handles.reversed()) : handles
                try peer.send(value.span.bytes, to: to)
            }
        }

        init(senders count: Int, receivers wanted: Int = 2) throws {
            var receivers: [PeerBox] = []
            for i in 0..<wanted {
                let peer = try Peer(on: test.bus)
                let node = try peer.makeNode()
                try peer.publish(node, as: "r\(i)")
                receivers.append(PeerBox(peer, node))
            }
            self.receivers = receivers
            var senders: [Sender] = []
            for _ in 0..<count {
                let peer = try Peer(on: test.bus)
                var handles: [HandleID] = []
                for i in 0..<wanted { handles.append(try peer.look("r\(i)").detach()) }
                senders.append(Sender(peer, handles))
            }
            self.senders = senders
        }

        /// So many messages of one receiver, in its order.
        func collect(_ count: Int, at index: Int) throws -> [UInt64] {
            var values: [UInt64] = []
            while values.count < count {
                let message = try receivers[index].peer.nextMessage(until: .after(.seconds(30)))
                values.append(try message.load(as: UInt64.self))
            }
            return values
        }
    }

    private static let rounds = 2000

    @Test("O1: what was sent after another send had returned comes after it, everywhere")
    func afterReturning() throws {
        let field = try Field(senders: 2)
        // One thread: each send begins after the one before has returned.
        let thread = TestThread {
            for round in 0..<Self.rounds {
                let sender = field.senders[round % 2]
                if round % 3 == 0 {
                    try sender.sendToAll(UInt64(round))
                } else {
                    try sender.send(UInt64(round), to: 0)
                    try sender.send(UInt64(round), to: 1)
                }
            }
        }
        let second = TestThread {
            let seen = try field.collect(Self.rounds, at: 1)
            #expect(seen == (0..<Self.rounds).map(UInt64.init))
        }
        #expect(try field.collect(Self.rounds, at: 0) == (0..<Self.rounds).map(UInt64.init))
        try thread.join()
        try second.join()
    }

    @Test("O2: what was sent after another message was received comes after it")
    func afterReceiving() throws {
        // Receiver 0 answers each message to receiver 1, which gets the message, too.
        let field = try Field(senders: 2)
        let relay = TestThread {
            for _ in 0..<Self.rounds {
                let message = try field.receivers[0].peer.nextMessage(until: .after(.seconds(30)))
                let value = try message.load(as: UInt64.self)
                try field.senders[1].send(value + 1_000_000, to: 1)
            }
        }
        let sending = TestThread {
            for round in 0..<Self.rounds { try field.senders[0].sendToAll(UInt64(round)) }
        }
        let seen = try field.collect(2 * Self.rounds, at: 1)
        try relay.join()
        try sending.join()
        var place: [UInt64: Int] = [:]
        for (index, value) in seen.enumerated() { place[value] = index }
        for round in 0..<UInt64(Self.rounds) {
            let (cause, effect) = (place[round], place[round + 1_000_000])
            guard let cause, let effect else { throw PeerTestFailure("\(round) is missing") }
            #expect(cause < effect)
        }
    }

    @Test("O3, X3: racing transactions, claimed in opposite orders, are seen in one order by both")
    func opposite() throws {
        let field = try Field(senders: 2)
        var threads: [TestThread] = []
        for s in 0..<2 {
            threads.append(
                TestThread {
                    for round in 0..<Self.rounds {
                        try field.senders[s].sendToAll(
                            UInt64(s) << 32 | UInt64(round), reversed: s == 1)
                    }
                })
        }
        let other = Mutex<[UInt64]>([])
        let second = TestThread {
            let seen = try field.collect(2 * Self.rounds, at: 1)
            other.withLock { $0 = seen }
        }
        let first = try field.collect(2 * Self.rounds, at: 0)
        for thread in threads { try thread.join() }
        try second.join()
        #expect(first == other.withLock { $0 })
    }

    @Test("O4: an order that others bring about, by shared memory or a pipe, counts")
    func sideChannel() throws {
        let field = try Field(senders: 2)
        // Two threads that pass the turn on by a relaxed store: nothing but time orders their sends.
        let shared = Turn()
        let threads = (0..<2).map { s in
            TestThread {
                for round in stride(from: s, to: Self.rounds, by: 2) {
                    while shared.value.load(ordering: .relaxed) != round {}
                    if round % 3 == 0 {
                        try field.senders[s].sendToAll(UInt64(round))
                    } else {
                        try field.senders[s].send(UInt64(round), to: 0)
                        try field.senders[s].send(UInt64(round), to: 1)
                    }
                    shared.value.store(round + 1, ordering: .relaxed)
                }
            }
        }
        let second = TestThread {
            let seen = try field.collect(Self.rounds, at: 1)
            #expect(seen == (0..<Self.rounds).map(UInt64.init))
        }
        #expect(try field.collect(Self.rounds, at: 0) == (0..<Self.rounds).map(UInt64.init))
        for thread in threads { try thread.join() }
        try second.join()
    }

    private final class Turn: Sendable { let value = Atomic<Int>(0) }

    @Test("O5: who has seen one message of a transaction gets nothing in ahead of another of it")
    func notAhead() throws {
        let field = try Field(senders: 2)
        // Whoever sees the transaction at 0 sends to 1, where the transaction must stand before.
        let racing = TestThread {
            for _ in 0..<Self.rounds {
                let message = try field.receivers[0].peer.nextMessage(until: .after(.seconds(30)))
                try field.senders[1].send(try message.load(as: UInt64.self) | 1 << 40, to: 1)
            }
        }
        let sending = TestThread {
            for round in 0..<Self.rounds {
                try field.senders[0].sendToAll(UInt64(round), reversed: true)
            }
        }
        let seen = try field.collect(2 * Self.rounds, at: 1)
        try racing.join()
        try sending.join()
        var known: Set<UInt64> = []
        for value in seen {
            if value >> 40 == 0 {
                known.insert(value)
            } else {
                #expect(known.contains(value & 0xffff_ffff))
            }
        }
    }
}
