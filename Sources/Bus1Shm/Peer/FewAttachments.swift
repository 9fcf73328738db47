import CShmRing

// The usual way of handles, at the receiver: a few of them in a message that fits its slot. What the general way
// (PeerCore+Attachments.swift) keeps in an object stands in the message's cell here.

/// The handles of such a message, in its cell.
struct FewAttachments {
    let place: UnsafeMutablePointer<shmring_cell_few>

    /// Instead of a handle: released before the message was sent; taken.
    private static let invalid: UInt64 = 1
    private static let taken: UInt64 = 0
    private static let reply: UInt32 = 1
    /// The reply handle may be kept.
    private static let keep: UInt32 = 2
    /// The reply handle is kept already: it came with another message, and the last of the items is its number.
    private static let again: UInt32 = 4
    static let countMax = Int(SHMRING_CELL_ITEMS)

    var count: Int { Int(place.pointee.count) }
    /// The last one is a reply handle.
    var hasReply: Bool { place.pointee.marks & Self.reply != 0 }
    var handleCount: Int { count - (hasReply ? 1 : 0) }
    /// There as long as the peer is, and longer if the cell is (``PeerCore/holdForMessages()``): counting a reference for each
    /// message costs more than all else that is done for it here.
    var core: PeerCore {
        Unmanaged<PeerCore>.fromOpaque(place.pointee.owner).takeUnretainedValue()
    }

    private func word(_ index: Int) -> UnsafeMutablePointer<UInt64> {
        UnsafeMutableRawPointer(place).advanced(
            by: MemoryLayout<shmring_cell_few>.offset(of: \.items)!
        ).assumingMemoryBound(to: UInt64.self) + index
    }

    func handle(_ index: Int) -> HandleID? {
        let word = word(index).pointee
        return word == Self.invalid || word == Self.taken ? nil : HandleID(rawValue: word)
    }

    func isInvalid(_ index: Int) -> Bool {
        (0..<count).contains(index) && word(index).pointee == Self.invalid
    }

    /// Takes a handle out. nil: invalid, or taken before.
    func take(_ index: Int) -> HandleID? {
        guard let id = handle(index) else { return nil }
        word(index).pointee = Self.taken
        return id
    }

    /// How a reply by the last of them goes: `Reply.slot`.
    var slot: UInt64 {
        if place.pointee.marks & Self.again != 0 { return word(Self.countMax - 1).pointee }
        return place.pointee.marks & Self.keep != 0 ? Reply.mayBeKept : 0
    }

    /// A message that came without any, but names a reply handle that is kept.
    func begin(_ core: PeerCore, keeping id: HandleID, number: UInt64) {
        place.pointee.count = 1
        place.pointee.marks = Self.reply | Self.again
        place.pointee.owner = Unmanaged.passUnretained(core).toOpaque()
        place.pointee.link = nil
        set(0, id)
        word(Self.countMax - 1).pointee = number
    }

    /// Nothing is in it yet.
    func begin(
        _ core: PeerCore, _ link: UnsafeMutablePointer<LinkRoute>,
        _ allowance: UnsafeMutablePointer<shmring_allowance>, count: Int, hasReply: Bool,
        keeps: Bool
    ) {
        place.pointee.count = UInt32(count)
        place.pointee.marks = (hasReply ? Self.reply : 0) | (keeps ? Self.keep : 0)
        place.pointee.owner = Unmanaged.passUnretained(core).toOpaque()
        place.pointee.link = link.pointee.link.toOpaque()
        place.pointee.allowance = allowance
        place.pointee.board = link.pointee.boardIn
    }

    func set(_ index: Int, _ id: HandleID?) { word(index).pointee = id?.rawValue ?? Self.invalid }

    /// What was not taken is given up, and what the message was charged is given back. Any thread.
    func end() {
        Unmanaged<PeerCore>.fromOpaque(place.pointee.owner)._withUnsafeGuaranteedRef { core in
            if place.pointee.marks & Self.again != 0 {
                if let id = handle(0) { core.dropReply(id) }
                return
            }
            for index in 0..<count {
                if let id = handle(index) { core.releaseHandle(id) }
            }
        }
        guard place.pointee.marks & Self.again == 0 else { return }
        var charge = shmring_amounts_make(0, UInt64(count), 0, 0)
        shmring_allowance_give_back(place.pointee.allowance, place.pointee.board, &charge)
    }
}

extension Message {
    /// Its attachments are of that kind.
    var isFew: Bool { cell.pointee.few.count != 0 }
    var few: FewAttachments { FewAttachments(place: cell.pointer(to: \.few)!) }
}

extension PeerCore {
    /// The peer is closed: from now on the messages that are out keep it.
    func holdForMessages() {
        shmring_arena_hold(
            hot.pointee.arena, Unmanaged.passUnretained(self).toOpaque(),
            { _ = Unmanaged<PeerCore>.fromOpaque($0!).retain() },
            { Unmanaged<PeerCore>.fromOpaque($0!).release() })
    }

    /// A message that came by the link has yet to give back what it was charged.
    func isNeeded(_ link: Link) -> Bool {
        shmring_arena_needs(hot.pointee.arena, Unmanaged.passUnretained(link).toOpaque())
    }

    /// Makes the handles of a message that has only a few, and nothing else, its receiver's. False: it is not of that
    /// kind, and nothing has happened.
    func resolveFew(
        of cell: UnsafeMutablePointer<shmring_cell>, from link: UnsafeMutablePointer<LinkRoute>,
        in ring: UnsafeMutablePointer<RingRoute>
    ) -> Bool {
        let message = UnsafePointer(shmring_cell_message(cell)!)
        let headerSize = MemoryLayout<AttachmentHeader>.size
        let recordSize = MemoryLayout<AttachedHandle>.size
        let length = Int(message.pointee.length)
        guard !shmring_message_is_slice(message), length >= headerSize, !isCreditUneven else {
            return false
        }
        let body = UnsafeRawPointer(shmring_message_body(message)!)
        let header = body.loadUnaligned(as: AttachmentHeader.self)
        let count = Int(header.handleCount)
        let payload = headerSize + count * recordSize
        let hasReply = header.marks.contains(.reply)
        guard header.descriptorCount == 0, header.marks.isSubset(of: [.reply, .keep]), count > 0,
            count <= FewAttachments.countMax, length >= payload
        else { return false }
        for index in 0..<count {
            switch Self.record(index, in: body).kind {
            case .ofSender, .ofThird: break
            case .ofReceiver, nil: return false
            }
        }
        if hasReply, !hasSocket(link) { return false }
        // Nobody may have so much outstanding: the general way deals with who has.
        var charge = shmring_amounts_make(0, UInt64(count), 0, 0)
        guard shmring_allowance_admits(ring.pointee.allowance, &charge) else { return false }
        _ = shmring_allowance_receive(ring.pointee.allowance, &link.pointee.received, &charge)
        let few = FewAttachments(place: cell.pointer(to: \.few)!)
        few.begin(
            self, link, ring.pointee.allowance, count: count, hasReply: hasReply,
            keeps: hasReply && header.marks.contains(.keep))
        cell.pointee.give_back = { cell in
            FewAttachments(place: cell!.pointer(to: \.few)!).end()
            shmring_cell_few_end(cell)
        }
        var patience: Deadline?
        for index in 0..<count {
            let item = adopt(
                Self.record(index, in: body), from: link, stamp: message.pointee.stamp, &patience)
            if case .handle(let id, _) = item { few.set(index, id) } else { few.set(index, nil) }
        }
        cell.pointee.payload = body + payload
        cell.pointee.byte_count = UInt64(length - payload)
        return true
    }

    private static func record(_ index: Int, in body: UnsafeRawPointer) -> AttachedHandle {
        body.loadUnaligned(
            fromByteOffset: MemoryLayout<AttachmentHeader>.size
                + index * MemoryLayout<AttachedHandle>.size, as: AttachedHandle.self)
    }

    /// A long reply, sent by any thread, will find the link's socket.
    private func hasSocket(_ link: UnsafeMutablePointer<LinkRoute>) -> Bool {
        link.pointee.link._withUnsafeGuaranteedRef { $0.socket.withLock { $0 != nil } }
    }
}
