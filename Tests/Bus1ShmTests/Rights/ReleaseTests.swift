import CShmRing
import Glibc
import Testing

@testable import Bus1Shm

@Suite(.timeLimit(.minutes(1)))
struct ReleaseTests {
    @Test("R1, N7: n handles and nodes are released at one stamp, and more follow but at the last")
    func oneTransaction() throws {
        let pair = try OwnerAndHolder()
        // The owner holds handles to the holder's nodes, too: both sides are told of both kinds.
        var nodes: [NodeID] = []
        var theirs: [HandleID] = []
        for _ in 0..<3 {
            let node = try pair.holder.makeNode()
            theirs.append(try pair.holder.give(node, to: pair.owner))
            nodes.append(node.detach())
        }
        let others = [try pair.owner.makeNode().detach(), try pair.owner.makeNode().detach()]
        let ids = [
            try pair.owner.core.grant(others[0], to: pair.holder.core),
            try pair.owner.core.grant(others[1], to: pair.holder.core), try pair.give(),
            try pair.give(),
        ]
        let stamp = try #require(try pair.holder.release(ids, nodes: nodes))
        let told = try pair.owner.everything()
        var kinds: Set<Notice.Kind> = [.noHandles(pair.node.id)]
        for id in theirs { kinds.insert(.nodeReleased(id)) }
        for node in others { kinds.insert(.noHandles(node)) }
        #expect(Set(told.compactMap(\.kind)) == kinds)
        #expect(told.count == 6)
        #expect(told.allSatisfy { $0.stamp == stamp })
        #expect(told.map(\.more) == [true, true, true, true, true, false])
        #expect(try pair.holder.tryReceive() == nil)
    }

    @Test("R2: after a release no operation refers to it, and a second one fails")
    func releasedIsReleased() throws {
        let pair = try OwnerAndHolder()
        let ids = [try pair.give(), try pair.give()]
        let node = try pair.holder.makeNode()
        let id = node.id
        _ = try pair.holder.give(node, to: pair.owner)
        try pair.holder.release(ids, nodes: [id])
        for one in ids {
            #expect(code { try pair.holder.trySend(UInt64(1), to: one) } == .noSuchHandle)
            #expect(code { try pair.holder.send([1].span.bytes, to: [one]) } == .noSuchHandle)
            #expect(code { try pair.holder.release(one) } == .noSuchHandle)
            #expect(code { try pair.holder.release([one]) } == .noSuchHandle)
            let isAdopted = pair.holder.adopt(one) != nil
            #expect(!isAdopted)
        }
        #expect(code { try pair.holder.release([], nodes: [id]) } == .noSuchHandle)
        #expect(code { _ = try pair.holder.makeHandle(to: node) } == .nodeReleased)
        #expect(code { _ = try pair.holder.give(node, to: pair.owner) } == .nodeReleased)
        _ = consume node
    }

    @Test("R3: a release fails only on invalid arguments, and changes nothing then")
    func nothingHalfDone() throws {
        let pair = try OwnerAndHolder()
        let ids = [try pair.give(), try pair.give()]
        let gone = try pair.give()
        try pair.holder.release(gone)
        let node = try pair.holder.makeNode()
        let theirs = try pair.holder.give(node, to: pair.owner)
        let unknown = NodeID(rawValue: 0x7777_0000)
        #expect(code { try pair.holder.release(ids + [gone], nodes: [node.id]) } == .noSuchHandle)
        #expect(code { try pair.holder.release(ids + [ids[0]]) } == .noSuchHandle)
        #expect(code { try pair.holder.release(ids, nodes: [node.id, node.id]) } == .noSuchHandle)
        #expect(code { try pair.holder.release(ids, nodes: [unknown]) } == .noSuchHandle)
        #expect(code { try pair.holder.release(ids, nodes: [pair.node.id]) } == .noSuchHandle)
        for (number, id) in ids.enumerated() {
            try pair.holder.trySend(UInt64(number), to: id)
        }
        #expect(try pair.owner.everything().map(\.number) == [0, 1])
        try pair.owner.trySend(UInt64(2), to: theirs)
        #expect(try pair.holder.everything().map(\.number) == [2])
        #expect(try pair.holder.release([]) == nil)
    }

    @Test("R3: a full ring stops no release, of one handle or of many", arguments: [1, 200])
    func noRoomIsNeeded(count: Int) throws {
        let pair = try OwnerAndHolder(slots: 16)
        let ids = try (0..<count).map { _ in try pair.give() }
        let last = try pair.give()
        var sent: UInt64 = 0
        while try pair.holder.trySend(sent, to: last) != nil { sent += 1 }
        for id in ids { try pair.holder.release(id) }
        try pair.holder.release(last)
        // Nothing was put in the way of what was sent before, and nothing is told early.
        let told = try pair.owner.everything()
        #expect(told.compactMap(\.number) == Array(0..<sent))
        #expect(told.last?.kind == .noHandles(pair.node.id))
        #expect(told.count == Int(sent) + 1)
        #expect(pair.owner.core.nodes.withLock { $0.grantCount } == 0)
        // The words serve again: many more than there are.
        for round in 0..<30 {
            let again = try (0..<count).map { _ in try pair.give() }
            var number: UInt64 = 0
            while try pair.holder.trySend(number, to: again[0]) != nil { number += 1 }
            try pair.holder.release(again)
            let told = try pair.owner.everything()
            #expect(told.last?.kind == .noHandles(pair.node.id), "round \(round)")
            #expect(told.count == Int(number) + 1)
        }
        #expect(pair.holder.core.outbox.pointee.drops <= 2 * UInt64(count) + 2)
    }

    @Test("R4: releasing a node tells the holder of each handle; the last handle tells the owner")
    func everybodyIsTold() throws {
        let pair = try OwnerAndHolder()
        let third = try Peer(on: pair.test.bus)
        let ids = [try pair.give(), try pair.give()]
        let own = try pair.owner.makeHandle(to: pair.node).detach()
        let others = try pair.holder.give([ids[0]], to: third)
        try pair.owner.release([], nodes: [pair.node.id])
        #expect(try pair.owner.everything().map(\.kind) == [.nodeReleased(own)])
        let told = try pair.holder.everything()
        #expect(Set(told.compactMap(\.kind)) == [.nodeReleased(ids[0]), .nodeReleased(ids[1])])
        #expect(try third.everything().map(\.kind) == [.nodeReleased(others[0])])
        // The holders' answers have come: the word serves another node.
        #expect(try pair.owner.everything() == [])
        #expect(pair.owner.core.nodes.withLock { $0.nodes.count == 0 && $0.grantCount == 0 })
    }

    @Test("R4: nodes and handles are released by any thread")
    func anyThread() throws {
        let pair = try OwnerAndHolder()
        let core = pair.owner.core
        let nodes = try (0..<64).map { _ in try pair.owner.makeNode().detach() }
        let ids = try nodes.map { try pair.owner.core.grant($0, to: pair.holder.core) }
        let holder = pair.holder.core
        let threads = (0..<4).map { thread in
            TestThread {
                for i in stride(from: thread, to: 64, by: 4) {
                    if i % 2 == 0 {
                        core.releaseNode(nodes[i])
                    } else {
                        holder.releaseHandle(ids[i])
                    }
                }
            }
        }
        for thread in threads { try thread.join() }
        let released = try pair.holder.everything().compactMap(\.kind)
        #expect(released.count == 32)
        #expect(Set(released) == Set((0..<32).map { .nodeReleased(ids[2 * $0]) }))
        let gone = try pair.owner.everything().compactMap(\.kind)
        #expect(gone.count == 32)
        #expect(Set(gone) == Set((0..<32).map { .noHandles(nodes[2 * $0 + 1]) }))
    }
}
