import CShmRing

/// What handing over and ending rights touches of a link, at a place that never moves: no reference is counted on the
/// way. The link owns it; everything that is not said to change is fixed.
struct LinkRoute {
    let link: Unmanaged<Link>
    let peer: PeerID
    /// Its place in the peer's list. Fixed once the link is in it.
    var index: UInt32 = .max
    /// The other's index in this peer's ring.
    let itsIndex: UInt32
    /// In the other's outbox: the stamp of its death, 0 while it lives.
    let dead: UnsafePointer<UInt64>
    /// In the other's outbox.
    private let releaseWords: UnsafePointer<UInt64>
    /// In the other's outbox.
    let commitWords: UnsafePointer<UInt64>
    let commitWordCount: UInt32
    /// The way of the peer's own lane.
    let producer: UnsafeMutablePointer<shmring_producer>
    let boardOut: UnsafeMutablePointer<shmring_board>
    let boardIn: UnsafeMutablePointer<shmring_board>
    /// Its death has taken its place in the order. Only the receiving thread.
    var isDead = false
    /// What its messages have brought in all. Only the receiving thread.
    var received = shmring_amounts()

    init(
        _ link: Link, peer: PeerID, itsIndex: UInt32, outbox: UnsafePointer<shmring_outbox>,
        lanes: UInt32,
        producer: UnsafeMutablePointer<shmring_producer>,
        boardOut: UnsafeMutablePointer<shmring_board>, boardIn: UnsafeMutablePointer<shmring_board>
    ) {
        self.link = .passUnretained(link)
        self.peer = peer
        self.itsIndex = itsIndex
        let base = UnsafeRawPointer(outbox)
        dead = base.advanced(by: MemoryLayout.offset(of: \shmring_outbox.dead)!)
            .assumingMemoryBound(to: UInt64.self)
        releaseWords = base.advanced(by: Int(shmring_outbox_release_offset(lanes)))
            .assumingMemoryBound(to: UInt64.self)
        commitWords = base.advanced(by: MemoryLayout<shmring_outbox>.size)
            .assumingMemoryBound(to: UInt64.self)
        commitWordCount = lanes * UInt32(SHMRING_COMMIT_WORDS)
        self.producer = producer
        self.boardOut = boardOut
        self.boardIn = boardIn
    }

    /// In the other's outbox. Whoever passed the index here may have lied: any word will do.
    func releaseWord(_ index: UInt32) -> UnsafePointer<UInt64> {
        releaseWords + Int(index % UInt32(SHMRING_RELEASE_WORDS))
    }
}

/// Who writes into one ring of the peer's own, by sender index, and what they have been charged. Only the receiving
/// thread. The ring owns it.
struct RingRoute {
    let allowance: UnsafeMutablePointer<shmring_allowance>
    private var senders: UnsafeMutablePointer<UnsafeMutablePointer<LinkRoute>?>?
    private var count = 0

    init(_ allowance: UnsafeMutablePointer<shmring_allowance>) { self.allowance = allowance }

    subscript(sender: UInt32) -> UnsafeMutablePointer<LinkRoute>? {
        Int(sender) < count ? senders![Int(sender)] : nil
    }

    mutating func set(_ sender: UInt32, _ route: UnsafeMutablePointer<LinkRoute>?) {
        if Int(sender) >= count {
            let grown = max(Int(sender) + 1, 2 * count)
            let wider = UnsafeMutablePointer<UnsafeMutablePointer<LinkRoute>?>.allocate(
                capacity: grown)
            wider.initialize(repeating: nil, count: grown)
            if let senders { wider.update(from: senders, count: count) }
            senders?.deallocate()
            senders = wider
            count = grown
        }
        senders![Int(sender)] = route
    }

    func deallocate() { senders?.deallocate() }
}
