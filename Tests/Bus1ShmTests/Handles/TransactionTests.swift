import Bus1Shm
import Testing

@Suite(.timeLimit(.minutes(1)))
struct TransactionTests {
    @Test("S2: a transaction to several nodes happens at one instant")
    func together() throws {
        let company = Company()
        let b = try company.stranger()
        let bNode = try b.publishNode("b")
        _ = bNode.id
        let c = try company.stranger()
        let cNode = try c.publishNode("c")
        _ = cNode.id
        let a = try company.stranger()
        let toB = try a.look("b")
        let toC = try a.look("c")
        var transaction = a.transaction()
        try transaction.send(UInt64(1), to: toB.id)
        try transaction.send(UInt64(2), to: toC.id)
        try b.expectNothing()
        let stamp = try transaction.commit()
        let atB = try b.nextMessage()
        let atC = try c.nextMessage()
        let seen1 = atB.stamp
        #expect(seen1 == stamp)
        let seen2 = atC.stamp
        #expect(seen2 == stamp)
        #expect(try atB.load(as: UInt64.self) == 1)
        #expect(try atC.load(as: UInt64.self) == 2)
    }

    @Test("S11: a transaction that is dropped has not happened")
    func dropped() throws {
        let company = Company()
        let b = try company.stranger()
        let bNode = try b.publishNode("b")
        _ = bNode.id
        let a = try company.stranger()
        let toB = try a.look("b")
        do {
            var transaction = a.transaction()
            try transaction.send(UInt64(1), to: toB.id)
            try transaction.send(a.loan(100_000), to: try a.look("b").id)
        }
        try a.send(UInt64(2), to: toB)
        #expect(try b.nextMessage().load(as: UInt64.self) == 2)
        try b.expectNothing()
    }

    @Test(
        "S4: a repeated destination is refused; two nodes of one peer are two messages, the first marked"
    )
    func repeated() throws {
        let company = Company()
        let b = try company.stranger()
        let bNode = try b.publishNode("b")
        let second = try b.makeNode(tag: 2)
        try b.publish(second, as: "b2")
        let a = try company.stranger()
        let toB = try a.look("b")
        let toSecond = try a.look("b2")
        var transaction = a.transaction()
        try transaction.send(UInt64(1), to: toB.id)
        let error = #expect(throws: Bus1Error.self) {
            try transaction.send(UInt64(1), to: toB.id)
        }
        #expect(error?.code == .duplicateDestination)
        try transaction.send(UInt64(2), to: toSecond.id)
        let stamp = try transaction.commit()
        let first = try b.nextMessage()
        let other = try b.nextMessage()
        let seen3 = first.node
        #expect(seen3 == bNode.id)
        let seen4 = first.moreFollow
        #expect(seen4)
        let seen5 = other.node
        #expect(seen5 == second.id)
        let seen6 = other.moreFollow
        #expect(!seen6)
        let seen7 = first.stamp
        #expect(seen7 == stamp)
        let seen8 = other.stamp
        #expect(seen8 == stamp)
    }

    @Test(
        "S3: with continue, each destination has its own result, the others go through at one stamp"
    )
    func eachForItself() throws {
        let company = Company()
        let b = try company.stranger()
        let bNode = try b.publishNode("b")
        _ = bNode.id
        let c = try company.stranger()
        let cNode = try c.publishNode("c")
        _ = cNode.id
        let full = try company.stranger()
        let fullNode = try full.publishNode("full")
        _ = fullNode.id
        let a = try company.stranger()
        let toB = try a.look("b")
        let toC = try a.look("c")
        let toFull = try a.look("full")
        while try a.trySend(UInt64(0), to: toFull) != nil {}
        let gone = try a.look("c")
        let goneID = gone.id
        gone.release()
        var transaction = a.transaction()
        try transaction.send(UInt64(1), to: toB.id)
        try transaction.send(UInt64(2), to: toFull.id)
        try transaction.send(UInt64(3), to: goneID)
        try transaction.send(UInt64(4), to: toC.id)
        // The last eighth of a ring is left to transactions: fill that, too.
        var result = try transaction.commitEach()
        while !result.refused.contains(where: { $0.0 == toFull.id }) {
            var another = a.transaction()
            try another.send(UInt64(1), to: toB.id)
            try another.send(UInt64(2), to: toFull.id)
            try another.send(UInt64(3), to: goneID)
            try another.send(UInt64(4), to: toC.id)
            _ = try b.nextMessage()
            _ = try c.nextMessage()
            result = try another.commitEach()
        }
        #expect(result.refused.count == 2)
        let why = Dictionary(uniqueKeysWithValues: result.refused.map { ($0.0, $0.1.code) })
        #expect(why[goneID] == .noSuchHandle)
        #expect(why[toFull.id] == .overQuota)
        let atB = try b.nextMessage()
        let atC = try c.nextMessage()
        let seen9 = atB.stamp
        #expect(seen9 == result.stamp)
        let seen10 = atC.stamp
        #expect(seen10 == result.stamp)
    }

    @Test("S2: one destination that can't be had, and no destination gets it")
    func allOrNothing() throws {
        let company = Company()
        let b = try company.stranger()
        let bNode = try b.publishNode("b")
        _ = bNode.id
        let a = try company.stranger()
        let toB = try a.look("b")
        let gone = try a.look("b")
        let goneID = gone.id
        gone.release()
        var transaction = a.transaction()
        try transaction.send(UInt64(1), to: toB.id)
        try transaction.send(UInt64(2), to: goneID)
        do {
            try transaction.commit()
            Issue.record("committed")
        } catch { #expect(error.code == .noSuchHandle) }
        try b.expectNothing()
    }

    @Test("S2, S3: who lets transactions pile up is refused by name, and stops none to others")
    func piledUp() throws {
        let company = Company()
        let b = try company.stranger()
        let bNode = try b.publishNode("b")
        let c = try company.stranger()
        let cNode = try c.publishNode("c")
        var options = Peer.Options()
        options.slots = 8192
        let stopped = try Peer(on: company.test.bus, options)
        let stoppedNode = try stopped.publishNode("stopped")
        _ = (bNode.id, cNode.id, stoppedNode.id)
        let a = try company.stranger()
        let toB = try a.look("b")
        let toC = try a.look("c")
        let toStopped = try a.look("stopped")
        var piled = 0
        while true {
            var transaction = a.transaction()
            try transaction.send(UInt64(piled), to: toB.id)
            try transaction.send(UInt64(piled), to: toStopped.id)
            let result = try transaction.commitEach()
            _ = try b.nextMessage()
            guard result.refused.isEmpty else {
                #expect(result.refused.map(\.0) == [toStopped.id])
                #expect(result.refused.map(\.1.code) == [.overQuota])
                break
            }
            piled += 1
            try #require(piled < 1000)
        }
        // All or nothing waits for the one that is stopped, and for nobody else.
        let both = [toB.id, toStopped.id]
        do {
            try a.send([1].span.bytes, to: both, until: .after(.milliseconds(20)))
            Issue.record("sent")
        } catch { #expect(error.code == .timedOut) }
        for number in 0..<2000 {
            var transaction = a.transaction()
            try transaction.send(UInt64(number), to: toB.id)
            try transaction.send(UInt64(number), to: toC.id)
            try transaction.commit(until: .after(.seconds(5)))
            _ = try b.nextMessage()
            _ = try c.nextMessage()
        }
        // What it let pile up is there, and once it is read there is room again.
        for _ in 0..<piled { _ = try stopped.nextMessage() }
        try stopped.expectNothing()
        try a.send([1].span.bytes, to: both, until: .after(.seconds(5)))
    }

    @Test("S1: an empty transaction succeeds and does nothing")
    func empty() throws {
        let company = Company()
        let a = try company.stranger()
        let first = try a.transaction().commit()
        let second = try a.transaction().commit()
        #expect(first <= second)
    }
}
