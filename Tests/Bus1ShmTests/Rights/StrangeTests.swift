import Testing

@testable import Bus1Shm

/// What comes under rights that nobody gave, and what only comes late.
@Suite(.timeLimit(.minutes(2)))
struct StrangeTests {
    /// What an owner has counted of all who write to it.
    private func counted(_ owner: borrowing Peer) -> Int {
        owner.core.rings.reduce(0) { $0 + $1.strange.count }
    }

    @Test func onlyWhatNoRightStoodBehindIsCounted() throws {
        let both = try OwnerAndHolder(slots: 256)
        let id = try both.give()
        try both.holder.sendUnchecked(1, to: id)
        #expect(try both.owner.everything().count == 1 && counted(both.owner) == 0)
        for _ in 0..<100 { try both.holder.sendUnchecked(2, to: id, grantsBeyond: 1 << 20) }
        #expect(try both.owner.everything().isEmpty && counted(both.owner) == 100)
    }

    @Test func whatComesBehindANodesReleaseIsForgivenOneRing() throws {
        let both = try OwnerAndHolder(slots: 256)
        let id = try both.give()
        both.owner.core.releaseNode(both.node.id)
        // Who does not read that it was released sends on: no honest ring holds more than that.
        var sent = 0
        while sent < 256 + StrangeCount.forgivenForEnd {
            do { try both.holder.sendUnchecked(1, to: id) } catch {
                _ = try both.owner.everything()
                continue
            }
            sent += 1
        }
        _ = try both.owner.everything()
        #expect(counted(both.owner) == 0)
        for _ in 0..<10 { try both.holder.sendUnchecked(1, to: id) }
        _ = try both.owner.everything()
        #expect(counted(both.owner) == 10)
    }

    /// Threads send by a handle that another one gives up, or whose node its owner releases, at that moment.
    @Test func honestPeersWhoseHandlesWereJustReleasedAreNeverCounted() throws {
        let test = TestBus()
        var options = Peer.Options()
        options.slots = 256
        let owner = try Peer(on: test.bus, options)
        let holder = try Peer(on: test.bus, options)
        let lanes = [LaneBox(try holder.lane()), LaneBox(try holder.lane())]
        for round in 0..<300 {
            let node = try owner.makeNode(tag: 7)
            let nodeID = node.id
            let id = try owner.give(node, to: holder)
            guard let entry = holder.entry(id) else { throw PeerTestFailure("no handle") }
            let threads = lanes.map { box in
                TestThread {
                    var value = round
                    // Until it is told that there is nothing to send to.
                    while true { _ = try box.lane.trySend(bytes: &value, 8, entry, id) }
                }
            }
            for _ in 0..<3 { _ = try owner.everything() }
            if round % 2 == 0 { try holder.release(id) } else { owner.core.releaseNode(nodeID) }
            for thread in threads {
                let why = #expect(throws: Bus1Error.self) { try thread.join() }
                #expect(why?.code == .noSuchHandle || why?.code == .nodeReleased)
            }
            _ = try holder.everything()
            _ = try owner.everything()
        }
        print("dropped of honest peers: \(owner.core.refused)")
        #expect(counted(owner) == 0)
    }

    @Test func whoGivesRightsUpSavesNoFloodFromThem() {
        var strange = StrangeCount()
        for _ in 0..<1_000_000 { strange.forgiveEnd() }
        #expect(strange.forgiven == StrangeCount.forgivenMost)
        strange.add(StrangeCount.forgivenMost)
        #expect(strange.count == 0 && strange.forgiven == 0)
        strange.add(.max / 2)
        strange.add(.max / 2)
        #expect(strange.count > StrangeCount.most)
    }
}

/// Arrays take no noncopyable elements.
private final class LaneBox: @unchecked Sendable {
    // @unchecked: one thread after the other uses it.
    let lane: Lane
    init(_ lane: consuming Lane) { self.lane = lane }
}
