import CShmRing
import Glibc

// The receiver's side of attachments: every byte was copied out of the slot, or is copied out of the
// slice here, before it is looked at.

/// A message's attachments as they came, checked for their form only.
private struct ReceivedAttachments {
    var header: AttachmentHeader
    var attempt: UInt64 = 0
    var records = MostlyOne<AttachedHandle>()
    /// Bytes in front of the payload.
    var byteCount = 0

    var charge: CreditCharge {
        CreditCharge(handles: records.count, descriptors: Int(header.descriptorCount))
    }

    init?(_ bytes: UnsafeRawBufferPointer, _ header: AttachmentHeader) {
        self.header = header
        if header.descriptorCount > 0 {
            guard bytes.count >= 8 else { return nil }
            attempt = bytes.loadUnaligned(as: UInt64.self)
            byteCount = 8
        }
        let size = MemoryLayout<AttachedHandle>.size
        guard bytes.count - byteCount >= Int(header.handleCount) * size else { return nil }
        for _ in 0..<header.handleCount {
            records.append(
                bytes.loadUnaligned(fromByteOffset: byteCount, as: AttachedHandle.self))
            byteCount += size
        }
    }
}

extension PeerCore {
    /// Finds payload and attachments of a message that has some; the cell is filled in but for them.
    /// False: it is malformed, and goes nowhere.
    func resolveAttachments(
        of cell: UnsafeMutablePointer<shmring_cell>, from link: Link
    ) throws(Bus1Error) -> Bool {
        guard let received = try readAttachments(of: cell, from: link) else { return false }
        let route = link.route
        let ring = rings[Int(shmring_cell_message(cell).pointee.ring)]
        let charge = ReceivedCharge(received.charge, from: link, in: ring)
        if isCreditUneven { shareCredit() }
        if charge.isTooMuch, ring.domain != ownDomain {
            dropAttachments(received, of: cell, from: link)
            let message = shmring_cell_message(cell)!
            inbox.pointee.trouble_ring = message.pointee.ring
            inbox.pointee.trouble_sender = message.pointee.sender
            inbox.pointee.trouble_breach = SHMRING_BREACH_CREDIT.rawValue
            try severTroubledRing()
        }
        let descriptors = expectDescriptors(of: received, from: link)
        let stamp = shmring_cell_message(cell).pointee.stamp
        // A long reply, sent by any thread, goes over the link's socket; only this thread can have it made.
        if received.header.marks.contains(.reply) { _ = try? linkSocket(of: link) }
        var items = MostlyOne<Attachments.Item>()
        var patience: Deadline?
        for index in received.records.indices {
            items.append(adopt(received.records[index], from: route, stamp: stamp, &patience))
        }
        let attachments = Attachments(
            self, items, hasReply: received.header.marks.contains(.reply) && !items.isEmpty,
            descriptors: descriptors, charge)
        if received.header.marks.contains(.sealedPayload), descriptors != nil {
            let length = UnsafeRawBufferPointer(
                start: cell.pointee.payload, count: Int(cell.pointee.byte_count))
            attachments.sealed = Attachments.Sealed(
                byteCount: length.count == 8 ? length.loadUnaligned(as: UInt64.self) : .max)
            cell.pointee.byte_count = 0
        }
        attach(attachments, to: cell)
        // What can't be opened now, or ever, the program hears when it asks.
        try? attachments.openSealed(in: cell)
        return true
    }

    private func expectDescriptors(
        of received: ReceivedAttachments, from link: Link
    ) -> ReceivedDescriptors? {
        guard received.header.descriptorCount > 0 else { return nil }
        return expectDescriptors(
            attempt: received.attempt, count: Int(received.header.descriptorCount), link: link)
    }

    /// A message with attachments goes nowhere: the rights in it are given up.
    func dropAttachments(of cell: UnsafeMutablePointer<shmring_cell>, from link: Link) {
        guard let received = try? readAttachments(of: cell, from: link) else { return }
        let ring = rings[Int(shmring_cell_message(cell).pointee.ring)]
        // Given back at once.
        _ = ReceivedCharge(received.charge, from: link, in: ring)
        dropAttachments(received, of: cell, from: link)
    }

    private func dropAttachments(
        _ received: ReceivedAttachments, of cell: UnsafeMutablePointer<shmring_cell>,
        from link: Link
    ) {
        _ = expectDescriptors(of: received, from: link)
        for index in received.records.indices {
            let record = received.records[index]
            switch record.kind {
            case .ofSender: giveUp(.init(.release, number: record.number), to: link.route)
            case .ofThird:
                guard let index = linkOfPeer[PeerID(rawValue: record.owner)] else { continue }
                giveUp(
                    .init(
                        .releaseUnbound, number: 0, first: link.peer.rawValue,
                        second: record.number), to: links[index].route)
            case .ofReceiver, nil: break
            }
        }
        cell.pointee.give_back?(cell)
        cell.pointee.give_back = nil
    }

    private func readAttachments(
        of cell: UnsafeMutablePointer<shmring_cell>, from link: Link
    ) throws(Bus1Error) -> ReceivedAttachments? {
        let message = UnsafePointer(shmring_cell_message(cell)!)
        let body = UnsafeRawBufferPointer(
            start: shmring_message_body(message), count: Int(message.pointee.length))
        let headerSize = MemoryLayout<AttachmentHeader>.size
        let referenceSize = MemoryLayout<shmring_slice_ref>.size
        guard body.count >= headerSize else { return nil }
        let header = body.loadUnaligned(as: AttachmentHeader.self)
        let rest = UnsafeRawBufferPointer(rebasing: body[headerSize...])
        let isSlice = shmring_message_is_slice(message)
        if !isSlice {
            guard let received = ReceivedAttachments(rest, header) else { return nil }
            cell.pointee.payload = UnsafeRawPointer(rest.baseAddress!) + received.byteCount
            cell.pointee.byte_count = UInt64(rest.count - received.byteCount)
            return received
        }
        if header.marks.contains(.recordsInSlice) {
            guard rest.count == referenceSize,
                try resolveSlice(of: cell, rest.loadUnaligned(as: shmring_slice_ref.self))
            else { return nil }
            let slice = UnsafeRawBufferPointer(
                start: cell.pointee.payload, count: Int(cell.pointee.byte_count))
            guard let received = ReceivedAttachments(slice, header) else {
                cell.pointee.give_back?(cell)
                cell.pointee.give_back = nil
                return nil
            }
            cell.pointee.payload += received.byteCount
            cell.pointee.byte_count -= UInt64(received.byteCount)
            return received
        }
        guard let received = ReceivedAttachments(rest, header),
            rest.count - received.byteCount == referenceSize,
            try resolveSlice(
                of: cell,
                rest.loadUnaligned(fromByteOffset: received.byteCount, as: shmring_slice_ref.self))
        else { return nil }
        return received
    }

    /// The cell owns them from now on, behind its slice.
    func attach(_ attachments: Attachments, to cell: UnsafeMutablePointer<shmring_cell>) {
        cell.pointee.attachments = Unmanaged.passRetained(attachments).toOpaque()
        cell.pointee.give_back_payload = cell.pointee.give_back
        cell.pointee.give_back = { cell in
            let cell = cell!
            cell.pointee.give_back_payload?(cell)
            cell.pointee.give_back_payload = nil
            Unmanaged<Attachments>.fromOpaque(cell.pointee.attachments).release()
            cell.pointee.attachments = nil
        }
    }

    /// Makes a received right the receiver's own handle.
    func adopt(
        _ record: AttachedHandle, from link: UnsafeMutablePointer<LinkRoute>, stamp: UInt64,
        _ patience: inout Deadline?
    ) -> Attachments.Item {
        switch record.kind {
        case .ofSender:
            guard record.owner == link.pointee.peer.rawValue,
                isStillThere(record.word, before: stamp, of: link, &patience),
                let id = handles.add(link, grant: record.number, word: record.word)
            else {
                giveUp(.init(.release, number: record.number), to: link)
                return .invalid
            }
            shmring_fault_at(SHMRING_FAULT_OVER_TAKEN)
            watchIfReleased(id, word: link.pointee.releaseWord(record.word))
            return .handle(id, node: nil)
        case .ofThird:
            let owner = PeerID(rawValue: record.owner)
            if linkOfPeer[owner] == nil { try? readAllEvents() }
            guard let index = linkOfPeer[owner], owner != ownPeer else { return .invalid }
            let ownerLink = links[index].route
            let key = GrantKey(granter: link.pointee.peer.rawValue, number: record.number)
            // Bound when it is first used: many are only kept, or passed on, or given up.
            guard isStillThere(record.word, before: stamp, of: ownerLink, &patience),
                let id = handles.add(
                    ownerLink, grant: ReservedGrant.unbound, word: record.word, key: key)
            else {
                giveUp(
                    .init(.releaseUnbound, number: 0, first: key.granter, second: key.number),
                    to: ownerLink)
                return .invalid
            }
            shmring_fault_at(SHMRING_FAULT_OVER_TAKEN)
            watchIfReleased(id, word: ownerLink.pointee.releaseWord(record.word))
            return .handle(id, node: nil)
        case .ofReceiver:
            guard
                let node = nodeID(
                    named: record.number, by: link.pointee.link.takeUnretainedValue()),
                let id = try? makeOwnHandle(node)
            else { return .invalid }
            return .handle(id, node: node)
        case nil: return .invalid
        }
    }

    /// False when the node was released, or its owner died, before the stamp. Read after the message
    /// was seen committed. What is pending may still take an earlier stamp: it is waited for, with the
    /// patience that is left for the whole message.
    func isStillThere(
        _ word: UInt32, before stamp: UInt64, of link: UnsafeMutablePointer<LinkRoute>,
        _ patience: inout Deadline?
    ) -> Bool {
        guard !link.pointee.isDead else { return false }
        // SYNC H5 acquire, pairs with B4: a death of before the message is not missed.
        let dead = shmring_load_acquire(link.pointee.dead)
        guard dead == 0 || dead > stamp else { return false }
        var turn = 0
        while true {
            var released: UInt64 = 0
            let result = shmring_word_state(
                link.pointee.releaseWord(word), link.pointee.commitWords,
                link.pointee.commitWordCount, &released)
            if result == 0 { return released > stamp }
            guard result == -EAGAIN else { return true }
            // Between two stores of the releasing process. Stopped just there, it delays this peer
            // until the bound, and its notice comes all the same.
            let bound = patience ?? .after(.seconds(1))
            patience = bound
            guard !bound.hasPassed else { return true }
            turn += 1
            if turn < 1000 { shmring_pause() } else { usleep(100) }
            // After some 0.2 ms, and after ever longer pauses.
            if turn > 1001, (turn - 1000).nonzeroBitCount == 1 {
                askForAbort(of: link.pointee.releaseWord(word), link.pointee.peer)
            }
        }
    }

    /// A handle to an own node, for this peer itself.
    func makeOwnHandle(_ node: NodeID) throws(Bus1Error) -> HandleID {
        let (link, _) = try selfLink()
        let number = try makeGrant(node, to: link, oneShot: false)
        guard let id = handles.add(link.route, grant: number, word: node.word) else {
            endGrant(number)
            throw tooManyHandles("make a handle")
        }
        return id
    }

    /// The peer's link to itself; the broker makes it when it is first needed.
    func selfLink() throws(Bus1Error) -> (Link, Int) {
        if linkOfPeer[ownPeer] == nil {
            _ = try connection.makeOwnRing(until: .after(.seconds(10)))
            try connection.introduce(ownPeer, ownPeer, until: .after(.seconds(10)))
            try readEvents()
        }
        guard let index = linkOfPeer[ownPeer] else { throw Bus1Error(.severed, "make a handle") }
        return (links[index], index)
    }
}
