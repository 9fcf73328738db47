import CBus1System
import CShmRing
import Glibc
import Synchronization

/// A link's socket, shared by the lanes: what they sent waits in it until the other wants it.
///
/// NOTE - any thread; whoever reads (``LinkReceiver``), and whoever writes, does so under the lock of
/// that side, and waits for nobody under it.
final class LinkSocket: Sendable {
    let descriptor: Descriptor
    /// The other end, where the two peers are one.
    private let ownEnd: Descriptor?
    let readingEnd: Int32
    private let outgoing = Mutex(LinkOutgoing())

    init(_ descriptor: consuming Descriptor, ownEnd: consuming Descriptor? = nil) {
        readingEnd = ownEnd?.rawValue ?? descriptor.rawValue
        self.descriptor = descriptor
        self.ownEnd = ownEnd
    }

    /// Of a peer's link to itself.
    static func toItself() throws(Bus1Error) -> LinkSocket {
        var ends: [Int32] = [-1, -1]
        let result = bus1_sys_socket_pair(&ends)
        guard result == 0 else { throw Bus1Error(.system, "make a link's socket", errno: -result) }
        return LinkSocket(Descriptor(owning: ends[0]), ownEnd: Descriptor(owning: ends[1]))
    }

    // MARK: Sending

    func withOutgoing<R>(_ body: (inout LinkOutgoing, Int32) -> R) -> R {
        outgoing.withLock { body(&$0, descriptor.rawValue) }
    }

    /// Waits for the other to read, not longer than the deadline.
    func send(
        _ packet: LinkPacket, descriptor: Int32 = -1, until deadline: Deadline = .after(.seconds(1))
    ) throws(Bus1Error) {
        var pause_ms: Int32 = 1
        while true {
            let result = withOutgoing { outgoing, end in
                outgoing.send(packet, descriptor >= 0 ? [descriptor] : [], to: end)
            }
            guard result != 0 else { return }
            guard result == -EAGAIN else { throw Self.error(result, "write to a link") }
            guard !deadline.hasPassed else { throw Bus1Error(.timedOut, "write to a link") }
            pause(&pause_ms, until: deadline)
        }
    }

    /// A moment, longer each time; less when the other end is closed meanwhile.
    func pause(_ pause_ms: inout Int32, until deadline: Deadline) {
        var end = pollfd(fd: descriptor.rawValue, events: 0, revents: 0)
        poll(&end, 1, deadline.pollTimeout_ms(atMost: pause_ms))
        pause_ms = min(8, pause_ms * 2)
    }

    static func error(_ result: Int32, _ operation: StaticString) -> Bus1Error {
        // The other end is closed: its process is gone, or going; the news of its death may come later.
        result == -EPIPE || result == -ECONNRESET
            ? Bus1Error(.severed, operation) : Bus1Error(.system, operation, errno: -result)
    }

}

/// The receiving side of a link's socket. It is there before the socket is, and as long as a message
/// has descriptors in it.
final class LinkReceiver: Sendable {
    private struct State {
        var queue = LinkQueue()
        /// nil: not here yet, or over.
        var socket: LinkSocket?
    }

    private let state = Mutex(State())

    func open(_ socket: LinkSocket) {
        state.withLock { if !$0.queue.isOver { $0.socket = socket } }
    }

    /// With the end that is read; -1 without a socket. Nothing in a forked child: it would read what is
    /// its parent's.
    func withQueue<R: Sendable, E: Error>(
        _ body: (inout LinkQueue, Int32) throws(E) -> R, forked: R
    ) throws(E) -> R {
        guard !shmring_forked() else { return forked }
        return try state.withLock { (state) throws(E) in
            defer { if state.queue.isOver { state.socket = nil } }
            return try body(&state.queue, state.socket?.readingEnd ?? -1)
        }
    }
}

/// What one peer has put into a link's socket.
struct LinkOutgoing {
    /// Segments alone are not counted before so many.
    private static let ledgerMax = 1024

    /// How many descriptors are in each packet that the other has not dropped yet, oldest first.
    private var ledger: [Int] = []
    /// What the kernel counts for one packet; 0 before it was seen.
    private var packetUnits = 0
    /// By lane.
    private var attempts: [UInt32: UInt64] = [:]
    /// Attempts of each lane that came to nothing, of which the other has not been told.
    var untold: [UInt32: [Attempt]] = [:]

    /// As it was seen last, and nothing was sent since.
    private var isEmpty = false

    /// Descriptors that the other has not received yet: they count against this user.
    private(set) var descriptorsUnderWay = 0

    /// Takes note of what the other has dropped.
    mutating func update(from end: Int32) {
        let units = Int(bus1_sys_link_unread(end))
        let unread: Int
        isEmpty = units <= 0
        if units <= 0 {
            unread = 0
        } else if packetUnits > 0 {
            unread = (units + packetUnits - 1) / packetUnits
        } else {
            return
        }
        guard ledger.count > unread else { return }
        let gone = ledger.prefix(ledger.count - unread)
        descriptorsUnderWay -= gone.reduce(0, +)
        ledger.removeFirst(gone.count)
    }

    /// 0, or -errno.
    mutating func send(_ packet: LinkPacket, _ descriptors: [Int32], to end: Int32) -> Int32 {
        var packet = packet
        let result = bus1_sys_link_send(
            end, &packet, MemoryLayout<LinkPacket>.size, descriptors, Int32(descriptors.count))
        guard result == 0 else { return result }
        ledger.append(descriptors.count)
        descriptorsUnderWay += descriptors.count
        // The first packet in an empty socket is the kernel's measure, unless it was dropped at once.
        if packetUnits == 0, isEmpty {
            packetUnits = max(0, Int(bus1_sys_link_unread(end)))
        }
        isEmpty = false
        if ledger.count > Self.ledgerMax { update(from: end) }
        return 0
    }

    /// The attempt that is counted when ``send(_:_:to:)`` has succeeded.
    func nextAttempt(ofLane lane: UInt32) -> Attempt {
        Attempt(lane: lane, count: attempts[lane, default: 0] + 1)
    }

    mutating func countAttempt(ofLane lane: UInt32) { attempts[lane, default: 0] += 1 }
}
