import CShmRing
import Glibc
import Testing

@testable import Bus1Shm

/// The lines Q2 to Q5 of docs/checklist.md, for what messages bring besides bytes.
@Suite(.timeLimit(.minutes(1)))
struct CreditChecklist {
    /// A receiver that may hold 64 handles, and peers that send to it.
    private final class Crowd: @unchecked Sendable {
        // @unchecked: the test's threads take turns.
        let test = TestBus()
        let receiver: Peer
        let node: Node
        private(set) var senders: [Sender] = []

        final class Sender: @unchecked Sendable {
            // @unchecked: as above.
            let peer: Peer
            let node: Node
            let own: Handle
            let way: Handle

            init(_ peer: consuming Peer, _ id: HandleID) throws {
                let node = try peer.makeNode()
                own = try peer.makeHandle(to: node)
                way = try held(peer.adopt(id))
                self.node = node
                self.peer = peer
            }

            func send(_ handles: Int = 1, until deadline: Deadline = .now) throws {
                let passed = Array(repeating: own.id, count: handles)
                try peer.send([1].span.bytes, to: way, passing: passed, until: deadline)
            }

            func close() throws { try peer.disconnect() }
        }

        init(_ count: Int) throws {
            receiver = try Peer(on: test.bus)
            node = try receiver.makeNode()
            try receiver.setLimit(.handles, 64)
            for _ in 0..<count {
                let peer = try Peer(on: test.bus)
                let id = try receiver.give(node, to: peer)
                senders.append(try Sender(peer, id))
            }
        }

        /// Sends until it is refused.
        func fill(_ sender: Int) throws -> (sent: Int, refusal: Bus1Error.Refusal?) {
            var sent = 0
            while true {
                do {
                    try senders[sender].send()
                    sent += 1
                } catch {
                    let error = error as! Bus1Error
                    #expect(error.code == .overQuota)
                    return (sent, error.refusal)
                }
            }
        }

        /// Receives and drops so many messages.
        func drop(_ count: Int) throws {
            for _ in 0..<count { _ = try receiver.nextMessage() }
        }

        var outstanding: UInt64 {
            receiver.core.rings.reduce(0) {
                $0
                    + shmring_allowance_outstanding(
                        $1.allowance, UInt32(SHMRING_CREDIT_RIGHTS.rawValue))
            }
        }
    }

    @Test("Q2, Q4: a user gets half of a receiver's handles, a sender half of what the others left")
    func shares() throws {
        let crowd = try Crowd(3)
        let account = crowd.receiver.account
        let first = try crowd.fill(0)
        #expect(first.sent == 16)
        #expect(first.refusal == .init(resource: .handles, used: 16, limit: 32, account: account))
        #expect(try crowd.fill(1).sent == 8)
        #expect(try crowd.fill(2).sent == 4)
        // Plain messages are charged nothing.
        try crowd.senders[0].peer.send(UInt64(1), to: crowd.senders[0].way)
        try crowd.drop(29)
        #expect(crowd.outstanding == 0)
        #expect(try crowd.fill(2).sent == 16)
        try crowd.drop(16)
    }

    @Test("Q5: credit comes back when the message is dropped, not before")
    func givenBack() throws {
        let crowd = try Crowd(1)
        try crowd.senders[0].send(5)
        #expect(crowd.outstanding == 5)
        var message = try crowd.receiver.nextMessage()
        let taken = message.takeHandle(0)
        #expect(crowd.outstanding == 5)
        _ = consume message
        #expect(crowd.outstanding == 0)
        let isTaken = taken != nil
        #expect(isTaken)
        // Passed over for another node.
        let other = try crowd.receiver.makeNode()
        try crowd.senders[0].send(5)
        #expect(try crowd.receiver.tryReceive(on: other) == nil)
        #expect(crowd.outstanding == 5)
        try crowd.drop(1)
        #expect(crowd.outstanding == 0)
        // For a node that is gone.
        try crowd.senders[0].send(5)
        try crowd.receiver.reset()
        #expect(crowd.outstanding == 0)
    }

    @Test("Q3: a message that is refused for any reason has been charged nothing")
    func nothingCharged() throws {
        let crowd = try Crowd(1)
        let sender = crowd.senders[0]
        let gone = try sender.peer.makeHandle(to: sender.node).detach()
        try sender.peer.release(gone)
        for _ in 0..<50 {
            #expect(throws: Bus1Error.self) {
                try sender.peer.send(
                    [1].span.bytes, to: sender.way, passing: [sender.own.id, gone], until: .now)
            }
            // More than it may ever have: no waiting helps.
            #expect(throws: Bus1Error.self) { try sender.send(17, until: .never) }
            var abandoned = sender.peer.transaction()
            try abandoned.send([1].span.bytes, to: sender.way.id, passing: [sender.own.id])
            _ = consume abandoned
        }
        #expect(crowd.outstanding == 0)
        #expect(try crowd.fill(0).sent == 16)
        try crowd.drop(16)
    }

    @Test("Q4: who waits for credit goes on when it comes back")
    func waiting() throws {
        let crowd = try Crowd(1)
        #expect(try crowd.fill(0).sent == 16)
        #expect(throws: Bus1Error.self) {
            try crowd.senders[0].send(until: .after(.milliseconds(5)))
        }
        let sending = TestThread { try crowd.senders[0].send(10, until: .after(.seconds(20))) }
        let control = crowd.receiver.core.rings[0].consumer.pointee.control!
        while control.pointee.credit_bell.waiters == 0 { usleep(100) }
        try crowd.drop(16)
        try sending.join()
        #expect(try crowd.receiver.nextMessage().handleCount == 10)
    }

    @Test("Q2, Q5: memory to be mapped is charged until it is unmapped")
    func bytes() throws {
        let crowd = try Crowd(1)
        let kind = UInt32(SHMRING_CREDIT_BYTES.rawValue)
        let ring = crowd.receiver.core.rings[0]
        #expect(shmring_allowance_outstanding(ring.allowance, kind) == 0)
        let bytes = [UInt8](repeating: 1, count: 100_000)
        for _ in 0..<20 {
            try crowd.senders[0].peer.send(bytes.span.bytes, to: crowd.senders[0].way)
            _ = try crowd.receiver.nextMessage()
        }
        #expect(shmring_allowance_outstanding(ring.allowance, kind) >= 100_000)
        #expect(shmring_allowance_held(ring.allowance, kind) >= 100_000)
        try crowd.senders[0].close()
        while let delivery = try crowd.receiver.tryReceive() { _ = consume delivery }
        #expect(shmring_allowance_outstanding(ring.allowance, kind) == 0)
    }

    @Test("Q5: what the dead were charged comes back")
    func dead() throws {
        let crowd = try Crowd(2)
        #expect(try crowd.fill(0).sent == 16)
        // Charged, and never sent.
        let link = try #require(
            crowd.senders[1].peer.core.links.first { $0.peer != crowd.senders[1].peer.core.ownPeer }
        )
        #expect(link.route.pointee.charge(CreditCharge(handles: 8), by: link.producer) == nil)
        #expect(crowd.outstanding == 24)
        for sender in crowd.senders { try sender.close() }
        while let delivery = try crowd.receiver.tryReceive() { _ = consume delivery }
        _ = try? crowd.receiver.receive(until: .after(.milliseconds(20)))
        while let delivery = try crowd.receiver.tryReceive() { _ = consume delivery }
        #expect(crowd.outstanding == 0)
    }
}
