import Bus1Shm
import Testing

/// Peers of one process that have been introduced, each with one published node.
struct Company: ~Copyable {
    let test = TestBus()

    func stranger() throws -> Peer { try Peer(on: test.bus) }
}

let nothing: [UInt8] = []

extension Peer {
    func publishNode(_ name: String) throws -> Node {
        let node = try makeNode()
        try publish(node, as: name)
        return node
    }

    func look(_ name: String) throws -> Handle {
        try lookUp(name, until: .after(.seconds(5)))
    }

    /// The next notice; fails on a message.
    func nextNotice(until deadline: Deadline = .after(.seconds(5))) throws -> Notice {
        switch try receive(until: deadline) {
        case .notice(let notice): return notice
        case .message(let message): throw PeerTestFailure("a message to \(message.node)")
        }
    }

    func expectNothing(_ place: SourceLocation = #_sourceLocation) throws {
        while let delivery = try tryReceive() {
            switch delivery {
            case .notice(let notice): Issue.record("notice \(notice)", sourceLocation: place)
            case .message(let message):
                Issue.record("message to \(message.node)", sourceLocation: place)
            }
        }
    }
}

func taken(_ message: consuming Message, _ index: Int = 0) throws -> Handle {
    var message = message
    guard let handle = message.takeHandle(index) else { throw PeerTestFailure("no handle") }
    return handle
}

@Suite(.timeLimit(.minutes(1)))
struct HandOverTests {
    @Test("S7: a lane passes a handle on between peers that do not know each other")
    func byLane() throws {
        let company = Company()
        let b = try company.stranger()
        let bNode = try b.publishNode("b")
        let c = try company.stranger()
        let cNode = try c.publishNode("c")
        _ = bNode.id
        let a = try company.stranger()
        let toB = try a.look("b")
        let toC = try a.look("c")
        let (idB, idC) = (toB.id, toC.id)
        let lane = try a.lane()
        // Nobody receives: an error that says what was waited for, and nothing has happened.
        var early = lane.transaction()
        try early.send(UInt64(1), to: idB, passing: [idC])
        do {
            try early.commit(until: .after(.milliseconds(5)))
            Issue.record("committed")
        } catch { #expect(error.code == .timedOut) }
        try b.expectNothing()
        let sending = TestThread {
            var transaction = lane.transaction()
            try transaction.send(UInt64(2), to: idB, passing: [idC])
            try transaction.commit(until: .after(.seconds(20)))
        }
        while true {
            try a.expectNothing()
            guard case .message(let message)? = try b.tryReceive() else { continue }
            let handle = try taken(message)
            try b.send(UInt64(3), to: handle)
            break
        }
        try sending.join()
        #expect(try c.nextMessage().node == cNode.id)
    }

    @Test("S7: a handle to an own node travels in a message, and the receiver may send through it")
    func ownNode() throws {
        let company = Company()
        let b = try company.stranger()
        let bNode = try b.publishNode("b")
        let a = try company.stranger()
        let toB = try a.look("b")
        let aNode = try a.makeNode(tag: 5)
        let own = try a.makeHandle(to: aNode)
        try a.send(([1, 2, 3] as [UInt8]).span.bytes, to: toB, passing: [own.id])
        let message = try b.nextMessage()
        let seen1 = message.node
        #expect(seen1 == bNode.id)
        let seen2 = message.handleCount
        #expect(seen2 == 1)
        let size = message.byteCount
        #expect(size == 3)
        let back = try taken(message)
        try b.send(UInt64(77), to: back)
        let answer = try a.nextMessage()
        let seen3 = answer.node
        #expect(seen3 == aNode.id)
        let seen4 = answer.tag
        #expect(seen4 == 5)
        #expect(try answer.load(as: UInt64.self) == 77)
    }

    @Test(
        "S7: a handle to somebody else's node travels in a message; its owner learns of the new holder first"
    )
    func thirdParty() throws {
        let company = Company()
        let b = try company.stranger()
        let bNode = try b.publishNode("b")
        let c = try company.stranger()
        let cNode = try c.publishNode("c")
        _ = cNode.id
        let a = try company.stranger()
        let toB = try a.look("b")
        let toC = try a.look("c")
        try a.send(nothing.span.bytes, to: toC, passing: [toB.id])
        let handle = try taken(try c.nextMessage())
        for i in 0..<100 {
            try c.send(UInt64(i), to: handle)
            let message = try b.nextMessage()
            let seen5 = message.node
            #expect(seen5 == bNode.id)
            #expect(try message.load(as: UInt64.self) == UInt64(i))
        }
        // The giver keeps its own.
        try a.send(UInt64(1000), to: toB)
        #expect(try b.nextMessage().load(as: UInt64.self) == 1000)
    }

    @Test("S7: a handle to a node of the receiver itself is recognised as such")
    func receiversOwn() throws {
        let company = Company()
        let b = try company.stranger()
        let bNode = try b.publishNode("b")
        let a = try company.stranger()
        let toB = try a.look("b")
        try a.send(nothing.span.bytes, to: toB, passing: [toB.id])
        let message = try b.nextMessage()
        #expect(message.ownNode() == bNode.id)
        let own = try taken(message)
        try b.send(UInt64(9), to: own)
        #expect(try b.nextMessage().load(as: UInt64.self) == 9)
    }

    @Test("S7: the same handle twice gives two")
    func twice() throws {
        let company = Company()
        let b = try company.stranger()
        let bNode = try b.publishNode("b")
        _ = bNode.id
        let a = try company.stranger()
        let toB = try a.look("b")
        let node = try a.makeNode()
        let own = try a.makeHandle(to: node)
        try a.send(nothing.span.bytes, to: toB, passing: [own.id, own.id])
        var message = try b.nextMessage()
        let seen6 = message.handleCount
        #expect(seen6 == 2)
        let first = try held(message.takeHandle(0))
        let second = try held(message.takeHandle(1))
        let seen7 = first.id
        #expect(seen7 != second.id)
        let again = message.takeHandle(0) == nil
        #expect(again)
        first.release()
        try b.send(UInt64(1), to: second)
        #expect(try a.nextMessage().node == node.id)
    }

    @Test("T3: handles travel along a chain, each step a handle of its own", arguments: [1, 100])
    func chain(rounds: Int) throws {
        let company = Company()
        let owner = try company.stranger()
        let node = try owner.publishNode("owner")
        let c = try company.stranger()
        let cNode = try c.publishNode("c")
        _ = cNode.id
        let d = try company.stranger()
        let dNode = try d.publishNode("d")
        _ = dNode.id
        let a = try company.stranger()
        let toOwner = try a.look("owner")
        let toC = try a.look("c")
        let cToD = try c.look("d")
        for i in 0..<rounds {
            try a.send(nothing.span.bytes, to: toC, passing: [toOwner.id])
            let atC = try taken(try c.nextMessage())
            try c.send(nothing.span.bytes, to: cToD, passing: [atC.id])
            let atD = try taken(try d.nextMessage())
            try d.send(UInt64(i), to: atD)
            let message = try owner.nextMessage()
            let seen8 = message.node
            #expect(seen8 == node.id)
            #expect(try message.load(as: UInt64.self) == UInt64(i))
        }
    }

    @Test(
        "S7: many handles of several owners in one message, with a payload of any size",
        arguments: [0, 8, 500, 100_000])
    func many(size: Int) throws {
        let company = Company()
        let b = try company.stranger()
        let bNode = try b.publishNode("b")
        _ = bNode.id
        let c = try company.stranger()
        let cNode = try c.publishNode("c")
        let a = try company.stranger()
        let toB = try a.look("b")
        let toC = try a.look("c")
        let node = try a.makeNode()
        let own = try a.makeHandle(to: node)
        let payload = (0..<size).map { UInt8(truncatingIfNeeded: $0) }
        let passing = (0..<50).flatMap { _ in [own.id, toC.id, toB.id] }
        try a.send(payload.span.bytes, to: toB, passing: passing)
        var message = try b.nextMessage()
        let seen9 = message.handleCount
        #expect(seen9 == 150)
        let same = message.payload.withUnsafeBytes { $0.elementsEqual(payload) }
        #expect(same)
        for i in 0..<50 {
            let toA = try held(message.takeHandle(3 * i))
            let viaC = try held(message.takeHandle(3 * i + 1))
            try b.send(UInt64(i), to: toA)
            #expect(try a.nextMessage().node == node.id)
            try b.send(UInt64(i), to: viaC)
            #expect(try c.nextMessage().node == cNode.id)
        }
    }

    @Test("S7: handles go beside a loaned slice, which is not copied")
    func besideASlice() throws {
        let company = Company()
        let b = try company.stranger()
        let bNode = try b.publishNode("b")
        _ = bNode.id
        let a = try company.stranger()
        let toB = try a.look("b")
        let node = try a.makeNode()
        let own = try a.makeHandle(to: node)
        for count in [1, 3, 100] {
            var slice = try a.loan(1 << 16)
            var bytes = slice.bytes
            bytes.withUnsafeMutableBytes { _ = $0.initializeMemory(as: UInt8.self, repeating: 7) }
            var transaction = a.transaction()
            try transaction.send(
                slice, to: toB.id, passing: Array(repeating: own.id, count: count))
            try transaction.commit()
            var message = try b.nextMessage()
            let seen10 = message.byteCount
            #expect(seen10 == 1 << 16)
            let isFilled = message.payload.withUnsafeBytes { $0.allSatisfy { $0 == 7 } }
            #expect(isFilled)
            let seen11 = message.handleCount
            #expect(seen11 == count)
            try b.send(UInt64(count), to: try held(message.takeHandle(count - 1)))
            #expect(try a.nextMessage().load(as: UInt64.self) == UInt64(count))
        }
    }

    @Test("S8: a handle whose node was released after the message is valid, and the notice follows")
    func invalid() throws {
        let company = Company()
        let b = try company.stranger()
        let bNode = try b.publishNode("b")
        _ = bNode.id
        let a = try company.stranger()
        let toB = try a.look("b")
        let node = try a.makeNode()
        let own = try a.makeHandle(to: node)
        try a.send(nothing.span.bytes, to: toB, passing: [own.id])
        node.release()
        #expect(throws: Bus1Error.self) {
            try a.send(nothing.span.bytes, to: toB, passing: [own.id])
        }
        // Sent before the release: valid, and the notice follows.
        let early = try taken(try b.nextMessage())
        let id = early.id
        #expect(try b.nextNotice().kind == .nodeReleased(id))
    }
}
