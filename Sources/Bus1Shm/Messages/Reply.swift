import CShmRing
import Glibc

/// The right to send one message back to whoever asked for a reply. Unused, the caller is told.
///
/// *Corresponds to nothing in bus1: there a reply needs a node and a handle for each call.*
public struct Reply: ~Copyable, @unchecked Sendable {
    // @unchecked: as for a Handle; sending goes through the common lane, behind its lock.
    let id: HandleID
    let core: Unmanaged<PeerCore>

    init?(_ id: HandleID, of core: PeerCore) {
        guard core.handles.entry(id) != nil else { return nil }
        self.id = id
        self.core = .passRetained(core)
    }

    /// False when nobody waits for the reply any more: the caller released the node, or died.
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
        let core = core.takeUnretainedValue()
        try bytes.withUnsafeBytes { bytes throws(Bus1Error) in
            try core.sendReply(bytes, to: id, until: deadline)
        }
    }

    /// Sends the reply: one value.
    public consuming func send<T: BitwiseCopyable>(
        _ value: T, until deadline: Deadline = .never
    ) throws(Bus1Error) {
        let core = core.takeUnretainedValue()
        try withUnsafeBytes(of: value) { bytes throws(Bus1Error) in
            try core.sendReply(bytes, to: id, until: deadline)
        }
    }

    deinit {
        core._withUnsafeGuaranteedRef { $0.releaseHandle(id) }
        core.release()
    }
}

extension PeerCore {
    /// The one message of a one-shot handle. The handle ends here, without a word to its owner.
    func sendReply(
        _ bytes: UnsafeRawBufferPointer, to id: HandleID, until deadline: Deadline
    ) throws(Bus1Error) {
        try requireOpen("send a reply")
        let message = OutgoingMessage(handle: id, payload: .copied(0..<bytes.count))
        while true {
            let sent = try withCommonLane { lane throws(Bus1Error) in
                try lane.state.trySendOne(message, bytes: bytes, until: deadline)
            }
            if sent {
                _ = handles.remove(id)
                return
            }
            guard !deadline.hasPassed else { throw Bus1Error(.timedOut, "send a reply") }
            // Nobody else must wait for this ring: the common lane is free meanwhile.
            usleep(100)
        }
    }
}
