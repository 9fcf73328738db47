import CShmRing
import Testing

@testable import Bus1Shm
@testable import Bus1TestSupport

/// An owner, and a parent that got a handle to its node in a message.
struct Family: ~Copyable {
    let company: Company
    let owner: Peer
    let node: Node
    let parent: Peer
    let received: HandleID

    init() throws {
        let company = Company()
        let owner = try company.stranger()
        let node = try owner.makeNode()
        let giver = try company.stranger()
        let parent = try company.stranger()
        let inParent = try parent.makeNode()
        let toParent = try held(giver.adopt(try parent.give(inParent, to: giver)))
        let toNode = try held(giver.adopt(try owner.give(node, to: giver)))
        try giver.send([1].span.bytes, to: toParent, passing: [toNode.id])
        let received = try taken(try parent.nextMessage()).detach()
        self.company = company
        self.owner = owner
        self.node = node
        self.parent = parent
        self.received = received
    }

    func child(_ aside: PeerCore.SetAside) throws -> Peer {
        Peer(
            core: try PeerCore(
                company.test.bus, .init(), ticket: aside.ticket, until: .after(.seconds(10))))
    }
}

/// Handles that are set aside for a child. The child is a peer of this process: it shows the ticket as a spawned
/// program does.
@Suite(.timeLimit(.minutes(1)))
struct TicketTests {
    @Test(
        "T2, N2: a handle that came in a message can be given to a child, and is held meanwhile",
        arguments: [false, true])
    func given(ownerReadsEarly: Bool) throws {
        let family = try Family()
        let aside = try family.parent.core.setAside([family.received])
        if ownerReadsEarly { try family.owner.expectNothing() }
        // The parent's own is another one: it ends, and the child's stays.
        try family.parent.release(family.received)
        if ownerReadsEarly { try family.owner.expectNothing() }
        let child = try family.child(aside)
        let handle = try held(child.takeInherited())
        try child.send(UInt64(7), to: handle)
        #expect(try family.owner.nextMessage().node == family.node.id)
        // The child's child.
        let next = try child.core.setAside([handle.id])
        let grandchild = try family.child(next)
        let itsHandle = try held(grandchild.takeInherited())
        handle.release()
        try grandchild.send(UInt64(8), to: itsHandle)
        #expect(try family.owner.nextMessage().node == family.node.id)
        try family.owner.expectNothing()
        itsHandle.release()
        #expect(try family.owner.nextNotice().kind == .noHandles(family.node.id))
        try family.owner.expectNothing()
    }

    @Test("T2, N1: what no child takes is taken back")
    func takenBack() throws {
        let family = try Family()
        let aside = try family.parent.core.setAside([family.received])
        try family.parent.release(family.received)
        try family.owner.expectNothing()
        family.parent.core.takeBack(aside)
        #expect(try family.owner.nextNotice().kind == .noHandles(family.node.id))
        #expect(code { _ = try family.child(aside) } == .denied)
    }

    @Test(
        "T2, N1: an own node that was set aside for a child is held meanwhile",
        arguments: [false, true])
    func ownNodeSetAside(isTakenBack: Bool) throws {
        let family = try Family()
        let node = try family.parent.makeNode()
        let handle = try family.parent.makeHandle(to: node)
        let aside = try family.parent.core.setAside([handle.id])
        handle.release()
        try family.parent.expectNothing()
        if isTakenBack {
            family.parent.core.takeBack(aside)
        } else {
            let child = try family.child(aside)
            let itsHandle = try held(child.takeInherited())
            try family.parent.expectNothing()
            itsHandle.release()
        }
        #expect(try family.parent.nextNotice().kind == .noHandles(node.id))
        try family.parent.expectNothing()
    }

    @Test("N5, N9: a child of whom the owner has not read is told of a release")
    func released() throws {
        let family = try Family()
        let aside = try family.parent.core.setAside([family.received])
        let child = try family.child(aside)
        let id = try held(child.takeInherited()).detach()
        family.owner.core.releaseNode(family.node.id)
        #expect(try child.nextNotice().kind == .nodeReleased(id))
        #expect(try family.owner.tryReceive() == nil)
        #expect(try child.tryReceive() == nil)
    }

    @Test("N8: a parent that dies takes nothing from its child")
    func orphan() throws {
        let family = try Family()
        let aside = try family.parent.core.setAside([family.received])
        let child = try family.child(aside)
        let handle = try held(child.takeInherited())
        family.parent.core.close()
        try child.send(UInt64(7), to: handle)
        #expect(try family.owner.nextMessage().node == family.node.id)
        try family.owner.expectNothing()
    }

    @Test("T2: nobody's ticket brings what its issuer does not hold")
    func forged() throws {
        let family = try Family()
        let ticket = try family.parent.core.connection.makeTicket(
            [.deposited(owner: family.owner.core.ownPeer, number: 77, word: family.node.id.word)])
        var aside = PeerCore.SetAside()
        aside.ticket = ticket
        let child = try family.child(aside)
        if let handle = child.takeInherited() { _ = try child.trySend(UInt64(7), to: handle) }
        try family.owner.expectNothing()
        #expect(try family.owner.tryReceive() == nil)
    }
}
