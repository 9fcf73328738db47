public import CBus1
import Glibc
@_spi(Raw) import Bus1Shm

// Peers, nodes, handles and names.
//
// `@c @implementation`: the compiler compares each function with its declaration in bus1.h.

/// What a `bus1_peer` points to.
typealias PeerPlace = UnsafeMutablePointer<RawPeer>

@inline(__always)
func place(_ peer: OpaquePointer) -> PeerPlace { PeerPlace(peer) }

/// Puts a peer where C can name it.
func keep(_ peer: consuming Peer) -> OpaquePointer {
    let place = PeerPlace.allocate(capacity: 1)
    place.initialize(to: RawPeer(peer))
    return OpaquePointer(place)
}

/// A moment so many ns from now.
@c @implementation
public func bus1_after(_ ns: UInt64) -> UInt64 {
    var time = timespec()
    clock_gettime(CLOCK_MONOTONIC, &time)
    let now = UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
    let (sum, overflow) = now.addingReportingOverflow(ns)
    return overflow ? .max : sum
}

/// nil: the structure is not one that this version knows.
private func options(
    _ given: UnsafePointer<bus1_options>?
) -> (options: Peer.Options, isolation: Bus.Isolation)? {
    var options = Peer.Options()
    guard let given else { return (options, .user) }
    guard given.pointee.size >= MemoryLayout<bus1_options>.size else { return nil }
    let wishes = given.pointee
    guard wishes.flags < UInt32(BUS1_OPEN_PROCESS_DOMAIN) << 1 else { return nil }
    let has = { (flag: Int) in wishes.flags & UInt32(flag) != 0 }
    options.prefault = has(BUS1_OPEN_PREFAULT)
    options.locked = has(BUS1_OPEN_LOCKED)
    options.hugePages = has(BUS1_OPEN_HUGE_PAGES)
    options.standsBy = !has(BUS1_OPEN_NO_HEIR)
    if wishes.slots != 0 { options.slots = Int(wishes.slots) }
    if wishes.slot_bytes != 0 { options.slotBytes = Int(wishes.slot_bytes) }
    if wishes.lanes != 0 { options.lanes = Int(wishes.lanes) }
    if wishes.handles_max != 0 { options.handlesMax = Int(clamping: wishes.handles_max) }
    if wishes.pool_bytes != 0 { options.poolBytes = Int(clamping: wishes.pool_bytes) }
    switch wishes.spin_ns {
    case 0: break
    case .max: options.spin = .zero
    default: options.spin = .nanoseconds(Int64(clamping: wishes.spin_ns))
    }
    return (options, has(BUS1_OPEN_PROCESS_DOMAIN) ? .process : .user)
}

/// See bus1.h.
@c @implementation
public func bus1_open(
    _ path: UnsafePointer<CChar>?, _ given: UnsafePointer<bus1_options>?,
    _ peer: UnsafeMutablePointer<OpaquePointer?>?
) -> Int32 {
    guard let peer else { return failure(EFAULT, "open a peer") }
    guard let (options, isolation) = options(given) else { return failure(EINVAL, "open a peer") }
    let bus = Bus(path: path.map { String(cString: $0) } ?? "", isolation: isolation)
    return result { () throws(Bus1Error) in peer.pointee = keep(try Peer(on: bus, options)) }
}

/// The peer for which whoever spawned this process set handles aside.
@c @implementation
public func bus1_open_inherited(
    _ given: UnsafePointer<bus1_options>?, _ peer: UnsafeMutablePointer<OpaquePointer?>?
) -> Int32 {
    guard let peer else { return failure(EFAULT, "open a peer") }
    guard let (options, _) = options(given) else { return failure(EINVAL, "open a peer") }
    return result { () throws(Bus1Error) in peer.pointee = keep(try Peer.inherited(options)) }
}

/// The handle that stood at this place of bus1_spawn's list.
@c @implementation
public func bus1_take_inherited(
    _ peer: OpaquePointer!, _ index: Int, _ handle: UnsafeMutablePointer<UInt64>!
) -> Int32 {
    guard let id = place(peer).pointee.peer.takeInherited(index)?.detach() else {
        return failure(EBADRQC, "take an inherited handle")
    }
    handle.pointee = number(id)
    return 0
}

/// Leaves the bus.
@c @implementation
public func bus1_close(_ peer: OpaquePointer?) {
    guard let peer else { return }
    place(peer).deinitialize(count: 1)
    place(peer).deallocate()
}

/// Readable whenever bus1_try_receive may find something.
@c @implementation
public func bus1_descriptor(_ peer: OpaquePointer!, _ fd: UnsafeMutablePointer<Int32>!) -> Int32 {
    result { () throws(Bus1Error) in fd.pointee = try place(peer).pointee.peer.descriptor() }
}

/// See bus1.h.
@c @implementation
public func bus1_reset(_ peer: OpaquePointer!, _ keepSeed: Int32) -> Int32 {
    result { () throws(Bus1Error) in
        try place(peer).pointee.peer.reset(keepingSeed: keepSeed != 0)
    }
}

/// Makes a node.
@c @implementation
public func bus1_node_make(
    _ peer: OpaquePointer!, _ tag: UInt64, _ node: UnsafeMutablePointer<UInt64>!
) -> Int32 {
    result { () throws(Bus1Error) in
        let made = try place(peer).pointee.peer.makeNode(tag: tag)
        node.pointee = number(made.detach())
    }
}

/// A handle of this peer to its own node.
@c @implementation
public func bus1_handle_make(
    _ peer: OpaquePointer!, _ node: UInt64, _ handle: UnsafeMutablePointer<UInt64>!
) -> Int32 {
    result { () throws(Bus1Error) in
        let peer = place(peer)
        let made = try peer.pointee.peer.withNode(nodeID(node)) { node throws(Bus1Error) in
            try peer.pointee.peer.makeHandle(to: node)
        }
        handle.pointee = number(made.detach())
    }
}

/// Copies of handles for another peer of this process, or this one.
@c @implementation
public func bus1_give(
    _ peer: OpaquePointer!, _ count: Int, _ handles: UnsafePointer<UInt64>?,
    _ other: OpaquePointer!, _ given: UnsafeMutablePointer<UInt64>?
) -> Int32 {
    let mistake = mistake(inList: handles, count) ?? mistake(inList: given, count)
    if let mistake { return failure(mistake, "give handles") }
    return result { () throws(Bus1Error) in
        let made = try place(peer).pointee.peer.give(
            handleIDs(handles, count), to: place(other).pointee.peer)
        for (index, id) in made.enumerated() { given![index] = number(id) }
    }
}

/// Releases nodes and handles, mixed, at one instant, or none of them.
@c @implementation
public func bus1_release(
    _ peer: OpaquePointer!, _ count: Int, _ ids: UnsafePointer<UInt64>?
) -> Int32 {
    if let mistake = mistake(inList: ids, count) { return failure(mistake, "release") }
    return result { () throws(Bus1Error) in
        try place(peer).pointee.peer.release(mixed: UnsafeBufferPointer(start: ids, count: count))
    }
}

/// See bus1.h.
@c @implementation
public func bus1_publish(
    _ peer: OpaquePointer!, _ node: UInt64, _ name: UnsafePointer<CChar>?, _ access: Int32,
    _ userCount: Int, _ users: UnsafePointer<UInt32>?
) -> Int32 {
    guard let name else { return failure(EFAULT, "publish a node") }
    if let mistake = mistake(inList: users, userCount) {
        return failure(mistake, "publish a node")
    }
    let rule: Access
    switch Int(access) {
    case BUS1_ACCESS_SAME_USER: rule = .sameUser
    case BUS1_ACCESS_USERS:
        rule = .users(Array(UnsafeBufferPointer(start: users, count: userCount)))
    case BUS1_ACCESS_ANYONE: rule = .anyone
    default: return failure(EINVAL, "publish a node")
    }
    return result { () throws(Bus1Error) in
        let peer = place(peer)
        try peer.pointee.peer.withNode(nodeID(node)) { node throws(Bus1Error) in
            try peer.pointee.peer.publish(node, as: String(cString: name), to: rule)
        }
    }
}

/// A handle to the node that is published under a name.
@c @implementation
public func bus1_look_up(
    _ peer: OpaquePointer!, _ name: UnsafePointer<CChar>?, _ deadline: UInt64,
    _ handle: UnsafeMutablePointer<UInt64>!
) -> Int32 {
    guard let name else { return failure(EFAULT, "look a name up") }
    return result { () throws(Bus1Error) in
        let found = try place(peer).pointee.peer.lookUp(
            String(cString: name), until: .raw(deadline))
        handle.pointee = number(found.detach())
    }
}

/// Who owns the node behind a handle, as the kernel vouched.
@c @implementation
public func bus1_owner(
    _ peer: OpaquePointer!, _ handle: UInt64, _ uid: UnsafeMutablePointer<UInt32>?,
    _ pid: UnsafeMutablePointer<Int32>?
) -> Int32 {
    result { () throws(Bus1Error) in
        let owner = try place(peer).pointee.peer.owner(ofHandle: handleID(handle))
        uid?.pointee = owner.uid
        pid?.pointee = owner.pid
    }
}

/// See bus1.h.
@c @implementation
public func bus1_spawn(
    _ peer: OpaquePointer!, _ path: UnsafePointer<CChar>?,
    _ argv: UnsafePointer<UnsafeMutablePointer<CChar>?>?, _ count: Int,
    _ handles: UnsafePointer<UInt64>?, _ pid: UnsafeMutablePointer<Int32>!,
    _ pidfd: UnsafeMutablePointer<Int32>!
) -> Int32 {
    guard let path else { return failure(EFAULT, "spawn") }
    if let mistake = mistake(inList: handles, count) { return failure(mistake, "spawn") }
    var arguments: [String] = []
    var next = argv
    // The first is the program's own name, which spawn gives.
    if next?.pointee != nil { next = next.map { $0 + 1 } }
    while let argument = next?.pointee {
        arguments.append(String(cString: argument))
        next = next.map { $0 + 1 }
    }
    return result { () throws(Bus1Error) in
        let child = try place(peer).pointee.peer.spawn(
            String(cString: path), arguments, giving: handleIDs(handles, count))
        pid.pointee = child.pid
        pidfd.pointee = child.detachDescriptor()
    }
}

/// Nanoseconds since boot of a stamp.
@c @implementation
public func bus1_stamp_ns(_ peer: OpaquePointer!, _ stamp: UInt64) -> UInt64 {
    place(peer).pointee.peer.nanosecondsSinceBoot(.raw(stamp))
}
