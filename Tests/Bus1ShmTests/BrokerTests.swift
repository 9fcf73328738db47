import CBus1System
import CShmRing
import Glibc
import Testing

@testable import Bus1Shm
@testable import Bus1TestSupport

/// A bus in a directory of its own, removed afterwards.
func withBus<R>(_ body: (Bus) throws -> R) throws -> R {
    var template = Array("/tmp/bus1-test-XXXXXX".utf8CString)
    let directory = try #require(mkdtemp(&template).map { String(cString: $0) })
    // Others come here in some tests; that is the default's business to refuse, not a named bus's.
    chmod(directory, 0o755)
    defer { removeAll(directory) }
    return try body(Bus(path: directory + "/bus"))
}

/// A broker that is just ending may remove its files at the same time.
func removeAll(_ directory: String) {
    _ = eventually(within: .seconds(2)) {
        for name in entries(of: directory) { unlink(directory + "/" + name) }
        return rmdir(directory) == 0 || errno == ENOENT
    }
}

@Suite(.serialized, .timeLimit(.minutes(2)))
struct BrokerTests {
    @Test func aFirstPeerBecomesTheBrokerAndTheFilesGoWithTheLastPeer() throws {
        try withBus { bus in
            let directory = String(bus.path.dropLast(4))
            let peer = try TestPeer(bus)
            #expect(peer.broker.pid == getpid())
            #expect(peer.account == Account(uid: getuid(), pid: getpid()))
            #expect(entries(of: directory) == ["bus", "bus.lock"])
            try peer.connection.goodbye()
            #expect(eventually { entries(of: directory).isEmpty })
        }
    }

    @Test func aNameLeadsToItsOwnerAndBothAreIntroduced() throws {
        try withBus { bus in
            let owner = try TestPeer(bus)
            let asker = try TestPeer(bus)
            #expect(owner.id != asker.id)
            #expect(owner.domain == asker.domain)
            try owner.connection.publish("service", node: 77, access: .sameUser)
            let before = owner.attention
            let grant = try asker.connection.lookUp("service", until: .after(.seconds(20)))
            #expect(grant.owner == owner.id)
            #expect(grant.number.isMadeByBroker)
            #expect(grant.ownerAccount.pid == getpid())
            let atAsker = try asker.introduction()
            guard case .ringAdded(let offer) = try owner.event() else { throw Unexpected() }
            #expect(offer.mustAcknowledge == false)
            let atOwner = try owner.introduction()
            #expect(atOwner.ownRing == offer.ring && atAsker.itsRing == offer.ring)
            #expect(atOwner.itsIndex == atAsker.ownIndex && atOwner.ownIndex == atAsker.itsIndex)
            #expect(atOwner.peer == asker.id && atAsker.peer == owner.id)
            let added = try owner.holderAdded()
            #expect(added.node == 77 && added.number == grant.number && added.holder == asker.id)
            #expect(owner.attention != before)
            // The ring is one memory; the other's outbox can be read.
            var ring = try TestPeer.map(atAsker.ring!, SHMRING_SEGMENT_RING, SHMRING_READ_WRITE)
            var outbox = try TestPeer.map(
                atAsker.outbox!, SHMRING_SEGMENT_OUTBOX, SHMRING_READ_ONLY)
            #expect(throws: Bus1Error.self) {
                _ = try TestPeer.map(atAsker.outbox!, SHMRING_SEGMENT_OUTBOX, SHMRING_READ_WRITE)
            }
            shmring_segment_unmap(&ring)
            shmring_segment_unmap(&outbox)
            // A second look-up is a second right, and no second introduction.
            let second = try asker.connection.lookUp("service", until: .after(.seconds(20)))
            #expect(second.number != grant.number)
            #expect(try asker.connection.nextEvent() == nil)
        }
    }

    @Test func aLookUpWaitsForALatePublish() throws {
        try withBus { bus in
            let owner = try TestPeer(bus)
            let remote = try RemotePeer()
            #expect(remote.ask("open \(bus.path)")?.hasPrefix("ok") == true)
            remote.begin("lookup late 20000")
            // It has asked when its look-up is refused to us as one too many would be: nothing else
            // shows it, so publish a while later and early alike.
            try owner.connection.publish("late", node: 5, access: .sameUser)
            #expect(remote.answer()?.hasPrefix("ok \(owner.id.rawValue) ") == true)
            #expect(try owner.holderAdded().node == 5)
            remote.end()
        }
    }

    @Test func aLookUpThatFindsNothingTimesOutAndLeavesNothingBehind() throws {
        try withBus { bus in
            let owner = try TestPeer(bus)
            let asker = try TestPeer(bus)
            let early = #expect(throws: Bus1Error.self) {
                try asker.connection.lookUp("nobody", until: .after(.milliseconds(20)))
            }
            #expect(early?.code == .timedOut)
            let absent = #expect(throws: Bus1Error.self) {
                try asker.connection.lookUp("nobody", wait: false, until: .never)
            }
            #expect(absent?.code == .noSuchName)
            try owner.connection.publish("nobody", node: 1, access: .sameUser)
            guard case .ringAdded = try owner.event() else { throw Unexpected() }
            #expect(try owner.connection.nextEvent() == nil)
        }
    }

    @Test func aNameIsTakenOnceAndFreedByItsOwnersDeath() throws {
        try withBus { bus in
            let first = try TestPeer(bus)
            let second = try TestPeer(bus)
            try first.connection.publish("one", node: 1, access: .anyone)
            let taken = #expect(throws: Bus1Error.self) {
                try second.connection.publish("one", node: 1, access: .anyone)
            }
            #expect(taken?.code == .nameTaken)
            try first.connection.goodbye()
            try second.connection.publish("one", node: 1, access: .anyone)
            try second.connection.unpublish("one")
            let gone = #expect(throws: Bus1Error.self) { try second.connection.unpublish("one") }
            #expect(gone?.code == .noSuchName)
        }
    }

    @Test func whoKnewADeadPeerIsToldItsStampIsInItsOutboxAndItsCommitsAreAborted() throws {
        try withBus { bus in
            let owner = try TestPeer(bus)
            try owner.connection.publish("service", node: 1, access: .sameUser)
            let remote = try RemotePeer()
            #expect(remote.ask("open \(bus.path)") != nil)
            #expect(remote.ask("lookup service 20000")?.hasPrefix("ok") == true)
            let introduction = try owner.introduction()
            var outbox = try TestPeer.map(
                introduction.outbox!, SHMRING_SEGMENT_OUTBOX, SHMRING_READ_ONLY)
            defer { shmring_segment_unmap(&outbox) }
            #expect(remote.ask("pend") == "ok ")
            let before = owner.attention
            remote.kill()
            #expect(try owner.died() == introduction.peer)
            #expect(eventually { owner.attention != before })
            let dead = outbox.base.assumingMemoryBound(to: shmring_outbox.self).pointee.dead
            let page = owner.busPage.base.assumingMemoryBound(to: shmring_bus_page.self).pointee
            #expect(
                dead != 0 && dead == page.death
                    && page.dead_peer == UInt64(introduction.peer.rawValue))
            let commits = (outbox.base + MemoryLayout<shmring_outbox>.size).assumingMemoryBound(
                to: UInt64.self)
            #expect(commits[3] == 1 << 62 | 5 << 32)
        }
    }

    @Test func aConnectionThatEndsWithoutGoodbyeIsNoDeath() throws {
        try withBus { bus in
            let owner = try TestPeer(bus)
            try owner.connection.publish("service", node: 1, access: .sameUser)
            let remote = try RemotePeer()
            #expect(remote.ask("open \(bus.path)") != nil)
            #expect(remote.ask("publish other anyone") == "ok ")
            #expect(remote.ask("lookup service 20000")?.hasPrefix("ok") == true)
            let introduction = try owner.introduction()
            #expect(remote.ask("pend") == "ok ")
            #expect(remote.ask("hangup") == "ok ")
            // The name goes at once, which shows that the broker has noticed; the death does not
            // come.
            let isFree = eventually {
                (try? owner.connection.publish("other", node: 2, access: .sameUser)) != nil
            }
            #expect(isFree)
            // What it left pending is aborted for whoever asks, after its lease, and only in that
            // generation.
            var outbox = try TestPeer.map(
                introduction.outbox!, SHMRING_SEGMENT_OUTBOX, SHMRING_READ_ONLY)
            defer { shmring_segment_unmap(&outbox) }
            let commits = (outbox.base + MemoryLayout<shmring_outbox>.size)
                .assumingMemoryBound(to: UInt64.self)
            let ask = { (generation: UInt32) in
                try owner.connection.askToAbort(
                    introduction.peer, commitIndex: 3, generation: generation)
                _ = try owner.connection.makeOwnRing()  // answered after it
            }
            try ask(4)
            #expect(commits[3] >> 62 == 2)
            try ask(5)
            #expect(eventually { shmring_load_acquire(commits + 3) == 1 << 62 | 5 << 32 })
            while let event = try owner.connection.nextEvent() {
                if case .peerDied = event { Issue.record("its process lives") }
            }
            remote.kill()
            #expect(try owner.died() == introduction.peer)
        }
    }

    @Test func aPositionIsBuriedOnlyIfADeadAndNoLivingClaimerNamesIt() throws {
        try withBus { bus in
            let owner = try TestPeer(bus)
            try owner.connection.publish("service", node: 1, access: .sameUser)
            let dying = try RemotePeer()
            #expect(dying.ask("open \(bus.path)") != nil)
            #expect(dying.ask("lookup service 20000")?.hasPrefix("ok") == true)
            let ring = try owner.introduction().ownRing
            let living = try TestPeer(bus)
            _ = try living.connection.lookUp("service", until: .never)
            #expect(dying.ask("claim \(ring.rawValue) 4294967295") == "ok ")
            let ask = { (position: UInt64) in
                try owner.connection.askToBury(ring, position: position).mayBury
            }
            #expect(try !ask(4_294_967_295))
            dying.kill()
            _ = try owner.died()
            #expect(try ask(4_294_967_295))
            #expect(try ask(4_294_967_296), "a count that passes the word's 32 bits")
            #expect(try !ask(4_294_967_297))
            living.setClaim(word: 700, count: 1, ring: ring, position: 4_294_967_296)
            #expect(try ask(4_294_967_295))
            #expect(try !ask(4_294_967_296))
        }
    }

    @Test func anOwnerGivesANodeToAPeerOfItsProcessAndToItself() throws {
        try withBus { bus in
            let owner = try TestPeer(bus)
            let holder = try TestPeer(bus)
            try owner.connection.grant(GrantNumber(rawValue: 4), node: 9, to: holder.id)
            let granted = try holder.granted()
            #expect(
                granted.grant.owner == owner.id && granted.grant.number.rawValue == 4
                    && granted.ordinal == nil)
            #expect(try owner.introduction().peer == holder.id)
            try owner.connection.grant(GrantNumber(rawValue: 5), node: 9, to: owner.id)
            let own = try owner.introduction()
            #expect(
                own.peer == owner.id && own.ring == nil && own.outbox == nil && own.boardIn == nil)
            #expect(own.ownRing == own.itsRing && own.ownIndex == own.itsIndex)
        }
    }

    @Test func aTicketBringsItsRightsOnceAndInOrder() throws {
        try withBus { bus in
            let third = try TestPeer(bus)
            let parent = try TestPeer(bus)
            try third.connection.publish("third", node: 30, access: .sameUser)
            let held = try parent.connection.lookUp("third", until: .never)
            let ticket = try parent.connection.makeTicket([
                .own(node: 8, number: GrantNumber(rawValue: 1)),
                .held(owner: third.id, number: held.number),
            ])
            let child = try TestPeer(bus, ControlOptions(ticket: ticket))
            #expect(child.grantsOfTicket == 2)
            let first = try child.granted()
            let second = try child.granted()
            #expect(
                first.ordinal == 0 && first.grant.owner == parent.id
                    && first.grant.number.rawValue == 1)
            #expect(second.ordinal == 1 && second.grant.owner == third.id && second.failure == nil)
            #expect(try parent.holderAdded().holder == child.id)
            let again = #expect(throws: Bus1Error.self) {
                try TestPeer(bus, ControlOptions(ticket: ticket))
            }
            #expect(again?.code == .denied)
            #expect(try !parent.connection.cancelTicket(ticket))
            let other = try parent.connection.makeTicket([])
            // Shown by a child that died before it became a peer: still there.
            let connection = try ControlConnection.open(bus, ControlOptions(ticket: other))
            shutdown(connection.descriptor, Int32(SHUT_RDWR))
            #expect(
                eventually { (try? TestPeer(bus, ControlOptions(ticket: other))) != nil })
            #expect(try !parent.connection.cancelTicket(other))
            let unused = try parent.connection.makeTicket([])
            #expect(try parent.connection.cancelTicket(unused))
        }
    }

    @Test func aFurtherRingIsUsedOnlyWhenItsOwnerHasAcknowledgedIt() throws {
        try withBus { bus in
            let owner = try TestPeer(bus)
            try owner.connection.publish("service", node: 1, access: .sameUser)
            guard case .ringAdded = try owner.event() else { throw Unexpected() }
            // A process by itself is another trust domain.
            let isolated = try TestPeer(Bus(path: bus.path, isolation: .process))
            #expect(isolated.domain != owner.domain)
            let early = #expect(throws: Bus1Error.self) {
                try isolated.connection.lookUp("service", until: .after(.milliseconds(50)))
            }
            #expect(early?.code == .timedOut)
            guard case .ringAdded(let offer) = try owner.event() else { throw Unexpected() }
            #expect(offer.mustAcknowledge == true)
            #expect(try owner.connection.nextEvent() == nil, "nobody is introduced before")
            try owner.connection.acknowledge(offer.ring)
            let grant = try isolated.connection.lookUp("service", until: .after(.seconds(20)))
            #expect(grant.owner == owner.id)
            #expect(try isolated.introduction().itsRing == offer.ring)
        }
    }

    @Test func aLinksSocketIsMadeOnceWhoeverAsks() throws {
        try withBus { bus in
            let a = try TestPeer(bus)
            let b = try TestPeer(bus)
            let strange = #expect(throws: Bus1Error.self) {
                _ = try a.connection.linkSocket(to: b.id)
            }
            #expect(strange?.code == .nodeReleased)
            try a.connection.grant(GrantNumber(rawValue: 1), node: 1, to: b.id)
            let end = try #require(try a.connection.linkSocket(to: b.id)?.take())
            defer { close(end) }
            #expect(try b.connection.linkSocket(to: a.id) == nil)
            while true {
                guard case .linkSocket(let peer, let other) = try b.event() else { continue }
                #expect(peer == a.id)
                #expect(send(end, "x", 1, 0) == 1)
                var byte: UInt8 = 0
                #expect(recv(other.rawValue, &byte, 1, 0) == 1 && byte == UInt8(ascii: "x"))
                break
            }
        }
    }

    @Test func aRingsEventReachesThoseWhoWriteThereNowAndLater() throws {
        try withBus { bus in
            let owner = try TestPeer(bus)
            let early = try TestPeer(bus)
            try owner.connection.publish("service", node: 1, access: .sameUser)
            _ = try early.connection.lookUp("service", until: .never)
            let ring = try owner.introduction().ownRing
            var (listening, ringing): (Int32, Int32) = (-1, -1)
            #expect(bus1_sys_doorbell_create(&listening, &ringing) == 0)
            defer {
                close(listening)
                close(ringing)
            }
            try owner.connection.setRingEvent(ring, eventDescriptor: ringing)
            while true {
                guard case .ringEvent(let told, let copy) = try early.event() else { continue }
                #expect(told == ring)
                bus1_sys_doorbell_ring(copy.rawValue)
                break
            }
            #expect(bus1_sys_wait_readable(listening, 0) == 1)
            let late = try TestPeer(bus)
            _ = try late.connection.lookUp("service", until: .never)
            #expect(try late.introduction().event != nil)
        }
    }

    @Test(arguments: ["", "BUS1_NO_URING=1"])
    func descriptorsAndFilesAreAllGivenBack(variable: String) throws {
        try withBus { bus in
            // In a process of its own, where no other test opens anything.
            let remote = try RemotePeer(environment: variable.isEmpty ? [] : [variable])
            let first = try #require(remote.ask("rounds \(bus.path) 1"))
            #expect(first.hasPrefix("ok "))
            #expect(remote.ask("rounds \(bus.path) 20") == first)
            #expect(entries(of: String(bus.path.dropLast(4))).isEmpty)
            remote.end()
        }
    }
}

struct Unexpected: Error {}
