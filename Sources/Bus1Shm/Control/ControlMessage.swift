import CShmRing
import Glibc

/// One packet with its descriptors: built to be sent, or received to be read.
///
/// Received bytes are a private copy, so reading them twice gives the same. Descriptors that nobody
/// takes are closed with the message.
final class ControlMessage {
    private(set) var bytes: [UInt8]
    /// Received: owned until they are taken. To be sent: borrowed from `keptOpen`.
    private var descriptors: [Int32]
    let keptOpen: [SharedDescriptor]
    /// At an heir: after which others the broker said it.
    var placeInJournal: UInt64 = 0

    /// To be sent. `tail` follows the body.
    init<Body: BitwiseCopyable>(
        _ kind: ControlKind, request: UInt32 = 0, status: UInt32 = 0, _ body: Body,
        tail: [UInt8] = [],
        roles: ControlRoles = [], descriptors: [SharedDescriptor] = []
    ) {
        let bodyBytes = Body.self == EmptyBody.self ? 0 : MemoryLayout<Body>.size
        let header = ControlHeader(
            kind: kind.rawValue, request: request, status: status,
            byteCount: UInt32(MemoryLayout<ControlHeader>.size + bodyBytes + tail.count),
            roles: roles)
        var bytes: [UInt8] = []
        bytes.reserveCapacity(Int(header.byteCount))
        withUnsafeBytes(of: header) { bytes.append(contentsOf: $0) }
        if bodyBytes > 0 { withUnsafeBytes(of: body) { bytes.append(contentsOf: $0) } }
        bytes.append(contentsOf: tail)
        self.bytes = bytes
        self.descriptors = descriptors.map(\.rawValue)
        keptOpen = descriptors
        assert(bytes.count <= controlMessageBytesMax, "every message fits by construction")
        assert(descriptors.count == roles.rawValue.nonzeroBitCount, "a descriptor for each role")
    }

    /// To be sent, as somebody else wrote it.
    init(forwarding bytes: [UInt8], descriptors: [SharedDescriptor]) {
        self.bytes = bytes
        self.descriptors = descriptors.map(\.rawValue)
        keptOpen = descriptors
    }

    /// Received. nil when it is malformed; the descriptors are closed then, too.
    ///
    /// `someAreLost`: fewer descriptors came than were sent.
    init?(received bytes: [UInt8], descriptors: [Int32], someAreLost: Bool = false) {
        self.bytes = bytes
        self.descriptors = descriptors
        keptOpen = []
        if shmring_unchecked_packet() { return }
        guard bytes.count >= MemoryLayout<ControlHeader>.size, bytes.count <= controlMessageBytesMax
        else { return nil }
        let header = self.header
        guard header.byteCount == UInt32(bytes.count), ControlKind(rawValue: header.kind) != nil,
            header.roles.rawValue < 1 << 8,
            someAreLost || header.roles.rawValue.nonzeroBitCount == descriptors.count
        else { return nil }
    }

    deinit {
        guard keptOpen.isEmpty else { return }
        for descriptor in descriptors where descriptor >= 0 { close(descriptor) }
    }

    /// Before it is sent for the first time.
    func number(_ sequence: UInt32) {
        let offset = MemoryLayout<ControlHeader>.offset(of: \.sequence)!
        bytes.withUnsafeMutableBytes {
            $0.storeBytes(of: sequence, toByteOffset: offset, as: UInt32.self)
        }
    }

    var header: ControlHeader { load(ControlHeader.self, at: 0)! }
    /// Checked when the message was received.
    var kind: ControlKind { ControlKind(rawValue: header.kind)! }
    /// For sending; the message goes on owning them.
    var borrowedDescriptors: [Int32] { descriptors }

    /// The body, if the message is long enough for it.
    func body<Body: BitwiseCopyable>(_ type: Body.Type) -> Body? {
        load(type, at: MemoryLayout<ControlHeader>.size)
    }

    /// The body, if the message is exactly that long.
    func wholeBody<Body: BitwiseCopyable>(_ type: Body.Type) -> Body? {
        bytes.count == MemoryLayout<ControlHeader>.size + MemoryLayout<Body>.size ? body(type) : nil
    }

    /// What follows the body.
    func tail<Body: BitwiseCopyable>(after type: Body.Type) -> ArraySlice<UInt8> {
        bytes.dropFirst(MemoryLayout<ControlHeader>.size + MemoryLayout<Body>.size)
    }

    /// Values of one type that stand in the tail, from `offset` bytes behind the body on.
    func tailValue<Body: BitwiseCopyable, Value: BitwiseCopyable>(
        after body: Body.Type, _ type: Value.Type, at offset: Int
    ) -> Value? {
        load(type, at: MemoryLayout<ControlHeader>.size + MemoryLayout<Body>.size + offset)
    }

    /// Takes the descriptor of one role; nil when the message has none, or it was taken.
    func take(_ role: ControlRoles) -> Descriptor? {
        let roles = header.roles.rawValue
        guard roles & role.rawValue != 0 else { return nil }
        let index = (roles & (role.rawValue - 1)).nonzeroBitCount
        guard index < descriptors.count, descriptors[index] >= 0 else { return nil }
        defer { descriptors[index] = -1 }
        return Descriptor(owning: descriptors[index])
    }

    private func load<Value: BitwiseCopyable>(_ type: Value.Type, at offset: Int) -> Value? {
        guard offset >= 0, bytes.count - offset >= MemoryLayout<Value>.size else { return nil }
        return bytes.withUnsafeBytes { $0.loadUnaligned(fromByteOffset: offset, as: type) }
    }
}
