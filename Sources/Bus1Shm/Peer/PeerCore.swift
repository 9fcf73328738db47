import CBus1System
import CShmRing
import Glibc
import Synchronization

/// Everything that a peer owns besides the path of its messages: connection, mappings, links, nodes, tables.
///
/// Handles, nodes and lanes keep it alive, so that the memory they point to stays mapped; closing the peer ends its
/// membership of the bus and makes every later use of them fail.
///
/// NOTE - one isolation domain uses it (the peer's), but for what says otherwise. That nobody else does is not checked at
/// each use (`@exclusivity(unchecked)`), here and in what belongs to a lane: the checks were a tenth of a hand-over.
@usableFromInline
final class PeerCore: @unchecked Sendable {
    // @unchecked: what other threads reach is the handle table (words written with release stores) and the free
    // list (under its lock); the rest is the peer's isolation domain's.
    let bus: Bus
    let connection: ControlConnection
    let ownPeer: PeerID
    let ownDomain: DomainID
    let account: Account
    let limits: Limits
    let laneCount: UInt32
    private(set) var poolBytes = 0
    /// nil: no wishes.
    private(set) var placement: Placement?

    let clock: UnsafeMutablePointer<shmring_clock>
    let inbox: UnsafeMutablePointer<shmring_inbox>
    let hot: UnsafeMutablePointer<PeerHot>
    let lane: UnsafeMutablePointer<shmring_lane>
    /// The peer's own lane. Set at the end of init.
    @exclusivity(unchecked) private(set) var laneState: LaneState! = nil
    /// The same, for who keeps the core: without counting a reference.
    @exclusivity(unchecked) private(set) var uncountedLane: Unmanaged<LaneState>! = nil
    @exclusivity(unchecked) var nextTrim_ns: UInt64 = 0
    let outbox: UnsafeMutablePointer<shmring_outbox>
    private(set) var lanesTaken: UInt32 = 1

    let claimsMapping: Mapping
    let outboxMapping: Mapping
    private let busMapping: Mapping

    @exclusivity(unchecked) var rings: [OwnRing] = []
    /// By the ring's place in `rings`.
    let ringRoutes: UnsafeMutablePointer<UnsafeMutablePointer<RingRoute>?>
    /// Lanes read them through ``link(at:)``.
    @exclusivity(unchecked) var links = LinkList()
    /// The same, for the short ways of all lanes.
    let routes: LinkTable<LinkRoute>
    let gates = LaneGates()
    /// Of dead peers, in the order of their deaths: their places are not free yet.
    @exclusivity(unchecked) var departed: [DepartedLink] = []
    @exclusivity(unchecked) var recentlyGone = RecentlyGone()
    /// How many links were taken away in all. Lanes read it.
    let linksGoneWord = UnsafeMutablePointer<UInt64>.allocate(capacity: 1)
    let shared = Mutex<SharedLists>(SharedLists())
    @exclusivity(unchecked) var linkOfPeer: [PeerID: Int] = [:]
    /// The own nodes and who holds handles to them.
    let nodes: BiasedMutex<NodeTable>
    private let grantMemory: GrantMemory
    /// Beside receiving.
    let chores = Chores()
    let handles: HandleTable
    /// Held while a handle is bound, so that it is bound once.
    let binding = Mutex<Void>(())
    /// Who was introduced to whom on this peer's request, and how many hand-overs it has made.
    let handOvers = Mutex(HandOvers())
    /// nil once the peer is closed: its death says the rest.
    let common = Mutex<CommonLane?>(nil)
    /// Handles that their nodes' owners are to be told of.
    let ended = Mutex<[EndedHandle]>([])
    /// Given by others, in the order in which they came, until somebody asks for them.
    var given: [GivenHandle] = []
    var inherited: [HandleID?] = []
    /// How many of them the broker has not told of yet.
    var inheritedMissing = 0
    /// To be received before anything else.
    @exclusivity(unchecked) var notices: [QueuedNotice] = []
    /// Where attempts of the peer's own lane were abandoned and the other could not be told.
    @exclusivity(unchecked) var linksToTell: [Link] = []
    /// Once somebody has asked for the descriptor.
    @exclusivity(unchecked) var eventSource: EventSource?
    @exclusivity(unchecked) var hasClaimsToBury = false
    /// Grants that pass to somebody once their hand-over has been received.
    @exclusivity(unchecked) var moves: [GrantKey: HolderMoved] = [:]
    /// Peers that lanes want to be introduced to each other, by the peer's own thread.
    let wishes = Mutex<[(PeerID, PeerID)]>([])
    /// Handles whose release words the inbox watches, and the owners of those. Only the receiving thread.
    @exclusivity(unchecked) var watched: [UInt64: PeerID] = [:]
    /// The link whose peer's death has no stamp yet.
    @exclusivity(unchecked) var pendingDeath: UInt64?
    /// `attention` when the broker was last known to have nothing in its queue for this peer.
    @exclusivity(unchecked) var attentionWhenAllWasRead: UInt32 = 0
    /// Rings that were cut: mapped until the end, since messages may still be under way there.
    var severed: [OwnRing] = []
    /// Messages of those without the right to send them.
    var refused: UInt64 = 0
    /// A ring in which too much came that no honest peer sends: to be cut.
    @exclusivity(unchecked) var strangest: StrangeRing?
    /// 1 once the peer has left the bus. Lanes read it.
    private let closedWord = UnsafeMutablePointer<UInt32>.allocate(capacity: 1)
    var isClosed: Bool { shmring_load_relaxed_u32(closedWord) != 0 }
    @exclusivity(unchecked) var kept = KeptDeliveries()
    var seed: Seed?
    /// What this peer has asked others.
    @exclusivity(unchecked) var calls = PendingCalls()
    /// By what it answers others again.
    let keptReplies = KeptReplies()
    /// Tasks that receive.
    @exclusivity(unchecked) var line = ReceiverLine()
    /// Sequences of messages for single nodes that somebody reads.
    @exclusivity(unchecked) var streamCount = 0
    /// Some user has more outstanding than its share.
    @exclusivity(unchecked) var isCreditUneven = false

    struct HandOvers {
        var introduced: Set<PairKey> = []
        /// Those that lanes had wished for, and why they can't be.
        var refused: [PairKey: Bus1Error] = [:]
        var count: UInt32 = 0
    }

    struct GivenHandle {
        let owner: PeerID
        let number: GrantNumber
        let id: HandleID
    }

    init(_ bus: Bus, _ options: Peer.Options, ticket: Ticket, until deadline: Deadline)
        throws(Bus1Error)
    {
        guard !shmring_forked() else { throw Bus1Error(.forked, "join the bus") }
        var wishes = ControlOptions()
        wishes.slots = UInt32(clamping: options.slots)
        wishes.slotBytes = UInt32(clamping: options.slotBytes)
        // One more than the program may use: the common lane.
        wishes.lanes = UInt32(clamping: options.lanes.addingReportingOverflow(1).partialValue)
        wishes.ticket = ticket
        let before_ns = monotonicNow_ns()
        let connection = try ControlConnection.open(bus, wishes, until: deadline)
        let welcome = connection.takeWelcome()
        shmring_fault_at(SHMRING_FAULT_CONNECT_GREETED)
        let operation: StaticString = "map what the broker made for this peer"
        let busMapping = try Mapping(
            welcome.busPage, SHMRING_SEGMENT_BUS, writable: false, operation)
        let claims = try Mapping(
            welcome.claims, SHMRING_SEGMENT_CLAIMS, writable: true,
            byteCount: shmring_claims_bytes(welcome.lanes),
            operation)
        let outboxMapping = try Mapping(
            welcome.outbox, SHMRING_SEGMENT_OUTBOX, writable: true,
            byteCount: shmring_outbox_bytes(welcome.lanes),
            operation)
        var clock = shmring_clock()
        let attached = shmring_clock_attach(
            UnsafePointer(busMapping.base(as: shmring_bus_page.self)), &clock)
        guard attached == 0 else { throw Bus1Error(result: attached, "attach to the bus's clock") }
        // What the broker read lies between two readings here, or that is another time namespace's clock.
        guard
            clock.source != SHMRING_CLOCK_MONOTONIC.rawValue
                || (before_ns...max(before_ns, shmring_clock_now(&clock))).contains(
                    welcome.clockNow)
        else { throw Bus1Error(.mismatch, "share the bus's clock") }
        guard welcome.lanes > 1 else { throw Bus1Error(.mismatch, "join the bus") }
        let limits = Limits(options)
        let token = bus1_sys_unique()
        // All that there may be no memory for, before anything that only `deinit` gives back.
        let handles = try HandleTable(token: token, limits: limits)
        let grantMemory = try GrantMemory(operation)
        let routes = try LinkTable<LinkRoute>(operation)
        guard let arena = shmring_arena_create(welcome.slotBytes) else {
            routes.unmap()
            throw Bus1Error(.system, operation, errno: ENOMEM)
        }
        do throws(Bus1Error) {
            inbox = try WipedOnFork.allocate(operation)
        } catch {
            routes.unmap()
            shmring_arena_close(arena)
            throw error
        }

        self.bus = bus
        self.connection = connection
        ownPeer = welcome.peer
        ownDomain = welcome.domain
        account = welcome.account
        self.limits = limits
        laneCount = welcome.lanes - 1
        self.clock = .allocate(capacity: 1)
        self.clock.initialize(to: clock)
        outbox = outboxMapping.base(as: shmring_outbox.self)
        self.handles = handles
        let page = busMapping.base(as: shmring_bus_page.self)
        shmring_inbox_init(
            inbox, self.clock, page.pointer(to: \.death)!, outbox.pointer(to: \.attention)!)
        inbox.pointee.called = UnsafePointer(page.pointer(to: \.called)!)
        self.grantMemory = grantMemory
        let releaseWords =
            outboxMapping.base(as: UInt8.self)
            + Int(shmring_outbox_release_offset(welcome.lanes))
        nodes = BiasedMutex(
            NodeTable(
                memory: grantMemory,
                words: UnsafeMutableRawPointer(releaseWords).assumingMemoryBound(to: UInt64.self),
                chores))
        hot = .allocate(capacity: 1)
        self.routes = routes
        linksGoneWord.initialize(to: 0)
        ringRoutes = .allocate(capacity: PeerHot.ringsMax)
        ringRoutes.initialize(repeating: nil, count: PeerHot.ringsMax)
        let (seconds, attoseconds) = options.spin.components
        let spin =
            options.spin == .zero || bus1_sys_cpu_count() < 2
            ? 0
            : UInt64(clamping: seconds) &* 1_000_000_000
                &+ UInt64(clamping: attoseconds / 1_000_000_000)
        hot.initialize(
            to: PeerHot(
                inbox: inbox, arena: arena, clock: UnsafePointer(self.clock),
                token: token, spin_ns: spin,
                memory: grantMemory))
        lane = .allocate(capacity: 1)
        var claimsRaw = claims.raw
        var outboxRaw = outboxMapping.raw
        let laned = shmring_lane_init(lane, &claimsRaw, &outboxRaw, 0)
        closedWord.initialize(to: 0)
        claimsMapping = consume claims
        self.outboxMapping = consume outboxMapping
        self.busMapping = consume busMapping
        guard laned == 0 else { throw Bus1Error(result: laned, operation) }
        laneState = try LaneState(core: self, number: 0, lane: lane, quotaBytes: options.poolBytes)
        uncountedLane = .passUnretained(laneState)
        poolBytes = options.poolBytes
        let lastLane = UnsafeMutablePointer<shmring_lane>.allocate(capacity: 1)
        let lastLaned = shmring_lane_init(lastLane, &claimsRaw, &outboxRaw, laneCount)
        let lastState: LaneState
        do throws(Bus1Error) {
            lastState = try LaneState(
                core: self, number: laneCount, lane: lastLane, quotaBytes: options.poolBytes)
        } catch {
            lastLane.deallocate()
            throw error
        }
        let drops = DropWords(self.outboxMapping, lanes: laneCount + 1)
        common.withLock { $0 = CommonLane(self, lastState, drops) }
        guard lastLaned == 0 else { throw Bus1Error(result: lastLaned, operation) }
        placement = Placement(options)
        let bell = limits.bell
        nodes.withLock { $0.bell = bell }
        beginToWatch()
        beginToAsk()
        shmring_fault_at(SHMRING_FAULT_CONNECT_MAPPED)
        try connection.confirmMapped(until: deadline)
        shmring_fault_at(SHMRING_FAULT_CONNECT_SEALED)
        if options.standsBy, bus1_sys_environment("BUS1_HEIR").map({ $0.pointee != 0x30 }) ?? true {
            try connection.standBy(until: deadline)
        }
        inherited = Array(repeating: nil, count: welcome.grantsOfTicket)
        inheritedMissing = welcome.grantsOfTicket
        try readEvents()
        // Each needs an introduction, which may wait for the owner.
        while inheritedMissing > 0 {
            guard !deadline.hasPassed else { throw Bus1Error(.timedOut, "take what was inherited") }
            _ = bus1_sys_wait_readable(connection.descriptor, deadline.pollTimeout_ms)
            try readEvents()
        }
    }

    func add(_ link: Link) throws(Bus1Error) {
        let place = links.next
        guard place < LinkTable<LinkRoute>.countMax else {
            throw Bus1Error(
                .overQuota, "map what an introduction brings",
                refusal: .init(resource: .links, used: place, limit: place, account: account))
        }
        link.index = UInt32(place)
        let ring = ringPlace(of: link) ?? UInt32(PeerHot.ringsMax)
        nodes.withLock {
            $0.addHolder(place, sender: link.itsIndex, ring: ring, account: link.account)
        }
        linkOfPeer[link.peer] = place
        links.append(link)
        routes[place] = link.route
        let isLate = shared.withLock { lists in
            lists.linkOfPeer[link.peer] = place
            if place == lists.links.count {
                lists.links.append(link)
            } else {
                lists.links[place] = link
            }
            return lists.toBeFlagged.remove(link.peer) != nil
        }
        if isLate {
            // It was handed a node that was released before this peer had read who it is.
            shmring_producer_flag(link.producer, RingFlag.releases)
            shmring_producer_wake(link.producer)
        }
    }

    func add(_ ring: OwnRing) {
        ringRoutes[rings.count] = ring.route
        rings.append(ring)
        shared.withLock { $0.rings.append(ring) }
    }

    /// What any thread may look at.
    struct SharedLists: @unchecked Sendable {
        // @unchecked: what is used of links and rings by other threads is fixed, or under locks of their own.
        var links: [Link?] = []
        var linkOfPeer: [PeerID: Int] = [:]
        var rings: [OwnRing] = []
        /// Holders that must look at release words, and whose introductions are still to be read.
        var toBeFlagged: Set<PeerID> = []
    }

    /// A link by its place in the list. Any thread.
    func link(at index: Int) -> Link? {
        shared.withLock { $0.links.indices.contains(index) ? $0.links[index] : nil }
    }

    /// The link of a handle's entry, unless its peer is dead and gone. Any thread.
    func link(of entry: UnsafeMutablePointer<HandleEntry>) -> Link? {
        let (place, owner) = (Int(entry.pointee.link), entry.pointee.owner)
        return link(at: place).flatMap { $0.peer.rawValue == owner ? $0 : nil }
    }

    /// Any thread. nil: no introduction to that peer has been read; when it is, its ring gets the flag of releases.
    func linkToBeFlagged(to peer: PeerID) -> Link? {
        shared.withLock { lists in
            if let index = lists.linkOfPeer[peer] { return lists.links[index] }
            // A hostile holder can name anybody.
            if lists.toBeFlagged.count < 4096 { lists.toBeFlagged.insert(peer) }
            return nil
        }
    }

    /// All own rings there ever were. Any thread.
    func ringsForLanes() -> [OwnRing] { shared.withLock { $0.rings } }

    /// The next free lane.
    func takeLane() throws(Bus1Error) -> LaneState {
        let operation: StaticString = "make a lane"
        guard lanesTaken < laneCount, lanesTaken < limits[.lanes] else {
            throw overQuota(.lanes, operation)
        }
        let lane = UnsafeMutablePointer<shmring_lane>.allocate(capacity: 1)
        var claims = claimsMapping.raw
        var outbox = outboxMapping.raw
        let result = shmring_lane_init(lane, &claims, &outbox, lanesTaken)
        do throws(Bus1Error) {
            guard result == 0 else { throw Bus1Error(result: result, operation) }
            let state = try LaneState(
                core: self, number: lanesTaken, lane: lane, quotaBytes: poolBytes)
            lanesTaken += 1
            return state
        } catch {
            lane.deallocate()
            throw error
        }
    }

    /// Takes the names of released nodes back. Does nothing most of the time.
    func takeNamesBack() {
        guard chores.isThere(.names) else { return }
        let names = nodes.withLock { $0.takeUnpublished() }
        guard !names.isEmpty else { return }
        for (_, name) in names { try? connection.unpublish(name, until: .after(.seconds(1))) }
        // Whoever was given the node under them has been told of by now.
        try? readAllEvents()
        nodes.withLock { table in for (node, _) in names { table.unpin(node) } }
    }

    var busPage: UnsafeMutablePointer<shmring_bus_page> {
        busMapping.base(as: shmring_bus_page.self)
    }

    func requireOpen(_ operation: StaticString) throws(Bus1Error) {
        guard !isClosed else { throw Bus1Error(.shutDown, operation) }
        guard !shmring_forked() else { throw Bus1Error(.forked, operation) }
    }

    /// Leaves the bus: every node is released, every handle gone. Works once; later calls do nothing.
    func close() {
        guard !isClosed else { return }
        // Relaxed: whoever still finds a handle may use it; whoever does not is told why a little later at worst.
        shmring_store_relaxed_u32(closedWord, 1)
        handles.invalidate()
        shmring_inbox_hold(inbox, true)
        kept.removeAll()
        holdForMessages()
        // They hold their links.
        for link in links { link.segmentCharges = [:] }
        // Messages may still need these themselves.
        for one in departed { one.link.segmentCharges = [:] }
        eventSource?.wake()
        let last = common.withLock { lane in
            defer { lane = nil }
            return lane?.state.lane
        }
        if let last {
            shmring_lane_deinit(last)
            last.deallocate()
        }
        guard !shmring_forked() else { return }
        for link in links { endDescriptors(of: link) }
        // An answer is not needed: a closed connection says the same.
        try? connection.goodbye(until: .after(.milliseconds(200)))
    }

    deinit {
        close()
        routes.unmap()
        linksGoneWord.deallocate()
        // A link of the peer to itself and its ring refer to each other.
        for ring in rings + severed { ring.senders = [] }
        shmring_inbox_deinit(inbox)
        WipedOnFork.deallocate(inbox)
        shmring_lane_deinit(lane)
        lane.deallocate()
        shmring_arena_close(hot.pointee.arena)
        hot.deallocate()
        ringRoutes.deallocate()
        clock.deallocate()
        closedWord.deallocate()
        chores.deallocate()
    }
}
