import CShmRing
import Testing

@testable import Bus1Shm
@testable import Bus1TestSupport

@Suite(.timeLimit(.minutes(1)))
struct TransferTests {
    @Test("T1: making a node yields its identifier, and a handle in the target peer")
    func makingANode() throws {
        let pair = try OwnerAndHolder()
        #expect(pair.node.id.rawValue != 0)
        let id = try pair.give()
        try pair.holder.trySend(UInt64(1), to: id)
        #expect(try pair.owner.nextMessage().node == pair.node.id)
        // The target may be the maker.
        let own = try pair.owner.makeHandle(to: pair.node)
        try pair.owner.send(UInt64(2), to: own)
        #expect(try pair.owner.nextMessage().node == pair.node.id)
    }

    @Test("T2: the maker of a node may not send to it unless it is given a handle")
    func noRightByMaking() throws {
        let pair = try OwnerAndHolder()
        let id = try pair.give()
        #expect(code { try pair.owner.trySend(UInt64(1), to: id) } == .noSuchHandle)
        #expect(pair.owner.core.handles.used == 0)
    }

    @Test("T3: each transfer makes a handle of its own, also to the same peer and to oneself")
    func eachTransferIsItsOwn() throws {
        let pair = try OwnerAndHolder()
        let ids = [try pair.give(), try pair.give()]
        let own = [
            try pair.owner.makeHandle(to: pair.node).detach(),
            try pair.owner.makeHandle(to: pair.node).detach(),
        ]
        #expect(Set(ids + own).count == 4)
        try pair.holder.release(ids[0])
        try pair.holder.trySend(UInt64(5), to: ids[1])
        try pair.owner.release(own[0])
        try pair.owner.trySend(UInt64(6), to: own[1])
        #expect(try pair.owner.everything().compactMap(\.number) == [5, 6])
        // Each is released for itself; the last one tells.
        try pair.holder.release(ids[1])
        try pair.owner.release(own[1])
        #expect(try pair.owner.everything().map(\.kind) == [.noHandles(pair.node.id)])
    }

    @Test("T4: several transfers happen together; a bad source among them changes nothing")
    func allTransfersOrNone() throws {
        let pair = try OwnerAndHolder()
        let third = try Peer(on: pair.test.bus)
        let ids = [try pair.give(), try pair.give(), try pair.give()]
        try pair.holder.release(ids[1])
        #expect(code { _ = try pair.holder.give(ids, to: third) } == .noSuchHandle)
        #expect(third.core.handles.used == 0)
        let copies = try pair.holder.give([ids[0], ids[2]], to: third)
        #expect(copies.count == 2)
        try pair.holder.release([ids[0], ids[2]])
        #expect(try pair.owner.everything() == [])
        try third.release(copies)
        #expect(try pair.owner.everything().map(\.kind) == [.noHandles(pair.node.id)])
    }

    @Test("T5: identifiers have 64 bits and are never used again")
    func identifiersAreNotReused() throws {
        let pair = try OwnerAndHolder()
        var handles: Set<UInt64> = []
        var nodes: Set<UInt64> = []
        for _ in 0..<300 {
            let id = try pair.owner.makeHandle(to: pair.node).detach()
            #expect(handles.insert(id.rawValue).inserted)
            try pair.owner.release(id)
            let node = try pair.owner.makeNode()
            #expect(nodes.insert(node.id.rawValue).inserted)
        }
        // Places are used again, behind other identifiers.
        #expect(pair.owner.core.handles.used == 0)
        _ = try pair.owner.everything()
        #expect(pair.owner.core.nodes.withLock { $0.grantCount } == 0)
    }

    @Test("T6: a peer can't use another's identifiers, and guessing grants nothing")
    func guessing() throws {
        let pair = try OwnerAndHolder()
        let stranger = try Peer(on: pair.test.bus)
        let id = try pair.give()
        #expect(code { try stranger.trySend(UInt64(1), to: id) } == .noSuchHandle)
        #expect(code { try stranger.release(id) } == .noSuchHandle)
        #expect(code { try stranger.release([id]) } == .noSuchHandle)
        let isAdopted = stranger.adopt(id) != nil
        #expect(!isAdopted)
        // The stranger gets into the owner's ring, and guesses.
        let other = try pair.owner.makeNode()
        let way = try pair.owner.give(other, to: stranger)
        for distance in UInt32(1)...300 {
            try stranger.sendUnchecked(1, to: way, grantsBeyond: distance)
            try stranger.sendUnchecked(1, to: way, grantsBeyond: distance | 1 << 31)
            #expect(try pair.owner.tryReceive() == nil)
        }
        #expect(pair.owner.core.refused == 600)
        try pair.holder.trySend(UInt64(2), to: id)
        #expect(try pair.owner.everything().map(\.number) == [2])
    }

    @Test("T6: what no honest holder says about rights changes nothing")
    func whatNoHonestHolderSaysChangesNothing() throws {
        var dice = Dice()
        let pair = try OwnerAndHolder()
        let stranger = try Peer(on: pair.test.bus)
        let id = try pair.give()
        let other = try pair.owner.makeNode()
        // The attacker holds nothing but a handle to another node, which it may misuse as it likes.
        let way = try pair.owner.give(other, to: stranger)
        guard let entry = stranger.entry(way) else { throw PeerTestFailure("no handle") }
        let peers = [
            pair.owner.core.ownPeer.rawValue, pair.holder.core.ownPeer.rawValue,
            stranger.core.ownPeer.rawValue, 0, 4711, .max,
        ]
        for _ in 0..<5000 {
            let number = { () -> UInt32 in
                switch dice.next() % 4 {
                case 0: UInt32(dice.next() % 8)
                case 1: UInt32(dice.next() % 8) | 1 << 31
                case 2: .max - UInt32(dice.next() % 20)
                default: UInt32(truncatingIfNeeded: dice.next())
                }
            }
            var records: [ControlRecord] = []
            for _ in 0..<(dice.next() % 4) {
                var record = ControlRecord(
                    .release, number: number(), first: peers[Int(dice.next() % 6)],
                    second: number())
                record.rawKind = UInt32(dice.next() % 6)
                // Its own handle stays: what it does with that is its own business.
                if record.kind == .release, record.number == entry.pointee.grant { continue }
                if record.kind == .handOver, record.second == entry.pointee.grant { continue }
                records.append(record)
            }
            var length = UInt64(records.count * 16)
            if dice.next() % 8 == 0, length > 0 { length -= dice.next() % 15 }
            var stamp: UInt64 = 0
            let sent = records.withUnsafeBytes { bytes in
                shmring_producer_send(
                    entry.pointee.producer, stranger.core.clock, ReservedGrant.control, 0,
                    bytes.baseAddress ?? UnsafeRawPointer(bitPattern: 16), length, &stamp)
            }
            #expect(sent == 0, "seed \(dice.seed)")
            #expect(try pair.owner.tryReceive() == nil, "seed \(dice.seed)")
        }
        #expect(pair.owner.core.refused > 1000)
        try pair.holder.trySend(UInt64(3), to: id)
        #expect(try pair.owner.everything().map(\.number) == [3])
        try pair.holder.release(id)
        #expect(try pair.owner.everything().map(\.kind) == [.noHandles(pair.node.id)])
    }
}
