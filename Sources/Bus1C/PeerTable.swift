import CBus1
import Glibc
@_spi(Raw) import Bus1Shm
import Synchronization

// The peers of bus1_peer_new, by their descriptors.
//
// A descriptor is a number that anybody in the process may close and get again for something else, without a word to
// this table. Each call therefore asks the kernel whether the number still is the epoll instance that was given out:
// only that one watches the peer's mark. The peer itself uses a descriptor of its own for the same instance.

/// One of them. Each call has it to itself.
final class TabledPeer: Sendable {
    let mark: Int32
    private let state: Mutex<State>

    private struct State: @unchecked Sendable {
        // @unchecked: only under the lock.
        var peer: PeerPlace?
        /// Received, and too large for the room that there was.
        var kept: UnsafeMutablePointer<Message>?
    }

    /// What a call may use.
    struct Access: @unchecked Sendable {
        // @unchecked: of use to the call that has it.
        let peer: PeerPlace
        let kept: UnsafeMutablePointer<UnsafeMutablePointer<Message>?>
    }

    init(_ peer: consuming Peer, mark: Int32) {
        self.mark = mark
        state = Mutex(State(peer: PeerPlace(keep(peer))))
    }

    /// Calls with the peer. nil: it was closed.
    func use<R: Sendable>(_ body: (Access) -> R) -> R? {
        state.withLock { state in
            guard let peer = state.peer else { return nil }
            return withUnsafeMutablePointer(to: &state.kept) { kept in
                body(Access(peer: peer, kept: kept))
            }
        }
    }

    /// The peer, for who knows that no other call is under way. nil: it was closed.
    var place: PeerPlace? { use { $0 }?.peer }

    /// Leaves the bus. Works once.
    func end() {
        let ended = state.withLock { state in
            defer { state = State(peer: nil, kept: nil) }
            return state
        }
        if let kept = ended.kept {
            kept.deinitialize(count: 1)
            kept.deallocate()
        }
        if let peer = ended.peer { bus1_close(OpaquePointer(peer)) }
    }

    deinit {
        end()
        close(mark)
    }
}

/// All of the process.
enum PeerTable {
    private static let peers = Mutex<[Int32: TabledPeer]>([:])

    /// Makes one; its descriptor, or a negative errno.
    static func make() -> Int32 {
        sweep()
        do throws(Bus1Error) {
            let peer = try Peer()
            let descriptor = fcntl(try peer.descriptor(), F_DUPFD_CLOEXEC, 3)
            guard descriptor >= 0 else { return failure(errno, "duplicate a descriptor") }
            var mark: Int32 = -1
            let marked = bus1_internal_mark(descriptor, &mark)
            guard marked == 0 else {
                close(descriptor)
                return failure(-marked, "make an event descriptor")
            }
            let made = TabledPeer(peer, mark: mark)
            let former = peers.withLock { $0.updateValue(made, forKey: descriptor) }
            former?.end()
            return descriptor
        } catch {
            return failure(error)
        }
    }

    /// The peer behind a descriptor, or why there is none: an errno.
    static func find(_ descriptor: Int32) -> Result<TabledPeer, TableError> {
        guard let found = peers.withLock({ $0[descriptor] }) else {
            let isOpen = fcntl(descriptor, F_GETFD) >= 0
            return .failure(TableError(errno: isOpen ? EOPNOTSUPP : EBADF))
        }
        let checked = bus1_internal_is_marked(descriptor, found.mark)
        guard checked == 0 else {
            remove(descriptor, found)
            return .failure(TableError(errno: -checked))
        }
        return .success(found)
    }

    struct TableError: Error { let errno: Int32 }

    /// Closes a peer and its descriptor.
    static func end(_ descriptor: Int32) -> Int32 {
        switch find(descriptor) {
        case .failure(let error): return failure(error.errno, "close a peer")
        case .success(let peer):
            let isOurs = peers.withLock { table in
                guard table[descriptor] === peer else { return false }
                table[descriptor] = nil
                return true
            }
            // Another thread was faster.
            guard isOurs else { return failure(EBADF, "close a peer") }
            peer.end()
            close(descriptor)
            return 0
        }
    }

    /// Closes the peers whose descriptors have been closed. True if there were any.
    @discardableResult
    static func sweep() -> Bool {
        let all = peers.withLock { $0 }
        var hasEnded = false
        for (descriptor, peer) in all
        where bus1_internal_is_marked(descriptor, peer.mark) != 0 {
            remove(descriptor, peer)
            hasEnded = true
        }
        return hasEnded
    }

    private static func remove(_ descriptor: Int32, _ peer: TabledPeer) {
        peers.withLock { table in
            if table[descriptor] === peer { table[descriptor] = nil }
        }
        peer.end()
    }
}
