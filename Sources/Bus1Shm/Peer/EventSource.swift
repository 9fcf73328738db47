import CBus1System
import CShmRing

/// What a peer sleeps on in somebody else's event loop: an epoll descriptor over one doorbell for each of its rings, the
/// connection to the broker, and a timer.
///
/// A doorbell is a pair of datagram sockets: strangers share the end that rings, and can do no more to the other than
/// ring in vain, or not at all. The timer bounds what they can delay.
final class EventSource {
    /// Up to so many rings a wait sleeps on their doorbell words; above, on this.
    static let ringsWithout = Int(SHMRING_FUTEX_RINGS_MAX)

    private let epoll: Descriptor
    private let timer: Descriptor
    /// For what the peer itself has to say; not shared with anybody.
    private let own: Descriptor
    private var doorbells: [RingID: Doorbell] = [:]

    private final class Doorbell {
        let listening: Descriptor
        /// Given away; kept for a link of the peer to itself.
        var ringing: SharedDescriptor?

        init() throws(Bus1Error) {
            var (listening, ringing): (Int32, Int32) = (-1, -1)
            let made = bus1_sys_doorbell_create(&listening, &ringing)
            guard made == 0 else { throw Bus1Error(.system, "make a doorbell", errno: -made) }
            self.listening = Descriptor(owning: listening)
            self.ringing = SharedDescriptor(Descriptor(owning: ringing))
        }
    }

    /// The longest that a silenced receiver sleeps.
    private static let period_ms: Int32 = 250

    init(_ core: PeerCore) throws(Bus1Error) {
        epoll = try Self.check(bus1_sys_epoll_create())
        timer = try Self.check(bus1_sys_timer_create(Self.period_ms))
        var raw: Int32 = -1
        let made = bus1_sys_event_create(&raw)
        guard made == 0 else { throw Bus1Error(.system, "make an event descriptor", errno: -made) }
        own = Descriptor(owning: raw)
        try watch(timer.rawValue, BUS1_SYS_EDGE_TIMER)
        try watch(own.rawValue, BUS1_SYS_EDGE_KEPT)
        try watch(core.connection.descriptor, BUS1_SYS_EDGE_KEPT)
    }

    var rawValue: Int32 { epoll.rawValue }

    /// Whoever writes into this ring gets a doorbell's end to ring with.
    func add(_ ring: OwnRing, of core: PeerCore) throws(Bus1Error) {
        let doorbell = try Doorbell()
        doorbells[ring.id] = doorbell
        try watch(doorbell.listening.rawValue, BUS1_SYS_EDGE_DOORBELL)
        let ringing = doorbell.ringing!.rawValue
        // Readable at first: what is there already was not rung for.
        bus1_sys_doorbell_ring(ringing)
        try core.connection.setRingEvent(
            ring.id, eventDescriptor: ringing, until: .after(.seconds(5)))
        if let link = core.links.first(where: { $0.itsRing == ring.id }),
            let copy = duplicateEvent(of: ring.id)
        {
            link.setEvent(copy)
        }
        if ring.domain != core.ownDomain { doorbell.ringing = nil }
    }

    func duplicateEvent(of ring: RingID) -> Descriptor? {
        guard let ringing = doorbells[ring]?.ringing else { return nil }
        return try? ringing.duplicate()
    }

    /// Takes note of what was signalled, before the peer announces that it sleeps: later signals count anew.
    func drain() { bus1_sys_epoll_drain(epoll.rawValue) }

    /// Sleeps until something is signalled, or the time, and takes note of what was.
    func sleep(until_ns: UInt64) {
        bus1_sys_epoll_sleep(epoll.rawValue, until_ns)
    }

    /// Makes the descriptor readable at a time that is not far.
    func wake(at_ns until_ns: UInt64) {
        bus1_sys_timer_hasten(timer.rawValue, until_ns, Self.period_ms)
    }

    /// Makes the descriptor readable: there is something that nobody rings for.
    func wake() { bus1_sys_event_signal(own.rawValue) }

    private func watch(_ descriptor: Int32, _ edge: bus1_sys_edge) throws(Bus1Error) {
        let result = bus1_sys_epoll_add_edge(epoll.rawValue, descriptor, edge)
        guard result == 0 else { throw Bus1Error(.system, "watch a descriptor", errno: -result) }
    }

    private static func check(_ result: Int32) throws(Bus1Error) -> Descriptor {
        guard result >= 0 else { throw Bus1Error(.system, "make an event source", errno: -result) }
        return Descriptor(owning: result)
    }
}

extension Peer {
    /// A descriptor for epoll, poll, io_uring, NIO or Dispatch: readable when ``tryReceive()`` may return something, now and
    /// then spuriously (four times a second at least), never silent while something is there.
    ///
    /// When it is readable, call ``tryReceive()`` until it returns nil: only then does the peer announce that it sleeps.
    /// It stays the peer's: do not close it, do not read from it. Made at the first call, with a descriptor for each ring
    /// in every sender; from then on an empty ``tryReceive()`` costs two system calls.
    ///
    /// - Throws: `system` when there are no descriptors left, `shutDown`.
    public func descriptor() throws(Bus1Error) -> Int32 {
        try core.requireOpen("make an event descriptor")
        let source = try core.makeEventSource()
        core.inbox.pointee.event_mode = 1
        return source.rawValue
    }
}

extension PeerCore {
    /// The one event source of the peer; a wait sleeps on it when there are more rings than it can sleep on otherwise.
    func makeEventSource() throws(Bus1Error) -> EventSource {
        if let eventSource { return eventSource }
        let source = try EventSource(self)
        eventSource = source
        do {
            for ring in rings { try source.add(ring, of: self) }
        } catch {
            eventSource = nil
            throw error
        }
        // The source goes with the peer, as the inbox does.
        inbox.pointee.sleep_context = Unmanaged.passUnretained(source).toOpaque()
        inbox.pointee.sleep = { context, until_ns in
            Unmanaged<EventSource>.fromOpaque(context!).takeUnretainedValue()
                .sleep(until_ns: until_ns)
        }
        return source
    }
}
