import Bus1Shm
import Glibc
import Testing

/// A bus of a test's own, in a directory that goes with it.
final class TestBus {
    let directory: String
    let bus: Bus

    init(isolation: Bus.Isolation = .user, limits: Bus.Limits = .init()) {
        var template = Array("/tmp/bus1-test-XXXXXX".utf8CString)
        directory = String(cString: mkdtemp(&template))
        bus = Bus(path: directory + "/bus", isolation: isolation, limits: limits)
    }

    /// For an exit test, whose process ends in a trap: its parent removes the directory.
    init(trap number: Int) {
        directory = Self.trapDirectory(of: getppid(), number)
        mkdir(directory, 0o700)
        bus = Bus(path: directory + "/bus")
    }

    static func trapDirectory(of parent: pid_t, _ number: Int) -> String {
        "/tmp/bus1-trap-\(parent)-\(number)"
    }

    deinit { removeAll(directory) }
}

struct Order: BitwiseCopyable, Equatable {
    var id: UInt64
    var price: Int64
}

extension Peer {
    /// The next message; fails on a notice.
    func nextMessage(until deadline: Deadline = .after(.seconds(5))) throws -> Message {
        switch try receive(until: deadline) {
        case .message(let message): return message
        case .notice(let notice): throw PeerTestFailure("notice \(notice)")
        }
    }
}

func held(_ handle: consuming Handle?) throws -> Handle {
    guard let handle else { throw PeerTestFailure("no such handle") }
    return handle
}

struct PeerTestFailure: Error, CustomStringConvertible {
    let description: String
    init(_ description: String) { self.description = description }
}

@Suite(.timeLimit(.minutes(1)))
struct PeerTests {
    @Test func aMessageReachesTheNodeItIsSentTo() throws {
        let test = TestBus()
        defer { withExtendedLifetime(test) {} }
        let peer = try Peer(on: test.bus)
        let node = try peer.makeNode(tag: 42)
        let handle = try peer.makeHandle(to: node)
        let stamp = try peer.send(Order(id: 7, price: 4200), to: handle)
        let message = try peer.nextMessage()
        #expect(message.node == node.id)
        #expect(message.tag == 42)
        #expect(message.stamp == stamp)
        #expect(message.sender == peer.account)
        #expect(message.sender.pid == getpid())
        #expect(try message.load(as: Order.self) == Order(id: 7, price: 4200))
        #expect(try peer.tryReceive() == nil)
    }

    @Test func aPublishedNodeIsFoundByName() throws {
        let test = TestBus()
        defer { withExtendedLifetime(test) {} }
        let owner = try Peer(on: test.bus)
        let node = try owner.makeNode()
        try owner.publish(node, as: "exchange")
        let other = try Peer(on: test.bus)
        let exchange = try other.lookUp("exchange", until: .after(.seconds(5)))
        for i in 0..<3000 {
            try other.send(UInt64(i), to: exchange, until: .after(.seconds(1)))
            let message = try owner.nextMessage()
            #expect(try message.load(as: UInt64.self) == UInt64(i))
        }
    }

    @Test func aLongPayloadArrivesWhole() throws {
        let test = TestBus()
        defer { withExtendedLifetime(test) {} }
        let owner = try Peer(on: test.bus)
        let node = try owner.makeNode()
        let sender = try Peer(on: test.bus)
        let id = try owner.give(node, to: sender)
        let handle = try held(sender.adopt(id))
        for size in [0, 1, 104, 105, 4096, 100_000, 3_000_000] {
            let bytes = (0..<size).map { UInt8(truncatingIfNeeded: $0 &* 31) }
            try sender.send(bytes.span.bytes, to: handle)
            let message = try owner.nextMessage()
            let same = message.payload.withUnsafeBytes { $0.elementsEqual(bytes) }
            #expect(same, "size \(size)")
            var slice = try sender.loan(size)
            var room = slice.bytes
            room.withUnsafeMutableBytes { $0.copyBytes(from: bytes) }
            try sender.send(slice, to: handle)
            let loaned = try owner.nextMessage()
            let sameLoaned = loaned.payload.withUnsafeBytes { $0.elementsEqual(bytes) }
            #expect(sameLoaned, "loaned, size \(size)")
        }
    }

    /// Each size takes the memory of the one before, whose segment is retired for it at once.
    @Test func whatMakesRoomForAnotherSizeLosesNothing() throws {
        let test = TestBus()
        defer { withExtendedLifetime(test) {} }
        var options = Peer.Options()
        options.poolBytes = 256 << 10
        let owner = try Peer(on: test.bus)
        let sender = try Peer(on: test.bus, options)
        let node = try owner.makeNode()
        let handle = try held(sender.adopt(owner.give(node, to: sender)))
        for round in 0..<12 {
            let size = round % 2 == 0 ? 200_000 : 5_000
            let bytes = [UInt8](repeating: UInt8(round), count: size)
            try sender.send(bytes.span.bytes, to: handle, until: .after(.seconds(5)))
            let message = try owner.nextMessage()
            let isWhole = message.payload.withUnsafeBytes { $0.elementsEqual(bytes) }
            #expect(isWhole, "round \(round)")
        }
    }

    @Test func aMessageOutlivesItsPeer() throws {
        let test = TestBus()
        defer { withExtendedLifetime(test) {} }
        let owner = try Peer(on: test.bus)
        let node = try owner.makeNode()
        let handle = try owner.makeHandle(to: node)
        let bytes = [UInt8](repeating: 9, count: 50_000)
        try owner.send(bytes.span.bytes, to: handle)
        try owner.send(UInt64(5), to: handle)
        let long = try owner.nextMessage()
        let short = try owner.nextMessage()
        owner.close()
        #expect(long.payload.withUnsafeBytes { $0.elementsEqual(bytes) })
        #expect(try short.load(as: UInt64.self) == 5)
    }

    @Test func aReleasedHandleSendsNoMore() throws {
        let test = TestBus()
        defer { withExtendedLifetime(test) {} }
        let peer = try Peer(on: test.bus)
        let node = try peer.makeNode()
        let id = try peer.makeHandle(to: node).detach()
        try peer.trySend(UInt64(1), to: id)
        try peer.release(id)
        #expect(throws: Bus1Error.self) { try peer.trySend(UInt64(2), to: id) }
        #expect(try peer.nextMessage().load(as: UInt64.self) == 1)
        guard case .notice(let notice)? = try peer.tryReceive() else {
            throw PeerTestFailure("no notice")
        }
        #expect(notice.kind == .noHandles(node.id))
        #expect(try peer.tryReceive() == nil)
    }

    @Test func aHandleOfAnotherPeerIsRefused() throws {
        let test = TestBus()
        defer { withExtendedLifetime(test) {} }
        let a = try Peer(on: test.bus)
        let b = try Peer(on: test.bus)
        let node = try a.makeNode()
        let handle = try a.makeHandle(to: node)
        #expect(throws: Bus1Error.self) { try b.send(UInt64(1), to: handle) }
        #expect(throws: Bus1Error.self) { try b.trySend(UInt64(1), to: handle.id) }
    }

    @Test func severalNodesGetItAtOneStamp() throws {
        let test = TestBus()
        defer { withExtendedLifetime(test) {} }
        let sender = try Peer(on: test.bus)
        var receivers: [PeerBox] = []
        var handles: [HandleID] = []
        for _ in 0..<4 {
            let peer = try Peer(on: test.bus)
            let node = try peer.makeNode()
            handles.append(try peer.give(node, to: sender))
            receivers.append(PeerBox(peer, node))
        }
        for size in [8, 50_000] {
            let bytes = [UInt8](repeating: 3, count: size)
            let stamp = try sender.send(bytes.span.bytes, to: handles)
            for receiver in receivers {
                let message = try receiver.peer.nextMessage()
                #expect(message.stamp == stamp)
                #expect(message.byteCount == size)
            }
        }
        #expect(throws: Bus1Error.self) {
            try sender.send([1].span.bytes, to: [handles[0], handles[0]])
        }
    }

    @Test func aForwardedPayloadIsNotCopied() throws {
        let test = TestBus()
        defer { withExtendedLifetime(test) {} }
        let first = try Peer(on: test.bus)
        let second = try Peer(on: test.bus)
        let third = try Peer(on: test.bus)
        let secondNode = try second.makeNode()
        let thirdNode = try third.makeNode()
        let toSecond = try held(first.adopt(try second.give(secondNode, to: first)))
        let toThird = try held(second.adopt(try third.give(thirdNode, to: second)))
        for round in 0..<20 {
            var slice = try first.loan(200_000)
            var room = slice.bytes
            _ = room.withUnsafeMutableBytes {
                $0.initializeMemory(as: UInt8.self, repeating: UInt8(round))
            }
            try first.send(slice, to: toSecond)
            let forwarded = try second.forward(try second.nextMessage())
            try second.send(forwarded, to: toThird)
            let message = try third.nextMessage()
            #expect(
                message.payload.withUnsafeBytes {
                    $0.allSatisfy { $0 == UInt8(round) } && $0.count == 200_000
                })
        }
    }

    @Test func piecesArriveAsOnePayload() throws {
        let test = TestBus()
        defer { withExtendedLifetime(test) {} }
        let peer = try Peer(on: test.bus)
        let node = try peer.makeNode()
        let handle = try peer.makeHandle(to: node)
        for sizes in [(0, 0, 0), (1, 0, 2), (40, 40, 24), (40, 40, 25), (100, 70_000, 3)] {
            let first = [UInt8](repeating: 1, count: sizes.0)
            let second = [UInt8](repeating: 2, count: sizes.1)
            let third = [UInt8](repeating: 3, count: sizes.2)
            try peer.send(first.span.bytes, second.span.bytes, third.span.bytes, to: handle)
            let message = try peer.nextMessage()
            let whole = first + second + third
            #expect(message.payload.withUnsafeBytes { $0.elementsEqual(whole) }, "sizes \(sizes)")
        }
    }

    @Test func wishesForMemoryAreMetOrReported() throws {
        let test = TestBus()
        defer { withExtendedLifetime(test) {} }
        var options = Peer.Options()
        options.prefault = true
        options.locked = true
        options.hugePages = true
        options.numaNode = 0
        let peer = try Peer(on: test.bus, options)
        let node = try peer.makeNode()
        let handle = try peer.makeHandle(to: node)
        for wish in ["prefaulted", "locked", "huge_pages", "numa_node"] {
            let outcome = try #require(peer.facts[wish])
            #expect(outcome == "yes" || outcome.hasPrefix("no"), "\(wish): \(outcome)")
        }
        #expect(peer.facts["prefaulted"] == "yes")
        try peer.send([UInt8](repeating: 1, count: 100_000).span.bytes, to: handle)
        #expect(try peer.nextMessage().byteCount == 100_000)
    }

    @Test func aLaneLendsWhereThePeerIsReady() throws {
        let test = TestBus()
        defer { withExtendedLifetime(test) {} }
        let owner = try Peer(on: test.bus)
        let node = try owner.makeNode()
        let sender = try Peer(on: test.bus)
        let handle = try held(sender.adopt(try owner.give(node, to: sender)))
        let lane = try sender.lane()
        let bytes = [UInt8](repeating: 7, count: 5000)
        #expect(throws: Bus1Error.self) { try lane.send(bytes.span.bytes, to: handle) }
        try sender.prepareToLend(to: handle)
        let sending = TestThread {
            for _ in 0..<100 {
                try lane.send(bytes.span.bytes, to: handle, until: .after(.seconds(10)))
            }
        }
        for _ in 0..<100 { #expect(try owner.nextMessage().byteCount == 5000) }
        try sending.join()
    }

    @Test func aLaneSendsFromAnotherThread() throws {
        let test = TestBus()
        defer { withExtendedLifetime(test) {} }
        let owner = try Peer(on: test.bus)
        let node = try owner.makeNode()
        let handle = try owner.makeHandle(to: node)
        let lane = try owner.lane()
        let sending = TestThread {
            for i in 0..<10_000 {
                try lane.send(UInt64(i), to: handle, until: .after(.seconds(10)))
            }
        }
        for i in 0..<10_000 { #expect(try owner.nextMessage().load(as: UInt64.self) == UInt64(i)) }
        try sending.join()
    }
}

/// A thread of its own: what blocks must not hold one of the few of Swift's pool.
final class TestThread: @unchecked Sendable {
    // @unchecked: `failure` is written by the thread and read after it was joined.
    private var thread = pthread_t()
    private let body: () throws -> Void
    private var failure: (any Error)?

    init(_ body: @escaping () throws -> Void) {
        self.body = body
        pthread_create(
            &thread, nil,
            { context in
                let this = Unmanaged<TestThread>.fromOpaque(context!).takeRetainedValue()
                do { try this.body() } catch { this.failure = error }
                return nil
            }, Unmanaged.passRetained(self).toOpaque())
    }

    func join() throws {
        pthread_join(thread, nil)
        if let failure { throw failure }
    }
}

/// Arrays take no noncopyable elements.
final class PeerBox {
    let peer: Peer
    let node: Node
    init(_ peer: consuming Peer, _ node: consuming Node) {
        self.peer = peer
        self.node = node
    }
}

@Suite(.timeLimit(.minutes(1)))
struct DescriptorTests {
    /// Waits for the descriptor as an event loop does; false when it stays silent.
    private func isReadable(_ descriptor: Int32, _ timeout_ms: Int32) -> Bool {
        var wanted = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
        return poll(&wanted, 1, timeout_ms) == 1
    }

    @Test func theDescriptorTellsOfAMessage() throws {
        let test = TestBus()
        defer { withExtendedLifetime(test) {} }
        let owner = try Peer(on: test.bus)
        let node = try owner.makeNode()
        try owner.publish(node, as: "n")
        let sender = try Peer(on: test.bus)
        let handle = try sender.lookUp("n", until: .after(.seconds(5)))
        let descriptor = try owner.descriptor()
        #expect(isReadable(descriptor, 0))
        for i in 0..<200 {
            // Until it says that there is nothing.
            while let delivery = try owner.tryReceive() { _ = consume delivery }
            try sender.send(UInt64(i), to: handle)
            // Long before the timer.
            #expect(isReadable(descriptor, 100))
            guard case .message(let message)? = try owner.tryReceive() else {
                Issue.record("round \(i): readable, and nothing there")
                return
            }
            #expect(try message.load(as: UInt64.self) == UInt64(i))
        }
    }

    @Test func aPeerThatKnowsOnlyTheDescriptorLosesNothing() throws {
        let test = TestBus()
        defer { withExtendedLifetime(test) {} }
        let owner = try Peer(on: test.bus)
        let node = try owner.makeNode()
        let handle = try owner.makeHandle(to: node)
        let lane = try owner.lane()
        let descriptor = try owner.descriptor()
        let sending = TestThread {
            for i in 0..<20_000 {
                try lane.send(UInt64(i), to: handle, until: .after(.seconds(20)))
            }
        }
        var next: UInt64 = 0
        while next < 20_000 {
            #expect(isReadable(descriptor, 2000))
            while case .message(let message)? = try owner.tryReceive() {
                #expect(try message.load(as: UInt64.self) == next)
                next += 1
            }
        }
        try sending.join()
    }
}
