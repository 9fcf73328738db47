import Testing

@testable import Bus1Shm

/// What a peer sent before it left.
@Suite(.timeLimit(.minutes(1)))
struct DepartureTests {
    @Test func whatAPeerSentBeforeItLeftIsReceivedThoughTheNewsOfItComeTogether() throws {
        let test = TestBus()
        let owner = try Peer(on: test.bus)
        let node = try owner.makeNode()
        try owner.publish(node, as: "exchange")
        let other = try Peer(on: test.bus)
        let otherNode = try other.makeNode()
        try other.publish(otherNode, as: "audit")
        let long = [UInt8](repeating: 7, count: 50_000)

        // The owner reads nothing of the broker meanwhile: introduction, right and death arrive at once.
        let sender = try Peer(on: test.bus)
        let exchange = try sender.lookUp("exchange", until: .after(.seconds(5)))
        let audit = try sender.lookUp("audit", until: .after(.seconds(5)))
        for i in 0..<100 { try sender.send(UInt64(i), to: exchange) }
        let short: [UInt8] = [1, 2, 3]
        try sender.send(short.span.bytes, to: [exchange.id, audit.id])
        try sender.send(long.span.bytes, to: exchange)
        sender.close()

        for i in 0..<100 {
            let message = try owner.nextMessage()
            #expect(try message.load(as: UInt64.self) == UInt64(i))
        }
        let both = try owner.nextMessage()
        #expect(both.byteCount == 3)
        let last = try owner.nextMessage()
        let same = last.payload.withUnsafeBytes { $0.elementsEqual(long) }
        #expect(same)
        let copy = try other.nextMessage()
        #expect(copy.byteCount == 3)
        #expect(copy.stamp == both.stamp)
    }

    @Test func aDeadPeersPayloadsAreUnmappedAndWhatAMessageHoldsStays() throws {
        let test = TestBus()
        let owner = try Peer(on: test.bus)
        let node = try owner.makeNode()
        try owner.publish(node, as: "exchange")
        let sender = try Peer(on: test.bus)
        let exchange = try sender.lookUp("exchange", until: .after(.seconds(5)))
        let long = [UInt8](repeating: 7, count: 50_000)
        try sender.send(long.span.bytes, to: exchange)
        try sender.send(long.span.bytes, to: exchange)
        exchange.release()
        let first = try owner.nextMessage()
        _ = try owner.nextMessage()
        let link = try #require(owner.core.links.first { $0.peer != owner.core.ownPeer })
        #expect(link.hasView)
        sender.close()
        let deadline = Deadline.after(.seconds(10))
        while !link.isDead, !deadline.hasPassed {
            do {
                guard case .notice = try owner.receive(until: .after(.milliseconds(5))) else {
                    break
                }
            } catch { #expect(error.code == .timedOut) }
        }
        #expect(link.isDead)
        #expect(!link.hasView)
        let same = first.payload.withUnsafeBytes { $0.elementsEqual(long) }
        #expect(same)
    }
}
