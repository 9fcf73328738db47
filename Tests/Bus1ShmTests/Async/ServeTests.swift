import Glibc
import Synchronization
import Testing

@testable import Bus1Shm
@testable import Bus1TestSupport

/// How many handlers run, and how many have at most.
private final class Crowd: Sendable {
    private let state = Mutex((now: 0, most: 0))
    var most: Int { state.withLock { $0.most } }
    var now: Int { state.withLock { $0.now } }

    func enter() {
        state.withLock {
            $0.now += 1
            $0.most = max($0.most, $0.now)
        }
    }

    func leave() { state.withLock { $0.now -= 1 } }
}

private struct Odd: Error {}

@Suite(.timeLimit(.minutes(2)))
struct ServeTests {
    @Test(arguments: Place.allCases)
    func callsAreAnsweredSomeAtATimeAndNoMore(_ place: Place) async throws {
        let test = TestBus()
        let bus = test.bus
        let crowd = Crowd()
        let server = try inTask(place) {
            let peer = try Peer(on: bus)
            let node = try peer.makeNode()
            try peer.publish(node, as: "double")
            try await peer.serve(UInt64.self, on: node, atMost: 3) { number -> UInt64 in
                crowd.enter()
                defer { crowd.leave() }
                try await Task.sleep(for: .milliseconds(1))
                if number % 10 == 9 { throw Odd() }
                return number * 2
            }
        }
        let caller = try inTask(place) {
            let peer = Courier(try Peer(on: bus))
            return try await peer.callMany(200)
        }
        let (answers, lost) = try await caller.value
        #expect(answers == (0..<200 as Range<UInt64>).filter { $0 % 10 != 9 }.map { $0 * 2 })
        #expect(lost == 20)
        #expect(crowd.most == 3)
        server.cancel()
        let code = await asyncCode { try await server.value }
        #expect(code == .cancelled)
        #expect(crowd.now == 0)
        withExtendedLifetime(test) {}
    }

    @Test func servingEndsAtItsDeadlineWhenAllThatWasBegunIsAnswered() async throws {
        let test = TestBus()
        let bus = test.bus
        let server = try inTask(.busExecutor) {
            let peer = try Peer(on: bus)
            let node = try peer.makeNode()
            try peer.publish(node, as: "slow")
            try await peer.serve(on: node, atMost: 1, until: .after(.milliseconds(500))) { bytes in
                try await Task.sleep(for: .milliseconds(700))
                return bytes + bytes
            }
        }
        let caller = try inTask(.busExecutor) {
            let peer = try Peer(on: bus)
            let slow = try peer.lookUp("slow", until: .after(.seconds(10)))
            let request: [UInt8] = [1, 2, 3]
            let reply = try await peer.call(
                request.span.bytes, on: slow, until: .after(.seconds(20)))
            return reply.payload.withUnsafeBytes { Array($0) }
        }
        let answer = try await caller.value
        #expect(answer == [1, 2, 3, 1, 2, 3])
        try await server.value
        withExtendedLifetime(test) {}
    }

    @Test func theValuesOfANodeComeOneAfterTheOther() async throws {
        let test = TestBus()
        let bus = test.bus
        let receiver = try inTask(.busExecutor) {
            let peer = try Peer(on: bus)
            let node = try peer.makeNode()
            let other = try peer.makeNode()
            try peer.publish(other, as: "other")
            try peer.publish(node, as: "numbers")
            var sum: UInt64 = 0
            var wrong = 0
            while sum < 4950 {
                do {
                    for try await number in peer.values(of: UInt64.self, on: node) {
                        sum += number
                        if sum == 4950 { break }
                    }
                } catch {
                    guard (error as? Bus1Error)?.code == .mismatch else { throw error }
                    wrong += 1
                }
            }
            // What was for another node is still there.
            let message = try await peer.receive(on: other, until: .after(.seconds(5)))
            #expect(try message.load(as: UInt64.self) == 7)
            #expect(wrong == 1)
        }
        let peer = try Peer(on: bus)
        let numbers = try peer.lookUp("numbers", until: .after(.seconds(10)))
        let other = try peer.lookUp("other", until: .after(.seconds(10)))
        for number in 0..<100 as Range<UInt64> {
            try peer.trySend(number, to: numbers)
            if number == 50 {
                try peer.trySend(UInt8(1), to: numbers)
                try peer.trySend(UInt64(7), to: other)
            }
        }
        try await receiver.value
        withExtendedLifetime(test) {}
    }

    @Test func iteratingEndsWithItsTask() async throws {
        let test = TestBus()
        let bus = test.bus
        let (begun, beginning) = AsyncStream.makeStream(of: Void.self)
        let receiver = try inTask(.busExecutor) {
            let peer = try Peer(on: bus)
            let node = try peer.makeNode()
            beginning.yield()
            return await asyncCode {
                for try await _ in peer.values(of: UInt64.self, on: node) {}
            }
        }
        for await _ in begun { break }
        receiver.cancel()
        let code = try await receiver.value
        #expect(code == .cancelled)
        withExtendedLifetime(test) {}
    }
}

/// One peer, whose calls are made at the same time.
private actor Courier {
    private let peer: Peer

    init(_ peer: consuming Peer) { self.peer = peer }

    func callMany(_ count: UInt64) async throws -> ([UInt64], Int) {
        await withTaskGroup(of: UInt64?.self) { group in
            for number in 0..<count { group.addTask { await self.callOnce(number) } }
            var answers: [UInt64] = []
            var lost = 0
            for await answer in group {
                if let answer { answers.append(answer) } else { lost += 1 }
            }
            return (answers.sorted(), lost)
        }
    }

    private func callOnce(_ number: UInt64) async -> UInt64? {
        do {
            let handle = try peer.lookUp("double", until: .after(.seconds(10)))
            return try await peer.call(
                number, on: handle, for: UInt64.self, until: .after(.seconds(60)))
        } catch {
            guard error.code == .replyLost else { fatalError("\(error)") }
            return nil
        }
    }
}
