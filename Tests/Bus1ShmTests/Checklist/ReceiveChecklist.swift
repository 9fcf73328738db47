import Glibc
import Testing

@testable import Bus1Shm

/// The lines V1, V2 and V4 to V6 of docs/checklist.md.
@Suite(.timeLimit(.minutes(1)))
struct ReceiveChecklist {
    private final class Loop {
        let test = TestBus()
        let peer: Peer
        let nodes: [PeerNode]

        /// A peer with nodes, tagged 0, 1, 2 and so on, and handles to them.
        init(_ count: Int, _ options: Peer.Options = .init()) throws {
            peer = try Peer(on: test.bus, options)
            var nodes: [PeerNode] = []
            for tag in 0..<count {
                let node = try peer.makeNode(tag: UInt64(tag))
                let handle = try peer.makeHandle(to: node)
                nodes.append(PeerNode(node, handle))
            }
            self.nodes = nodes
        }

        func send(_ value: UInt64, to index: Int) throws {
            try peer.send(value, to: nodes[index].handle)
        }
    }

    private final class PeerNode {
        let node: Node
        let handle: Handle
        init(_ node: consuming Node, _ handle: consuming Handle) {
            self.node = node
            self.handle = handle
        }
    }

    @Test("V1: nothing to receive is a result, not an error")
    func empty() throws {
        let loop = try Loop(1)
        #expect(try loop.peer.tryReceive() == nil)
        #expect(try loop.peer.tryReceive(on: loop.nodes[0].node) == nil)
        #expect(try loop.peer.peek() == nil)
        #expect(try loop.peer.drain(10) { _ in } == 0)
    }

    @Test("V3: a message that is longer than the room stays, and its size is told")
    func tooLittleRoom() throws {
        let loop = try Loop(1)
        let long = [UInt8](repeating: 3, count: 500)
        try loop.peer.send(long.span.bytes, to: loop.nodes[0].handle)
        try loop.send(7, to: 0)
        for _ in 0..<2 {
            let error = #expect(throws: Bus1Error.self) {
                _ = try loop.peer.tryReceive(atMost: 499)
            }
            #expect(error?.code == .tooLarge)
        }
        guard case .message(let next)? = try loop.peer.peek() else {
            throw PeerTestFailure("nothing there")
        }
        #expect(next.byteCount == 500)
        #expect(next.handleCount == 0)
        guard case .message(let message)? = try loop.peer.tryReceive(atMost: 500) else {
            throw PeerTestFailure("nothing there")
        }
        #expect(message.byteCount == 500)
        #expect(try loop.peer.nextMessage().load(as: UInt64.self) == 7)
    }

    @Test("V2: a message names node, tag, sender, stamp, sequence and payload")
    func contents() throws {
        let loop = try Loop(2)
        let stamp = try loop.peer.send(UInt64(42), to: loop.nodes[1].handle)
        let message = try loop.peer.nextMessage()
        #expect(message.node == loop.nodes[1].node.id)
        #expect(message.tag == 1)
        #expect(message.sender == Account(uid: geteuid(), pid: getpid()))
        #expect(message.stamp == stamp)
        #expect(message.sequence == 1)
        #expect(try message.load(as: UInt64.self) == 42)
    }

    @Test(
        "V2, V5: a message tells, and peek before it, how many handles and open files came with it")
    func attachments() throws {
        let loop = try Loop(1)
        for (handles, files) in [(0, 1), (1, 0), (3, 2), (50, 0)] {
            let passed = Array(repeating: loop.nodes[0].handle.id, count: handles)
            try loop.peer.send(
                [1].span.bytes, to: loop.nodes[0].handle, passing: passed,
                descriptors: Array(repeating: 2, count: files))
            guard case .message(let preview)? = try loop.peer.peek() else {
                Issue.record("nothing to see")
                return
            }
            #expect(preview.handleCount == handles && preview.descriptorCount == files)
            #expect(try loop.peer.used(.descriptors) == files)
            let message = try loop.peer.nextMessage()
            let counts = (message.handleCount, message.descriptorCount)
            #expect(counts.0 == handles && counts.1 == files)
            #expect(preview.byteCount == message.byteCount)
            _ = consume message
            #expect(try loop.peer.used(.descriptors) == 0)
        }
    }

    @Test("V4: a payload stays as it is until it is given back, whatever comes after it")
    func payloadsStay() throws {
        let loop = try Loop(1)
        for size in [8, 104, 5000] {
            let bytes = [UInt8](repeating: 1, count: size)
            try loop.peer.send(bytes.span.bytes, to: loop.nodes[0].handle)
            let message = try loop.peer.nextMessage()
            let others = [UInt8](repeating: 2, count: size)
            for _ in 0..<3000 {
                try loop.peer.send(others.span.bytes, to: loop.nodes[0].handle)
                #expect(try loop.peer.nextMessage().byteCount == size)
            }
            #expect(message.payload.withUnsafeBytes { $0.allSatisfy { $0 == 1 } }, "\(size)")
        }
    }

    @Test("V5: peek tells what comes next and leaves it there")
    func peeking() throws {
        let loop = try Loop(2)
        for (index, size) in [(0, 8), (1, 0), (0, 50_000), (1, 104)] {
            let bytes = [UInt8](repeating: 1, count: size)
            let stamp = try loop.peer.send(bytes.span.bytes, to: loop.nodes[index].handle)
            try loop.send(7, to: 0)
            for _ in 0..<3 {
                guard case .message(let preview)? = try loop.peer.peek() else {
                    Issue.record("nothing to see")
                    return
                }
                #expect(preview.byteCount == size)
                #expect(preview.node == loop.nodes[index].node.id)
                #expect(preview.tag == UInt64(index))
                #expect(preview.stamp == stamp)
                #expect(preview.sender == loop.peer.account)
            }
            let message = try loop.peer.nextMessage()
            #expect(message.byteCount == size && message.stamp == stamp)
            #expect(message.payload.withUnsafeBytes { $0.allSatisfy { $0 == 1 } })
            #expect(try loop.peer.nextMessage().load(as: UInt64.self) == 7)
            #expect(try loop.peer.peek() == nil)
        }
    }

    @Test("V5: peek shows a notice, too")
    func peekingAtNotices() throws {
        let loop = try Loop(0)
        let owner = try Peer(on: loop.test.bus)
        let node = try owner.makeNode()
        let id = try owner.give(node, to: loop.peer)
        owner.close()
        for _ in 0..<2 {
            guard case .notice(let notice)? = try loop.peer.peek() else {
                Issue.record("nothing to see")
                return
            }
            #expect(notice.kind == .nodeReleased(id))
        }
        guard case .notice? = try loop.peer.tryReceive() else {
            Issue.record("nothing to receive")
            return
        }
        #expect(try loop.peer.tryReceive() == nil)
    }

    @Test("V6: messages of one node are taken out of turn, the others stay in order")
    func selecting() throws {
        let loop = try Loop(3)
        for value in 0..<300 { try loop.send(UInt64(value), to: value % 3) }
        for value in stride(from: 1, to: 300, by: 3) {
            let message = try loop.peer.tryReceive(on: loop.nodes[1].node)
            #expect(try message?.load(as: UInt64.self) == UInt64(value))
        }
        #expect(try loop.peer.tryReceive(on: loop.nodes[1].node) == nil)
        // What comes later stands behind what was passed over.
        for value in 300..<306 { try loop.send(UInt64(value), to: value % 3) }
        #expect(try loop.peer.receive(on: loop.nodes[1].node).load(as: UInt64.self) == 301)
        var before: [UInt64] = []
        while before.last != 305 {
            before.append(try loop.peer.nextMessage().load(as: UInt64.self))
            if before.count == 20 {
                guard case .message(let preview)? = try loop.peer.peek() else { return }
                #expect(preview.tag == 0)
            }
        }
        let expected = (0..<306).filter { $0 % 3 != 1 || $0 == 304 }.map(UInt64.init)
        #expect(before == expected)
        #expect(try loop.peer.tryReceive() == nil)
    }

    @Test("V6: one node after the other is taken from, each in its order")
    func selectingInTurn() throws {
        let loop = try Loop(3)
        for value in 0..<30 { try loop.send(UInt64(value), to: value % 3) }
        for index in [2, 1, 0] {
            for value in stride(from: index, to: 30, by: 3) {
                let message = try loop.peer.tryReceive(on: loop.nodes[index].node)
                #expect(try message?.load(as: UInt64.self) == UInt64(value))
            }
        }
        #expect(try loop.peer.tryReceive() == nil)
    }

    @Test("V6: a receive on one node waits for it, while others come")
    func selectingWaits() throws {
        let loop = try Loop(2)
        let lane = try loop.peer.lane()
        let sending = TestThread {
            for value in 0..<1000 {
                try lane.send(
                    UInt64(value), to: loop.nodes[value == 999 ? 1 : 0].handle,
                    until: .after(.seconds(10)))
            }
        }
        let message = try loop.peer.receive(
            on: loop.nodes[1].node, until: .after(.seconds(10)))
        #expect(try message.load(as: UInt64.self) == 999)
        try sending.join()
        for value in 0..<999 {
            #expect(try loop.peer.nextMessage().load(as: UInt64.self) == UInt64(value))
        }
        do {
            _ = try loop.peer.receive(on: loop.nodes[1].node, until: .after(.milliseconds(5)))
            Issue.record("received what was not sent")
        } catch { #expect(error.code == .timedOut) }
    }

    @Test("V6: what is passed over is bounded")
    func selectingIsBounded() throws {
        let loop = try Loop(2)
        var refusal: Bus1Error.Refusal?
        for value in 0..<3000 {
            try loop.send(UInt64(value), to: 0)
            do {
                #expect(try loop.peer.tryReceive(on: loop.nodes[1].node) == nil)
            } catch {
                refusal = error.refusal
                break
            }
        }
        let limit = try #require(refusal?.limit)
        #expect(refusal?.resource == .messages && refusal?.used == limit)
        for value in 0..<limit {
            #expect(try loop.peer.nextMessage().load(as: UInt64.self) == UInt64(value))
        }
    }

    @Test("V6: whoever leaves the bus leaves what it had passed over")
    func selectingAndLeaving() throws {
        let loop = try Loop(2)
        let sender = try Peer(on: loop.test.bus)
        let id = try loop.peer.give(loop.nodes[0].node, to: sender)
        let handle = try held(sender.adopt(id))
        let bytes = [UInt8](repeating: 1, count: 50_000)
        for _ in 0..<10 { try sender.send(bytes.span.bytes, to: handle) }
        #expect(try loop.peer.tryReceive(on: loop.nodes[1].node) == nil)
        try loop.peer.disconnect()
        #expect(throws: Bus1Error.self) { _ = try loop.peer.tryReceive() }
    }
}
