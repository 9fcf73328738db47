import CShmRing
import Testing

@testable import Bus1Shm

/// One peer that gives up handles of two owners at one instant.
private struct TwoOwners: ~Copyable {
    final class Owner {
        let peer: Peer
        init(_ test: borrowing TestBus) throws { peer = try Peer(on: test.bus) }
        func everything() throws -> [Told] { try peer.everything() }
    }

    let test: TestBus
    let owners: [Owner]
    let holder: Peer

    init() throws {
        let test = TestBus()
        let owners = [try Owner(test), try Owner(test)]
        let holder = try Peer(on: test.bus)
        self.test = test
        self.owners = owners
        self.holder = holder
    }

    /// A node of an owner, which nobody but the holder has a handle to.
    func held(of owner: Int) throws -> (node: NodeID, handle: HandleID) {
        let node = try owners[owner].peer.makeNode().detach()
        return (node, try owners[owner].peer.core.grant(node, to: holder.core))
    }

    /// Begins to give them up, has the owners look while that is pending, and lets it be aborted.
    func begin(_ ids: [HandleID]) throws {
        let core = holder.core
        let owners = self.owners
        let entries = ids.compactMap { core.handles.entry($0)?.pointee }
        try core.withCommonLane { common throws(Bus1Error) in
            guard let words = common.takeWords(for: entries.map(EndedHandle.init)) else {
                throw Bus1Error(.overQuota, "test")
            }
            let look = Look {
                for entry in entries {
                    let producer = try common.state.laneProducer(at: Int(entry.link))
                    shmring_producer_flag(producer, RingFlag.drops)
                }
                for owner in owners { #expect(try owner.everything() == []) }
            }
            let places = words.map { UnsafeMutablePointer<UInt64>?(common.place(of: $0)) }
            let result = places.withUnsafeBufferPointer { places in
                var releases = shmring_releases(
                    words: places.baseAddress, count: UInt32(places.count), counter: nil,
                    flag: { Unmanaged<Look>.fromOpaque($0!).takeUnretainedValue().now() },
                    wake: nil, context: Unmanaged.passUnretained(look).toOpaque())
                var stamp: UInt64 = 0
                var failed: UInt32 = 0
                return shmring_transaction_commit(
                    common.state.lane, core.clock, nil, 0, true, &releases, &stamp, &failed)
            }
            #expect(result == Look.aborted)
            common.giveBack(words)
        }
    }

    private final class Look {
        static let aborted: Int32 = 77
        private let look: () throws -> Void

        init(_ look: @escaping () throws -> Void) { self.look = look }

        func now() -> Int32 {
            #expect(throws: Never.self) { try look() }
            return Self.aborted
        }
    }
}

@Suite(.timeLimit(.minutes(1)))
struct AbortedReleaseTests {
    @Test("R1, N1: what is begun again after an abort is told once, whatever words it takes")
    func begunAgain() throws {
        let three = try TwoOwners()
        let (first, second) = (try three.held(of: 0), try three.held(of: 1))
        try three.begin([first.handle, second.handle])
        try three.holder.release([first.handle, second.handle], nodes: [])
        #expect(try three.owners[0].everything().map(\.kind) == [.noHandles(first.node)])
        #expect(try three.owners[1].everything().map(\.kind) == [.noHandles(second.node)])
        // An owner that had counted a word too many would have these taken back before it reads them.
        let more = try (0..<4).map { _ in try three.held(of: 0) }
        for one in more { try three.holder.release([one.handle], nodes: []) }
        #expect(
            try three.owners[0].everything().map(\.kind) == more.map { .noHandles($0.node) })
        #expect(three.owners.allSatisfy { $0.peer.core.refused == 0 })
    }

    @Test("R1: a word whose attempt was aborted serves another owner, not the first")
    func anotherOwner() throws {
        let three = try TwoOwners()
        let (first, second) = (try three.held(of: 0), try three.held(of: 1))
        try three.begin([first.handle])
        try three.holder.release([second.handle], nodes: [])
        #expect(try three.owners[0].everything() == [])
        #expect(try three.owners[1].everything().map(\.kind) == [.noHandles(second.node)])
        try three.holder.release([first.handle], nodes: [])
        #expect(try three.owners[0].everything().map(\.kind) == [.noHandles(first.node)])
        #expect(try three.owners[1].everything() == [])
    }

    @Test("N1: the last handle's notice comes when a reply handle to the same node has ended, too")
    func replyHandleBeside() throws {
        let pair = try OwnerAndHolder()
        let other = try pair.holder.makeNode()
        let toHolder = try held(pair.owner.adopt(try pair.holder.give(other, to: pair.owner)))
        for isUsed in [true, false] {
            let id = try pair.give()
            try pair.owner.send(UInt64(1), to: toHolder, replyTo: pair.node)
            do {
                var question = try pair.holder.nextMessage()
                let reply = question.takeReply()
                try pair.holder.release(id)
                #expect(try pair.owner.everything() == [])
                if isUsed { try reply?.send(UInt64(2)) }
            }
            let told = try pair.owner.everything()
            #expect(told.compactMap(\.kind).last == .noHandles(pair.node.id))
            #expect(told.compactMap(\.number) == (isUsed ? [2] : []))
            #expect(told.count == 2)
        }
    }

    @Test("N1: a handle given up while another is being sent that is not is told")
    func undoneBeside() throws {
        let pair = try OwnerAndHolder()
        let id = try pair.give()
        let link = try #require(pair.owner.core.linkOfPeer[pair.holder.core.ownPeer])
        let number = try pair.owner.core.makeGrant(
            pair.node.id, to: pair.owner.core.links[link], oneShot: false)
        try pair.holder.release(id)
        #expect(try pair.owner.everything() == [])
        pair.owner.core.endGrant(number)
        #expect(try pair.owner.everything().map(\.kind) == [.noHandles(pair.node.id)])
    }

    @Test("R4: a node's release word stays its own while a ticket for it is out")
    func ticketIsOut() throws {
        let test = TestBus()
        let parent = try Peer(on: test.bus)
        let node = try parent.makeNode().detach()
        let own = try parent.core.makeOwnHandle(node)
        let aside = try parent.core.setAside([own])
        try parent.release(own)
        _ = try parent.everything()
        parent.core.releaseNode(node)
        let next = try parent.makeNode()
        #expect(next.id.word != node.word)
        parent.core.takeBack(aside)
        let third = try parent.makeNode()
        #expect(third.id.word == node.word)
    }
}
