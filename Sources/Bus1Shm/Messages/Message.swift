public import CShmRing

/// A message that was received. Its payload stays readable and unchanged until the message is dropped,
/// on any thread, also after the peer is closed.
///
/// Dropping it gives a loaned payload back to its sender.
///
/// *Corresponds to bus1 `struct bus1_metadata` and `struct bus1_message`.*
@frozen
public struct Message: ~Copyable, @unchecked Sendable {
    // @unchecked: the cell belongs to this value alone, and giving it back is allowed on any thread.
    @usableFromInline let cell: UnsafeMutablePointer<shmring_cell>

    @usableFromInline @inline(__always)
    init(cell: UnsafeMutablePointer<shmring_cell>) { self.cell = cell }

    @inlinable
    deinit { shmring_cell_give_back(cell) }

    /// Gives the message up without giving its cell back: somebody else will.
    consuming func takeCell() -> UnsafeMutablePointer<shmring_cell> {
        let cell = cell
        discard self
        return cell
    }

    /// The node that it was sent to.
    @inlinable public var node: NodeID { NodeID(rawValue: cell.pointee.node) }
    /// The tag with which that node was made.
    @inlinable public var tag: UInt64 { cell.pointee.tag }
    /// Who sent it, as the kernel vouched when the sender joined the bus.
    @inlinable public var sender: Account { Account(uid: cell.pointee.uid, pid: cell.pointee.pid) }
    /// Its place in the order of the bus. Never smaller than that of an earlier message to one destination.
    @inlinable public var stamp: Stamp { Stamp(rawValue: cell.pointee.message.stamp) }
    /// Counts this peer's messages: 1, 2, 3 and so on.
    @inlinable public var sequence: UInt64 { cell.pointee.message.sequence }
    /// True when the next message of this peer belongs to the same transaction.
    @inlinable public var moreFollow: Bool {
        shmring_message_has_more(shmring_cell_message(cell))
    }

    /// The payload, to be read in place. Nobody outside this process's trust domain can change it while it
    /// is borrowed.
    @inlinable
    public var payload: RawSpan {
        @_lifetime(borrow self)
        @inline(__always)
        get {
            let bytes = UnsafeRawBufferPointer(
                start: cell.pointee.payload, count: Int(cell.pointee.byte_count))
            return _overrideLifetime(RawSpan(_unsafeBytes: bytes), borrowing: self)
        }
    }

    /// Bytes of payload.
    @inlinable public var byteCount: Int { Int(cell.pointee.byte_count) }

    /// The payload as one value.
    ///
    /// - Throws: `mismatch` when the payload is not exactly as long as the type.
    @inlinable @inline(__always)
    public func load<T: BitwiseCopyable>(as type: T.Type = T.self) throws(Bus1Error) -> T {
        guard cell.pointee.byte_count == UInt64(MemoryLayout<T>.size) else {
            throw Bus1Error.wrongSize
        }
        return UnsafeRawPointer(cell.pointee.payload).unsafelyUnwrapped.loadUnaligned(as: type)
    }
}

/// News from the bus itself.
public struct Notice: Sendable {
    /// What happened.
    public enum Kind: Sendable, Hashable {
        /// The last handle to this own node is gone, and none is in flight. May come again, when handles have been made anew.
        case noHandles(NodeID)
        /// The handle's node was released, or its owner is gone. The handle can't be used any more.
        case nodeReleased(HandleID)
        /// A reply handle to this own node is gone, and was not used.
        case replyLost(NodeID)
    }

    /// What happened, and to what.
    public let kind: Kind
    /// When, in the order of the bus.
    public let stamp: Stamp
    /// True when the next notice or message of this peer belongs to the same transaction.
    public let moreFollow: Bool
    /// Of `noHandles`: which time the last handle went, so that an earlier time's notice is not told.
    let crossing: UInt64
}

/// What a peer receives.
@frozen
public enum Delivery: ~Copyable, Sendable {
    /// What somebody sent, now the receiver's own.
    case message(Message)
    /// What the bus itself has to say.
    case notice(Notice)
}
