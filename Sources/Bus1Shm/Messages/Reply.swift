import CShmRing
import Glibc

/// The right to send one message back to whoever asked for a reply. Unused, the caller is told.
///
/// *Corresponds to nothing in bus1: there a reply needs a node and a handle for each call.*
public struct Reply: ~Copyable, @unchecked Sendable {
    // @unchecked: as for a Handle; sending goes through the common lane, behind its lock.
    let id: HandleID
    let core: Unmanaged<PeerCore>
    /// 0: the handle ends with the reply. Else it may be kept for the caller's next call, or is, under this number.
    let slot: UInt64

    /// As `slot`: it was not kept before.
    static let mayBeKept: UInt64 = 1

    init?(_ id: HandleID, of core: PeerCore, slot: UInt64 = 0) {
        guard core.handles.entry(id) != nil else {
            if slot > Self.mayBeKept { core.keptReplies.remove(id) }
            return nil
        }
        self.id = id
        self.core = .passRetained(core)
        self.slot = slot
    }

    /// False when nobody waits for the reply any more: the caller gave up, released the node, or died.
    public var isWanted: Bool {
        core._withUnsafeGuaranteedRef { core in
            guard let entry = core.handles.entry(id) else { return false }
            return entry.pointee.leadsSomewhere
        }
    }

    /// Sends the reply: a copy of some bytes. Any thread; waits for room until the deadline.
    ///
    /// - Throws: `nodeReleased` when nobody waits any more, `timedOut`, `overQuota`, `shutDown`; the
    ///   reply is gone then, and the caller is told, if it lives.
    public consuming func send(
        _ bytes: RawSpan, until deadline: Deadline = .never
    ) throws(Bus1Error) {
        let (id, core, slot) = (id, core.takeRetainedValue(), slot)
        discard self
        try bytes.withUnsafeBytes { bytes throws(Bus1Error) in
            try core.sendReply(bytes, to: id, slot: slot, until: deadline)
        }
    }

    /// Sends the reply: one value.
    public consuming func send<T: BitwiseCopyable>(
        _ value: T, until deadline: Deadline = .never
    ) throws(Bus1Error) {
        let (id, core, slot) = (id, core.takeRetainedValue(), slot)
        discard self
        try withUnsafeBytes(of: value) { bytes throws(Bus1Error) in
            try core.sendReply(bytes, to: id, slot: slot, until: deadline)
        }
    }

    deinit {
        core._withUnsafeGuaranteedRef { $0.dropReply(id) }
        core.release()
    }
}

extension PeerCore {
    /// The one message of a reply handle. The handle ends here, or is kept for the next call.
    func sendReply(
        _ bytes: UnsafeRawBufferPointer, to id: HandleID, slot: UInt64, until deadline: Deadline
    ) throws(Bus1Error) {
        do throws(Bus1Error) {
            try requireOpen("send a reply")
            var slot = slot
            // Nobody else must wait for this ring: the common lane is free meanwhile.
            while try !trySendReply(bytes, to: id, slot: &slot, until: deadline) {
                guard !deadline.hasPassed else { throw Bus1Error(.timedOut, "send a reply") }
                usleep(100)
            }
        } catch {
            dropReply(id)
            throw error
        }
    }

    /// False: there is no room now; the handle is as before.
    func trySendReply(
        _ bytes: UnsafeRawBufferPointer, to id: HandleID, slot: inout UInt64,
        until deadline: Deadline
    ) throws(Bus1Error) -> Bool {
        if slot != 0 {
            switch try trySendKept(bytes, id, &slot) {
            case .sent: return true
            case .full: return false
            case .otherwise: break
            }
        }
        let message = OutgoingMessage(handle: id, payload: .copied(0..<bytes.count))
        if slot > Reply.mayBeKept { keptReplies.setIdle(slot, true) }
        let sent = try withCommonLane { lane throws(Bus1Error) in
            try lane.state.trySendOne(message, bytes: bytes, until: deadline)
        }
        if !sent {
            if slot > Reply.mayBeKept { keptReplies.setIdle(slot, false) }
            return false
        }
        switch slot {
        case 0: _ = handles.remove(id)
        case Reply.mayBeKept: releaseHandle(id)
        default: break
        }
        return true
    }
}
