import CShmRing

/// One message of a transaction, as the program gave it: nothing has been claimed, lent or granted.
struct OutgoingMessage {
    enum Payload {
        /// A range of the transaction's own bytes.
        case copied(Range<Int>)
        /// Loaned from the pool; the transaction owns it.
        case slice(shmring_slice, byteCount: Int, pool: Unmanaged<SlicePool>)
        /// A sealed memfd, the first of the descriptors.
        case sealed(SealedMemory, byteCount: Int)
    }

    var handle: HandleID
    var payload: Payload
    var passing: [HandleID] = []
    var descriptors: [Int32] = []
    /// The node to which one reply may be sent.
    var replyNode: NodeID?
    /// The reply handle may be kept for further calls.
    var keepsReply = false

    /// What its receiver's credit must hold.
    var charge: CreditCharge {
        CreditCharge(
            handles: passing.count + (replyNode == nil ? 0 : 1), descriptors: allDescriptors.count)
    }

    var hasAttachments: Bool {
        !passing.isEmpty || !descriptors.isEmpty || replyNode != nil || sealedMemory != nil
    }

    private var sealedMemory: SealedMemory? {
        guard case .sealed(let memory, _) = payload else { return nil }
        return memory
    }

    /// What goes over the link's socket.
    var allDescriptors: [Int32] {
        (sealedMemory.map { [$0.descriptor.rawValue] } ?? []) + descriptors
    }
}

/// What was done to prepare a message, and has to be undone if it is not sent.
struct PreparedMessage {
    var entry: UnsafeMutablePointer<HandleEntry>
    var link: Link
    var linkIndex: Int
    var producer: UnsafeMutablePointer<shmring_producer>
    var bits: UInt64 = 0
    var length = 0
    /// Place of its body in the lane's buffer.
    var body = 0
    var lent: (lender: LaneState.Lender, reference: shmring_slice_ref)?
    /// Slices made for it, to be ended in any case: who was lent one keeps it.
    var made: [(shmring_slice, SlicePool)] = []
    /// Grants made for its receiver.
    var grants: [UInt32] = []
    /// To whom the owner of a passed handle must be told of the new holder.
    var handOvers: [(link: Link, index: Int, record: ControlRecord)] = []
    var attempt: UInt64?
    var charge = CreditCharge()
}
