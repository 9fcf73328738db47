public import CBus1
import Glibc
@_spi(Raw) import Bus1Shm

// The calls of bus1(7).

/// Joins the bus.
@c @implementation
public func bus1_peer_new() -> Int32 { PeerTable.make() }

/// Leaves the bus and closes the descriptor.
@c @implementation
public func bus1_peer_close(_ descriptor: Int32) -> Int32 { PeerTable.end(descriptor) }

/// The peer behind a descriptor of bus1_peer_new.
@c @implementation
public func bus1_peer_of(
    _ descriptor: Int32, _ peer: UnsafeMutablePointer<OpaquePointer?>?
) -> Int32 {
    guard let peer else { return failure(EFAULT, "find a peer") }
    switch PeerTable.find(descriptor) {
    case .failure(let error): return failure(error.errno, "find a peer")
    case .success(let found):
        guard let place = found.place else { return failure(EBADF, "find a peer") }
        peer.pointee = OpaquePointer(place)
        return 0
    }
}

/// Calls with a peer to itself, or returns why there is none.
private func withPeer(
    _ descriptor: Int32, _ operation: StaticString, _ body: (TabledPeer.Access) -> Int32
) -> Int32 {
    switch PeerTable.find(descriptor) {
    case .failure(let error): return failure(error.errno, operation)
    case .success(let peer): return peer.use(body) ?? failure(EBADF, operation)
    }
}

// MARK: Transfer

/// Makes n handles in `to`.
@c @implementation
public func bus1_cmd_transfer(
    _ flags: UInt64, _ from: Int32, _ to: Int32, _ count: Int,
    _ sources: UnsafeMutablePointer<bus1_transfer>?,
    _ destinations: UnsafeMutablePointer<bus1_transfer>?
) -> Int32 {
    let operation: StaticString = "transfer"
    guard flags == 0 else { return failure(EINVAL, operation) }
    let target = to == -1 ? from : to
    // That there is a peer comes before what is asked of it.
    let mistake = mistake(inList: sources, count) ?? mistake(inList: destinations, count)
    let count = mistake == nil ? count : 0
    let sources = UnsafeMutableBufferPointer(start: sources, count: count)
    let destinations = UnsafeMutableBufferPointer(start: destinations, count: count)
    guard target != from else {
        return withPeer(from, operation) { access in
            transfer(access, access, sources, destinations, mistake)
        }
    }
    switch (PeerTable.find(from), PeerTable.find(target)) {
    case (.failure(let error), _), (_, .failure(let error)):
        return failure(error.errno, operation)
    case (.success(let first), .success(let second)):
        // Always in one order, so that two transfers can't wait for each other.
        let isInOrder = ObjectIdentifier(first) < ObjectIdentifier(second)
        let (outer, inner) = isInOrder ? (first, second) : (second, first)
        let done = outer.use { one in
            inner.use { other in
                let (from, to) = isInOrder ? (one, other) : (other, one)
                return transfer(from, to, sources, destinations, mistake)
            }
        }
        return (done ?? nil) ?? failure(EBADF, operation)
    }
}

private func transfer(
    _ from: TabledPeer.Access, _ to: TabledPeer.Access,
    _ sources: UnsafeMutableBufferPointer<bus1_transfer>,
    _ destinations: UnsafeMutableBufferPointer<bus1_transfer>, _ mistake: Int32?
) -> Int32 {
    let operation: StaticString = "transfer"
    if let mistake { return failure(mistake, operation) }
    let create = UInt64(BUS1_TRANSFER_FLAG_CREATE)
    for source in sources {
        guard source.flags & ~create == 0, source.flags == 0 || source.id == .max else {
            return failure(EINVAL, operation)
        }
    }
    let copied = sources.indices.filter { sources[$0].flags == 0 }
    for index in copied where !from.peer.pointee.peer.holds(handleID(sources[index].id)) {
        return failure(EBADRQC, operation)
    }
    var nodes: [NodeID] = []
    var handles: [HandleID] = []
    do throws(Bus1Error) {
        if !copied.isEmpty {
            handles = try from.peer.pointee.peer.give(
                copied.map { handleID(sources[$0].id) }, to: to.peer.pointee.peer)
        }
        for (index, id) in zip(copied, handles) {
            destinations[index] = bus1_transfer(flags: 0, id: number(id))
        }
        for index in sources.indices where sources[index].flags == create {
            let node = try from.peer.pointee.peer.makeNode().detach()
            nodes.append(node)
            let handle = try from.peer.pointee.peer.withNode(node) { node throws(Bus1Error) in
                try from.peer.pointee.peer.give(node, to: to.peer.pointee.peer)
            }
            handles.append(handle)
            sources[index] = bus1_transfer(flags: 0, id: number(node))
            destinations[index] = bus1_transfer(flags: 0, id: number(handle))
        }
        return 0
    } catch {
        // Handles first: of nodes that are still there nobody is told anything.
        _ = try? to.peer.pointee.peer.release(handles)
        _ = try? from.peer.pointee.peer.release([], nodes: nodes)
        return failure(error)
    }
}

// MARK: Release

/// Releases nodes and handles, mixed, in one transaction.
@c @implementation
public func bus1_cmd_release(
    _ descriptor: Int32, _ count: Int, _ ids: UnsafeMutablePointer<UInt64>?
) -> Int32 {
    withPeer(descriptor, "release") { access in
        bus1_release(OpaquePointer(access.peer), count, ids)
    }
}

// MARK: Send

/// Sends one message to all destinations at one instant, or to none.
@c @implementation
public func bus1_cmd_send(
    _ descriptor: Int32, _ count: Int, _ destinations: UnsafeMutablePointer<UInt64>?,
    _ errors: UnsafeMutablePointer<Int32>?, _ message: UnsafeMutablePointer<bus1_message>?
) -> Int32 {
    withPeer(descriptor, "send") { access in
        guard let message else { return failure(EFAULT, "send") }
        if let mistake = mistake(inList: destinations, count) { return failure(mistake, "send") }
        let sent = send(
            message.pointee, UnsafeBufferPointer(start: destinations, count: count),
            from: access.peer)
        if sent == 0, let errors { errors.update(repeating: 0, count: count) }
        return sent
    }
}

private func send(
    _ message: bus1_message, _ destinations: UnsafeBufferPointer<UInt64>, from peer: PeerPlace
) -> Int32 {
    let operation: StaticString = "send"
    guard message.flags == 0, message.type == BUS1_MESSAGE_TYPE_USER.rawValue else {
        return failure(EINVAL, operation)
    }
    let pieces: Pieces
    switch Pieces.read(message) {
    case .failure(let error): return failure(error.errno, operation)
    case .success(let read): pieces = read
    }
    guard message.n_data <= pieces.byteCount else { return failure(EMSGSIZE, operation) }
    guard message.n_transfers <= attachedMax, destinations.count <= destinationsMax else {
        return failure(EMSGSIZE, operation)
    }
    let transfers = Pieces.transfers(message)
    guard message.n_transfers == 0 || transfers.baseAddress != nil else {
        return failure(EFAULT, operation)
    }
    guard transfers.allSatisfy({ $0.flags == 0 }) else { return failure(EINVAL, operation) }
    let passing = transfers.map { handleID($0.id) }
    let targets = destinations.map(handleID)
    guard (passing + targets).allSatisfy({ peer.pointee.peer.holds($0) }) else {
        return failure(EBADRQC, operation)
    }
    guard !targets.isEmpty else { return 0 }
    do throws(Bus1Error) {
        return try pieces.gathered(Int(message.n_data)) { bytes throws(Bus1Error) in
            try send(bytes, to: targets, passing, from: peer)
        }
    } catch {
        // Room that does not come is a quota: this call does not wait.
        return error.code == .timedOut ? failure(EDQUOT, operation) : failure(error)
    }
}

private func send(
    _ bytes: UnsafeRawBufferPointer, to targets: [HandleID], _ passing: [HandleID],
    from peer: PeerPlace
) throws(Bus1Error) -> Int32 {
    if passing.isEmpty, targets.count == 1 {
        let number = targets[0].rawValue
        let sent = try peer.pointee.trySend(bytes.baseAddress, bytes.count, to: number)
        return sent == nil ? failure(EDQUOT, "send") : 0
    }
    if passing.isEmpty {
        try peer.pointee.peer.send(bytes.bytes, to: targets, until: .now)
        return 0
    }
    var transaction = peer.pointee.peer.transaction()
    for target in targets { try transaction.send(bytes.bytes, to: target, passing: passing) }
    try transaction.commit(until: .now)
    return 0
}

// MARK: Receive

/// Receives the next message or notice.
@c @implementation
public func bus1_cmd_recv(
    _ descriptor: Int32, _ metadata: UnsafeMutablePointer<bus1_metadata>?,
    _ message: UnsafeMutablePointer<bus1_message>?
) -> Int32 {
    let received = withPeer(descriptor, "receive") { receive($0, metadata, message) }
    // What nobody has told of: a descriptor was closed, and its nodes are gone.
    guard received == -EAGAIN, PeerTable.sweep() else { return received }
    return withPeer(descriptor, "receive") { receive($0, metadata, message) }
}

private func receive(
    _ access: TabledPeer.Access, _ metadata: UnsafeMutablePointer<bus1_metadata>?,
    _ message: UnsafeMutablePointer<bus1_message>?
) -> Int32 {
    let operation: StaticString = "receive"
    guard let metadata, let message else { return failure(EFAULT, operation) }
    guard metadata.pointee.flags == 0, message.pointee.flags == 0, message.pointee.type == .max
    else { return failure(EINVAL, operation) }
    let room: Pieces
    switch Pieces.read(message.pointee) {
    case .failure(let error): return failure(error.errno, operation)
    case .success(let read): room = read
    }
    let transfers = Pieces.transfers(message.pointee)
    guard message.pointee.n_transfers == 0 || transfers.baseAddress != nil else {
        return failure(EFAULT, operation)
    }
    do throws(Bus1Error) {
        while true {
            if let kept = access.kept.pointee {
                access.kept.pointee = nil
                let again = kept.move()
                kept.deallocate()
                return fill(metadata, message, room, transfers, with: again, access)
            }
            switch try access.peer.pointee.peer.tryReceive() {
            case nil: return -EAGAIN
            case .message(let next)?:
                return fill(metadata, message, room, transfers, with: next, access)
            case .notice(let notice)?:
                guard let (type, id) = described(notice, access.peer) else { continue }
                message.pointee.type = type.rawValue
                message.pointee.n_transfers = 0
                message.pointee.n_data = 0
                let own = access.peer.pointee.peer.account
                metadata.pointee = bus1_metadata(flags: 0, id: id, account: UInt64(own.uid))
                return 0
            }
        }
    } catch {
        return failure(error)
    }
}

/// Of a notice: its type, and what it names. nil: bus1(7) has none such.
private func described(_ notice: Notice, _ peer: PeerPlace) -> (bus1_message_type, UInt64)? {
    switch notice.kind {
    case .nodeReleased(let handle):
        peer.pointee.peer.retire(handle)
        return (BUS1_MESSAGE_TYPE_NODE_RELEASE, number(handle))
    case .noHandles(let node): return (BUS1_MESSAGE_TYPE_HANDLE_RELEASE, number(node))
    case .replyLost: return nil
    }
}

private func fill(
    _ metadata: UnsafeMutablePointer<bus1_metadata>,
    _ message: UnsafeMutablePointer<bus1_message>, _ room: Pieces,
    _ transfers: UnsafeMutableBufferPointer<bus1_transfer>, with received: consuming Message,
    _ access: TabledPeer.Access
) -> Int32 {
    let handles = received.handleCount
    let fits =
        UInt64(received.byteCount) <= min(message.pointee.n_data, room.byteCount)
        && handles <= transfers.count
    message.pointee.n_data = UInt64(received.byteCount)
    message.pointee.n_transfers = UInt64(handles)
    guard fits else {
        let place = UnsafeMutablePointer<Message>.allocate(capacity: 1)
        place.initialize(to: received)
        access.kept.pointee = place
        return failure(EMSGSIZE, "receive")
    }
    message.pointee.type = BUS1_MESSAGE_TYPE_USER.rawValue
    metadata.pointee = bus1_metadata(
        flags: 0, id: number(received.node), account: UInt64(received.sender.uid))
    let cell = received.detachCell()
    room.scatter(
        UnsafeRawBufferPointer(start: cell.pointee.payload, count: Int(cell.pointee.byte_count)))
    var again = Message(attaching: cell)
    for index in 0..<handles {
        let id = again.takeHandle(index)?.detach()
        transfers[index] = bus1_transfer(flags: 0, id: id.map { number($0) } ?? .max)
    }
    return 0
}
