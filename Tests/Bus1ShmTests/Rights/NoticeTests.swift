import Testing

@testable import Bus1Shm

@Suite(.timeLimit(.minutes(1)))
struct NoticeTests {
    @Test("N1: when the last handle is gone, its owner gets exactly one notice")
    func lastHandle() throws {
        let pair = try OwnerAndHolder()
        let third = try Peer(on: pair.test.bus)
        let ids = [try pair.give(), try pair.give()]
        let other = try pair.owner.give(pair.node, to: third)
        try pair.holder.release(ids[0])
        try third.release(other)
        #expect(try pair.owner.everything() == [])
        try pair.holder.release(ids[1])
        #expect(try pair.owner.everything().map(\.kind) == [.noHandles(pair.node.id)])
        #expect(try pair.owner.everything() == [])
    }

    @Test("N1: a node that is published and looked up tells when its last user is gone")
    func lastUser() throws {
        let pair = try OwnerAndHolder()
        try pair.owner.publish(pair.node, as: "service")
        let first = try pair.holder.lookUp("service", until: .after(.seconds(5)))
        try pair.holder.send(UInt64(1), to: first)
        first.release()
        #expect(try pair.owner.everything().map(\.kind) == [nil, .noHandles(pair.node.id)])
        // One that was never used.
        let second = try pair.holder.lookUp("service", until: .after(.seconds(5)))
        second.release()
        #expect(try pair.owner.everything().map(\.kind) == [.noHandles(pair.node.id)])
    }

    @Test("N2: handles in messages under way count; no notice while there is one")
    func inFlight() throws {
        let pair = try OwnerAndHolder()
        let third = try Peer(on: pair.test.bus)
        let node = try third.makeNode()
        let way = try held(pair.holder.adopt(try third.give(node, to: pair.holder)))
        let id = try pair.give()
        try pair.holder.send([1].span.bytes, to: way, passing: [id])
        try pair.holder.release(id)
        #expect(try pair.owner.everything() == [])
        // Received and dropped, without having been looked at.
        _ = try third.nextMessage()
        #expect(try pair.owner.everything().map(\.kind) == [.noHandles(pair.node.id)])
        // From the owner itself.
        let back = try held(pair.owner.adopt(try third.give(node, to: pair.owner)))
        let own = try pair.owner.makeHandle(to: pair.node).detach()
        try pair.owner.send([2].span.bytes, to: back, passing: [own])
        try pair.owner.release(own)
        #expect(try pair.owner.everything() == [])
        let message = try third.nextMessage()
        #expect(try pair.owner.everything() == [])
        _ = consume message
        #expect(try pair.owner.everything().map(\.kind) == [.noHandles(pair.node.id)])
    }

    @Test("N3: a handle made before the notice is taken withdraws it")
    func withdrawn() throws {
        let pair = try OwnerAndHolder()
        let other = try pair.owner.makeNode()
        let way = try held(pair.holder.adopt(try pair.owner.give(other, to: pair.holder)))
        let id = try pair.give()
        try pair.holder.release(id)
        let again = try pair.give()
        #expect(try pair.owner.everything() == [])
        // Also when the notice waits behind others already.
        let more = try pair.owner.give(other, to: pair.holder)
        way.release()
        try pair.holder.release([again, more])
        let first = try #require(try pair.owner.everything().first)
        #expect(first.more)
        _ = try pair.give()
        _ = try pair.owner.give(other, to: pair.holder)
    }

    @Test("N3: of two notices of one stamp the second is withdrawn alone")
    func secondWithdrawn() throws {
        let pair = try OwnerAndHolder()
        let other = try pair.owner.makeNode()
        let ids = [try pair.give(), try pair.owner.give(other, to: pair.holder)]
        try pair.holder.release(ids)
        let first = try pair.owner.nextNotice()
        #expect(first.moreFollow)
        let second = first.kind == .noHandles(pair.node.id) ? other.id : pair.node.id
        let again = try pair.owner.core.grant(second, to: pair.holder.core)
        #expect(try pair.owner.tryReceive() == nil)
        try pair.holder.release(again)
        let last = try pair.owner.everything()
        #expect(last.map(\.kind) == [.noHandles(second)])
        try #require(last.count == 1)
        #expect(last[0].stamp > first.stamp)
    }

    @Test("N3: a notice that was put aside for later is withdrawn, too")
    func withdrawnAside() throws {
        let pair = try OwnerAndHolder()
        let other = try pair.owner.makeNode()
        let way = try pair.owner.give(other, to: pair.holder)
        try pair.holder.release(try pair.give())
        try pair.holder.trySend(UInt64(1), to: way)
        #expect(try pair.owner.receive(on: other).load(as: UInt64.self) == 1)
        let again = try pair.give()
        #expect(try pair.owner.everything() == [])
        try pair.holder.release(again)
        #expect(try pair.owner.everything().map(\.kind) == [.noHandles(pair.node.id)])
    }

    @Test("N7: notices and a message of one transaction: all but the last say that more follow")
    func mixed() throws {
        let pair = try OwnerAndHolder()
        let inHolder = try pair.holder.makeNode()
        let theirs = try pair.holder.give(inHolder, to: pair.owner)
        let kept = try pair.give()
        let ids = [try pair.give(), try pair.give()]
        // A node and two handles, of which neither is the last: one notice, and nothing follows it.
        var one = pair.holder.transaction()
        one.release(inHolder)
        for id in ids { one.release(try held(pair.holder.adopt(id))) }
        let stamp = try one.commit()
        #expect(
            try pair.owner.everything() == [.notice(.nodeReleased(theirs), stamp, more: false)])
        // A message, a node and the last handle.
        let second = try pair.holder.makeNode()
        let others = try pair.holder.give(second, to: pair.owner)
        let more = try pair.owner.makeNode()
        let way = try pair.owner.give(more, to: pair.holder)
        var two = pair.holder.transaction()
        try two.send(UInt64(7), to: way)
        two.release(second)
        two.release(try held(pair.holder.adopt(kept)))
        let later = try two.commit()
        let told = try pair.owner.everything()
        #expect(told.count == 3)
        #expect(told.first == .message(7, later, more: true))
        #expect(
            Set(told.compactMap(\.kind))
                == [.nodeReleased(others), .noHandles(pair.node.id)])
        #expect(told.allSatisfy { $0.stamp == later })
        #expect(told.map(\.more) == [true, true, false])
    }

    @Test("N3: a notice that waits behind another of a death is withdrawn by a new holder")
    func withdrawnInTheQueue() throws {
        let pair = try OwnerAndHolder()
        let third = try Peer(on: pair.test.bus)
        let other = try pair.owner.makeNode()
        _ = try pair.give()
        _ = try pair.owner.give(other, to: pair.holder)
        pair.holder.core.close()
        let first = try pair.owner.nextNotice()
        let second = first.kind == .noHandles(pair.node.id) ? other.id : pair.node.id
        let again = try pair.owner.core.grant(second, to: third.core)
        #expect(try pair.owner.tryReceive() == nil)
        try third.release(again)
        #expect(try pair.owner.everything().map(\.kind) == [.noHandles(second)])
    }

    @Test("N3: a name looked up while the notice waits behind another withdraws it")
    func lookedUpMeanwhile() throws {
        let pair = try OwnerAndHolder()
        let third = try Peer(on: pair.test.bus)
        let other = try pair.owner.makeNode()
        try pair.owner.publish(pair.node, as: "a")
        try pair.owner.publish(other, as: "b")
        let ids = [try pair.give(), try pair.owner.give(other, to: pair.holder)]
        try pair.holder.release(ids)
        let first = try pair.owner.nextNotice()
        #expect(first.moreFollow)
        let isA = first.kind == .noHandles(pair.node.id)
        let handle = try third.lookUp(isA ? "b" : "a", until: .after(.seconds(5)))
        let meanwhile = try pair.owner.everything()
        #expect(meanwhile == [], "\(meanwhile) after \(first)")
        handle.release()
        let last = try pair.owner.everything().map(\.kind)
        #expect(last == [.noHandles(isA ? other.id : pair.node.id)])
    }

    @Test("N4: a new handle, its release, and a notice again, any number of times")
    func again() throws {
        let pair = try OwnerAndHolder()
        var latest = Stamp(rawValue: 0)
        for round in 0..<100 {
            let id = try pair.give()
            if round % 3 == 0 { try pair.holder.trySend(UInt64(round), to: id) }
            try pair.holder.release(id)
            let told = try pair.owner.everything()
            #expect(told.last?.kind == .noHandles(pair.node.id))
            #expect(told.count == (round % 3 == 0 ? 2 : 1))
            let stamp = try #require(told.last).stamp
            #expect(stamp > latest)
            latest = stamp
        }
        #expect(pair.owner.core.nodes.withLock { $0.grantCount } == 0)
    }

    @Test("N5: each holder gets a notice for each handle, which ends the identifier")
    func nodeReleased() throws {
        let pair = try OwnerAndHolder()
        let ids = [try pair.give(), try pair.give(), try pair.give()]
        try pair.holder.release(ids[1])
        pair.owner.core.releaseNode(pair.node.id)
        // Known at once; told in its place.
        #expect(code { try pair.holder.trySend(UInt64(1), to: ids[0]) } == .nodeReleased)
        var told: [Notice] = []
        for _ in 0..<2 { told.append(try pair.holder.nextNotice()) }
        #expect(Set(told.map(\.kind)) == [.nodeReleased(ids[0]), .nodeReleased(ids[2])])
        #expect(told.map(\.moreFollow) == [true, false])
        #expect(told[0].stamp == told[1].stamp)
        #expect(try pair.holder.tryReceive() == nil)
        for id in ids {
            #expect(code { try pair.holder.trySend(UInt64(1), to: id) } == .noSuchHandle)
            #expect(code { try pair.holder.release(id) } == .noSuchHandle)
        }
    }

    @Test("N5: release words serve node after node, and nobody is told of another's")
    func wordsAreUsedAgain() throws {
        let pair = try OwnerAndHolder()
        var words: Set<UInt32> = []
        let lasting = try pair.give()
        for round in 0..<50 {
            let nodes = try (0..<2).map { _ in try pair.owner.makeNode().detach() }
            let ids = try nodes.map { try pair.owner.core.grant($0, to: pair.holder.core) }
            for node in nodes { words.insert(node.word) }
            pair.owner.core.releaseNode(nodes[round % 2])
            #expect(try pair.holder.everything().map(\.kind) == [.nodeReleased(ids[round % 2])])
            try pair.holder.release(ids[1 - round % 2])
            #expect(
                try pair.owner.everything().map(\.kind) == [.noHandles(nodes[1 - round % 2])])
            pair.owner.core.releaseNode(nodes[1 - round % 2])
        }
        #expect(words.count < 20)
        try pair.holder.trySend(UInt64(1), to: lasting)
        #expect(try pair.owner.everything().map(\.number) == [1])
    }

    @Test("N6: what is ordered before a node's release is delivered, what comes after is dropped")
    func beforeAndAfter() throws {
        let pair = try OwnerAndHolder()
        let other = try pair.owner.makeNode()
        let ids = [try pair.give(), try pair.owner.give(other, to: pair.holder)]
        try pair.holder.trySend(UInt64(1), to: ids[0])
        try pair.holder.trySend(UInt64(2), to: ids[1])
        pair.owner.core.releaseNode(pair.node.id)
        // As one sent that had not looked at the word: it goes past the check.
        try pair.holder.sendUnchecked(UInt64(3), to: ids[0])
        try pair.holder.trySend(UInt64(4), to: ids[1])
        let told = try pair.owner.everything()
        #expect(told.map(\.number) == [1, 2, 4])
        // Without a trace.
        #expect(pair.owner.core.refused == 0)
        #expect(try pair.holder.everything().map(\.kind) == [.nodeReleased(ids[0])])
    }

    @Test("N8: a peer's death releases all it had at one stamp, after all it had sent")
    func death() throws {
        let pair = try OwnerAndHolder()
        let node = try pair.holder.makeNode()
        let theirs = [
            try pair.holder.give(node, to: pair.owner), try pair.holder.give(node, to: pair.owner),
        ]
        let ids = [try pair.give(), try pair.give()]
        for number in UInt64(0)..<20 { try pair.holder.trySend(number, to: ids[0]) }
        let stamp = try pair.holder.send([UInt64(9)].span.bytes, to: ids)
        pair.holder.core.close()
        let told = try pair.owner.everything()
        try #require(told.count == 25)
        #expect(told[..<20].map(\.number) == (0..<20).map(Optional.some))
        #expect(told[20..<22].allSatisfy { $0.stamp == stamp })
        let last = told[22...]
        #expect(
            Set(last.compactMap(\.kind)) == [
                .noHandles(pair.node.id), .nodeReleased(theirs[0]), .nodeReleased(theirs[1]),
            ])
        #expect(last.allSatisfy { $0.stamp == last.first!.stamp && $0.stamp > stamp })
        #expect(last.map(\.more) == [true, true, false])
    }

    @Test("N9: notices stand among the messages where they belong")
    func oneOrder() throws {
        let pair = try OwnerAndHolder()
        let nodes = try (0..<4).map { _ in try pair.owner.makeNode().detach() }
        let ids = try nodes.map { try pair.owner.core.grant($0, to: pair.holder.core) }
        let way = try pair.give()
        let back = try pair.holder.makeNode()
        let reply = try held(pair.owner.adopt(try pair.holder.give(back, to: pair.owner)))
        // Releases of handles, and messages, to the owner.
        for number in 0..<2 {
            try pair.holder.trySend(UInt64(number), to: way)
            try pair.holder.release(ids[number])
        }
        try pair.holder.trySend(UInt64(2), to: way)
        let told = try pair.owner.everything()
        #expect(told.map(\.number) == [0, nil, 1, nil, 2])
        try #require(told.count == 5)
        #expect(told[1].kind == .noHandles(nodes[0]) && told[3].kind == .noHandles(nodes[1]))
        #expect(told.map(\.stamp) == told.map(\.stamp).sorted())
        // Releases of nodes, and messages, to the holder.
        try pair.owner.send(UInt64(10), to: reply)
        pair.owner.core.releaseNode(nodes[2])
        try pair.owner.send(UInt64(11), to: reply)
        pair.owner.core.releaseNode(nodes[3])
        let seen = try pair.holder.everything()
        #expect(seen.map(\.number) == [10, nil, 11, nil])
        try #require(seen.count == 4)
        #expect(seen[1].kind == .nodeReleased(ids[2]) && seen[3].kind == .nodeReleased(ids[3]))
        #expect(seen.map(\.stamp) == seen.map(\.stamp).sorted())
    }

    @Test("N9: a release that returned before a message was sent is told before it")
    func releaseBeforeMessage() throws {
        let pair = try OwnerAndHolder()
        let third = try Peer(on: pair.test.bus)
        let inHolder = try pair.holder.makeNode()
        let way = try held(third.adopt(try pair.holder.give(inHolder, to: third)))
        for round in UInt64(0)..<200 {
            let node = try pair.owner.makeNode()
            let id = try pair.owner.give(node, to: pair.holder)
            node.release()
            // Somebody else's message, sent when the release was over.
            try third.send(round, to: way)
            let told = try pair.holder.everything()
            #expect(told.map(\.kind) == [.nodeReleased(id), nil])
            #expect(told.last?.number == round)
        }
    }

    @Test(
        "N5, N9: a holder of whom the owner has not read is told of a release in its place",
        arguments: [false, true])
    func newcomerByName(releasesElsewhere: Bool) async throws {
        let test = TestBus()
        let owner = try Peer(on: test.bus)
        let node = try owner.publishNode("service")
        let holder = try Peer(on: test.bus)
        let third = try Peer(on: test.bus)
        let inHolder = try holder.makeNode()
        let way = try held(third.adopt(try holder.give(inHolder, to: third)))
        // The owner reads nothing from here on.
        let id = try holder.look("service").detach()
        if releasesElsewhere {
            let (core, number) = (owner.core, node.id)
            await Task.detached { core.releaseNode(number) }.value
        } else {
            owner.core.releaseNode(node.id)
        }
        try await third.send(UInt64(1), to: way)
        let told = try holder.everything()
        #expect(told.map(\.kind) == [.nodeReleased(id), nil])
        #expect(told.last?.number == 1)
        // It is told once, also when the owner reads.
        #expect(try owner.tryReceive() == nil)
        #expect(try holder.tryReceive() == nil)
    }

    @Test("N5, N9: a holder that the owner does not know at all is told of a release in its place")
    func newcomerByHandOver() throws {
        let test = TestBus()
        let owner = try Peer(on: test.bus)
        let node = try owner.makeNode()
        let first = try Peer(on: test.bus)
        let second = try Peer(on: test.bus)
        let toNode = try held(first.adopt(try owner.give(node, to: first)))
        let inSecond = try second.makeNode()
        let toSecond = try held(first.adopt(try second.give(inSecond, to: first)))
        // The owner reads neither of the introduction nor of the hand-over.
        try first.send(([1] as [UInt64]).span.bytes, to: toSecond, passing: [toNode.id])
        guard case .message(let message)? = try second.tryReceive() else {
            throw PeerTestFailure("no message")
        }
        let id = try taken(message).detach()
        owner.core.releaseNode(node.id)
        try first.send(UInt64(2), to: toSecond)
        let told = try second.everything()
        #expect(told.map(\.kind) == [.nodeReleased(id), nil])
        #expect(told.last?.number == 2)
    }

    @Test("R2, N9: what was released before something received can't be looked up any more")
    func lookedUpTooLate() throws {
        let test = TestBus()
        let owner = try Peer(on: test.bus)
        let node = try owner.publishNode("service")
        let other = try owner.publishNode("other")
        let looker = try Peer(on: test.bus)
        let third = try Peer(on: test.bus)
        let inLooker = try looker.makeNode()
        let way = try held(third.adopt(try looker.give(inLooker, to: third)))
        // The broker offers both until the owner takes their names back.
        owner.core.releaseNode(node.id)
        try third.send(UInt64(1), to: way)
        #expect(try looker.everything().map(\.number) == [1])
        #expect(code { _ = try looker.look("service") } == .nodeReleased)
        // Nothing was received since: the notice still has its place.
        owner.core.releaseNode(other.id)
        let id = try looker.look("other").detach()
        #expect(try looker.everything().map(\.kind) == [.nodeReleased(id)])
    }
}
