public import CBus1
import CShmRing
import Glibc
@_spi(Raw) import Bus1Shm

// Receiving: a message stays in its cell, and C gets a view of it.

typealias Received = UnsafeMutablePointer<bus1_received>

/// Whether the caller's structure is one that this version can fill in.
@inline(__always)
private func canFill(_ received: UnsafeMutablePointer<bus1_received>?) -> Bool {
    guard let received else { return false }
    return received.pointee.size >= MemoryLayout<bus1_received>.size
}

@inline(never)
private func refused(_ received: UnsafeMutablePointer<bus1_received>?) -> Int32 {
    failure(received == nil ? EFAULT : EINVAL, "receive")
}

/// The next message or notice, in the order of the bus, as a view.
@c @implementation
public func bus1_try_receive(
    _ peer: OpaquePointer!, _ received: UnsafeMutablePointer<bus1_received>?
) -> Int32 {
    guard canFill(received), let received else { return refused(received) }
    do throws(Bus1Error) {
        guard let delivery = try place(peer).pointee.peer.tryReceive() else { return -EAGAIN }
        show(delivery, in: received, place(peer))
        return 0
    } catch {
        return failure(error)
    }
}

/// See bus1.h.
@c @implementation
public func bus1_receive(
    _ peer: OpaquePointer!, _ deadline: UInt64, _ received: UnsafeMutablePointer<bus1_received>?
) -> Int32 {
    guard canFill(received), let received else { return refused(received) }
    do throws(Bus1Error) {
        let delivery = try place(peer).pointee.peer.receive(until: .raw(deadline))
        show(delivery, in: received, place(peer))
        return 0
    } catch {
        return failure(error)
    }
}

/// See bus1.h.
@c @implementation
public func bus1_receive_on(
    _ peer: OpaquePointer!, _ node: UInt64, _ deadline: UInt64,
    _ received: UnsafeMutablePointer<bus1_received>?
) -> Int32 {
    guard canFill(received), let received else { return refused(received) }
    return result { () throws(Bus1Error) in
        let peer = place(peer)
        let message = try peer.pointee.peer.withNode(nodeID(node)) { node throws(Bus1Error) in
            try peer.pointee.peer.receive(on: node, until: .raw(deadline))
        }
        show(message, in: received)
    }
}

@inline(__always)
private func show(_ delivery: consuming Delivery, in received: Received, _ peer: PeerPlace) {
    switch consume delivery {
    case .message(let message): show(message, in: received)
    case .notice(let notice): show(notice, in: received, peer)
    }
}

@inline(__always)
func show(_ message: consuming Message, in received: Received) {
    let (handles, fds, wantsReply) = attached(to: message)
    let cell = message.detachCell()
    let isLast = !shmring_message_has_more(shmring_cell_message(cell))
    received.pointee.kind = UInt32(BUS1_RECEIVED_MESSAGE)
    received.pointee.flags =
        (isLast ? 0 : UInt32(BUS1_RECEIVED_MORE))
        | (wantsReply ? UInt32(BUS1_RECEIVED_WANTS_REPLY) : 0)
    received.pointee.id = cell.pointee.node << 1 | 1
    received.pointee.tag = cell.pointee.tag
    received.pointee.data = cell.pointee.payload
    received.pointee.n_data = Int(cell.pointee.byte_count)
    received.pointee.n_handles = handles
    received.pointee.n_fds = fds
    received.pointee.uid = cell.pointee.uid
    received.pointee.pid = cell.pointee.pid
    received.pointee.stamp = cell.pointee.message.stamp
    received.pointee.sequence = cell.pointee.message.sequence
    received.pointee.message = UnsafeMutableRawPointer(cell)
}

@inline(__always)
private func attached(
    to message: borrowing Message
) -> (handles: UInt32, fds: UInt32, wantsReply: Bool) {
    guard !message.isPlain else { return (0, 0, false) }
    return attachedSlowly(to: message)
}

@inline(never)
private func attachedSlowly(
    to message: borrowing Message
) -> (handles: UInt32, fds: UInt32, wantsReply: Bool) {
    (UInt32(message.handleCount), UInt32(message.descriptorCount), message.wantsReply)
}

@inline(never)
private func show(_ notice: Notice, in received: Received, _ peer: PeerPlace) {
    var shown = bus1_received()
    shown.size = received.pointee.size
    switch notice.kind {
    case .nodeReleased(let handle):
        shown.kind = UInt32(BUS1_RECEIVED_NODE_RELEASE)
        shown.id = number(handle)
        // Nobody holds a value of it that would end it.
        peer.pointee.peer.retire(handle)
    case .noHandles(let node):
        shown.kind = UInt32(BUS1_RECEIVED_HANDLE_RELEASE)
        shown.id = number(node)
    case .replyLost(let node):
        shown.kind = UInt32(BUS1_RECEIVED_REPLY_LOST)
        shown.id = number(node)
    }
    shown.flags = notice.moreFollow ? UInt32(BUS1_RECEIVED_MORE) : 0
    shown.stamp = notice.stamp.rawValue
    let own = peer.pointee.peer.account
    shown.uid = own.uid
    shown.pid = own.pid
    received.pointee = shown
}

// MARK: What came with it

private typealias Cell = UnsafeMutablePointer<shmring_cell>

/// Calls with the message behind a view. nil: it was given back, or is a notice.
private func withMessage<R>(
    _ received: UnsafeMutablePointer<bus1_received>?, _ body: (inout Message) -> R
) -> R? {
    guard let raw = received?.pointee.message else { return nil }
    var message = Message(attaching: raw.assumingMemoryBound(to: shmring_cell.self))
    let result = body(&message)
    _ = message.detachCell()
    return result
}

/// Ends the view.
@c @implementation
public func bus1_give_back(_ received: UnsafeMutablePointer<bus1_received>?) -> Int32 {
    guard let received else { return failure(EFAULT, "give a message back") }
    guard let raw = received.pointee.message else {
        guard received.pointee.kind != UInt32(BUS1_RECEIVED_MESSAGE) else {
            return failure(EINVAL, "give a message back")
        }
        return 0
    }
    received.pointee.message = nil
    received.pointee.data = nil
    shmring_cell_give_back(raw.assumingMemoryBound(to: shmring_cell.self))
    return 0
}

/// Takes a handle out.
@c @implementation
public func bus1_take_handle(
    _ received: UnsafeMutablePointer<bus1_received>?, _ index: Int,
    _ handle: UnsafeMutablePointer<UInt64>!
) -> Int32 {
    let operation: StaticString = "take a handle"
    let done = withMessage(received) { message in
        guard (0..<message.handleCount).contains(index) else { return failure(EINVAL, operation) }
        guard !message.isInvalid(index) else { return failure(EHOSTUNREACH, operation) }
        guard let id = message.takeHandle(index)?.detach() else {
            return failure(EINVAL, operation)
        }
        handle.pointee = number(id)
        return 0
    }
    return done ?? failure(EINVAL, operation)
}

/// Takes a descriptor out.
@c @implementation
public func bus1_take_fd(
    _ received: UnsafeMutablePointer<bus1_received>?, _ index: Int,
    _ fd: UnsafeMutablePointer<Int32>!
) -> Int32 {
    let operation: StaticString = "take a descriptor"
    let done = withMessage(received) { message in
        guard (0..<message.descriptorCount).contains(index) else {
            return failure(EINVAL, operation)
        }
        do throws(Bus1Error) {
            guard let taken = try message.takeDescriptor(index) else {
                return failure(EINVAL, operation)
            }
            fd.pointee = taken
            return 0
        } catch {
            return failure(error)
        }
    }
    return done ?? failure(EINVAL, operation)
}

/// Sends the one reply that the message asks for.
@c @implementation
public func bus1_reply(
    _ received: UnsafeMutablePointer<bus1_received>?, _ data: UnsafeRawPointer?, _ count: Int,
    _ deadline: UInt64
) -> Int32 {
    let operation: StaticString = "send a reply"
    if let mistake = mistake(inBytes: data, count) { return failure(mistake, operation) }
    let done = withMessage(received) { message in
        guard message.wantsReply else { return failure(EINVAL, operation) }
        guard let reply = message.takeReply() else { return failure(EHOSTUNREACH, operation) }
        do throws(Bus1Error) {
            let bytes = UnsafeRawBufferPointer(start: data, count: count)
            try reply.send(bytes.bytes, until: .raw(deadline))
            return 0
        } catch {
            return failure(error)
        }
    }
    received?.pointee.flags &= ~UInt32(BUS1_RECEIVED_WANTS_REPLY)
    return done ?? failure(EINVAL, operation)
}

/// See bus1.h.
@c @implementation
public func bus1_forward(
    _ peer: OpaquePointer!, _ received: UnsafeMutablePointer<bus1_received>?,
    _ slice: UnsafeMutablePointer<OpaquePointer?>!
) -> Int32 {
    let operation: StaticString = "forward a payload"
    guard let received, let raw = received.pointee.message else {
        return failure(EINVAL, operation)
    }
    let cell = raw.assumingMemoryBound(to: shmring_cell.self)
    // Only what is refused stays the caller's.
    guard shmring_message_is_slice(shmring_cell_message(cell)), cell.pointee.held.base != nil
    else { return failure(EPROTO, operation) }
    received.pointee.message = nil
    received.pointee.data = nil
    return result { () throws(Bus1Error) in
        slice.pointee = keep(
            try place(peer).pointee.peer.forward(Message(attaching: cell)))
    }
}
