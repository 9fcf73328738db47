import Glibc
import Testing

@testable import Bus1Shm
@testable import Bus1TestSupport

/// A callee in a thread of its own, that answers until it is told to end.
///
/// A request's first word says what it does.
enum Wish: UInt64 {
    case double = 1
    case long = 2
    case drop = 3
    case dropHandle = 4
    case wait = 5
    case end = 6
    /// Answers the number of the thread's handles.
    case count = 7
}

struct Question: BitwiseCopyable {
    var wish: UInt64
    var value: UInt64
    init(_ wish: Wish, _ value: UInt64 = 0) {
        self.wish = wish.rawValue
        self.value = value
    }
}

/// Runs a callee in a task that blocks its own executor's thread.
func callee(_ bus: Bus, _ name: String = "callee", slots: Int = 1024) throws -> Task<
    Void, any Error
> {
    Task(executorPreference: try BusExecutor(name: "callee")) { try answerAll(bus, name, slots) }
}

private func answerAll(_ bus: Bus, _ name: String, _ slots: Int) throws {
    var options = Peer.Options()
    options.slots = slots
    let peer = try Peer(on: bus, options)
    let node = try peer.makeNode()
    try peer.publish(node, as: name)
    while true {
        guard case .message(var message) = try peer.receive(until: .after(.seconds(30))) else {
            continue
        }
        let question = message.payload.withUnsafeBytes { $0.loadUnaligned(as: Question.self) }
        switch Wish(rawValue: question.wish)! {
        case .double:
            // Whoever called may have given up.
            let code = code { try message.takeReply()?.send(question.value * 2) }
            guard code == nil || code == .nodeReleased else { throw PeerTestFailure("\(code!)") }
        case .long:
            let bytes = [UInt8](repeating: 7, count: Int(question.value))
            try message.takeReply()?.send(bytes.span.bytes)
        case .drop: break
        case .dropHandle: _ = message.takeReply()
        case .count: try message.takeReply()?.send(UInt64(peer.used(.handles)))
        case .wait:
            guard let reply = message.takeReply() else { continue }
            let deadline = Deadline.after(.seconds(20))
            while reply.isWanted, !deadline.hasPassed { usleep(1000) }
            if deadline.hasPassed { throw PeerTestFailure("still wanted") }
        case .end:
            try message.takeReply()?.send(UInt64(0))
            return
        }
    }
}

@Suite(.timeLimit(.minutes(2)))
struct CallTests {
    private let soon = Deadline.after(.seconds(20))

    @Test func aCallIsAnsweredAgainAndAgain() async throws {
        let test = TestBus()
        let callee = try callee(test.bus)
        try callMany(test.bus)
        try await callee.value
    }

    private func callMany(_ bus: Bus) throws {
        let peer = try Peer(on: bus)
        let handle = try peer.lookUp("callee", until: soon)
        var handles: [UInt64] = []
        for i in 0..<2000 as Range<UInt64> {
            let answer: UInt64 = try peer.call(Question(.double, i), on: handle, until: soon)
            #expect(answer == i * 2)
            if i % 500 == 499 {
                handles.append(try peer.call(Question(.count), on: handle, until: soon))
            }
        }
        // One reply handle serves them all.
        #expect(Set(handles).count == 1)
        #expect(peer.core.nodes.withLock { $0.nodes.count } <= 2)
        for size in [1, 80, 88, 89, 104, 105, 5000, 300_000] as [UInt64] {
            let question = [Question(.long, size)]
            let reply = try peer.call(question.span.bytes, on: handle, until: soon)
            #expect(reply.byteCount == Int(size))
            let isSame = reply.payload.withUnsafeBytes { $0.allSatisfy { $0 == 7 } }
            #expect(isSame)
        }
        // A request that does not fit a slot.
        var long = [UInt64](repeating: 9, count: 10_000)
        (long[0], long[1]) = (Wish.double.rawValue, 21)
        for _ in 0..<5 {
            let reply = try peer.call(long.span.bytes, on: handle, until: soon)
            #expect(try reply.load(as: UInt64.self) == 42)
        }
        let end: UInt64 = try peer.call(Question(.end), on: handle, until: soon)
        #expect(end == 0)
        try peer.expectNoMessages()
    }

    @Test func aCallThatNobodyAnswersFailsAtOnceAndTheNextIsAnswered() async throws {
        let test = TestBus()
        let callee = try callee(test.bus)
        try callAndBeDropped(test.bus)
        try await callee.value
    }

    private func callAndBeDropped(_ bus: Bus) throws {
        let peer = try Peer(on: bus)
        let handle = try peer.lookUp("callee", until: soon)
        for i in 0..<50 as Range<UInt64> {
            for wish in [Wish.drop, .dropHandle] {
                let code = code {
                    let _: UInt64 = try peer.call(Question(wish), on: handle, until: soon)
                }
                #expect(code == .replyLost)
            }
            for _ in 0..<3 {
                let answer: UInt64 = try peer.call(Question(.double, i), on: handle, until: soon)
                #expect(answer == i * 2)
            }
        }
        let _: UInt64 = try peer.call(Question(.end), on: handle, until: soon)
        // The callee is gone now.
        let code = code {
            let _: UInt64 = try peer.call(Question(.double), on: handle, until: soon)
        }
        #expect(code == .nodeReleased || code == .replyLost)
    }

    @Test func aCalleeSeesThatTheCallerHasGivenUp() async throws {
        let test = TestBus()
        let callee = try callee(test.bus)
        try callAndGiveUp(test.bus)
        try await callee.value
    }

    private func callAndGiveUp(_ bus: Bus) throws {
        let peer = try Peer(on: bus)
        let handle = try peer.lookUp("callee", until: soon)
        for _ in 0..<5 {
            let code = code {
                let _: UInt64 = try peer.call(
                    Question(.wait), on: handle, until: .after(.milliseconds(10)))
            }
            #expect(code == .timedOut)
            let answer: UInt64 = try peer.call(Question(.double, 4), on: handle, until: soon)
            #expect(answer == 8)
        }
        let _: UInt64 = try peer.call(Question(.end), on: handle, until: soon)
        try peer.expectNoMessages()
    }

    /// Several tasks of one actor call at the same time, some of them in vain, some cancelled.
    @Test(arguments: Place.allCases)
    func eachOfManyCallsGetsItsOwnReply(_ place: Place) async throws {
        let test = TestBus()
        let bus = test.bus
        let callees = try (0..<2).map { try callee(bus, "callee\($0)", slots: 64) }
        try await inTask(place) {
            let client = Client(try Peer(on: bus))
            try await client.begin()
            try await withThrowingTaskGroup(of: Void.self) { group in
                for task in 0..<16 as Range<UInt64> {
                    group.addTask {
                        for i in 0..<100 {
                            let value = task << 32 | UInt64(i)
                            if i % 10 == 3 {
                                let code = await asyncCode {
                                    _ = try await client.ask(Question(.drop), Int(task % 2))
                                }
                                guard code == .replyLost else {
                                    throw PeerTestFailure("\(code as Any)")
                                }
                                continue
                            }
                            if i % 25 == 7 {
                                let call = Task {
                                    try await client.ask(Question(.double, value), Int(task % 2))
                                }
                                call.cancel()
                                let answer = await call.result
                                if case .success(let got) = answer, got != value &* 2 {
                                    throw PeerTestFailure("\(got) for \(value)")
                                }
                                continue
                            }
                            let answer = try await client.ask(
                                Question(.double, value), Int(task % 2))
                            guard answer == value &* 2 else {
                                throw PeerTestFailure("\(answer) for \(value)")
                            }
                        }
                    }
                }
                try await group.waitForAll()
            }
            for index in 0..<2 { _ = try await client.ask(Question(.end), index) }
            try await client.expectNothing()
        }.value
        for callee in callees { try await callee.value }
        withExtendedLifetime(test) {}
    }

    actor Client {
        let peer: Peer
        private var handles: [HandleBox] = []
        init(_ peer: consuming Peer) { self.peer = peer }
        func begin() throws {
            for index in 0..<2 {
                let handle = try peer.lookUp("callee\(index)", until: .after(.seconds(20)))
                handles.append(HandleBox(handle))
            }
        }
        func ask(_ question: Question, _ index: Int) async throws -> UInt64 {
            let handle = handles[index]
            return try await peer.call(question, on: handle.handle, until: .after(.seconds(20)))
        }
        func expectNothing() throws { try peer.expectNoMessages() }
    }
    final class HandleBox {
        let handle: Handle
        init(_ handle: consuming Handle) { self.handle = handle }
    }
}

extension Peer {
    /// Only of handles that are gone may there be news.
    func expectNoMessages() throws {
        while let delivery = try tryReceive() {
            switch consume delivery {
            case .message(let message): Issue.record("a message of \(message.byteCount) B")
            case .notice(let notice):
                if case .nodeReleased = notice.kind { continue }
                Issue.record("\(notice.kind)")
            }
        }
    }
}
