import CBus1System
import Glibc

/// What goes over a link's socket: descriptors of pool segments, and the news that one is retired.
struct LinkPacket: BitwiseCopyable {
    enum Kind: UInt32 { case segment = 1, retired = 2 }

    private var rawKind: UInt32
    let segment: UInt32
    let byteCount: UInt64

    init(kind: Kind, segment: UInt32, byteCount: UInt64 = 0) {
        rawKind = kind.rawValue
        self.segment = segment
        self.byteCount = byteCount
    }

    var kind: Kind? { Kind(rawValue: rawKind) }

    /// Waits for the other to read: it has some hundred packets of room.
    func send(
        over socket: borrowing Descriptor, descriptor: Int32 = -1,
        until deadline: Deadline = .after(.seconds(1))
    ) throws(Bus1Error) {
        var packet = self
        var descriptor = descriptor
        while true {
            let result = bus1_sys_socket_send(
                socket.rawValue, &packet, MemoryLayout<LinkPacket>.size, &descriptor,
                descriptor >= 0 ? 1 : 0)
            guard result != 0 else { return }
            // The other end is closed: its process is gone, or going; the news of its death may come later.
            guard result != -EPIPE, result != -ECONNRESET else {
                throw Bus1Error(.severed, "write to a link")
            }
            guard result == -EAGAIN, !deadline.hasPassed else {
                throw Bus1Error(
                    result == -EAGAIN ? .timedOut : .system, "write to a link", errno: -result)
            }
            var wanted = pollfd(fd: socket.rawValue, events: Int16(POLLOUT), revents: 0)
            poll(&wanted, 1, deadline.pollTimeout_ms)
        }
    }

    struct Received: ~Copyable {
        let packet: LinkPacket
        var descriptor: Descriptor?
    }

    /// The next packet and its descriptor, if one is there. nil also when the socket has ended or what came is no packet.
    static func receive(from socket: borrowing Descriptor) -> Received? {
        var descriptors = [Int32](repeating: -1, count: Int(BUS1_SYS_DESCRIPTORS_MAX))
        var count: Int32 = 0
        var packet = LinkPacket(kind: .segment, segment: 0)
        let length = bus1_sys_socket_receive(
            socket.rawValue, &packet, MemoryLayout<LinkPacket>.size, &descriptors, &count)
        guard length > 0 else { return nil }
        var first: Descriptor?
        for (i, raw) in descriptors[..<Int(count)].enumerated() {
            if i == 0 { first = Descriptor(owning: raw) } else { close(raw) }
        }
        guard length == MemoryLayout<LinkPacket>.size, packet.kind != nil else { return nil }
        return Received(packet: packet, descriptor: first)
    }
}

extension LinkSocket {
    /// Of a peer's link to itself.
    static func toItself() throws(Bus1Error) -> LinkSocket {
        var ends: [Int32] = [-1, -1]
        let result = bus1_sys_socket_pair(&ends)
        guard result == 0 else { throw Bus1Error(.system, "make a link's socket", errno: -result) }
        return LinkSocket(Descriptor(owning: ends[0]), ownEnd: Descriptor(owning: ends[1]))
    }
}
