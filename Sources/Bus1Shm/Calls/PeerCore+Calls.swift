import CBus1System
import CShmRing
import Glibc

// A call is a message that asks for one reply. The first to a callee hands a reply handle over; a callee that can keeps it
// and says by which number, and from then on a call is one message and its reply another, with 16 bytes in front of each.

/// What stands in front of the payload of such a call, and of its reply: the header of attachments without any, and the
/// number.
struct CallHeader: BitwiseCopyable {
    var header: AttachmentHeader
    var number: UInt64

    init(_ marks: AttachmentHeader.Marks, _ number: UInt64) {
        header = AttachmentHeader(handleCount: 0, descriptorCount: 0, marks: marks)
        self.number = number
    }

    static let size = MemoryLayout<CallHeader>.size

    /// Of a message's body. nil: it is something else, or malformed.
    init?(
        _ message: UnsafeMutablePointer<shmring_message>, _ marks: AttachmentHeader.Marks
    ) {
        guard shmring_message_is_attached(message), !shmring_message_is_slice(message),
            Int(message.pointee.length) >= Self.size
        else { return nil }
        let body = UnsafeRawPointer(shmring_message_body(message)!)
        self = body.loadUnaligned(as: CallHeader.self)
        guard header.marks == marks, header.handleCount == 0, header.descriptorCount == 0 else {
            return nil
        }
    }
}

extension PeerCore {
    // MARK: The caller

    /// Something by which a call can be answered.
    func beginCall(on handle: HandleID) throws(Bus1Error) -> PendingCall {
        try requireOpen("call")
        if let call = calls.takeIdle(for: handle) { return call }
        let limit = limits[.nodes]
        let made = nodes.withLock { nodes in
            nodes.nodes.count < limit ? nodes.makeNode(count: bus1_sys_unique(), tag: 0) : nil
        }
        guard let node = made else { throw overQuota(.nodes, "call") }
        let call = PendingCall(node: node, target: handle)
        calls.add(call)
        return call
    }

    /// It has its reply, which is returned, and may serve the next call.
    func finishCall(_ call: PendingCall) throws(Bus1Error) -> Message {
        guard let reply = call.takeReply() else {
            giveUpCall(call)
            throw Bus1Error(.replyLost, "call")
        }
        if call.number == nil || !calls.putIdle(call) { giveUpCall(call) }
        return reply
    }

    /// Nobody waits any more: the callee sees that, and a late reply goes nowhere.
    func giveUpCall(_ call: PendingCall) {
        guard calls.remove(call.node.rawValue) != nil else { return }
        releaseNode(call.node)
    }

    /// Sends the request. False: there is no room, or no credit, now (``LaneState/obstacle``).
    func trySendRequest(
        _ bytes: UnsafeRawBufferPointer, _ call: PendingCall, until deadline: Deadline
    ) throws(Bus1Error) -> Bool {
        let lane = laneState!
        let entry = try lane.usableEntry(call.target)
        // What comes of it may come at once.
        call.isSent = true
        if let number = call.number,
            let sent = try lane.trySendCall(
                bytes, CallHeader(.again, number), entry, grantOf: entry.pointee.grant)
        {
            if !sent {
                call.isSent = false
                lane.obstacle = link(of: entry).map { .room($0) } ?? .something
            }
            return sent
        }
        var one = Transaction(lane)
        try one.add(request: bytes, to: call.target, replyTo: call.node)
        // A grant that could not be sent ends with a notice, which is not this call's end.
        call.isSent = false
        call.isSent = try lane.tryCommit(&one, until: deadline) != nil
        return call.isSent
    }

    /// Blocks until the call is over.
    func awaitCall(_ call: PendingCall, until deadline: Deadline) throws(Bus1Error) {
        let before = calls.awaited
        calls.awaited = call
        defer {
            calls.awaited = before
            holdInbox()
            line.passOn()
        }
        while !call.isOver {
            // Each time: a notice that was kept holds it again.
            shmring_inbox_hold(inbox, isClosed)
            guard kept.count < limits[.messages] else { throw overQuota(.messages, "call") }
            let message = shmring_cell_message(hot.pointee.arena.pointee.current)!
            let result = shmring_inbox_spin(inbox, message, hot.pointee.spin_ns == 0 ? 0 : 256)
            if result == 0, isUnencumbered, takeReply(in: hot.pointee.arena.pointee.current!) {
                uncount()
                continue
            }
            guard let delivery = try settle(result, until: deadline, waiting: true) else {
                if call.isOver { return }
                throw Bus1Error(.timedOut, "call")
            }
            kept.append(delivery)
        }
    }

    /// A reply of the usual kind, in the current cell. False: that holds something else.
    func takeReply(in cell: UnsafeMutablePointer<shmring_cell>) -> Bool {
        let message = shmring_cell_message(cell)!
        guard message.pointee.grant < ReservedGrant.first,
            let header = CallHeader(message, .answer),
            let grant = hot.pointee.grant(
                message.pointee.grant, sender: message.pointee.sender, ring: message.pointee.ring),
            let call = calls[grant.pointee.node], call.isSent, !call.isOver
        else { return false }
        shmring_cell_fill(
            cell, grant.pointee.node, grant.pointee.tag, grant.pointee.uid, grant.pointee.pid)
        cell.pointee.payload = UnsafeRawPointer(shmring_message_body(message)!) + CallHeader.size
        cell.pointee.byte_count = UInt64(Int(message.pointee.length) - CallHeader.size)
        guard shmring_arena_keep(hot.pointee.arena) == 0 else { return false }
        call.number = header.number
        call.end(.replied(cell))
        return true
    }

    /// A message that was accepted: if it is a reply, it is the call's. Otherwise it is returned.
    func divert(_ message: consuming Message) -> Message? {
        guard !calls.isEmpty, let call = calls[message.node.rawValue] else { return message }
        if !call.isOver { call.end(.replied(message.takeCell())) }
        return nil
    }

    /// True when a notice is not the program's: a call has failed, or a reply handle is none any more.
    func isOfCalls(_ notice: Notice.Kind) -> Bool {
        switch notice {
        case .noHandles(let node), .replyLost(let node):
            guard !calls.isEmpty, let call = calls[node.rawValue] else { return false }
            if call.isIdle {
                giveUpCall(call)
            } else if call.isSent, !call.isOver {
                call.end(.lost)
            }
            return true
        case .nodeReleased(let id): return keptReplies.remove(id)
        }
    }

    // MARK: The callee

    /// A call that names a reply handle which is kept here. nil: it is something else; false: it names none.
    func resolveCall(
        of cell: UnsafeMutablePointer<shmring_cell>, from link: UnsafeMutablePointer<LinkRoute>
    ) -> Bool? {
        let message = shmring_cell_message(cell)!
        guard let header = CallHeader(message, .again) else {
            return CallHeader(message, .answer) == nil ? nil : false
        }
        guard let id = keptReplies.use(header.number, by: link.pointee.peer) else { return false }
        let few = FewAttachments(place: cell.pointer(to: \.few)!)
        few.begin(self, keeping: id, number: header.number)
        cell.pointee.give_back = { cell in
            FewAttachments(place: cell!.pointer(to: \.few)!).end()
            shmring_cell_few_end(cell)
        }
        cell.pointee.payload = UnsafeRawPointer(shmring_message_body(message)!) + CallHeader.size
        cell.pointee.byte_count = UInt64(Int(message.pointee.length) - CallHeader.size)
        return true
    }

    /// Nobody will reply: the caller is told.
    func dropReply(_ id: HandleID) {
        keptReplies.remove(id)
        releaseHandle(id)
    }

    enum KeptSend {
        case sent
        case full
        /// It does not fit a slot, or no more handles are kept.
        case otherwise
    }

    /// A reply by a handle that is kept, or may be: `slot`.
    func trySendKept(
        _ bytes: UnsafeRawBufferPointer, _ id: HandleID, _ slot: inout UInt64
    ) throws(Bus1Error) -> KeptSend {
        guard let entry = handles.entry(id), entry.pointee.leadsSomewhere else {
            throw Bus1Error(.nodeReleased, "send a reply")
        }
        var number = slot
        let result = try withCommonLane { lane throws(Bus1Error) -> KeptSend in
            guard try lane.state.bind(entry) else { return .full }
            let producer = try lane.state.laneProducer(at: Int(entry.pointee.link))
            guard CallHeader.size + bytes.count <= Int(producer.pointee.body_bytes) else {
                return .otherwise
            }
            if number == Reply.mayBeKept {
                let caller = PeerID(rawValue: entry.pointee.owner)
                guard let made = keptReplies.add(id, of: caller) else { return .otherwise }
                number = made
            } else {
                // Before the reply: the next call may come at once.
                keptReplies.setIdle(number, true)
            }
            let sent = try lane.state.trySendCall(
                bytes, CallHeader(.answer, number), entry, grantOf: entry.pointee.grant)
            if sent == true { return .sent }
            keptReplies.setIdle(number, false)
            return .full
        }
        slot = number
        return result
    }
}

extension LaneState {
    /// One message with a call's header. nil: it does not fit a slot; false: there is no room.
    func trySendCall(
        _ bytes: UnsafeRawBufferPointer, _ header: CallHeader,
        _ entry: UnsafeMutablePointer<HandleEntry>, grantOf grant: UInt32
    ) throws(Bus1Error) -> Bool? {
        let producer = try laneProducer(at: Int(entry.pointee.link))
        let length = CallHeader.size + bytes.count
        guard length <= Int(producer.pointee.body_bytes) else { return nil }
        bodies.storeBytes(of: header, as: CallHeader.self)
        shmring_copy(bodies + CallHeader.size, bytes.baseAddress, UInt64(bytes.count))
        var stamp: UInt64 = 0
        let result = shmring_producer_send(
            producer, core.clock, grant, shmring_header_attached(), bodies, UInt64(length), &stamp)
        if result == 0 { return true }
        guard result == Int32(SHMRING_E_FULL.rawValue) else { throw Bus1Error.send(result) }
        return false
    }
}
