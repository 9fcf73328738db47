import CShmRing
import Glibc
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

    @Test func whatTheBrokerWasAskedAboutADeadPeerIsForgotten() throws {
        let test = TestBus()
        let owner = try Peer(on: test.bus)
        let node = try owner.makeNode()
        try owner.publish(node, as: "exchange")
        let connection = owner.core.connection
        var asked = 0
        for _ in 0..<50 {
            let sender = try Peer(on: test.bus)
            let exchange = try sender.lookUp("exchange", until: .after(.seconds(5)))
            try sender.send(UInt64(1), to: exchange)
            _ = try owner.nextMessage()
            let id = sender.core.ownPeer
            let link = try #require(owner.core.links.first { $0.peer == id })
            // The answer would bring a descriptor, and nobody waits for it.
            _ = try? connection.linkSocket(to: id, until: .now)
            let isAsked = connection.isAskedForSocket(to: id)
            sender.close()
            let deadline = Deadline.after(.seconds(10))
            while !link.isDead, !deadline.hasPassed {
                _ = try? owner.receive(until: .after(.milliseconds(5)))
            }
            #expect(link.isDead)
            #expect(!connection.isAskedForSocket(to: id))
            #expect(connection.earlyAnswers.isEmpty)
            if isAsked { asked += 1 }
            if asked == 3 { break }
        }
        #expect(asked == 3, "the broker was always faster")
    }

    @Test func aSendersIndexServesAnotherOneOnlyLongAfterItsEnd() throws {
        let ring = BrokerRing(
            RingID(rawValue: 1), owner: PeerID(rawValue: 1), domain: DomainID(rawValue: 1),
            slots: 16, slotBytes: 64,
            descriptor: SharedDescriptor(Descriptor(owning: open("/dev/null", O_RDONLY))),
            isAcknowledged: true, payer: 0, charge: Charges())
        var freedAt: [UInt16: UInt32] = [:]
        for number: UInt32 in 2..<20_000 {
            let index = try #require(ring.addSender(PeerID(rawValue: number)))
            if let freed = freedAt[index] { #expect(number - freed > 4096) }
            #expect(index < 4200)
            ring.removeSender(PeerID(rawValue: number))
            freedAt[index] = number
        }
        // A successor does not know since when the indices are free that it finds so.
        ring.findFreed()
        #expect(ring.addSender(PeerID(rawValue: 20_000)) != nil)
    }

    @Test func aPlaceOfTheDeadIsUsedAgainAndNobodyIsTakenForThem() throws {
        let test = TestBus()
        let owner = try Peer(on: test.bus)
        let node = try owner.makeNode()
        try owner.publish(node, as: "exchange")
        var places: Set<Int> = []
        for round in 0..<20 {
            let visitor = try Peer(on: test.bus)
            let inbox = try visitor.makeNode()
            let own = try visitor.makeHandle(to: inbox)
            let exchange = try visitor.lookUp("exchange", until: .after(.seconds(5)))
            let word: [UInt64] = [UInt64(round)]
            try visitor.send(word.span.bytes, to: exchange, passing: [own.id])
            var message = try owner.nextMessage()
            #expect(try message.load(as: UInt64.self) == UInt64(round))
            let back = try held(message.takeHandle())
            // A message with handles keeps the link that it came by.
            _ = consume message
            try owner.send(UInt64(round), to: back)
            #expect(try visitor.nextMessage().load(as: UInt64.self) == UInt64(round))
            places.insert(Int(try #require(owner.core.handles.entry(back.id)).pointee.link))
            let id = back.detach()
            visitor.close()
            var isTold = false
            while !isTold {
                guard case .notice(let notice) = try owner.receive(until: .after(.seconds(5)))
                else { continue }
                if case .nodeReleased(let gone) = notice.kind { isTold = gone == id }
            }
            do throws(Bus1Error) {
                try owner.release(id)
                Issue.record("a handle of the dead was still there")
            } catch { #expect(error.code == .noSuchHandle) }
            #expect(owner.core.departed.isEmpty)
        }
        #expect(places.count == 1)
    }

    @Test func aWordThatIsStillWatchedForAHandleLongGoneIsNotReadAfterItsOwnersDeath() throws {
        let test = TestBus()
        let holder = try Peer(on: test.bus)
        let owner = try Peer(on: test.bus)
        let node = try owner.makeNode()
        try owner.publish(node, as: "exchange")
        let handle = try holder.lookUp("exchange", until: .after(.seconds(5)))
        let bystander = try Peer(on: test.bus)
        let other = try holder.makeNode()
        try holder.publish(other, as: "other")
        let way = try bystander.lookUp("other", until: .after(.seconds(5)))
        while try owner.tryReceive() != nil {}

        // As a release that came to nothing leaves it.
        let id = node.id
        let word = owner.core.nodes.withLock { $0.releaseWord(of: id) }
        let refersToNothing: UInt64 = 2 << 62 | 5 << 30 | 7
        shmring_store_release(word, refersToNothing)
        let count = owner.core.outbox.pointer(to: \.releases)!
        shmring_store_release(count, shmring_load_relaxed(count) + 1)
        let link = try #require(owner.core.links.first { $0.peer == holder.core.ownPeer })
        shmring_producer_flag(link.producer, RingFlag.releases)
        try bystander.send(UInt64(1), to: way)
        _ = try holder.nextMessage()
        #expect(!holder.core.watched.isEmpty)
        handle.release()

        shmring_store_release(word, 0)
        withExtendedLifetime(node) {}
        owner.close()
        let until = Deadline.after(.seconds(10))
        while holder.core.recentlyGone.isEmpty, !until.hasPassed {
            do throws(Bus1Error) { _ = try holder.receive(until: .after(.milliseconds(5))) } catch {
                #expect(error.code == .timedOut)
            }
        }
        #expect(holder.core.watched.isEmpty)
        for i in 0..<100 {
            try bystander.send(UInt64(i), to: way)
            #expect(try holder.nextMessage().load(as: UInt64.self) == UInt64(i))
        }
        do throws(Bus1Error) { _ = try holder.receive(until: .after(.milliseconds(5))) } catch {
            #expect(error.code == .timedOut)
        }
    }
}

/// Messages with handles, which count no reference to their peer or link.
@Suite(.timeLimit(.minutes(1)))
struct HeldMessageTests {
    /// A message with a handle of its sender's.
    private static func send(
        _ inbox: borrowing Node, to exchange: borrowing Handle, by sender: borrowing Peer
    ) throws {
        let own = try sender.makeHandle(to: inbox)
        let word: [UInt64] = [7]
        try sender.send(word.span.bytes, to: exchange, passing: [own.id])
    }

    /// Waits a little, with what is done beside.
    private static func look(_ peer: borrowing Peer) throws {
        do throws(Bus1Error) { _ = try peer.receive(until: .after(.milliseconds(5))) } catch {
            guard error.code == .timedOut else { throw error }
        }
    }

    @Test func whatTheyWereChargedIsGivenBackThoughTheirReceiverIsClosed() throws {
        let test = TestBus()
        let owner = try Peer(on: test.bus)
        let node = try owner.makeNode()
        try owner.publish(node, as: "exchange")
        let sender = try Peer(on: test.bus)
        let inbox = try sender.makeNode()
        let exchange = try sender.lookUp("exchange", until: .after(.seconds(5)))
        var kept: [UnsafeMutablePointer<shmring_cell>] = []
        for _ in 0..<40 {
            try Self.send(inbox, to: exchange, by: sender)
            kept.append(try owner.nextMessage().takeCell())
        }
        weak let core = owner.core
        owner.close()
        node.release()
        #expect(core != nil)
        for cell in kept {
            #expect(core != nil)
            shmring_cell_give_back(cell)
        }
        #expect(core == nil)
    }

    @Test func aDeadSendersLinkStaysUntilTheyAreGivenBack() throws {
        let test = TestBus()
        let owner = try Peer(on: test.bus)
        let node = try owner.makeNode()
        try owner.publish(node, as: "exchange")
        let sender = try Peer(on: test.bus)
        let inbox = try sender.makeNode()
        let exchange = try sender.lookUp("exchange", until: .after(.seconds(5)))
        try Self.send(inbox, to: exchange, by: sender)
        let message = try owner.nextMessage()
        sender.close()
        let deadline = Deadline.after(.seconds(10))
        while owner.core.departed.isEmpty, !deadline.hasPassed {
            try Self.look(owner)
        }
        try Self.look(owner)
        #expect(owner.core.departed.count == 1)
        let cell = message.takeCell()
        shmring_cell_give_back(cell)
        try Self.look(owner)
        #expect(owner.core.departed.isEmpty)
    }
}
