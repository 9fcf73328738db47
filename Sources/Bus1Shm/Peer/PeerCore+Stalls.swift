import CShmRing
import Glibc

// Senders that stand still in the middle of a transaction: the broker is asked to abort what this peer waits for. It
// counts the lease; an ask is a hint, and no answer is needed: the word itself tells.

extension PeerCore {
    /// Has the inbox say for what it has waited too long.
    func beginToAsk() {
        inbox.pointee.stalled_context = Unmanaged.passUnretained(self).toOpaque()
        inbox.pointee.stalled = { blockers, count, context in
            let core = Unmanaged<PeerCore>.fromOpaque(context!).takeUnretainedValue()
            core.askForAborts(UnsafeBufferPointer(start: blockers, count: Int(count)))
        }
    }

    private func askForAborts(_ blockers: UnsafeBufferPointer<shmring_blocker>) {
        for blocker in blockers {
            guard let peer = owner(of: blocker) else { continue }
            // Without a broker nobody can abort it: its heir will, or its end.
            guard ask(peer, blocker.index, blocker.generation) else { return }
        }
    }

    /// Whose commit word it is, by this peer's own record: what an outbox says of itself could name somebody else.
    private func owner(of blocker: shmring_blocker) -> PeerID? {
        guard blocker.ring != .max else { return PeerID(rawValue: blocker.sender) }
        guard blocker.ring < rings.count else { return nil }
        let senders = rings[Int(blocker.ring)].senders
        return blocker.sender < senders.count ? senders[Int(blocker.sender)]?.peer : nil
    }

    /// For a release word that is pending, outside of the inbox.
    func askForAbort(of word: UnsafePointer<UInt64>, _ owner: PeerID) {
        // Relaxed: the broker reads the word that is named.
        let reference = shmring_load_relaxed(word)
        guard reference >> 62 == 2 else { return }
        // Nobody may be there to do it but the broker's heir.
        shmring_bus_call(busPage.pointer(to: \.called)!)
        _ = ask(
            owner, UInt32(truncatingIfNeeded: reference >> 30),
            UInt32(truncatingIfNeeded: reference & SHMRING_COMMIT_GENERATION_WORD))
    }

    /// False: not now.
    private func ask(_ peer: PeerID, _ index: UInt32, _ generation: UInt32) -> Bool {
        (try? connection.askToAbort(peer, commitIndex: index, generation: generation)) != nil
    }
}

/// SHMRING_COMMIT_GENERATION_MASK, which Swift does not import.
private let SHMRING_COMMIT_GENERATION_WORD: UInt64 = (1 << 30) - 1

extension EventSource {
    /// The inbox waits for something pending: whoever sleeps on the descriptor wakes to ask for it.
    func wakeToAsk(_ inbox: UnsafeMutablePointer<shmring_inbox>) {
        let until_ns = shmring_inbox_sleeps_until(inbox, .max)
        if until_ns != .max { wake(at_ns: until_ns) }
    }
}
