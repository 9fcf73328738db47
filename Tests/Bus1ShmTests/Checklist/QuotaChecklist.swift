import CShmRing
import Glibc
import Synchronization
import Testing

@testable import Bus1Shm

/// The lines P5 and Q1 to Q5 of docs/checklist.md, as far as one process shows them.
@Suite(.timeLimit(.minutes(1)))
struct QuotaChecklist {
    private func refusal(_ body: () throws -> Void) -> Bus1Error.Refusal? {
        do {
            try body()
            return nil
        } catch {
            guard let error = error as? Bus1Error, error.code == .overQuota else { return nil }
            return error.refusal
        }
    }

    private func code(_ body: () throws -> Void) -> Bus1Error.Code? {
        do {
            try body()
            return nil
        } catch { return (error as? Bus1Error)?.code }
    }

    private static let all: [Resource] = [
        .peers, .nodes, .handles, .messages, .bytes, .descriptors, .rings, .names, .lookUps,
        .tickets, .lanes, .links,
    ]

    @Test("P5, Q1: a peer tells what it uses of each resource, and how much it may", arguments: all)
    func query(resource: Resource) throws {
        let test = TestBus()
        defer { withExtendedLifetime(test) {} }
        let peer = try Peer(on: test.bus)
        #expect(try peer.limit(resource) > 0)
        #expect(try peer.used(resource) <= peer.limit(resource))
        #expect(code { try peer.setLimit(resource, .max) } == .denied)
        try peer.setLimit(resource, 3)
        #expect(try peer.limit(resource) == 3)
    }

    @Test("P5: use is counted as it comes and goes")
    func use() throws {
        let test = TestBus()
        defer { withExtendedLifetime(test) {} }
        let peer = try Peer(on: test.bus)
        let other = try Peer(on: test.bus)
        #expect(try peer.used(.peers) == 2)
        #expect(try peer.used(.lanes) == 1)
        #expect(try peer.used(.nodes) == 0 && peer.used(.names) == 0 && peer.used(.rings) == 0)
        let node = try peer.makeNode()
        try peer.publish(node, as: "n")
        #expect(try peer.used(.nodes) == 1 && peer.used(.names) == 1 && peer.used(.rings) == 1)
        let handle = try peer.makeHandle(to: node)
        let given = try peer.give(node, to: other)
        #expect(try peer.used(.handles) == 1 && other.used(.handles) == 1)
        #expect(try peer.used(.links) == 3)
        for _ in 0..<5 { try peer.send(UInt64(1), to: handle) }
        #expect(try peer.used(.messages) == 5)
        #expect(try peer.tryReceive(on: node) != nil)
        #expect(try peer.used(.messages) == 4)
        let slice = try peer.loan(100_000)
        #expect(try peer.used(.bytes) >= 100_000)
        let lane = try peer.lane()
        #expect(try peer.used(.lanes) == 2)
        _ = consume slice
        _ = consume lane
        handle.release()
        try other.release(given)
        #expect(try peer.used(.handles) == 0 && other.used(.handles) == 0)
        while case .message? = try peer.tryReceive() {}
        #expect(try peer.used(.messages) == 0)
    }

    @Test(
        "P5, Q4: a limit below what is used refuses, and says what it refuses, until use has fallen"
    )
    func lowered() throws {
        let test = TestBus()
        defer { withExtendedLifetime(test) {} }
        let peer = try Peer(on: test.bus)
        let node = try peer.makeNode()
        var handles: [HandleID] = []
        for _ in 0..<5 { handles.append(try peer.makeHandle(to: node).detach()) }
        try peer.setLimit(.handles, 3)
        let refused = refusal { _ = try peer.makeHandle(to: node) }
        #expect(
            refused == .init(resource: .handles, used: 5, limit: 3, account: peer.account))
        // What there is stays.
        for id in handles { try peer.trySend(UInt64(1), to: id) }
        for _ in 0..<2 { try peer.release(handles.removeLast()) }
        #expect(refusal { _ = try peer.makeHandle(to: node) }?.used == 3)
        try peer.release(handles.removeLast())
        handles.append(try peer.makeHandle(to: node).detach())
        try peer.setLimit(.handles, 100)
        handles.append(try peer.makeHandle(to: node).detach())

        try peer.setLimit(.nodes, 1)
        #expect(refusal { _ = try peer.makeNode() }?.resource == .nodes)
        try peer.setLimit(.nodes, 2)
        let second = try peer.makeNode()
        try peer.setLimit(.lanes, 1)
        #expect(refusal { _ = try peer.lane() }?.resource == .lanes)
        try peer.setLimit(.names, 0)
        #expect(
            refusal { try peer.publish(second, as: "m") }
                == .init(resource: .names, used: 0, limit: 0, account: peer.account))
        try peer.setLimit(.peers, 1)
        #expect(refusal { _ = try Peer(on: test.bus) }?.resource == .peers)
        try peer.setLimit(.peers, 2)
        _ = try Peer(on: test.bus)
    }

    @Test("P5, Q1: fewer messages may wait than the ring has slots")
    func messages() throws {
        let test = TestBus()
        defer { withExtendedLifetime(test) {} }
        let peer = try Peer(on: test.bus)
        let node = try peer.makeNode()
        let handle = try peer.makeHandle(to: node)
        for limit in [10, 1, 300, 1024] {
            try peer.setLimit(.messages, limit)
            for _ in 0..<5 {
                var sent = 0
                while try peer.trySend(UInt64(sent), to: handle) != nil { sent += 1 }
                // A sender knows the limit when it has met it once.
                #expect(limit == 1024 ? sent == 896 : sent <= 896)
                try drain(peer)
                sent = 0
                while try peer.trySend(UInt64(sent), to: handle) != nil { sent += 1 }
                #expect(limit == 1024 ? sent == 896 : sent == limit, "limit \(limit): \(sent)")
                try drain(peer)
            }
        }
    }

    /// Receives everything, and goes on until the senders can see that: a receiver says so when it is idle, which takes
    /// some turns.
    private func drain(_ peer: borrowing Peer) throws {
        while case .message? = try peer.tryReceive() {}
        let control = peer.core.rings[0].consumer.pointee.control!
        while shmring_load_relaxed(control.pointer(to: \.head)!)
            != shmring_load_relaxed(control.pointer(to: \.tail)!)
        {
            _ = try? peer.receive(until: .after(.milliseconds(2)))
        }
    }

    @Test("P5, Q5: bytes come back with the slice, from whoever had it")
    func bytes() throws {
        let test = TestBus()
        defer { withExtendedLifetime(test) {} }
        let peer = try Peer(on: test.bus)
        let node = try peer.makeNode()
        let handle = try peer.makeHandle(to: node)
        try peer.setLimit(.bytes, 300_000)
        var slice = try peer.loan(100_000)
        slice.shorten(to: 10)
        try peer.send(slice, to: handle)
        let second = try peer.loan(100_000)
        #expect(refusal { _ = try peer.loan(100_000) }?.resource == .bytes)
        #expect(code { try peer.room(for: .bytes, until: .now) } == nil)
        let message = try peer.nextMessage()
        #expect(refusal { _ = try peer.loan(100_000) }?.limit == 300_000)
        _ = consume message
        let third = try peer.loan(100_000)
        try peer.setLimit(.bytes, 1000)
        #expect(code { try peer.room(for: .bytes, until: .after(.milliseconds(5))) } == .timedOut)
        _ = consume second
        _ = consume third
        #expect(code { try peer.room(for: .bytes, until: .after(.seconds(5))) } == nil)
    }

    @Test(
        "Q3: what an operation needs of several resources is charged together, or not at all",
        arguments: [2, 3])
    func together(most: Int) throws {
        var limits = Bus.Limits()
        limits.linksOfUser = UInt32(most)
        let test = TestBus(limits: limits)
        defer { withExtendedLifetime(test) {} }
        let a = try Peer(on: test.bus)
        let b = try Peer(on: test.bus)
        let node = try a.makeNode()
        _ = try a.give(node, to: b)
        #expect(try a.used(.links) == 2)
        let c = try Peer(on: test.bus)
        for _ in 0..<3 {
            let refused = refusal { _ = try a.give(node, to: c) }
            #expect(
                refused == .init(resource: .links, used: most, limit: most, account: a.account))
        }
        // With room for one side, that was not kept.
        #expect(try a.used(.links) == 2)
        b.close()
        #expect(try a.used(.links) == 0)
        _ = try a.give(node, to: c)
    }

    @Test("Q1: the broker bounds the memory that it makes for a user")
    func memory() throws {
        var limits = Bus.Limits()
        limits.bytesOfUser = 3 << 20
        let test = TestBus(limits: limits)
        defer { withExtendedLifetime(test) {} }
        var peers: [PeerNodes] = []
        let refused = refusal {
            for _ in 0..<100 { peers.append(PeerNodes(try Peer(on: test.bus))) }
        }
        #expect(refused?.resource == .bytes && refused?.limit == 3 << 20)
        #expect(peers.count > 1)
        peers.removeLast()
        peers.append(PeerNodes(try Peer(on: test.bus)))
    }

    private final class PeerNodes: @unchecked Sendable {
        // @unchecked: the test's threads take turns.
        let peer: Peer
        init(_ peer: consuming Peer) { self.peer = peer }
    }

    @Test("Q4, Q5: room is waited for, and found when a handle is released")
    func waitingForHandles() throws {
        let test = TestBus()
        defer { withExtendedLifetime(test) {} }
        let peer = try Peer(on: test.bus)
        let node = try peer.makeNode()
        let handle = try peer.makeHandle(to: node)
        try peer.setLimit(.handles, 1)
        #expect(code { try peer.room(for: .handles, until: .after(.milliseconds(5))) } == .timedOut)
        let box = HandleBox(handle)
        let limits = peer.core.limits
        let releasing = TestThread {
            // Until somebody waits.
            while limits.bell.pointee.waiters == 0 { usleep(100) }
            box.end()
        }
        try peer.room(for: .handles, until: .after(.seconds(10)))
        try releasing.join()
        _ = try peer.makeHandle(to: node)
    }

    private final class HandleBox: @unchecked Sendable {
        // @unchecked: one thread at a time.
        private var handle: Handle?
        init(_ handle: consuming Handle) { self.handle = consume handle }
        func end() { handle = nil }
    }

    @Test("Q4, Q5: who waits for a resource that the broker counts is told when it is given back")
    func waitingForTheBroker() throws {
        let test = TestBus()
        defer { withExtendedLifetime(test) {} }
        let first = try Peer(on: test.bus)
        let second = PeerNodes(try Peer(on: test.bus))
        try first.setLimit(.peers, 2)
        #expect(code { try first.room(for: .peers, until: .after(.milliseconds(5))) } == .timedOut)
        let closing = TestThread {
            usleep(20_000)
            try second.peer.disconnect()
        }
        try first.room(for: .peers, until: .after(.seconds(10)))
        try closing.join()
        _ = try Peer(on: test.bus)
        // Answers that nobody waits for any more do no harm.
        for _ in 0..<3 { #expect(try first.used(.peers) == 1) }
    }

    @Test("Q5: a dead holder's charges come back")
    func deadHolder() throws {
        let test = TestBus()
        defer { withExtendedLifetime(test) {} }
        let owner = try Peer(on: test.bus)
        let holder = try Peer(on: test.bus)
        let node = try owner.makeNode()
        for _ in 0..<10 { _ = try owner.give(node, to: holder) }
        let bytes = [UInt8](repeating: 1, count: 50_000)
        let toHolder = try holder.makeNode()
        let handle = try held(owner.adopt(try holder.give(toHolder, to: owner)))
        for _ in 0..<10 { try owner.send(bytes.span.bytes, to: handle) }
        #expect(try owner.used(.bytes) >= 500_000)
        holder.close()
        while let delivery = try owner.tryReceive() { _ = consume delivery }
        #expect(try owner.used(.handles) == 0)
        #expect(try owner.used(.bytes) == 0)
        #expect(try owner.used(.links) <= 1)
    }
}
