import CBus1System
import Glibc

// What a broker tells its heir: everything that it would need in the broker's place, as packets over a
// pair of sockets, before anybody else can see a consequence of it.
//
// Guarantees:
//   1. What belongs together is one entry: packets up to the one that is marked. An heir applies whole
//      entries only.
//   2. An entry that was sent survives its sender: the kernel keeps it.
//   3. A message to a peer is in an entry before it is on the peer's socket. What is on the socket may
//      be sent again by the successor, under the same number: the peer drops it then.
//   4. The broker never waits for its heir. What does not fit the socket is kept, and with it what is to
//      be said to peers; an heir that takes none of it for some time is one no longer.
//
// NOTE - the heir could harm the broker anyway, so it believes what it reads here, but for lengths.

/// No packet of the journal is longer: a message of the control protocol and what is said about it.
let journalPacketBytesMax = controlMessageBytesMax + 256

enum JournalKind: UInt32 {
    // Broker to heir.
    case bus = 1
    case domain, process, peer, dying, cut, died, ring, link, linkSocket, name, nameGone, ticket
    case ticketGone, held, limits, unburied, handled, output, sent, sync, pong
    // Heir to broker.
    case ready = 64
    case ping, synced
}

struct JournalHeader: BitwiseCopyable {
    var kind: UInt32
    /// 1: ends an entry.
    var ends: UInt32 = 0
    /// What it is about: a peer, ring, process or domain, by its number.
    var subject: UInt64 = 0
}

/// One packet to be sent.
final class JournalPacket {
    private(set) var bytes: [UInt8]
    let descriptors: [SharedDescriptor]

    init<Body: BitwiseCopyable>(
        _ kind: JournalKind, _ subject: UInt64 = 0, _ body: Body, tail: [UInt8] = [],
        descriptors: [SharedDescriptor] = []
    ) {
        var bytes = withUnsafeBytes(of: JournalHeader(kind: kind.rawValue, subject: subject)) {
            Array($0)
        }
        if Body.self != EmptyBody.self {
            withUnsafeBytes(of: body) { bytes.append(contentsOf: $0) }
        }
        self.bytes = bytes + tail
        self.descriptors = descriptors
        assert(bytes.count <= journalPacketBytesMax, "every packet fits by construction")
    }

    /// Whether it is the last one of its entry.
    var endsEntry = false {
        didSet {
            let offset = MemoryLayout<JournalHeader>.offset(of: \.ends)!
            let ends: UInt32 = endsEntry ? 1 : 0
            bytes.withUnsafeMutableBytes {
                $0.storeBytes(of: ends, toByteOffset: offset, as: UInt32.self)
            }
        }
    }
}

/// One packet as it came. Descriptors that nobody takes are closed with it.
final class JournalRecord {
    let kind: JournalKind
    let ends: Bool
    let subject: UInt64
    private let bytes: [UInt8]
    private(set) var descriptors: [SharedDescriptor]

    /// nil: it is none.
    init?(_ bytes: [UInt8], _ descriptors: [SharedDescriptor]) {
        guard bytes.count >= MemoryLayout<JournalHeader>.size else { return nil }
        let header = bytes.withUnsafeBytes { $0.loadUnaligned(as: JournalHeader.self) }
        guard let kind = JournalKind(rawValue: header.kind) else { return nil }
        self.kind = kind
        ends = header.ends != 0
        subject = header.subject
        self.bytes = bytes
        self.descriptors = descriptors
    }

    func body<Body: BitwiseCopyable>(_ type: Body.Type) -> Body? {
        let offset = MemoryLayout<JournalHeader>.size
        guard bytes.count >= offset + MemoryLayout<Body>.size else { return nil }
        return bytes.withUnsafeBytes { $0.loadUnaligned(fromByteOffset: offset, as: type) }
    }

    func tail<Body: BitwiseCopyable>(after type: Body.Type) -> [UInt8] {
        let size = Body.self == EmptyBody.self ? 0 : MemoryLayout<Body>.size
        return Array(bytes.dropFirst(MemoryLayout<JournalHeader>.size + size))
    }

    /// As many values of one type as the tail holds.
    func values<Body: BitwiseCopyable, Value: BitwiseCopyable>(
        after body: Body.Type, _ type: Value.Type
    ) -> [Value] {
        let bytes = tail(after: body)
        return (0..<bytes.count / MemoryLayout<Value>.size).map { index in
            bytes.withUnsafeBytes {
                $0.loadUnaligned(fromByteOffset: index * MemoryLayout<Value>.size, as: type)
            }
        }
    }

    func takeDescriptor() -> SharedDescriptor? {
        descriptors.isEmpty ? nil : descriptors.removeFirst()
    }
}

/// One end of the journal.
struct JournalSocket {
    let descriptor: SharedDescriptor

    enum Received {
        case record(JournalRecord)
        case nothing
        /// The other end is closed, or says what it should not.
        case ended
        /// No room for its descriptors.
        case full
    }

    enum Sent {
        case whole
        /// The other end must receive first, a packet or the descriptors of some.
        case notNow
        case failed
    }

    /// Never waits.
    func send(_ packet: JournalPacket) -> Sent {
        let descriptors = packet.descriptors.map(\.rawValue)
        let result = bus1_sys_socket_send(
            descriptor.rawValue, packet.bytes, packet.bytes.count, descriptors,
            Int32(descriptors.count))
        switch -result {
        case 0: return .whole
        case EAGAIN, ETOOMANYREFS, ENOBUFS, ENOMEM: return .notNow
        default: return .failed
        }
    }

    /// Whatever can be said in a header alone.
    func say(_ kind: JournalKind) -> Bool {
        var header = JournalHeader(kind: kind.rawValue)
        return withUnsafeBytes(of: &header) {
            bus1_sys_socket_send(descriptor.rawValue, $0.baseAddress, $0.count, nil, 0) == 0
        }
    }

    /// Never waits.
    func receive() -> Received {
        var descriptors: (Int32, Int32, Int32, Int32, Int32, Int32, Int32, Int32) =
            (-1, -1, -1, -1, -1, -1, -1, -1)
        var count: Int32 = 0
        var received = 0
        let bytes = [UInt8](unsafeUninitializedCapacity: journalPacketBytesMax) { buffer, length in
            received = withUnsafeMutablePointer(to: &descriptors) { pointer in
                pointer.withMemoryRebound(to: Int32.self, capacity: 8) {
                    bus1_sys_socket_receive(
                        descriptor.rawValue, buffer.baseAddress, buffer.count, $0, &count)
                }
            }
            length = max(0, received)
        }
        let owned = withUnsafeBytes(of: &descriptors) { raw in
            raw.bindMemory(to: Int32.self).prefix(Int(count)).map {
                SharedDescriptor(Descriptor(owning: $0))
            }
        }
        switch -received {
        case Int(EAGAIN): return .nothing
        case Int(EMFILE): return .full
        case let error where error >= 0: return .ended
        default: break
        }
        guard let record = JournalRecord(bytes, owned) else { return .ended }
        return .record(record)
    }
}
