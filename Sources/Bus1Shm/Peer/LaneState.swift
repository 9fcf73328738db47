import CBus1System
public import CShmRing
import Glibc

/// What one sending thread owns: its claim and commit words, its producers, its pools. The peer's own lane is number 0.
///
/// NOTE - one thread at a time.
@usableFromInline
final class LaneState {
    /// Whoever owns the lane keeps the core: the core itself owns lane 0.
    unowned(unsafe) let core: PeerCore
    let number: UInt32
    let lane: UnsafeMutablePointer<shmring_lane>
    @exclusivity(unchecked) var pools: [DomainID: SlicePool] = [:]
    /// Room for the destinations of one transaction, kept.
    @exclusivity(unchecked) private(set) var legs = UnsafeMutablePointer<shmring_leg>.allocate(
        capacity: 8)
    @exclusivity(unchecked) private var legCount = 8
    var references: [shmring_slice_ref] = []
    /// Room for a payload of several pieces that fits a slot.
    let gathered = UnsafeMutableRawPointer.allocate(
        byteCount: Int(SHMRING_SLOT_BYTES_MAX), alignment: 8)
    /// Room for the bodies of one transaction, `bodyStride` apart, kept.
    @exclusivity(unchecked) var bodies = UnsafeMutableRawPointer.allocate(
        byteCount: bodyStride, alignment: 8)
    @exclusivity(unchecked) var bodyCount = 1
    /// Slices that were copied because handles had no room beside them in the slot.
    var copiesForRecords: UInt64 = 0
    private let quotaBytes: Int
    /// The core's handle table, which never moves.
    private let handlesBase: UnsafeMutablePointer<HandleEntry>
    private let handlesMax: Int
    /// By the peer's index of the link: what lending to it needs, so that the path touches few lines.
    @exclusivity(unchecked) private var lenders: [Lender?] = []
    /// Of a further lane: its thread is inside while it uses links and handles (``LaneGates``).
    let gate: UnsafeMutablePointer<shmring_gate>

    /// Of the latest transaction whose producers were marked.
    @exclusivity(unchecked) var latestMark: UInt32 = 0
    /// Set where credit was short, and waiting may help.
    @exclusivity(unchecked) var creditWait: CreditWait?
    /// Set while somebody tries who must not block: what would be waited for stands in `obstacle` then, and it fails.
    @exclusivity(unchecked) var isImpatient = false
    @exclusivity(unchecked) var obstacle: Obstacle?

    struct Lender {
        let pool: OpaquePointer
        let number: UInt32
        let domain: DomainID
        /// Whose it is: another link may have the place by now.
        let route: UnsafeMutablePointer<LinkRoute>
    }
    /// By the peer's index of the link. nil: lane 0, which uses those of the links.
    let producers: LinkTable<shmring_producer>?
    /// Those that were made, with their links, which keep the rings mapped.
    @exclusivity(unchecked) private var made:
        [(link: Link, producer: UnsafeMutablePointer<shmring_producer>)] = []
    /// How many dead links had been taken away when this lane last let go of what it had of them.
    @exclusivity(unchecked) private var goneSeen: UInt64 = 0
    /// The peer's links, by their places.
    private let routes: LinkTable<LinkRoute>
    /// Payloads that were copied once more because a destination is of another trust domain.
    var foreignCopies: UInt64 = 0

    init(
        core: PeerCore, number: UInt32, lane: UnsafeMutablePointer<shmring_lane>, quotaBytes: Int
    ) throws(Bus1Error) {
        producers = number == 0 ? nil : try LinkTable("make a lane")
        gate = UnsafeMutableRawPointer.allocate(
            byteCount: Int(SHMRING_PAD_BYTES), alignment: Int(SHMRING_PAD_BYTES)
        ).bindMemory(to: shmring_gate.self, capacity: 1)
        gate.initialize(to: shmring_gate())
        routes = core.routes
        legs.initialize(repeating: shmring_leg(), count: legCount)
        self.core = core
        self.number = number
        self.lane = lane
        self.quotaBytes = quotaBytes
        handlesBase = core.handles.base
        handlesMax = core.handles.countMax
    }

    /// Room for so many destinations; what stands there stays.
    func reserveLegs(_ count: Int) {
        guard count > legCount else { return }
        let grown = UnsafeMutablePointer<shmring_leg>.allocate(capacity: count * 2)
        grown.moveInitialize(from: legs, count: legCount)
        (grown + legCount).initialize(repeating: shmring_leg(), count: count * 2 - legCount)
        legs.deallocate()
        legs = grown
        legCount = count * 2
    }

    /// The entry of a held handle whose node's owner lives.
    @inline(__always)
    func usableEntry(_ id: HandleID) throws(Bus1Error) -> UnsafeMutablePointer<HandleEntry> {
        let index = Int(id.rawValue & (1 << HandleTable.indexBits - 1))
        guard id.rawValue != 0, index < handlesMax else { throw core.noSuchHandleToSend }
        let entry = handlesBase + index
        guard shmring_load_relaxed(entry.pointer(to: \.id)!) == id.rawValue else {
            throw core.noSuchHandleToSend
        }
        guard entry.pointee.leadsSomewhere else {
            throw Bus1Error.nodeReleasedToSend
        }
        return entry
    }

    /// This lane's way to where a handle leads.
    @usableFromInline
    func producer(_ entry: UnsafeMutablePointer<HandleEntry>) throws(Bus1Error)
        -> UnsafeMutablePointer<shmring_producer>
    {
        guard number != 0 else { return entry.pointee.producer }
        return try laneProducer(at: Int(entry.pointee.link))
    }

    /// What the short ways need of a link, by its place in the peer's list.
    @inline(__always)
    func route(at index: UInt32) -> UnsafeMutablePointer<LinkRoute>? { routes[Int(index)] }

    /// This lane's way into the ring behind a link.
    func laneProducer(at index: Int) throws(Bus1Error) -> UnsafeMutablePointer<shmring_producer> {
        guard let producers else {
            guard let route = routes[index] else { throw core.noSuchHandleToSend }
            return route.pointee.producer
        }
        if let producer = producers[index] { return producer }
        return try makeProducer(at: index, in: producers)
    }

    @inline(never)
    private func makeProducer(
        at index: Int, in producers: LinkTable<shmring_producer>
    ) throws(Bus1Error) -> UnsafeMutablePointer<shmring_producer> {
        tidy()
        guard let link = core.link(at: index) else { throw core.noSuchHandleToSend }
        let fresh = UnsafeMutablePointer<shmring_producer>.allocate(capacity: 1)
        fresh.initialize(to: shmring_producer())
        let result = link.initProducer(fresh, claimWord: shmring_lane_claim_word(lane))
        guard result == 0 else {
            link.forget(fresh)
            fresh.deallocate()
            throw Bus1Error(result: result, "send")
        }
        made.append((link, fresh))
        producers[index] = fresh
        return fresh
    }

    func pool(toward domain: DomainID) throws(Bus1Error) -> SlicePool {
        if let pool = pools[domain] { return pool }
        let pool = try SlicePool(
            domain: domain, lane: number, laneCount: core.laneCount + 1, quotaBytes: quotaBytes,
            core.placement)
        pools[domain] = pool
        return pool
    }

    // MARK: Slices

    func loan(_ byteCount: Int, toward domain: DomainID, until deadline: Deadline) throws(Bus1Error)
        -> Slice
    {
        precondition(byteCount >= 0, "a slice has no negative size")
        let pool = try pool(toward: domain)
        if deadline != .now { pool.waitWhileEnoughIsOut(byteCount) }
        while true {
            if let raw = try pool.loan(byteCount, limit_bytes: core.limits[.bytes]) {
                return Slice(raw, byteCount: byteCount, of: pool)
            }
            // The dead give nothing back.
            if tidy() { continue }
            if isImpatient { obstacle = .something }
            guard !deadline.hasPassed, !isImpatient else {
                let usage = pool.usage
                throw Bus1Error(
                    .overQuota, "loan a slice",
                    refusal: .init(
                        resource: .bytes, used: Int(usage.used_bytes),
                        limit: min(Int(usage.quota_bytes), core.limits[.bytes]),
                        account: core.account))
            }
            _ = shmring_pool_wait(pool.pool, deadline.monotonic_ns)
        }
    }

    /// Sends a slice. False: no room now; nothing has happened, the slice is still the caller's.
    func trySend(
        _ slice: borrowing Slice, _ entry: UnsafeMutablePointer<HandleEntry>, _ stamp: inout UInt64
    ) throws(Bus1Error) -> Bool {
        // Of an unbound handle the peer's own lane finds this one, which has no room.
        if entry.pointee.producer == NoRoom.producer {
            guard try bind(entry) else { return false }
        }
        let producer = try producer(entry)
        var body = shmring_slice_ref()
        guard let lender = try lend(slice, to: Int(entry.pointee.link), &body) else { return false }
        let result = shmring_producer_send(
            producer, core.clock, entry.pointee.grant, shmring_header_slice(), &body,
            UInt64(MemoryLayout<shmring_slice_ref>.size), &stamp)
        guard result != 0 else { return true }
        _ = shmring_pool_take_back(lender.pool, lender.number, &body)
        guard result == Int32(SHMRING_E_FULL.rawValue) else {
            throw Bus1Error(result: result, "send a slice")
        }
        return false
    }

    /// Lends a slice on a link: the link's peer has been given its segment before. nil: all words of the board are out,
    /// or the broker or the link's peer stands still while the segment is to be announced.
    func lend(
        _ slice: borrowing Slice, to index: Int, _ reference: inout shmring_slice_ref
    ) throws(Bus1Error) -> Lender? {
        let lender = try lender(index)
        guard slice.poolPointer == lender.pool else {
            throw Bus1Error(
                .mismatch, "send a slice that was loaned for another trust domain or lane")
        }
        if !shmring_pool_is_announced(lender.pool, lender.number, slice.raw.segment) {
            do throws(Bus1Error) { try announce(slice.raw.segment, lender, index) } catch {
                guard error.code == .timedOut else { throw error }
                return nil
            }
        }
        var raw = slice.raw
        var result = shmring_pool_lend(
            lender.pool, lender.number, &raw, UInt64(slice.byteCount), &reference)
        if result == Int32(SHMRING_E_FULL.rawValue) {
            _ = shmring_pool_collect(lender.pool, true)
            result = shmring_pool_lend(
                lender.pool, lender.number, &raw, UInt64(slice.byteCount), &reference)
        }
        if result == Int32(SHMRING_E_FULL.rawValue) { return nil }
        guard result == 0 else { throw Bus1Error(result: result, "lend a slice") }
        return lender
    }

    private func lender(_ index: Int) throws(Bus1Error) -> Lender {
        if index < lenders.count, let lender = lenders[index], lender.route == routes[index] {
            return lender
        }
        tidy()
        guard let link = core.link(at: index) else { throw core.noSuchHandleToSend }
        let pool = try pool(toward: link.domain)
        let made = Lender(
            pool: pool.pool, number: try pool.number(of: link), domain: link.domain,
            route: link.route)
        while lenders.count <= index { lenders.append(nil) }
        lenders[index] = made
        return made
    }

    /// Whose link's socket is full does not read it: that may be tried again.
    private static let announcePatience = Duration.milliseconds(10)

    /// Gives the receiver a segment's descriptor, once.
    private func announce(_ segment: UInt32, _ lender: Lender, _ index: Int) throws(Bus1Error) {
        guard let link = core.link(at: index) else { throw core.noSuchHandleToSend }
        var descriptor: Int32 = -1
        var byteCount: UInt64 = 0
        var result = shmring_pool_segment(lender.pool, segment, &descriptor, &byteCount)
        guard result == 0 else { throw Bus1Error(result: result, "announce a segment") }
        let socket = try core.linkSocket(of: link, lane: number)
        let charge = CreditCharge(bytes: Int(byteCount))
        var wait: CreditWait?
        try link.charge(charge, by: try laneProducer(at: index), account: core.account, &wait)
        do throws(Bus1Error) {
            try socket.send(
                LinkPacket(kind: .segment, segment: segment, byteCount: byteCount),
                descriptor: descriptor, until: .after(Self.announcePatience))
        } catch {
            link.takeBack(charge)
            throw error
        }
        shmring_fault_at(SHMRING_FAULT_LEND_ANNOUNCED)
        result = shmring_pool_announced(lender.pool, lender.number, segment)
        guard result == 0 else { throw Bus1Error(result: result, "announce a segment") }
    }

    /// Copies bytes that do not fit a slot into a slice and sends that. nil: no room now.
    @usableFromInline
    func sendLong(
        _ bytes: UnsafeRawPointer?, _ count: Int, _ entry: UnsafeMutablePointer<HandleEntry>
    ) throws(Bus1Error) -> UInt64? {
        guard let link = core.link(at: Int(entry.pointee.link)) else {
            throw core.noSuchHandleToSend
        }
        let slice = try loan(count, toward: link.domain, until: .now)
        slice.raw.base.copyMemory(from: bytes!, byteCount: count)
        var stamp: UInt64 = 0
        guard try trySend(slice, entry, &stamp) else { return nil }
        slice.end()
        return stamp
    }

    /// Sends a slice, which the caller has not got any more whatever happens. Waits for room.
    func send(
        _ slice: consuming Slice, _ handle: HandleID, until deadline: Deadline
    ) throws(Bus1Error) -> UInt64 {
        var turn = 0
        var stamp: UInt64 = 0
        while true {
            let entry = try usableEntry(handle)
            if try fit(&slice, to: entry, until: deadline) { continue }
            if try trySend(slice, entry, &stamp) {
                slice.end()
                return stamp
            }
            guard !deadline.hasPassed else { throw Bus1Error(.timedOut, "send a slice") }
            turn += 1
            if turn < 64 {
                shmring_pause()
            } else {
                let producer = try laneProducer(at: Int(entry.pointee.link))
                _ = shmring_producer_wait(
                    producer, producer.pointee.unicast_room,
                    Deadline.earlier(deadline, .after(.milliseconds(1))).monotonic_ns)
            }
        }
    }

    /// Puts a copy in the place of a slice that can't go where the handle leads. False: it can.
    func fit(
        _ slice: inout Slice, to entry: UnsafeMutablePointer<HandleEntry>, until deadline: Deadline
    ) throws(Bus1Error) -> Bool {
        let lender = try lender(Int(entry.pointee.link))
        guard lender.pool != slice.poolPointer else { return false }
        // Payloads for different domains never share a segment, or one could read the other's. Nor can another lane's
        // ledger be written here.
        foreignCopies += 1
        let copy = try loan(slice.byteCount, toward: lender.domain, until: deadline)
        copy.raw.base.copyMemory(from: slice.raw.base, byteCount: slice.byteCount)
        slice = copy
        return true
    }

    // MARK: The dead

    /// A link's peer is dead: everything lent to it comes back. Lane 0, for which the peer's own thread does it at once.
    func forget(_ link: Link) {
        shmring_lane_forget(lane, link.producer)
        let index = Int(link.index)
        if index < lenders.count, lenders[index]?.route == link.route { lenders[index] = nil }
        for pool in pools.values { pool.forget(link) }
    }

    /// Lets go of the links that were taken away since: of all that this lane has of them, only this. False: there was
    /// none.
    @discardableResult
    func tidy() -> Bool {
        let gone = core.linksGone
        guard gone != goneSeen else { return false }
        goneSeen = gone
        made.removeAll { link, producer in
            guard link.isGone else { return false }
            shmring_lane_forget(lane, producer)
            link.forget(producer)
            producer.deallocate()
            return true
        }
        for index in lenders.indices {
            // The pool keeps the link until it forgets it, too.
            guard let route = lenders[index]?.route else { continue }
            if route.pointee.link._withUnsafeGuaranteedRef({ $0.isGone }) { lenders[index] = nil }
        }
        for pool in pools.values { pool.forgetGone() }
        return true
    }

    /// Why a handle can't be sent to. Perhaps its node's owner is dead: then this is a good moment to let go of it.
    @usableFromInline @inline(never)
    func noSuchHandle() -> Bus1Error {
        tidy()
        return core.noSuchHandleToSend
    }

    deinit {
        legs.deallocate()
        gathered.deallocate()
        bodies.deallocate()
        for (link, producer) in made {
            link.forget(producer)
            producer.deallocate()
        }
        producers?.unmap()
        gate.deallocate()
    }
}
