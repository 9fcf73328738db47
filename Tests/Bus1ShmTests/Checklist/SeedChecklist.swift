import Glibc
import Testing

@testable import Bus1Shm

/// The lines D1 and P6 of docs/checklist.md.
@Suite(.timeLimit(.minutes(1)))
struct SeedChecklist {
    private func code(_ body: () throws -> Void) -> Bus1Error.Code? {
        do {
            try body()
            return nil
        } catch { return (error as? Bus1Error)?.code }
    }

    @Test("D1: a seed is read as often as one likes, until another is set; none is a result")
    func replaced() throws {
        let test = TestBus()
        defer { withExtendedLifetime(test) {} }
        let peer = try Peer(on: test.bus)
        #expect(try peer.seed() == nil)
        for size in [8, 0, 100_000] {
            let bytes = (0..<size).map { UInt8(truncatingIfNeeded: $0 &* 31) }
            try peer.setSeed(bytes.span.bytes)
            for _ in 0..<3 {
                guard let message = try peer.seed() else {
                    Issue.record("no seed")
                    return
                }
                #expect(message.payload.withUnsafeBytes { $0.elementsEqual(bytes) })
                #expect(message.sender == peer.account)
                #expect(message.handleCount == 0)
            }
        }
        let kept = try peer.seed()
        try peer.removeSeed()
        #expect(try peer.seed() == nil)
        #expect(kept?.byteCount == 100_000)
        #expect(try peer.tryReceive() == nil)
    }

    @Test("D1: each reading of a seed brings handles of its own")
    func handles() throws {
        let test = TestBus()
        defer { withExtendedLifetime(test) {} }
        let peer = try Peer(on: test.bus)
        let other = try Peer(on: test.bus)
        let own = try peer.makeNode(tag: 1)
        let foreign = try other.makeNode(tag: 2)
        let toOwn = try peer.makeHandle(to: own)
        let toForeign = try held(peer.adopt(try other.give(foreign, to: peer)))
        // What an earlier seed held goes with it.
        try peer.setSeed([0].span.bytes, passing: [toForeign.id])
        try peer.setSeed([1].span.bytes, passing: [toOwn.id, toForeign.id])
        // The seed's are its own, too.
        toOwn.release()
        toForeign.release()
        var seen: Set<HandleID> = []
        for _ in 0..<3 {
            guard var message = try peer.seed() else {
                Issue.record("no seed")
                return
            }
            #expect(message.handleCount == 2)
            let nodes = (message.ownNode(0), message.ownNode(1))
            #expect(nodes.0 == own.id && nodes.1 == nil)
            let first = try held(message.takeHandle(0))
            let second = try held(message.takeHandle(1))
            #expect(seen.insert(first.id).inserted && seen.insert(second.id).inserted)
            try peer.send(UInt64(7), to: first)
            #expect(try peer.nextMessage().tag == 1)
            try peer.send(UInt64(8), to: second)
            #expect(try other.nextMessage().tag == 2)
        }
        let used = try peer.used(.handles)
        #expect(used == 2)
        try peer.removeSeed()
        #expect(try peer.used(.handles) == 0)
    }

    @Test(
        "D1: a seed that can't be set leaves the old one; a node that is gone makes its handle invalid"
    )
    func invalid() throws {
        let test = TestBus()
        defer { withExtendedLifetime(test) {} }
        let peer = try Peer(on: test.bus)
        let node = try peer.makeNode()
        let handle = try peer.makeHandle(to: node)
        try peer.setSeed([1].span.bytes, passing: [handle.id])
        let gone = try peer.makeHandle(to: node).detach()
        try peer.release(gone)
        #expect(code { try peer.setSeed([2].span.bytes, passing: [handle.id, gone]) } != nil)
        #expect(try peer.seed()?.load(as: Int.self) == 1)
        node.release()
        handle.release()
        while let delivery = try peer.tryReceive() { _ = consume delivery }
        guard let message = try peer.seed() else {
            Issue.record("no seed")
            return
        }
        #expect(message.handleCount == 1)
        let isInvalid = message.isInvalid(0)
        #expect(isInvalid)
    }

    @Test("P6: reset ends all nodes at one instant, gives up all handles, drops the queue")
    func reset() throws {
        let test = TestBus()
        defer { withExtendedLifetime(test) {} }
        let peer = try Peer(on: test.bus)
        let other = try Peer(on: test.bus)
        let first = try peer.makeNode()
        let second = try peer.makeNode()
        let foreign = try other.makeNode()
        let toFirst = try held(other.adopt(try peer.give(first, to: other)))
        let toSecond = try held(other.adopt(try peer.give(second, to: other)))
        let toForeign = try other.give(foreign, to: peer)
        try other.send(UInt64(1), to: toFirst)
        try other.send(UInt64(2), to: toSecond)
        #expect(try peer.tryReceive(on: second) != nil)
        try peer.reset()
        #expect(try peer.tryReceive() == nil)
        #expect(try peer.used(.handles) == 0)
        #expect(code { try peer.trySend(UInt64(1), to: toForeign) } == .noSuchHandle)
        var stamps: [Stamp] = []
        var kinds: Set<Notice.Kind> = []
        while kinds.count < 3 {
            guard case .notice(let notice) = try other.receive(until: .after(.seconds(5))) else {
                Issue.record("a message")
                return
            }
            kinds.insert(notice.kind)
            if case .nodeReleased = notice.kind { stamps.append(notice.stamp) }
        }
        #expect(
            kinds == [
                .nodeReleased(toFirst.id), .nodeReleased(toSecond.id), .noHandles(foreign.id),
            ])
        #expect(Set(stamps).count == 1)
        // It goes on as if it were new.
        let third = try peer.makeNode()
        let handle = try peer.makeHandle(to: third)
        try peer.send(UInt64(3), to: handle)
        #expect(try peer.nextMessage().load(as: UInt64.self) == 3)
    }

    @Test("P6: the seed outlives a reset, with the nodes it keeps; or goes with it")
    func resetAndSeed() throws {
        let test = TestBus()
        defer { withExtendedLifetime(test) {} }
        let peer = try Peer(on: test.bus)
        let other = try Peer(on: test.bus)
        let pinned = try peer.makeNode(tag: 1)
        let loose = try peer.makeNode(tag: 2)
        let handle = try peer.makeHandle(to: pinned)
        let toPinned = try peer.give(pinned, to: other)
        let toLoose = try peer.give(loose, to: other)
        try peer.setSeed([5].span.bytes, passing: [handle.id])
        try peer.reset()
        #expect(try peer.seed()?.load(as: Int.self) == 5)
        try other.trySend(UInt64(1), to: toPinned)
        #expect(try peer.nextMessage().tag == 1)
        #expect(code { try other.trySend(UInt64(1), to: toLoose) } != nil)
        try peer.reset(keepingSeed: false)
        #expect(try peer.seed() == nil)
        #expect(try peer.used(.handles) == 0)
        while let delivery = try other.tryReceive() { _ = consume delivery }
        #expect(code { try other.trySend(UInt64(1), to: toPinned) } != nil)
    }
}
