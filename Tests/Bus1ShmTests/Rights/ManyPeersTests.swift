import Glibc
import Testing

@testable import Bus1Shm

extension ProcessTests {
    /// Beside nothing else: it has thousands of mappings and descriptors.
    @Suite(.serialized, .timeLimit(.minutes(2)))
    struct ManyPeersTests {
        @Test("X1: 1,000 peers with 100 handles each, closed from many threads: 1,000 notices")
        func aThousandPeers() throws {
            let test = TestBus()
            defer { withExtendedLifetime(test) {} }
            let (peers, threads) = (1000, 8)
            var options = Peer.Options()
            options.slots = 16
            options.lanes = 1
            options.handlesMax = 4096
            let parent = try Peer(on: test.bus, options)
            let began = ContinuousClock.now
            let children = try (0..<peers).map { _ in
                let peer = try Peer(on: test.bus, options)
                let node = try peer.makeNode()
                return PeerBox(peer, node)
            }
            var ids: Set<HandleID> = []
            for child in children { ids.insert(try child.peer.give(child.node, to: parent)) }
            // Each holds 50 handles to each of the two peers behind it.
            for i in 0..<peers {
                let child = children[i]
                let own = try child.peer.makeHandle(to: child.node).detach()
                let copies = Array(repeating: own, count: 50)
                for step in 1...2 {
                    let sibling = children[(i + peers - step) % peers]
                    #expect(try child.peer.give(copies, to: sibling.peer).count == 50)
                }
            }
            let made = ContinuousClock.now
            #expect(ids.count == peers)
            let closers = (0..<threads).map { thread in
                TestThread {
                    for i in stride(from: thread, to: peers, by: threads) {
                        children[i].peer.core.close()
                    }
                }
            }
            var told: [HandleID: Int] = [:]
            var stamps: Set<UInt64> = []
            while told.count < peers {
                let notice = try parent.nextNotice(until: .after(.seconds(20)))
                guard case .nodeReleased(let id) = notice.kind else {
                    throw PeerTestFailure("\(notice)")
                }
                told[id, default: 0] += 1
                stamps.insert(notice.stamp.rawValue)
            }
            for closer in closers { try closer.join() }
            #expect(told.values.allSatisfy { $0 == 1 })
            #expect(Set(told.keys) == ids)
            #expect(stamps.count == peers)
            #expect(try parent.tryReceive() == nil)
            let closed = ContinuousClock.now
            print("X1: made in \(made - began), closed and told in \(closed - made)")
            #expect(closed - made < .seconds(10))
        }
    }
}
