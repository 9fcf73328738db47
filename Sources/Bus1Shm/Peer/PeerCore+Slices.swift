import CShmRing
import Glibc

/// Memory that nobody needed for so long goes back to the kernel.
private let idleMemory_ns: UInt64 = 35_000_000

/// How long the broker may take to make a link's socket where nobody asked to wait, and where somebody did.
private let socketPatience = Duration.milliseconds(10)
private let socketPatienceMax = Duration.seconds(5)

extension PeerCore {
    var hasIdlePools: Bool {
        laneState.pools.values.contains { $0.usage.charged_bytes != 0 || !$0.untold.isEmpty }
    }

    func usableEntry(_ id: HandleID) throws(Bus1Error) -> UnsafeMutablePointer<HandleEntry> {
        guard let entry = handles.entry(id) else { throw noSuchHandleToSend }
        guard entry.pointee.leadsSomewhere else {
            throw Bus1Error.nodeReleasedToSend
        }
        return entry
    }

    /// The link's socket for descriptors; made when first needed, by the peer's own lane: only
    /// that has the connection to the broker. When that is asked, it gets a moment in any case: it answers in less, unless
    /// it stands still. Whoever would not wait for that long is told `timedOut` at once the next time.
    func linkSocket(
        of link: Link, lane: UInt32 = 0, until deadline: Deadline = .now
    ) throws(Bus1Error) -> LinkSocket {
        if let socket = link.socket.withLock({ $0 }) { return socket }
        guard lane == 0 else { throw Bus1Error(.denied, "lend the first slice from a lane") }
        if link.peer == ownPeer {
            let socket = try LinkSocket.toItself()
            link.setSocket(socket)
            return socket
        }
        let moment: Deadline =
            connection.isAskedForSocket(to: link.peer) ? .now : .after(socketPatience)
        let patience = Deadline.earlier(
            .later(deadline, moment), .after(socketPatienceMax))
        if let made = try connection.linkSocket(to: link.peer, until: patience) {
            let socket = LinkSocket(made)
            link.setSocket(socket)
            return socket
        }
        // The other asked first: its end is among the events.
        try readEvents()
        guard let socket = link.socket.withLock({ $0 }) else {
            throw Bus1Error(.severed, "make a link's socket")
        }
        return socket
    }

    /// The other has put something into the link's socket: this end is among the events, or the answer to a question of
    /// this peer's that it did not wait for. The broker has sent that to the other one, so that it is about to send it here.
    func findSocket(of link: Link) {
        guard link.socket.withLock({ $0 }) == nil else { return }
        if connection.isAskedForSocket(to: link.peer) {
            _ = try? linkSocket(of: link, until: .after(.seconds(1)))
        } else {
            try? readAllEvents()
        }
    }

    func takeLinkSocket(_ peer: PeerID, _ socket: consuming Descriptor) {
        guard let index = linkOfPeer[peer] else { return }
        links[index].setSocket(LinkSocket(socket))
    }

    /// Takes in what a sender said over its link's socket: segments made and retired. `abandoned`: what
    /// it sent there for messages that never came.
    func readLinkSocket(sender: UInt32, ring: UInt32, abandoned: [Attempt] = []) {
        guard let link = link(sender: sender, ring: ring) else { return }
        findSocket(of: link)
        link.receiver.withQueue({ $0.abandon(abandoned, at: $1) }, forked: ())
        while let (packet, raw) = link.receiver.withQueue({ $0.nextNews(at: $1) }, forked: nil) {
            let descriptor = raw < 0 ? nil : Descriptor(owning: raw)
            guard let view = link.view() else { continue }
            if packet.kind == .retired {
                _ = shmring_view_detach(view, packet.segment)
                link.segmentCharges[packet.segment] = nil
            } else if let descriptor {
                // What a hostile sender says of its size, the attachment checks.
                let charge = ReceivedCharge(
                    CreditCharge(bytes: Int(clamping: packet.byteCount)), from: link,
                    in: rings[Int(ring)])
                guard !charge.isTooMuch || link.domain == ownDomain else { continue }
                link.segmentCharges[packet.segment] = .init(charge)
                // A refusal leaves the segment unknown: its messages are dropped then, and counted.
                let result = shmring_view_attach(
                    view, packet.segment, descriptor.rawValue, packet.byteCount, true)
                // No memory, and no room, are this peer's own trouble.
                if result > 0, result != Int32(SHMRING_E_FULL.rawValue) {
                    countStrange(ring: ring, sender: sender, StrangeCount.perPacket)
                }
            }
        }
        let strange = link.receiver.withQueue({ (queue, _) in queue.takeStrange() }, forked: 0)
        if strange > 0 {
            countStrange(ring: ring, sender: sender, strange * StrangeCount.perPacket)
        }
    }

    func link(sender: UInt32, ring: UInt32) -> Link? {
        route(sender: sender, ring: ring)?.pointee.link.takeUnretainedValue()
    }

    /// The same, for the short ways.
    @inline(__always)
    func route(sender: UInt32, ring: UInt32) -> UnsafeMutablePointer<LinkRoute>? {
        guard Int(ring) < PeerHot.ringsMax else { return nil }
        return ringRoutes[Int(ring)]?.pointee[sender]
    }

    /// The slice that is the whole of a message.
    func resolveSlice(of cell: UnsafeMutablePointer<shmring_cell>) throws(Bus1Error) -> Bool {
        guard let reference = reference(in: UnsafePointer(shmring_cell_message(cell)!)) else {
            return false
        }
        return try resolveSlice(of: cell, reference)
    }

    private func reference(in message: UnsafePointer<shmring_message>) -> shmring_slice_ref? {
        guard message.pointee.length == UInt32(MemoryLayout<shmring_slice_ref>.size) else {
            return nil
        }
        return UnsafeRawPointer(shmring_message_body(message)!).load(as: shmring_slice_ref.self)
    }

    /// Finds a payload that lies in a slice. False: there is none, the message is dropped.
    func resolveSlice(
        of cell: UnsafeMutablePointer<shmring_cell>, _ reference: shmring_slice_ref
    ) throws(Bus1Error) -> Bool {
        var reference = reference
        let message = UnsafePointer(shmring_cell_message(cell)!)
        guard let link = link(sender: message.pointee.sender, ring: message.pointee.ring),
            let view = link.view()
        else { return false }
        var result = shmring_view_hold(view, link.boardIn, &reference, &cell.pointee.held)
        if result != 0 {
            readLinkSocket(sender: message.pointee.sender, ring: message.pointee.ring)
            result = shmring_view_hold(view, link.boardIn, &reference, &cell.pointee.held)
        }
        guard result == 0 else {
            giveBack(reference, to: link)
            return false
        }
        let byteCount = Int(cell.pointee.held.byte_count)
        cell.pointee.byte_count = cell.pointee.held.byte_count
        guard link.domain == ownDomain else { return copyForeign(cell, byteCount) }
        cell.pointee.payload = cell.pointee.held.base
        cell.pointee.owner = Unmanaged.passRetained(link).toOpaque()
        cell.pointee.give_back = { cell in
            shmring_held_give_back(&cell!.pointee.held)
            // The link keeps the return board mapped until here.
            Unmanaged<Link>.fromOpaque(cell!.pointee.owner).release()
        }
        return true
    }

    /// Another trust domain could still change the bytes: they are copied before anybody reads them.
    private func copyForeign(_ cell: UnsafeMutablePointer<shmring_cell>, _ byteCount: Int) -> Bool {
        guard let copy = malloc(max(1, byteCount)) else {
            shmring_held_give_back(&cell.pointee.held)
            return false
        }
        copy.copyMemory(from: cell.pointee.held.base, byteCount: byteCount)
        shmring_held_give_back(&cell.pointee.held)
        cell.pointee.payload = UnsafeRawPointer(copy)
        cell.pointee.owner = copy
        cell.pointee.give_back = { cell in free(cell!.pointee.owner) }
        return true
    }

    /// A message that goes nowhere: its sender gets the slice back all the same.
    func dropSlice(of cell: UnsafeMutablePointer<shmring_cell>) {
        let message = UnsafePointer(shmring_cell_message(cell)!)
        guard shmring_message_is_slice(message), let reference = reference(in: message),
            let link = link(sender: message.pointee.sender, ring: message.pointee.ring)
        else { return }
        giveBack(reference, to: link)
    }

    private func giveBack(_ reference: shmring_slice_ref, to link: Link) {
        guard reference.lend_index < SHMRING_LENDS else { return }
        shmring_board_give_back(link.boardIn, reference.lend_index, reference.lend)
    }

    /// Gives memory back that has been idle, and tells the receivers to unmap it.
    func trimPools() {
        guard !laneState.pools.isEmpty else { return }
        let now = monotonicNow_ns()
        guard now >= nextTrim_ns else { return }
        nextTrim_ns = now + idleMemory_ns / 10
        for pool in laneState.pools.values {
            pool.trim(now_ns: now, idle_ns: idleMemory_ns)
            pool.untold.removeAll { untold in
                let link = untold.link
                guard !link.isDead, let socket = link.socket.withLock({ $0 })
                else { return true }
                var stamp: UInt64 = 0
                // Who does not read is told later: a receiver of slices must not hold up this peer.
                guard
                    (try? socket.send(
                        LinkPacket(kind: .retired, segment: untold.segment), until: .now)) != nil,
                    shmring_producer_send(
                        link.producer, clock, ReservedGrant.readSocket, 0, nil, 0, &stamp) == 0
                else { return false }
                return true
            }
        }
    }
}
