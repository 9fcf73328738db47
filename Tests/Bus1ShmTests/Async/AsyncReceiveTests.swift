import Glibc
import Testing

@testable import Bus1Shm
@testable import Bus1TestSupport

@Suite(.timeLimit(.minutes(2)))
struct AsyncReceiveTests {
    @Test(arguments: Place.allCases)
    func aTaskGetsWhatIsThereAndWhatComesLater(_ place: Place) async throws {
        let test = TestBus()
        let bus = test.bus
        let echo = try inTask(place) {
            let peer = try Peer(on: bus)
            let node = try peer.makeNode()
            try peer.publish(node, as: "echo")
            let back = try peer.lookUp("caller", until: .after(.seconds(10)))
            for _ in 0..<2000 { try await peer.send(try await peer.nextNumber() + 1, to: back) }
            // Until the other has read everything.
            _ = try await peer.nextNumber()
        }
        let caller = try inTask(place) {
            let peer = try Peer(on: bus)
            let node = try peer.makeNode()
            try peer.publish(node, as: "caller")
            let echo = try peer.lookUp("echo", until: .after(.seconds(10)))
            for i in 0..<2000 as Range<UInt64> {
                try await peer.send(i, to: echo)
                let answer = try await peer.nextNumber()
                #expect(answer == i + 1)
            }
            try await peer.send(UInt64(0), to: echo)
        }
        try await echo.value
        try await caller.value
        withExtendedLifetime(test) {}
    }

    @Test(arguments: Place.allCases)
    func aDeadlineEndsTheWait(_ place: Place) async throws {
        let test = TestBus()
        let bus = test.bus
        let (code, took) = try await inTask(place) {
            let peer = try Peer(on: bus)
            let before = monotonicNow_ns()
            let code = await asyncCode {
                _ = try await peer.nextNumber(until: .after(.milliseconds(30)))
            }
            return (code, monotonicNow_ns() - before)
        }.value
        #expect(code == .timedOut)
        #expect(took >= 30_000_000)
        withExtendedLifetime(test) {}
    }

    @Test(arguments: Place.allCases)
    func cancellingATaskEndsItsWaitAndTakesNothing(_ place: Place) async throws {
        let test = TestBus()
        let bus = test.bus
        let (waits, waiting) = AsyncStream.makeStream(of: Void.self)
        let task = try inTask(place) {
            let peer = try Peer(on: bus)
            let node = try peer.makeNode()
            let handle = try peer.makeHandle(to: node)
            waiting.yield()
            let first = await asyncCode { _ = try await peer.nextNumber(until: .never) }
            // A cancelled task gets what is there, and does not wait.
            try peer.trySend(UInt64(5), to: handle)
            let value = try await peer.nextNumber()
            let second = await asyncCode { _ = try await peer.nextNumber(until: .never) }
            return (first, value, second)
        }
        for await _ in waits { break }
        task.cancel()
        let (first, value, second) = try await task.value
        #expect(first == .cancelled)
        #expect(value == 5)
        #expect(second == .cancelled)
        withExtendedLifetime(test) {}
    }

    /// Messages, deadlines and cancellations race for each suspension.
    @Test(arguments: Place.allCases)
    func nothingIsLostOrTakenTwiceWhateverEndsAWait(_ place: Place) async throws {
        let test = TestBus()
        let bus = test.bus
        var dice = Dice()
        let seed = dice.next()
        let count: UInt64 = 800
        let sender = try inTask(place) {
            var dice = Dice(seed)
            let peer = try Peer(on: bus)
            let node = try peer.makeNode()
            try peer.publish(node, as: "sender")
            let target = try peer.lookUp("target", until: .after(.seconds(10)))
            for i in 0..<count {
                try await peer.send(i, to: target)
                usleep(UInt32(dice.next() % 600))
            }
            _ = await asyncCode { _ = try await peer.receive(until: .after(.seconds(60))) }
        }
        let executor = place == .busExecutor ? try BusExecutor() : nil
        let receiver = try inTask(place) {
            let target = Target(try Peer(on: bus))
            try await target.begin()
            var dice = Dice(seed ^ 1)
            var next: UInt64 = 0
            var (cancelled, timedOut) = (0, 0)
            while next < count {
                let microseconds = Int(dice.next() % 300)
                let isCancelled = dice.next() % 2 == 0
                let attempt = Task(executorPreference: executor) {
                    try await target.next(microseconds * (isCancelled ? 1000 : 1))
                }
                if isCancelled {
                    for _ in 0..<(dice.next() % 4) { await Task.yield() }
                    attempt.cancel()
                }
                do {
                    let got = try await attempt.value
                    guard got == next else {
                        throw PeerTestFailure("\(got) for \(next), seed \(seed)")
                    }
                    next += 1
                } catch let error as Bus1Error where error.code == .cancelled {
                    cancelled += 1
                } catch let error as Bus1Error where error.code == .timedOut {
                    timedOut += 1
                }
            }
            try await target.tellEnd()
            return (cancelled, timedOut)
        }
        let (cancelled, timedOut) = try await receiver.value
        try await sender.value
        // The pool may be busy with other tests.
        #expect(place == .defaultPool || cancelled + timedOut > 0, "seed \(seed)")
        withExtendedLifetime(test) {}
    }

    /// A peer as an actor has it: any task may come.
    actor Target {
        let peer: Peer
        var node: Actor_NodeBox?
        init(_ peer: consuming Peer) { self.peer = peer }
        final class Actor_NodeBox {
            let node: Node
            init(_ node: consuming Node) { self.node = node }
        }
        func begin() throws {
            let made = Actor_NodeBox(try peer.makeNode())
            try peer.publish(made.node, as: "target")
            node = made
        }
        func next(_ microseconds: Int) async throws -> UInt64 {
            try await peer.nextNumber(until: .after(.microseconds(microseconds)))
        }
        func tellEnd() async throws {
            let sender = try peer.lookUp("sender", until: .after(.seconds(10)))
            try await peer.send(UInt64(0), to: sender)
        }
    }

    @Test func tasksOfOneActorEachGetTheMessagesOfTheirNode() async throws {
        let test = TestBus()
        let bus = test.bus
        let names = ["a", "b", "c", "d", "e"]
        let server = Server(try Peer(on: bus))
        try await server.begin(names)
        let perNode: UInt64 = 500
        let receivers = names.indices.map { index in
            Task { try await server.takeAll(index, perNode) }
        }
        let sender = Task {
            let peer = try Peer(on: bus)
            let handles = try names.map {
                try peer.lookUp($0, until: .after(.seconds(10))).detach()
            }
            for i in 0..<perNode {
                for id in handles {
                    let handle = try held(peer.adopt(id))
                    try await peer.send(i, to: handle)
                    _ = handle.detach()
                }
            }
            return peer.account.pid
        }
        _ = try await sender.value
        for receiver in receivers { try await receiver.value }
        withExtendedLifetime(test) {}
    }

    actor Server {
        let peer: Peer
        private var nodes: [Target.Actor_NodeBox] = []
        init(_ peer: consuming Peer) { self.peer = peer }
        func begin(_ names: [String]) throws {
            for name in names {
                let made = Target.Actor_NodeBox(try peer.makeNode())
                try peer.publish(made.node, as: name)
                nodes.append(made)
            }
        }
        func takeAll(_ index: Int, _ count: UInt64) async throws {
            let node = nodes[index]
            for i in 0..<count {
                let message = try await peer.receive(on: node.node, until: .after(.seconds(20)))
                let value = try message.load(as: UInt64.self)
                guard value == i else { throw PeerTestFailure("\(value) for \(i)") }
                if i % 16 == 0 { await Task.yield() }
            }
        }
    }
}
