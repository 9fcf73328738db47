import CBus1System
import CShmRing
import Glibc

/// The small trusted part: makes shared memory, introduces peers, buries the dead. It is on no
/// message's path.
///
/// One thread, one loop; every request is answered from what is in memory, and whatever must wait
/// for somebody else is kept as a continuation. It never waits for a peer: what a peer does not
/// read is queued up to a bound, then the peer is severed.
final class Broker {
    enum Mode {
        /// A thread of the process that came first. Ends when nobody is connected any more.
        case embedded
        /// A service. Ends when it is told to.
        case alone
    }

    /// Why a request was not carried out.
    enum Failure: Error {
        /// The answer says why.
        case refuse(Bus1Error)
        /// No honest peer says such a thing.
        case sever
    }

    let limits: BusLimits
    let busPage: BrokerMapping
    /// Bears the right to map it for writing, until it is sealed; kept for heirs.
    let busPageDescriptor: SharedDescriptor
    let busPageReadable: SharedDescriptor
    var isBusPageSealed = false
    let clock: shmring_clock
    /// What the clock was when it was last tended.
    private var clockKeeper = shmring_clock_keeper()
    /// What serving needs. nil in a shadow: the tables of a broker as its heir knows them.
    private(set) var service: Service?
    let overflowUID: UInt32

    var peers: [PeerID: BrokerPeer] = [:]
    var processes: [UInt64: BrokerProcess] = [:]
    var processNumbers: [UInt64: UInt64] = [:]
    /// Connections and peers of a user, the severed and unburied ones included.
    var peersOfUser: [UInt32: Int] = [:]
    /// What else each user is charged for.
    var chargesOfUser: [UInt32: Charges] = [:]
    /// Users that are content with less.
    var limitsOfUser: [UInt32: BusLimits] = [:]
    /// Who waits until there is room: one wish for each peer.
    var waitingForRoom: [PeerID: RoomWish] = [:]
    var names: [[UInt8]: Publication] = [:]
    /// Who waits for a name, in the order in which they asked.
    var waiting: [[UInt8]: [Waiting]] = [:]
    var rings: [RingID: BrokerRing] = [:]
    var domains: [DomainKey: DomainID] = [:]
    var tickets: [Ticket: BrokerTicket] = [:]
    var introductions: [PairKey: PendingIntroduction] = [:]
    var linkSockets: Set<PairKey> = []
    /// Claim words of the dead that may still hold a position: final, since nobody writes them any
    /// more.
    var unburied: [PeerID: Unburied] = [:]
    /// Peers with a commit word that somebody waits for.
    var stalled: Set<PeerID> = []
    /// Of the trust domains that have used some.
    var stallBudgets: [DomainID: shmring_stall_budget] = [:]
    /// Rings when the first lease is over, at `alarm_ns`.
    let alarm: Descriptor
    var alarm_ns: UInt64 = .max
    var isAlarmWatched = false
    /// Commit words of the living that were aborted.
    var aborts: UInt64 = 0
    var lastPeer: UInt32 = 0
    var lastRing: UInt32 = 0
    var lastDomain: UInt32 = 0
    var lastProcess: UInt64 = 0
    var deaths: UInt32 = 0
    var connectionCount = 0
    /// What is queued for one peer keeps no more descriptors open than this.
    let queuedDescriptorsMax = max(32, min(1024, Int(clamping: bus1_sys_descriptor_limit()) / 8))
    /// To whom something could not be sent because too many descriptors are in flight: tried again
    /// by time.
    var crowded: Set<PeerID> = []
    var hasServed = false
    /// No honest peer waits for so many answers at once.
    private let unansweredMax = 4096
    private var isStopping = false
    /// Who takes this broker's place when it ends.
    var heir: HeirLink?
    /// Who was asked to be it, and has not answered.
    var asked: [HeirLink] = []
    var lastHeir: UInt64 = 0
    private var nextLookAfterHeirs = Deadline.now
    /// Messages to peers that this broker's journal has told of, as an heir.
    var outputs: UInt64 = 0
    /// Of `BrokerThread`.
    var filesNumber: UInt64 = 0
    /// To whom something was said in this turn, while there is an heir that must know it first.
    var unflushed: [BrokerPeer] = []
    /// What was said in this turn is being sent.
    var isFlushing = false
    /// Who has ended, in the order in which that is announced.
    var dying: [Dying] = []
    /// Given up for a moment to tell somebody that there are no descriptors left.
    private var spare: Int32

    struct Publication {
        let owner: PeerID
        let node: UInt64
        let access: Access
    }

    struct Waiting: Equatable {
        let peer: PeerID
        let request: UInt32
    }

    struct Unburied {
        let uid: UInt32
        var claims: [shmring_claim]
    }

    enum DomainKey: Hashable {
        case user(UInt32)
        case process(UInt64)
    }

    /// What an event of the loop is about.
    struct Token {
        enum Subject: UInt64 { case listener = 1, stop, packets, room, process, alarm, heir }

        let subject: Subject
        let number: UInt64

        init(_ subject: Subject, _ number: UInt64 = 0) {
            self.subject = subject
            self.number = number
        }

        init?(rawValue: UInt64) {
            guard let subject = Subject(rawValue: rawValue & 7) else { return nil }
            self.init(subject, rawValue >> 3)
        }

        var rawValue: UInt64 { number << 3 | subject.rawValue }

        /// No peer has the number 0.
        static let roomInJournal = Token(.room, 0)
    }

    /// What lies in the file system, and who waits where.
    final class Service {
        let mode: Mode
        let listener: SharedDescriptor
        let stopEvent: SharedDescriptor
        let loop: OpaquePointer
        let place: Place

        init(
            listener: SharedDescriptor, stopEvent: SharedDescriptor, mode: Mode, place: Place
        ) throws(Bus1Error) {
            var loop: OpaquePointer?
            let allowsUring = bus1_sys_environment("BUS1_NO_URING").map { $0.pointee == 0 } ?? true
            let result = bus1_sys_loop_create(allowsUring, &loop)
            guard result == 0, let loop else {
                throw Bus1Error(.system, "start a broker", errno: -result)
            }
            self.loop = loop
            self.listener = listener
            self.stopEvent = stopEvent
            self.mode = mode
            self.place = place
        }

        deinit { bus1_sys_loop_destroy(loop) }
    }

    /// Where a broker is found, and by what it is the only one there.
    struct Place {
        let lock: SharedDescriptor
        let directory: SharedDescriptor
        let name: String
        /// A service manager's, which goes on listening when no broker lives: its name stays.
        let isSocketGiven: Bool
    }

    /// A new bus.
    init(limits: BusLimits = BusLimits()) throws(Bus1Error) {
        self.limits = limits
        overflowUID = bus1_sys_overflow_uid()
        let page = try Self.create("make the bus page") { shmring_bus_page_create($0) }
        try Self.makePrivate(page)
        busPage = try BrokerMapping(page.rawValue, SHMRING_SEGMENT_BUS, SHMRING_READ_WRITE)
        let wishedClock = bus1_sys_environment("BUS1_CLOCK").map { String(cString: $0) }
        busPage.initializeBusPage(clock: wishedClock)
        clock = try busPage.clock()
        busPageReadable = try Self.reopenReadOnly(page.rawValue)
        busPageDescriptor = SharedDescriptor(page)
        alarm = try Self.create("make an alarm") { bus1_sys_alarm_create($0) }
        spare = open("/dev/null", O_RDONLY | O_CLOEXEC)
    }

    /// The tables of somebody else's bus, still empty.
    init(shadowing page: SharedDescriptor, limits: BusLimits) throws(Bus1Error) {
        self.limits = limits
        overflowUID = bus1_sys_overflow_uid()
        busPage = try BrokerMapping(page.rawValue, SHMRING_SEGMENT_BUS, SHMRING_READ_WRITE)
        clock = try busPage.clock()
        busPageReadable = try Self.reopenReadOnly(page.rawValue)
        busPageDescriptor = page
        alarm = try Self.create("make an alarm") { bus1_sys_alarm_create($0) }
        spare = open("/dev/null", O_RDONLY | O_CLOEXEC)
    }

    deinit { if spare >= 0 { close(spare) } }

    /// From here on it answers.
    func serve(_ service: Service) { self.service = service }

    /// "io_uring" or "epoll".
    var loopName: String { service.map { String(cString: bus1_sys_loop_name($0.loop)) } ?? "" }

    // MARK: Loop

    /// Serves until it is to end. Blocks the thread.
    func run() {
        guard let service else { return }
        let loop = service.loop
        _ = bus1_sys_loop_accept(loop, service.listener.rawValue, Token(.listener).rawValue)
        _ = bus1_sys_loop_ready(loop, service.stopEvent.rawValue, false, Token(.stop).rawValue)
        var event = bus1_sys_event()
        // Who started it may have failed to connect, and nobody else may ever come.
        let firstVisit = Deadline.after(.seconds(1))
        while !isStopping {
            let isUnvisited = service.mode == .embedded && !hasServed
            let timeout_ms: Int32 =
                !crowded.isEmpty || hasUnsentJournal
                ? 10 : looksForHeirs || isUnvisited ? 1000 : busPage.clockMayJump ? 5000 : -1
            let result = bus1_sys_loop_next(loop, &event, timeout_ms)
            busPage.tendClock(&clockKeeper)
            // The heir knows all that is in their queues, until this turn adds to them.
            for id in crowded { if let peer = peers[id] { flush(peer) } }
            if result == 1 { dispatch(event) }
            if !waitingForRoom.isEmpty { grantRoom() }
            if result < 0 { break }
            if looksForHeirs, nextLookAfterHeirs.hasPassed {
                nextLookAfterHeirs = .after(.seconds(1))
                lookAfterHeirs()
            }
            endTurn()
            if service.mode == .embedded, connectionCount == 0, hasServed || firstVisit.hasPassed {
                isStopping = true
            }
        }
        endLastTurn()
    }

    /// An heir goes on when this broker ends.
    var isToBeSucceeded: Bool {
        heir?.isWhole == true && !hasUnsentJournal && connectionCount > 0
    }

    /// Ends serving, after ``run()``.
    func end() {
        let isSucceeded = isToBeSucceeded
        // Nothing is read any more by this broker once its loop is gone.
        service = nil
        if isSucceeded {
            // It takes over when this end of the journal is closed.
            heir = nil
            return
        }
        dismissHeir()
        // One that was dismissed and stands still may have descriptors of them.
        for peer in peers.values {
            if let socket = peer.socket { shutdown(socket.rawValue, Int32(SHUT_RDWR)) }
        }
    }

    // MARK: The loop, where there is one

    func watchReady(_ descriptor: Int32, writable: Bool, _ token: Token) -> Bool {
        guard let service else { return false }
        return bus1_sys_loop_ready(service.loop, descriptor, writable, token.rawValue) == 0
    }

    func watchPackets(_ descriptor: Int32, _ token: Token) -> Bool {
        guard let service else { return false }
        return bus1_sys_loop_receive(service.loop, descriptor, token.rawValue) == 0
    }

    func unwatch(_ descriptor: Int32, _ token: Token) {
        if let service { bus1_sys_loop_forget(service.loop, descriptor, token.rawValue) }
    }

    private func dispatch(_ event: bus1_sys_event) {
        guard let token = Token(rawValue: event.token) else { return }
        switch token.subject {
        case .listener: accepted(event.result)
        case .stop: isStopping = true
        case .packets:
            received(event, from: PeerID(rawValue: UInt32(truncatingIfNeeded: token.number)))
        case .room where token.rawValue == Token.roomInJournal.rawValue:
            // The end of this turn sends it.
            heir?.isWatchedForRoom = false
        case .room:
            guard let peer = peers[PeerID(rawValue: UInt32(truncatingIfNeeded: token.number))]
            else { return }
            peer.waitsForRoom = false
            flush(peer)
        case .process: processEnded(token.number)
        case .alarm:
            isAlarmWatched = false
            judgeStalls()
        case .heir: heirSpoke(token.number)
        }
    }

    private func accepted(_ result: Int32) {
        switch -result {
        case EMFILE, ENFILE: refuseForDescriptors()
        case let error where error > 0: break
        default:
            hasServed = true
            connected(SharedDescriptor(Descriptor(owning: result)))
        }
    }

    /// The table is full. Somebody waits in the listening socket's queue and is to be told.
    private func refuseForDescriptors() {
        guard spare >= 0 else { return }
        close(spare)
        var socket: Int32 = -1
        if let service, bus1_sys_socket_accept(service.listener.rawValue, &socket) == 0 {
            let descriptor = Descriptor(owning: socket)
            let limit = Int(clamping: bus1_sys_descriptor_limit())
            let refusal = Bus1Error.Refusal(
                resource: .descriptors, used: limit, limit: limit,
                account: Account(uid: geteuid(), pid: getpid()))
            dismiss(descriptor.rawValue, Bus1Error(.overQuota, "join the bus", refusal: refusal))
        }
        spare = open("/dev/null", O_RDONLY | O_CLOEXEC)
    }

    private func received(_ event: bus1_sys_event, from id: PeerID) {
        var event = event
        let descriptors = withUnsafeBytes(of: &event.fds) { fds in
            Array(fds.bindMemory(to: Int32.self).prefix(Int(max(0, event.fd_count))))
        }
        guard event.result > 0, let bytes = event.bytes else {
            if let peer = peers[id] { event.result == 0 ? hungUp(peer) : sever(peer, .severed) }
            return
        }
        let copy = Array(UnsafeBufferPointer(start: bytes, count: Int(event.result)))
        guard let peer = peers[id] else {
            for descriptor in descriptors { close(descriptor) }
            return
        }
        // A descriptor that found no place in our table is our shortage, not the peer's fault.
        let isCut = event.control_truncated
        guard
            let message = ControlMessage(
                received: copy, descriptors: descriptors, someAreLost: isCut)
        else {
            sever(peer, .severed)
            return
        }
        if isCut {
            refuse(message, from: peer, Bus1Error(.system, "receive a descriptor", errno: EMFILE))
            return
        }
        guard isNew(message, from: peer) else { return }
        guard peer.unanswered.count <= unansweredMax else {
            sever(peer, .overQuota)
            return
        }
        do {
            try handle(message, from: peer)
        } catch let failure {
            switch failure {
            case .refuse(let error): refuse(message, from: peer, error)
            case .sever: sever(peer, .severed)
            }
        }
    }

    // MARK: Making memory

    static func create(
        _ operation: StaticString, _ body: (UnsafeMutablePointer<Int32>) -> Int32
    ) throws(Bus1Error) -> Descriptor {
        var descriptor: Int32 = -1
        let result = body(&descriptor)
        guard result == 0 else { throw Bus1Error(result: result, operation) }
        return Descriptor(owning: descriptor)
    }

    /// Nobody can map it for writing any more; who has it mapped goes on.
    static func seal(_ descriptor: SharedDescriptor) throws(Bus1Error) {
        let result = shmring_segment_seal(descriptor.rawValue, true)
        guard result == 0 else { throw Bus1Error(result: result, "seal a segment") }
    }

    /// Other users can't open it for writing, also not through a descriptor for reading.
    static func makePrivate(_ descriptor: borrowing Descriptor) throws(Bus1Error) {
        let result = bus1_sys_make_private(descriptor.rawValue)
        guard result == 0 else { throw Bus1Error(.system, "make a segment", errno: -result) }
    }

    static func reopenReadOnly(_ descriptor: Int32) throws(Bus1Error) -> SharedDescriptor {
        let reopened = try create("reopen a segment for reading") { out in
            bus1_sys_reopen_read_only(descriptor, out)
        }
        return SharedDescriptor(reopened)
    }
}
