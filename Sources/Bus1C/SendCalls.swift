public import CBus1
import Glibc
@_spi(Raw) import Bus1Shm

// Sending: plain messages, slices, transactions.

/// What a `bus1_lane` points to.
typealias LanePlace = UnsafeMutablePointer<RawLane>
/// What a `bus1_slice` points to.
typealias SlicePlace = UnsafeMutablePointer<Slice>

/// Sends a copy of some bytes.
@c @implementation
public func bus1_try_send(
    _ peer: OpaquePointer!, _ handle: UInt64, _ data: UnsafeRawPointer?, _ count: Int
) -> Int32 {
    if let mistake = mistake(inBytes: data, count) { return failure(mistake, "send") }
    do throws(Bus1Error) {
        let sent = try place(peer).pointee.trySend(data, count, to: handleNumber(handle))
        return sent == nil ? -EAGAIN : 0
    } catch {
        return failure(error)
    }
}

/// See bus1.h.
@c @implementation
public func bus1_send(
    _ peer: OpaquePointer!, _ handle: UInt64, _ data: UnsafeRawPointer?, _ count: Int,
    _ deadline: UInt64
) -> Int32 {
    if let mistake = mistake(inBytes: data, count) { return failure(mistake, "send") }
    do throws(Bus1Error) {
        try place(peer).pointee.send(data, count, to: handleNumber(handle), until: deadline)
        return 0
    } catch {
        return failure(error)
    }
}

// MARK: Transactions

/// See bus1.h.
@c @implementation
public func bus1_transact(
    _ peer: OpaquePointer!, _ given: UnsafeMutablePointer<bus1_transaction>?
) -> Int32 {
    transact(place(peer).pointee.peer.transaction(), given, place(peer))
}

/// Fills a transaction and commits it. `peer`: who may release and ask for replies; a lane may not.
private func transact(
    _ transaction: consuming Transaction, _ given: UnsafeMutablePointer<bus1_transaction>?,
    _ peer: PeerPlace?
) -> Int32 {
    let operation: StaticString = "commit a transaction"
    guard let given else { return failure(EFAULT, operation) }
    let wishes = given.pointee
    guard wishes.size >= MemoryLayout<bus1_transaction>.size,
        wishes.n_messages == 0 || wishes.message_size >= MemoryLayout<bus1_outgoing>.size,
        wishes.message_size % MemoryLayout<bus1_outgoing>.alignment == 0
    else { return failure(EINVAL, operation) }
    let mistake =
        mistake(inList: wishes.messages, wishes.n_messages)
        ?? mistake(inList: wishes.releases, wishes.n_releases)
    if let mistake { return failure(mistake, operation) }
    let parts = Parts(wishes)
    // From here on the slices are this function's, which ends those that it does not get to.
    var taken = 0
    defer { parts.endSlices(from: taken) }
    let each = UInt32(BUS1_TRANSACT_CONTINUE)
    guard wishes.flags & ~each == 0, peer != nil || wishes.n_releases == 0 else {
        return failure(EINVAL, operation)
    }
    do throws(Bus1Error) {
        while taken < parts.count {
            let part = parts[taken]
            taken += 1
            if let mistake = parts.mistake(in: part.pointee, peer) {
                if let slice = part.pointee.slice { end(slice) }
                return failure(mistake, operation)
            }
            try add(part.pointee, to: &transaction)
        }
        for id in UnsafeBufferPointer(start: wishes.releases, count: Int(wishes.n_releases)) {
            switch Name(id) {
            case .handle: transaction.release(handle: handleID(id))
            case .node: transaction.release(node: nodeID(id))
            }
        }
        let outcome = try transaction.commit(
            each: wishes.flags == each, keepingUntil: .raw(wishes.deadline))
        given.pointee.stamp = outcome.stamp.rawValue
        for index in 0..<parts.count { parts[index].pointee.error = 0 }
        for (id, error) in outcome.refused {
            let part = (0..<parts.count).first { handleID(parts[$0].pointee.handle) == id }
            if let part { parts[part].pointee.error = failure(error) }
        }
        return 0
    } catch {
        return failure(error)
    }
}

/// The messages of a transaction, as long as the caller's version has them.
private struct Parts {
    let first: UnsafeMutableRawPointer?
    let stride: Int
    let count: Int

    init(_ wishes: bus1_transaction) {
        first = UnsafeMutableRawPointer(wishes.messages)
        stride = Int(wishes.message_size)
        count = Int(wishes.n_messages)
    }

    subscript(index: Int) -> UnsafeMutablePointer<bus1_outgoing> {
        (first! + index * stride).assumingMemoryBound(to: bus1_outgoing.self)
    }

    /// What is wrong with one before anything is done with it: an errno.
    func mistake(in part: bus1_outgoing, _ peer: PeerPlace?) -> Int32? {
        if part.slice != nil && part.data != nil { return EINVAL }
        let mistake =
            (part.slice == nil ? Bus1C.mistake(inBytes: part.data, part.n_data) : nil)
            ?? Bus1C.mistake(inList: part.passing, part.n_passing)
            ?? Bus1C.mistake(inList: part.fds, part.n_fds)
        if let mistake { return mistake }
        guard part.reply_node != 0 else { return nil }
        guard let peer else { return EINVAL }
        return peer.pointee.peer.isAlive(nodeID(part.reply_node)) ? nil : EBADRQC
    }

    func endSlices(from index: Int) {
        for index in index..<max(index, count) {
            if let slice = self[index].pointee.slice { end(slice) }
        }
    }
}

private func add(
    _ part: bus1_outgoing, to transaction: inout Transaction
) throws(Bus1Error) {
    let passing = handleIDs(part.passing, Int(part.n_passing))
    let fds = Array(UnsafeBufferPointer(start: part.fds, count: Int(part.n_fds)))
    if let slice = part.slice {
        try transaction.send(
            take(slice), to: handleID(part.handle), passing: passing, descriptors: fds)
    } else {
        let bytes = UnsafeRawBufferPointer(start: part.data, count: Int(part.n_data))
        try transaction.send(
            bytes.bytes, to: handleID(part.handle), passing: passing, descriptors: fds)
    }
    if part.reply_node != 0 { transaction.ask(replyTo: nodeID(part.reply_node)) }
}

// MARK: Slices

/// Takes a slice out of the place by which C named it.
func take(_ slice: OpaquePointer) -> Slice {
    let place = SlicePlace(slice)
    let taken = place.move()
    place.deallocate()
    return taken
}

/// Puts a slice where C can name it.
func keep(_ slice: consuming Slice) -> OpaquePointer {
    let place = SlicePlace.allocate(capacity: 1)
    place.initialize(to: slice)
    return OpaquePointer(place)
}

private func end(_ slice: OpaquePointer) { _ = take(slice) }

/// Shared memory to be filled in and sent without a copy.
@c @implementation
public func bus1_loan(
    _ peer: OpaquePointer!, _ count: Int, _ deadline: UInt64,
    _ slice: UnsafeMutablePointer<OpaquePointer?>!,
    _ data: UnsafeMutablePointer<UnsafeMutableRawPointer?>!
) -> Int32 {
    guard count >= 0 else { return failure(EMSGSIZE, "loan a slice") }
    return result { () throws(Bus1Error) in
        let loaned = try place(peer).pointee.peer.loan(count, until: .raw(deadline))
        data.pointee = loaned.base
        slice.pointee = keep(loaned)
    }
}

/// Send fewer bytes than were loaned.
@c @implementation
public func bus1_slice_shorten(_ slice: OpaquePointer!, _ count: Int) -> Int32 {
    let place = SlicePlace(slice)!
    guard (0...place.pointee.byteCount).contains(count) else {
        return failure(EINVAL, "shorten a slice")
    }
    place.pointee.shorten(to: count)
    return 0
}

/// Sends a slice without a copy.
@c @implementation
public func bus1_slice_send(
    _ peer: OpaquePointer!, _ slice: OpaquePointer!, _ handle: UInt64, _ deadline: UInt64
) -> Int32 {
    result { () throws(Bus1Error) in
        try place(peer).pointee.peer.send(
            take(slice), toHandle: handleID(handle), until: .raw(deadline))
    }
}

/// Gives a slice back unsent.
@c @implementation
public func bus1_slice_end(_ slice: OpaquePointer?) {
    if let slice { end(slice) }
}

// MARK: Lanes

/// The right to send, for one further thread.
@c @implementation
public func bus1_lane_open(
    _ peer: OpaquePointer!, _ lane: UnsafeMutablePointer<OpaquePointer?>!
) -> Int32 {
    result { () throws(Bus1Error) in
        let taken = RawLane(try place(peer).pointee.peer.lane())
        let place = LanePlace.allocate(capacity: 1)
        place.initialize(to: taken)
        lane.pointee = OpaquePointer(place)
    }
}

/// See bus1.h.
@c @implementation
public func bus1_lane_close(_ lane: OpaquePointer?) {
    guard let lane else { return }
    LanePlace(lane).deinitialize(count: 1)
    LanePlace(lane).deallocate()
}

/// See bus1.h.
@c @implementation
public func bus1_lane_try_send(
    _ lane: OpaquePointer!, _ handle: UInt64, _ data: UnsafeRawPointer?, _ count: Int
) -> Int32 {
    if let mistake = mistake(inBytes: data, count) { return failure(mistake, "send") }
    do throws(Bus1Error) {
        let sent = try LanePlace(lane).pointee.trySend(data, count, to: handleNumber(handle))
        return sent == nil ? -EAGAIN : 0
    } catch {
        return failure(error)
    }
}

/// See bus1.h.
@c @implementation
public func bus1_lane_send(
    _ lane: OpaquePointer!, _ handle: UInt64, _ data: UnsafeRawPointer?, _ count: Int,
    _ deadline: UInt64
) -> Int32 {
    if let mistake = mistake(inBytes: data, count) { return failure(mistake, "send") }
    return result { () throws(Bus1Error) in
        try LanePlace(lane).pointee.send(data, count, to: handleNumber(handle), until: deadline)
    }
}

/// As ``bus1_transact(_:_:)``, without releases and reply nodes.
@c @implementation
public func bus1_lane_transact(
    _ lane: OpaquePointer!, _ given: UnsafeMutablePointer<bus1_transaction>?
) -> Int32 {
    transact(LanePlace(lane).pointee.lane.transaction(), given, nil)
}
