import CShmRing

/// A handle that is held no more, as its node's owner must be told.
struct EndedHandle {
    let link: UInt32
    /// The peer behind the link. Another one may have the link's place by now: then this one is dead.
    let owner: UInt32
    let grant: UInt32
    let key: GrantKey

    init(_ entry: HandleEntry) {
        link = entry.link
        owner = entry.owner
        grant = entry.grant
        key = entry.key
    }

    /// A right that never became a handle.
    init(_ link: UnsafeMutablePointer<LinkRoute>, _ record: ControlRecord) {
        self.link = link.pointee.index
        owner = link.pointee.peer.rawValue
        let isBound = record.kind == .release
        grant = isBound ? record.number : ReservedGrant.unbound
        key = GrantKey(granter: record.first, number: record.second)
    }

    var record: ControlRecord {
        grant == ReservedGrant.unbound
            ? ControlRecord(.releaseUnbound, number: 0, first: key.granter, second: key.number)
            : ControlRecord(.release, number: grant)
    }
}

/// The peer's last lane: through it rights end, by any thread, under its lock. Transactions that end rights hold that
/// lock whichever lane they are of, so that no two of a peer have one stamp.
final class CommonLane: @unchecked Sendable {
    // @unchecked: used under its lock only.
    let core: Unowned
    let state: LaneState
    @exclusivity(unchecked) private var drops: DropWords
    /// How often the broker was asked to flag those whom only it knows.
    @exclusivity(unchecked) private var flagsAsked: UInt32 = 0
    /// What ended while even the drop words were in use.
    @exclusivity(unchecked) private var waiting: [EndedHandle] = [] {
        didSet { core.value.chores.set(.releases, !waiting.isEmpty) }
    }

    /// The core owns the lane.
    struct Unowned { unowned(unsafe) let value: PeerCore }

    init(_ core: PeerCore, _ state: LaneState, _ drops: DropWords) {
        self.core = Unowned(value: core)
        self.state = state
        self.drops = drops
    }

    /// Tells owners what could not be told before. Never waits.
    func retry() {
        let due = waiting
        waiting = []
        for ended in due { release(ended) }
    }

    /// One handle ends: a record in its owner's ring; no room there: a word. Never fails, never waits.
    func release(_ ended: EndedHandle) {
        guard let link = livingLink(ended) else { return }
        if drops.isInUse { takeBack(from: link) }
        if let producer = try? state.laneProducer(at: Int(ended.link)) {
            var record = ended.record
            var stamp: UInt64 = 0
            let result = shmring_producer_send(
                producer, core.value.clock, ReservedGrant.control, 0, &record,
                UInt64(MemoryLayout<ControlRecord>.size), &stamp)
            if result == 0 {
                isTold(ended, to: link)
                return
            }
            // A ring that makes no sense reaches nobody.
            if result != Int32(SHMRING_E_FULL.rawValue) { return }
        }
        guard let words = takeWords(for: [ended]) else {
            waiting.append(ended)
            return
        }
        let attempt = ReleaseAttempt(self, drops: words)
        var stamp: UInt64 = 0
        var failed: UInt32 = 0
        var result: Int32
        repeat {
            result = attempt.commit(state, nil, 0, mayUseReserve: true, &stamp, &failed)
        } while result == Int32(SHMRING_E_ABORTED.rawValue)
        if result == 0 {
            told(words)
        } else {
            giveBack(words)
            waiting.append(ended)
        }
    }

    /// The link to the node's owner, unless that is dead: then nobody needs to be told.
    private func livingLink(_ ended: EndedHandle) -> UnsafeMutablePointer<LinkRoute>? {
        guard let link = state.route(at: ended.link), link.pointee.peer.rawValue == ended.owner,
            shmring_load_relaxed(link.pointee.dead) == 0
        else { return nil }
        return link
    }

    /// The peer behind a link is dead, and the link's place will be another's.
    func forget(_ link: Link) {
        _ = drops.takeBack(from: link.route, isDead: true)
        drops.forget(link: link.index)
        waiting.removeAll { $0.link == link.index && $0.owner == link.peer.rawValue }
    }

    /// Has the broker flag everybody who knows this peer. It is not asked in vain for ever: whoever is not flagged then,
    /// is when its introduction is read, and told late.
    func flagByBroker() {
        let core = core.value
        flagsAsked = flagsAsked == .max ? 1 : flagsAsked + 1
        guard core.connection.askToFlagHolders(flagsAsked) else { return }
        _ = shmring_newcomers_wait(
            core.outbox, flagsAsked, monotonicNow_ns() + Self.brokerPatience_ns)
    }

    private static let brokerPatience_ns: UInt64 = 1_000_000_000

    // MARK: Drop words

    /// Words for handles that end; none for those of dead owners. nil: not enough are left.
    func takeWords(for ended: [EndedHandle]) -> [DropWords.Word]? {
        var words: [DropWords.Word] = []
        for one in ended {
            guard let link = livingLink(one) else { continue }
            takeBack(from: link)
            guard let word = drops.take(for: one, owner: link.pointee.peer) else {
                giveBack(words)
                return nil
            }
            words.append(word)
        }
        return words
    }

    func giveBack(_ words: [DropWords.Word]) {
        for word in words { drops.giveBack(word) }
    }

    /// They hold their stamp.
    func told(_ words: [DropWords.Word]) { drops.told(words) }

    func place(of word: DropWords.Word) -> UnsafeMutablePointer<UInt64> { drops.place(of: word) }

    private func takeBack(from link: UnsafeMutablePointer<LinkRoute>) {
        for ended in drops.takeBack(from: link) { isTold(ended, to: link) }
    }

    /// The owner knows before it reads anything later: what this peer called the grant is free.
    private func isTold(_ ended: EndedHandle, to link: UnsafeMutablePointer<LinkRoute>) {
        guard ended.grant & PeerHot.chosenByHolder != 0, ended.grant < ReservedGrant.first else {
            return
        }
        // A number of the broker's was never taken from the link.
        if ended.key.granter == 0, ended.key.number == ended.grant { return }
        link.pointee.link._withUnsafeGuaranteedRef { $0.giveBoundNumber(ended.grant) }
    }
}

/// One transaction that ends rights: its words, and what it does while they are pending: it tells everybody who must
/// look. Under the lock of the common lane, and of the nodes if nodes are released.
final class ReleaseAttempt {
    private let common: CommonLane
    private let places: [UnsafeMutablePointer<UInt64>?]
    private let nodes: [UInt64]
    /// As it is for as long as its lock is held.
    private let table: NodeTable?
    private let droppedTo: Set<UInt32>
    private var flagged: Set<UInt32> = []
    /// Somebody was handed something of whom this peer has not read.
    private var foundStranger = false
    /// Once it has happened.
    private(set) var stamp: UInt64 = 0

    init(
        _ common: CommonLane, drops: [DropWords.Word], nodes: [NodeID] = [],
        of table: NodeTable? = nil
    ) {
        self.common = common
        self.nodes = nodes.map(\.rawValue)
        self.table = table
        droppedTo = Set(drops.map(\.ended.link))
        places =
            drops.map { common.place(of: $0) }
            + nodes.map { table!.releaseWord(of: $0) }
    }

    /// As `shmring_transaction_commit`.
    func commit(
        _ lane: LaneState, _ legs: UnsafeMutablePointer<shmring_leg>?, _ count: Int,
        mayUseReserve: Bool, _ stamp: inout UInt64, _ failed: inout UInt32
    ) -> Int32 {
        let core = common.core.value
        return places.withUnsafeBufferPointer { places in
            var releases = shmring_releases(
                words: places.baseAddress, count: UInt32(places.count),
                counter: nodes.isEmpty ? nil : core.outbox.pointer(to: \.releases),
                flag: { Unmanaged<ReleaseAttempt>.fromOpaque($0!).takeUnretainedValue().flag() },
                wake: { Unmanaged<ReleaseAttempt>.fromOpaque($0!).takeUnretainedValue().wake() },
                context: Unmanaged.passUnretained(self).toOpaque())
            let result = shmring_transaction_commit(
                lane.lane, core.clock, legs, UInt32(count), mayUseReserve, &releases, &stamp,
                &failed)
            self.stamp = stamp
            return result
        }
    }

    /// Between the words' being pending and the stamp.
    private func flag() -> Int32 {
        for link in droppedTo { flag(link, RingFlag.drops) }
        guard let table, !nodes.isEmpty else { return 0 }
        // First the hand-overs on their way, then the list: one that is applied in between is in both.
        for ring in common.core.value.ringsForLanes() {
            _ = shmring_ring_scan(
                ring.consumer, ReservedGrant.control,
                { context, _, body, length in
                    Unmanaged<ReleaseAttempt>.fromOpaque(context!).takeUnretainedValue()
                        .found(body!, Int(length))
                }, Unmanaged.passUnretained(self).toOpaque())
        }
        for node in nodes {
            table.forEachHolder(of: node) { flag($0, RingFlag.releases) }
            table.markGrants(of: node)
        }
        // The broker tells of a holder through a socket, which the receiving thread reads when it likes. Counted it is
        // before it knows itself: then the words were pending before it could read them, or it is counted here.
        if foundStranger || shmring_newcomers_counted(common.core.value.outbox) != table.newcomers {
            common.flagByBroker()
        }
        return 0
    }

    /// A control message that is perhaps not applied yet: whoever is handed anything in it looks.
    private func found(_ body: UnsafeRawPointer, _ length: Int) {
        let size = MemoryLayout<ControlRecord>.size
        for index in 0..<(length / size) {
            let record = body.loadUnaligned(fromByteOffset: index * size, as: ControlRecord.self)
            guard record.kind == .handOver else { continue }
            if let link = common.core.value.linkToBeFlagged(to: PeerID(rawValue: record.first)) {
                flag(link.index, RingFlag.releases)
            } else {
                foundStranger = true
            }
        }
    }

    private func flag(_ link: UInt32, _ flag: UInt64) {
        // No producer: no memory for it. The holder learns with the next flag.
        guard let producer = try? common.state.laneProducer(at: Int(link)) else { return }
        shmring_producer_flag(producer, flag)
        flagged.insert(link)
    }

    private func wake() {
        for link in flagged {
            if let producer = try? common.state.laneProducer(at: Int(link)) {
                shmring_producer_wake(producer)
            }
        }
        flagged = []
    }
}

/// SHMRING_FLAG_..., which Swift does not import.
enum RingFlag {
    static let releases: UInt64 = 1
    static let drops: UInt64 = 2
}
