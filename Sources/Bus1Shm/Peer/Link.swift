import CBus1System
import CShmRing
import Synchronization

/// How much of one sender's memory is mapped here at most.
let viewLimit_bytes: UInt64 = 1 << 40

/// A ring of this peer's own: one trust domain writes into it, this peer reads.
final class OwnRing {
    let id: RingID
    let domain: DomainID
    private let mapping: Mapping
    /// At a place that never moves: the inbox refers to it.
    let consumer: UnsafeMutablePointer<shmring_consumer>
    /// What those who write into it have been charged.
    let allowance: UnsafeMutablePointer<shmring_allowance>
    /// The same as `senders`, for the short ways. At a place that never moves.
    let route: UnsafeMutablePointer<RingRoute>
    /// Who writes into it, by sender index.
    @exclusivity(unchecked) var senders: [Link?] = []
    /// What came that no honest peer sends. Only the receiving thread.
    @exclusivity(unchecked) var strange = StrangeCount()

    /// Maps the ring and checks its geometry. `isForeign`: of another trust domain than the peer's own.
    init(
        _ offer: consuming RingOffer, isForeign: Bool, _ placement: Placement?
    ) throws(Bus1Error) {
        id = offer.ring
        domain = offer.domain
        let byteCount = shmring_ring_bytes(offer.slots, offer.slotBytes)
        guard byteCount != 0 else { throw Bus1Error(.mismatch, "map a ring of one's own") }
        mapping = try Mapping(
            offer.descriptor, SHMRING_SEGMENT_RING, writable: true, byteCount: byteCount,
            placement: placement, "map a ring of one's own")
        consumer = .allocate(capacity: 1)
        consumer.initialize(to: shmring_consumer())
        allowance = .allocate(capacity: 1)
        route = .allocate(capacity: 1)
        route.initialize(to: RingRoute(allowance))
        var raw = mapping.raw
        let result = shmring_consumer_init(consumer, &raw, isForeign)
        guard result == 0 else { throw Bus1Error(result: result, "map a ring of one's own") }
        shmring_allowance_init(allowance, consumer.pointee.control)
    }

    /// For a link of the peer to itself: it sends into the same memory.
    func withMapping<R>(_ body: (borrowing Mapping) -> R) -> R { body(mapping) }

    deinit {
        shmring_consumer_deinit(consumer)
        consumer.deallocate()
        allowance.deallocate()
        route.pointee.deallocate()
        route.deallocate()
    }

    func add(_ link: Link) {
        while senders.count <= Int(link.itsIndex) { senders.append(nil) }
        senders[Int(link.itsIndex)] = link
        route.pointee.set(link.itsIndex, link.route)
    }

    func sender(at index: UInt32) -> Link? {
        Int(index) < senders.count ? senders[Int(index)] : nil
    }

    /// All that a dead sender wrote has been received: what is found there under its index is of nobody.
    func remove(_ link: Link) {
        guard sender(at: link.itsIndex) === link else { return }
        _ = shmring_consumer_drop_sender(consumer, link.itsIndex)
        senders[Int(link.itsIndex)] = nil
        route.pointee.set(link.itsIndex, nil)
    }
}

/// An introduced pair, seen from this side: the way into the other's ring, the other's outbox, the two
/// return boards.
final class Link: @unchecked Sendable {
    // @unchecked: lanes read what is fixed after init, and make producers of their own; the rest belongs to the peer's
    // isolation domain.
    let peer: PeerID
    let account: Account
    let domain: DomainID
    /// The ring of this peer in which the other writes, and its index there.
    let ownRing: RingID
    let itsIndex: UInt32
    /// The ring of the other in which this peer writes, and this peer's index there.
    let itsRing: RingID
    let ownIndex: UInt32
    /// Of the peer's own lane; further lanes have producers of their own.
    let producer: UnsafeMutablePointer<shmring_producer>
    let lanes: UInt32
    let outbox: UnsafePointer<shmring_outbox>
    /// What the short ways need of it.
    let route: UnsafeMutablePointer<LinkRoute>
    var dead: UnsafePointer<UInt64> { route.pointee.dead }
    var commitWords: UnsafePointer<UInt64> { route.pointee.commitWords }
    var commitWordCount: UInt32 { route.pointee.commitWordCount }
    /// In the other's outbox.
    func dropWord(_ index: Int) -> UnsafePointer<shmring_drop> {
        UnsafeRawPointer(outbox).advanced(by: Int(shmring_outbox_drop_offset(lanes)))
            .assumingMemoryBound(to: shmring_drop.self) + index
    }
    let boardOut: UnsafeMutablePointer<shmring_board>
    let boardIn: UnsafeMutablePointer<shmring_board>
    /// Wakes the other when it parks on its descriptor. Kept: the producers name it.
    private(set) var event: Descriptor?
    /// Its death has taken its place in the order.
    var isDead: Bool {
        get { route.pointee.isDead }
        set { route.pointee.isDead = newValue }
    }
    /// It has a stamp, and will.
    var isDeathWatched = false
    /// The other's count of releases when its words were last looked at.
    var releasesSeen: UInt64 = 0
    /// The other's drop words for this peer, by index, as they were when found.
    var drops: [Int: Drop] = [:]
    /// How many of them have been applied.
    var dropsDone: UInt64 = 0
    var index: UInt32 {
        get { route.pointee.index }
        set { route.pointee.index = newValue }
    }
    private let goneWord = UnsafeMutablePointer<UInt32>.allocate(capacity: 1)
    /// Its peer is dead, and its place in the peer's list is another's, or will be. Any thread that has the link reads it.
    var isGone: Bool {
        // Relaxed: seen late, it is let go of later.
        shmring_load_relaxed_u32(goneWord) != 0
    }
    func setGone() {
        // Relaxed: H19 stands behind it.
        shmring_store_relaxed_u32(goneWord, 1)
    }
    private let boundNumbers = Mutex<BoundNumbers>(BoundNumbers())
    /// Of all lanes: who must know the event's descriptor.
    private let producers = Mutex<[Producer]>([])

    /// For its segments that are mapped here. Only the receiving thread.
    var segmentCharges: [UInt32: ReceivedCharge.Box] = [:]

    private struct Producer: @unchecked Sendable {
        // @unchecked: only the event's number is touched from elsewhere than the lane, by a relaxed store.
        let pointer: UnsafeMutablePointer<shmring_producer>
    }

    /// A right that the other gave up by a word.
    struct Drop {
        /// What the word held when it was first seen.
        let seen: UInt64
        /// The stamp with which it was applied.
        var done: UInt64?

        /// A word seen again: true when it serves another right by now, false when this one is still to be applied, or is
        /// the word's latest. That is so, too, while it still refers to the commit word, whose stamp was applied already.
        func isDone(_ word: UInt64) -> Bool { done != nil && done != word && seen != word }
    }

    /// What this peer's own messages call its grants there, where it chooses.
    private struct BoundNumbers {
        var free: [UInt32] = []
        var next: UInt32 = 0
    }

    /// A number for a grant of the other's, to be made known by a `bind` record. nil: all are in use. Any thread.
    func takeBoundNumber() -> UInt32? {
        boundNumbers.withLock { numbers in
            if let number = numbers.free.popLast() { return number | PeerHot.chosenByHolder }
            guard numbers.next < PeerHot.boundMax else { return nil }
            defer { numbers.next += 1 }
            return numbers.next | PeerHot.chosenByHolder
        }
    }

    /// The grant's release record has been sent, or its `bind` never was. Any thread.
    func giveBoundNumber(_ number: UInt32) {
        boundNumbers.withLock { $0.free.append(number & ~PeerHot.chosenByHolder) }
    }

    /// For descriptors; made when first needed. Lanes ask, too.
    let socket = Mutex<LinkSocket?>(nil)
    let receiver = LinkReceiver()
    /// The other's pool segments, as far as they are mapped here.
    private var segments: OpaquePointer?

    private let ringMapping: Mapping?
    private let ringRaw: shmring_mapping
    private let selfRing: OwnRing?
    private let outboxMapping: Mapping?
    private let boardOutMapping: Mapping
    private let boardInMapping: Mapping?

    /// Maps what the introduction brings. `ownOutbox` and `selfRing` stand in where the other is the peer itself.
    init(
        _ introduction: consuming Introduction, ownOutbox: UnsafePointer<shmring_outbox>,
        selfRing: OwnRing?,
        claimWord: UnsafeMutablePointer<UInt64>
    ) throws(Bus1Error) {
        let operation: StaticString = "map what an introduction brings"
        peer = introduction.peer
        account = introduction.account
        domain = introduction.domain
        ownRing = introduction.ownRing
        itsIndex = UInt32(introduction.itsIndex)
        itsRing = introduction.itsRing
        ownIndex = UInt32(introduction.ownIndex)
        lanes = introduction.lanes

        if let ring = introduction.ring.take() {
            let byteCount = shmring_ring_bytes(introduction.slots, introduction.slotBytes)
            guard byteCount != 0 else { throw Bus1Error(.mismatch, operation) }
            let mapping = try Mapping(
                ring, SHMRING_SEGMENT_RING, writable: true, byteCount: byteCount, operation)
            ringRaw = mapping.raw
            ringMapping = consume mapping
            self.selfRing = nil
        } else {
            guard let selfRing else { throw Bus1Error(.severed, operation) }
            ringRaw = selfRing.withMapping { $0.raw }
            ringMapping = nil
            self.selfRing = selfRing
        }
        if let outbox = introduction.outbox.take() {
            let mapping = try Mapping(
                outbox, SHMRING_SEGMENT_OUTBOX, writable: false,
                byteCount: shmring_outbox_bytes(lanes), operation)
            self.outbox = UnsafePointer(mapping.base(as: shmring_outbox.self))
            outboxMapping = consume mapping
        } else {
            outbox = ownOutbox
            outboxMapping = nil
        }
        let board = try Mapping(
            introduction.boardOut, SHMRING_SEGMENT_BOARD, writable: true, operation)
        boardOut = board.base(as: shmring_board.self)
        if let descriptor = introduction.boardIn.take() {
            let mapping = try Mapping(descriptor, SHMRING_SEGMENT_BOARD, writable: true, operation)
            boardIn = mapping.base(as: shmring_board.self)
            boardInMapping = consume mapping
        } else {
            boardIn = boardOut
            boardInMapping = nil
        }
        boardOutMapping = consume board
        event = nil
        goneWord.initialize(to: 0)
        producer = .allocate(capacity: 1)
        producer.initialize(to: shmring_producer())
        route = .allocate(capacity: 1)
        route.initialize(
            to: LinkRoute(
                self, peer: peer, itsIndex: itsIndex, outbox: outbox, lanes: lanes,
                producer: producer, boardOut: boardOut, boardIn: boardIn))
        let result = initProducer(producer, claimWord: claimWord)
        guard result == 0 else { throw Bus1Error(result: result, operation) }
        if let event = introduction.event.take() { setEvent(event) }
    }

    /// Fills in a producer for one lane.
    func initProducer(
        _ producer: UnsafeMutablePointer<shmring_producer>, claimWord: UnsafeMutablePointer<UInt64>
    ) -> Int32 {
        var raw = ringRaw
        let result = shmring_producer_init(producer, &raw, claimWord, ownIndex)
        producers.withLock { list in
            list.append(Producer(pointer: producer))
            if let event = event?.rawValue { shmring_producer_set_event(producer, event) }
        }
        return result
    }

    /// The other wants to be woken by this descriptor from now on. It stays the same for the ring's life: a second one is
    /// not taken, since a lane may be writing to the first.
    func setEvent(_ fresh: consuming Descriptor) {
        // A receiver may hand out anything: what is no doorbell is not written to.
        guard event == nil, bus1_sys_doorbell_is_one(fresh.rawValue) else { return }
        let raw = fresh.rawValue
        event = consume fresh
        producers.withLock { for one in $0 { shmring_producer_set_event(one.pointer, raw) } }
    }

    /// The first is taken.
    func setSocket(_ fresh: LinkSocket) {
        socket.withLock { socket in
            guard socket == nil else { return }
            socket = fresh
            receiver.open(fresh)
        }
    }

    /// A lane is done with.
    func forget(_ producer: UnsafeMutablePointer<shmring_producer>) {
        producers.withLock { $0.removeAll { $0.pointer == producer } }
    }

    /// Only the receiving thread. nil: no memory.
    func view() -> OpaquePointer? {
        if segments == nil, !isDead { _ = shmring_view_init(viewLimit_bytes, &segments) }
        return segments
    }

    /// The other is dead, and all its messages have been received: what of its memory no message still holds is
    /// unmapped. Only the receiving thread.
    func endView() {
        shmring_view_deinit(segments)
        segments = nil
    }

    /// The other's memory for payloads is mapped, some of it at least.
    var hasView: Bool { segments != nil }

    deinit {
        goneWord.deallocate()
        producer.deallocate()
        route.deallocate()
        shmring_view_deinit(segments)
    }
}
