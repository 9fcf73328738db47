/// Pieces of memory that become one payload, one behind the other. It only borrows them: none may change or end before
/// the list does, as the compiler sees to.
///
///     var pieces = Gather()
///     pieces.append(header.span.bytes)
///     pieces.append(body.span.bytes.extracting(100..<200))
///     try peer.send(pieces, to: handle)
///
/// Up to ``countMax`` pieces; a longer list, or lengths whose sum overflows, is refused when it is sent.
///
/// *Corresponds to the iovec list of bus1_message.*
public struct Gather: ~Copyable, ~Escapable {
    /// So many pieces make a message at most.
    public static let countMax = 1024

    private var pieces: [UnsafeRawBufferPointer] = []
    /// How many pieces there are, those beyond ``countMax`` included.
    public private(set) var count = 0
    private var isTooLong = false
    /// Bytes of all pieces together.
    public private(set) var byteCount = 0

    /// No pieces: a payload of no bytes.
    @_lifetime(immortal)
    public init() {}

    /// Adds a piece behind the others. One without bytes counts as a piece, too.
    @_lifetime(self: copy self, copy bytes)
    public mutating func append(_ bytes: RawSpan) {
        let (sum, overflow) = byteCount.addingReportingOverflow(bytes.byteCount)
        count += 1
        guard !overflow, count <= Self.countMax else {
            isTooLong = true
            return
        }
        byteCount = sum
        bytes.withUnsafeBytes { if $0.baseAddress != nil { pieces.append($0) } }
    }

    /// Refuses a list that no message can have.
    func requireSendable() throws(Bus1Error) {
        guard !isTooLong else { throw Bus1Error(.tooLarge, "send") }
    }

    /// Copies all pieces to a place with room for ``byteCount``.
    func copy(to place: UnsafeMutableRawPointer) {
        var place = place
        for piece in pieces {
            place.copyMemory(from: piece.baseAddress!, byteCount: piece.count)
            place += piece.count
        }
    }
}
