import CShmRing

/// Says whether there is something to do beside receiving, so that nobody takes a lock to find that there is nothing.
///
/// NOTE - each word is set and cleared under the lock of what it speaks of, and read without it: who reads late does it
/// a little later.
struct Chores: @unchecked Sendable {
    // @unchecked: three words, each read and written by the ring's own atomic operations.
    enum Kind: Int, CaseIterable {
        /// Names of released nodes are to be taken back. Lock: of the nodes.
        case names
        /// Notices are due again. Lock: of the nodes.
        case lateNotices
        /// Owners could not be told of all that was given up. Lock: of the common lane.
        case releases
        /// Handles ended while another thread was in the common lane. Lock: of the list of them.
        case ended
    }

    private let words: UnsafeMutablePointer<UInt32>

    init() {
        words = .allocate(capacity: Kind.allCases.count)
        words.initialize(repeating: 0, count: Kind.allCases.count)
    }

    func isThere(_ kind: Kind) -> Bool {
        // Relaxed: a hint; the lock decides.
        shmring_load_relaxed_u32(words + kind.rawValue) != 0
    }

    func set(_ kind: Kind, _ isThere: Bool = true) {
        shmring_store_relaxed_u32(words + kind.rawValue, isThere ? 1 : 0)  // Relaxed: as above.
    }

    func deallocate() { words.deallocate() }
}
