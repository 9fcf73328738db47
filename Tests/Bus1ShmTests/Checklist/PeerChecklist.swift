import Glibc
import Testing

@testable import Bus1Shm
@testable import Bus1TestSupport

/// The lines P1 to P7 of docs/checklist.md.
@Suite(.timeLimit(.minutes(1)))
struct PeerChecklist {
    private func code(_ body: () throws -> Void) -> Bus1Error.Code? {
        do {
            try body()
            return nil
        } catch { return (error as? Bus1Error)?.code }
    }

    private func isReadable(_ descriptor: Int32, _ timeout_ms: Int32) -> Bool {
        var wanted = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
        return poll(&wanted, 1, timeout_ms) == 1
    }

    @Test("P1: a new peer cannot be addressed; without a handle nothing reaches it")
    func unreachable() throws {
        let test = TestBus()
        defer { withExtendedLifetime(test) {} }
        let new = try Peer(on: test.bus)
        let stranger = try Peer(on: test.bus)
        let node = try new.makeNode()
        let its = try new.makeHandle(to: node)
        // Its identifiers are of no use to others, nor are any others.
        for id in [its.id.rawValue, node.id.rawValue, 0, 1, 1 << 24, .max] {
            let id = HandleID(rawValue: id)
            #expect(code { try stranger.trySend(UInt64(1), to: id) } == .noSuchHandle)
            #expect(code { try stranger.send([1].span.bytes, to: [id]) } == .noSuchHandle)
        }
        #expect(code { try stranger.send(UInt64(1), to: its) } == .noSuchHandle)
        #expect(code { _ = try stranger.lookUp("anything", until: .after(.zero)) } == .timedOut)
        #expect(try new.tryReceive() == nil)
        #expect(try new.peek() == nil)
    }

    @Test("P2: closing a peer ends its nodes and its queue; what it sent stays queued elsewhere")
    func closing() throws {
        let test = TestBus()
        defer { withExtendedLifetime(test) {} }
        let closing = try Peer(on: test.bus)
        let other = try Peer(on: test.bus)
        let node = try closing.makeNode()
        let otherNode = try other.makeNode()
        let toClosing = try held(other.adopt(try closing.give(node, to: other)))
        let toOther = try other.give(otherNode, to: closing)
        for i in 0..<3 { try closing.trySend(UInt64(i), to: toOther) }
        let long = [UInt8](repeating: 5, count: 50_000)
        try other.send(long.span.bytes, to: toClosing)
        closing.close()
        #expect(code { try other.trySend(UInt64(1), to: toClosing) } == .nodeReleased)
        for i in 0..<3 { #expect(try other.nextMessage().load(as: UInt64.self) == UInt64(i)) }
        guard case .notice(let notice)? = try other.tryReceive() else {
            Issue.record("nobody told of the node's end")
            return
        }
        #expect(notice.kind == .nodeReleased(toClosing.id))
    }

    @Test("P3: disconnecting works once; every later operation says that the peer is shut down")
    func disconnecting() throws {
        let test = TestBus()
        defer { withExtendedLifetime(test) {} }
        let peer = try Peer(on: test.bus)
        let other = try Peer(on: test.bus)
        let node = try peer.makeNode()
        let otherNode = try other.makeNode()
        let handle = try peer.makeHandle(to: node)
        let listed = try other.give(otherNode, to: peer)
        let lane = try peer.lane()
        try peer.send(UInt64(1), to: handle)
        try peer.send(UInt64(2), to: handle)
        let received = try peer.nextMessage()
        #expect(try peer.peek() != nil)
        try peer.disconnect()
        #expect(code { try peer.disconnect() } == .shutDown)
        #expect(code { _ = try peer.tryReceive() } == .shutDown)
        #expect(code { _ = try peer.receive(until: .after(.seconds(1))) } == .shutDown)
        #expect(code { _ = try peer.tryReceive(on: node) } == .shutDown)
        #expect(code { _ = try peer.peek() } == .shutDown)
        #expect(code { _ = try peer.drain(1) { _ in } } == .shutDown)
        #expect(code { try peer.trySend(UInt64(1), to: handle) } == .shutDown)
        #expect(code { try peer.trySend(UInt64(1), to: listed) } == .shutDown)
        #expect(code { try peer.send([1].span.bytes, to: handle) } == .shutDown)
        #expect(code { try peer.send([1].span.bytes, to: [listed]) } == .shutDown)
        #expect(code { try lane.trySend(UInt64(1), to: handle) } == .shutDown)
        #expect(code { _ = try lane.loan(10) } == .shutDown)
        #expect(code { _ = try peer.loan(10) } == .shutDown)
        #expect(code { _ = try peer.lane() } == .shutDown)
        #expect(code { _ = try peer.makeNode() } == .shutDown)
        #expect(code { _ = try peer.makeHandle(to: node) } == .shutDown)
        #expect(code { try peer.publish(node, as: "n") } == .shutDown)
        #expect(code { _ = try peer.lookUp("n", until: .now) } == .shutDown)
        #expect(code { _ = try peer.descriptor() } == .shutDown)
        #expect(code { try peer.release(listed) } == .shutDown)
        #expect(code { _ = try other.give(otherNode, to: peer) } == .shutDown)
        #expect(try received.load(as: UInt64.self) == 1)
        // Others see what they see when it closes: its handle is gone.
        #expect(try other.nextNotice().kind == .noHandles(otherNode.id))
        #expect(try other.tryReceive() == nil)
    }

    @Test("P4: the descriptor is readable while something can be dequeued")
    func readable() throws {
        let test = TestBus()
        defer { withExtendedLifetime(test) {} }
        let peer = try Peer(on: test.bus)
        let node = try peer.makeNode()
        let other = try peer.makeNode()
        let handle = try peer.makeHandle(to: node)
        let toOther = try peer.makeHandle(to: other)
        let descriptor = try peer.descriptor()
        for _ in 0..<20 {
            while let delivery = try peer.tryReceive() { _ = consume delivery }
            try peer.send(UInt64(1), to: handle)
            try peer.send(UInt64(2), to: toOther)
            // Whatever looks at the first, and leaves it there.
            #expect(isReadable(descriptor, 100))
            #expect(try peer.peek() != nil)
            #expect(isReadable(descriptor, 100))
            #expect(try peer.tryReceive(on: other)?.load(as: UInt64.self) == 2)
            #expect(try peer.tryReceive(on: other) == nil)
            #expect(isReadable(descriptor, 100))
            #expect(try peer.nextMessage().load(as: UInt64.self) == 1)
        }
    }

    @Test("P4: after shutdown the descriptor stays readable, and receive says why")
    func readableAfterShutdown() throws {
        let test = TestBus()
        defer { withExtendedLifetime(test) {} }
        let peer = try Peer(on: test.bus)
        let descriptor = try peer.descriptor()
        while let delivery = try peer.tryReceive() { _ = consume delivery }
        try peer.disconnect()
        for _ in 0..<10 {
            #expect(isReadable(descriptor, 1000))
            #expect(code { _ = try peer.tryReceive() } == .shutDown)
        }
    }

    @Test("P7: messages bear the credentials of the process that made the peer")
    func credentials() throws {
        let test = TestBus()
        defer { withExtendedLifetime(test) {} }
        let peer = try Peer(on: test.bus)
        let node = try peer.makeNode()
        let handle = try peer.makeHandle(to: node)
        let lane = try peer.lane()
        try TestThread { try lane.send(UInt64(1), to: handle) }.join()
        #expect(try peer.nextMessage().sender == Account(uid: geteuid(), pid: getpid()))
    }
}

extension ProcessTests {
    @Suite(.serialized, .timeLimit(.minutes(2)))
    struct CredentialsChecklist {
        @Test(
            "P7: a peer keeps the credentials it was made with, also when its process changes user",
            .enabled(if: getuid() == 0))
        func pinned() throws {
            try withCrew { crew in
                let owner = try crew.join()
                try owner.must("node n")
                let sender = try crew.join()
                try sender.must("look n 5000")
                try sender.must("setuid 61001")
                try sender.must("send 0 7 42 16 1000")
                #expect(try owner.must("receive 5000") == "message 16 7 42 0 0 \(sender.pid)")
            }
        }
    }
}
