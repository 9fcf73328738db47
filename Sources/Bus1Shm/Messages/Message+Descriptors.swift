import CShmRing

extension Message {
    /// Descriptors that came with the message, taken ones included.
    public var descriptorCount: Int {
        guard let attachments, let descriptors = attachments.descriptors else { return 0 }
        return descriptors.count - (attachments.sealed == nil ? 0 : 1)
    }

    /// Takes a descriptor out of the message: the caller's from now on, to be closed by the caller. It is
    /// close-on-exec. Those not taken are closed when the message is dropped. nil: it was taken before.
    ///
    /// Nothing is installed in this process before the first is asked for; then all of the message's are.
    /// A message that is kept without asking holds up, on the way from its sender, the descriptors of
    /// later ones, of which only so many may be under way.
    ///
    /// An index out of range is a mistake of the caller's, and traps. Any thread. *Corresponds to
    /// `bus1_cmd_recv` with fds.*
    ///
    /// - Throws: `system` with EMFILE when the process has no room for all of them: the message is as it
    ///   was, ask again. (If there was no room for the link's own socket, which comes with the sender's
    ///   first descriptor, ask after the next receive.) `severed` when the sender did not send what its message says.
    public mutating func takeDescriptor(_ index: Int = 0) throws(Bus1Error) -> Int32? {
        precondition(
            (0..<descriptorCount).contains(index), "the message has no descriptor \(index)")
        let attachments = attachments!
        return try attachments.descriptors!.take(index + (attachments.sealed == nil ? 0 : 1))
    }

    /// False: the payload is sealed memory that could not be opened when the message was received.
    /// ``payload`` is empty then, ``openPayload()`` says why, and everything else is as it was sent.
    public var isPayloadOpen: Bool {
        guard let sealed = attachments?.sealed else { return true }
        return sealed.view != nil
    }

    /// Opens a payload of sealed memory for which there was no descriptor or no memory when the message
    /// was received. Does nothing for any other.
    ///
    /// - Throws: `mismatch` when it is not sealed against writing, is shorter than the message says, has
    ///   holes, or is no memfd; `system` as ``takeDescriptor(_:)``.
    public mutating func openPayload() throws(Bus1Error) {
        try attachments?.openSealed(in: cell)
    }
}

extension Attachments {
    /// A payload in sealed memory: the first of the descriptors.
    struct Sealed {
        let byteCount: UInt64
        var view: SealedView?
    }

    /// Maps the sealed memory, and makes it the payload.
    func openSealed(in cell: UnsafeMutablePointer<shmring_cell>) throws(Bus1Error) {
        guard let sealed, sealed.view == nil, let descriptors else { return }
        // The only one of the message is taken for good; beside others it stays with them.
        guard let raw = try descriptors.takeFirst() else {
            throw Bus1Error(.mismatch, "open a sealed payload twice")
        }
        let view = try SealedView(Descriptor(owning: raw), byteCount: sealed.byteCount)
        self.sealed?.view = view
        cell.pointee.payload = view.base ?? UnsafeRawPointer(cell)
        cell.pointee.byte_count = UInt64(view.byteCount)
    }
}
