import CShmRing

/// A list whose first element needs no memory of its own: mostly there is one.
struct MostlyOne<Element> {
    private var first: Element?
    private var rest: [Element] = []

    init(_ elements: [Element] = []) {
        first = elements.first
        rest = Array(elements.dropFirst())
    }

    var count: Int { first == nil ? 0 : rest.count + 1 }
    var isEmpty: Bool { first == nil }
    var indices: Range<Int> { 0..<count }

    mutating func append(_ element: Element) {
        if first == nil { first = element } else { rest.append(element) }
    }

    subscript(index: Int) -> Element {
        get { index == 0 ? first! : rest[index - 1] }
        set { if index == 0 { first = newValue } else { rest[index - 1] = newValue } }
    }
}

/// What came with a message beside its payload: handles, perhaps a reply handle, descriptors. The
/// message's cell owns it; what the program has not taken by the message's end is given up then.
///
/// NOTE - whoever has the message uses it: one thread at a time, and any thread.
final class Attachments: @unchecked Sendable {
    // @unchecked: it goes with its message, which one owner has at a time.
    enum Item {
        /// A handle of the receiver's, not taken yet. `node`: where it leads, if that is an own node.
        case handle(HandleID, node: NodeID?)
        /// It was released before the message was sent.
        case invalid
        case taken
    }

    /// Keeps the tables alive: a message may outlive its peer.
    let core: PeerCore
    @exclusivity(unchecked) var items: MostlyOne<Item>
    /// The last item is a reply handle.
    let hasReply: Bool
    let descriptors: ReceivedDescriptors?
    var sealed: Sealed?
    /// Of whoever sent it, until the message ends.
    private let charge: ReceivedCharge?

    init(
        _ core: PeerCore, _ items: MostlyOne<Item>, hasReply: Bool,
        descriptors: ReceivedDescriptors?,
        _ charge: consuming ReceivedCharge?
    ) {
        self.charge = charge
        self.core = core
        self.items = items
        self.hasReply = hasReply
        self.descriptors = descriptors
    }

    /// How many of the items are plain handles.
    var handleCount: Int { items.count - (hasReply ? 1 : 0) }

    /// Takes a handle out. nil: invalid, or taken before.
    func take(_ index: Int) -> HandleID? {
        guard case .handle(let id, _) = items[index] else { return nil }
        items[index] = .taken
        return id
    }

    /// What was not taken is given up.
    func end() {
        for index in items.indices {
            if let id = take(index) { core.releaseHandle(id) }
        }
    }

    deinit { end() }
}

extension Message {
    var attachments: Attachments? {
        guard let raw = cell.pointee.attachments else { return nil }
        return Unmanaged<Attachments>.fromOpaque(raw).takeUnretainedValue()
    }

    /// Handles that came with the message, taken ones and invalid ones included.
    public var handleCount: Int { isFew ? few.handleCount : attachments?.handleCount ?? 0 }

    /// Takes a handle out of the message: the receiver's own from now on. Those not taken are given up
    /// when the message is dropped. nil: it was taken before, or it is invalid, since its node was
    /// released before the message was sent.
    ///
    /// An index out of range is a mistake of the caller's, and traps. Any thread. *Corresponds to
    /// bus1 `struct bus1_transfer`.*
    public mutating func takeHandle(_ index: Int = 0) -> Handle? {
        precondition(
            (0..<handleCount).contains(index), "the message has no handle \(index)")
        if isFew { return few.take(index).flatMap { Handle($0, of: few.core) } }
        let attachments = attachments!
        return attachments.take(index).flatMap { Handle($0, of: attachments.core) }
    }

    /// The node of the receiver itself to which a handle in the message leads; nil when it leads
    /// elsewhere, is invalid, or was taken.
    public func ownNode(_ index: Int = 0) -> NodeID? {
        guard let attachments, attachments.items.indices.contains(index),
            case .handle(_, let node) = attachments.items[index]
        else { return nil }
        return node
    }

    /// True when the handle came too late: its node was released before the message was sent.
    public func isInvalid(_ index: Int = 0) -> Bool {
        if isFew { return few.isInvalid(index) }
        guard let attachments, attachments.items.indices.contains(index),
            case .invalid = attachments.items[index]
        else { return false }
        return true
    }

    /// True while the message bears a reply handle that nobody has taken.
    public var wantsReply: Bool {
        if isFew { return few.hasReply && few.handle(few.count - 1) != nil }
        guard let attachments, attachments.hasReply,
            case .handle = attachments.items[attachments.items.count - 1]
        else { return false }
        return true
    }

    /// Takes the reply handle: the right to send one message back. Not taken, it is given up when the
    /// message is dropped, and the caller is told. nil: there is none, it was taken, or the caller
    /// has given up waiting.
    public mutating func takeReply() -> Reply? {
        if isFew {
            guard few.hasReply else { return nil }
            return few.take(few.count - 1).flatMap {
                Reply($0, of: few.core, slot: few.slot)
            }
        }
        guard let attachments, attachments.hasReply,
            let id = attachments.take(attachments.items.count - 1)
        else { return nil }
        return Reply(id, of: attachments.core)
    }
}
