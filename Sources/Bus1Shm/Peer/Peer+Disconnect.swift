import CBus1System
import CShmRing

extension Peer {
    /// Leaves the bus and keeps the value: nodes are released, handles are gone, the queue is dropped. Blocks until the
    /// broker knows, some 200 ms at most. ``close()`` does the same where the value is not needed any more.
    ///
    /// Messages that were received stay readable. ``descriptor()``, if it was made, stays open and readable, so that an
    /// event loop comes back and is told.
    ///
    /// - Throws: `shutDown` when it has left already; and that is what every later operation throws.
    ///
    /// *Corresponds to BUS1_CMD_PEER_DISCONNECT.*
    public func disconnect() throws(Bus1Error) {
        try core.requireOpen("disconnect")
        core.close()
    }
}

extension PeerCore {
    /// Why there is no such handle: never was, was released, the peer has left the bus, or the process is a fork.
    @usableFromInline
    var noSuchHandleToSend: Bus1Error {
        @inline(never) get {
            Bus1Error(shmring_forked() ? .forked : isClosed ? .shutDown : .noSuchHandle, "send")
        }
    }
}
