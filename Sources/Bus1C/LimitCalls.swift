public import CBus1
import Glibc
@_spi(Raw) import Bus1Shm

// What may be used, and the seed.

/// How much of a resource is used, and how much may be.
@c @implementation
public func bus1_query(
    _ peer: OpaquePointer!, _ resource: Int32, _ used: UnsafeMutablePointer<UInt64>?,
    _ limit: UnsafeMutablePointer<UInt64>?
) -> Int32 {
    guard let resource = Resource(rawValue: UInt32(bitPattern: resource)) else {
        return failure(EINVAL, "ask for limits")
    }
    return result { () throws(Bus1Error) in
        let peer = place(peer)
        if let used { used.pointee = UInt64(clamping: try peer.pointee.peer.used(resource)) }
        if let limit { limit.pointee = UInt64(clamping: try peer.pointee.peer.limit(resource)) }
    }
}

/// See bus1.h.
@c @implementation
public func bus1_set_limit(_ peer: OpaquePointer!, _ resource: Int32, _ limit: UInt64) -> Int32 {
    guard let resource = Resource(rawValue: UInt32(bitPattern: resource)) else {
        return failure(EINVAL, "set a limit")
    }
    return result { () throws(Bus1Error) in
        try place(peer).pointee.peer.setLimit(resource, Int(clamping: limit))
    }
}

/// Waits until some of a resource may be used that was refused before.
@c @implementation
public func bus1_wait_for_room(
    _ peer: OpaquePointer!, _ resource: Int32, _ deadline: UInt64
) -> Int32 {
    guard let resource = Resource(rawValue: UInt32(bitPattern: resource)) else {
        return failure(EINVAL, "wait for room")
    }
    return result { () throws(Bus1Error) in
        try place(peer).pointee.peer.room(for: resource, until: .raw(deadline))
    }
}

/// Replaces or removes the seed.
@c @implementation
public func bus1_set_seed(
    _ peer: OpaquePointer!, _ data: UnsafeRawPointer?, _ count: Int, _ handleCount: Int,
    _ handles: UnsafePointer<UInt64>?
) -> Int32 {
    let mistake = mistake(inBytes: data, count) ?? mistake(inList: handles, handleCount)
    if let mistake { return failure(mistake, "set the seed") }
    return result { () throws(Bus1Error) in
        guard data != nil || handleCount != 0 else {
            return try place(peer).pointee.peer.removeSeed()
        }
        let bytes = UnsafeRawBufferPointer(start: data, count: count)
        try place(peer).pointee.peer.setSeed(
            bytes.bytes, passing: handleIDs(handles, handleCount))
    }
}

/// Reads the seed, as a message to no node; it stays.
@c @implementation
public func bus1_seed(_ peer: OpaquePointer!, _ received: UnsafeMutablePointer<bus1_received>?)
    -> Int32
{
    guard let received, received.pointee.size >= MemoryLayout<bus1_received>.size else {
        return failure(received == nil ? EFAULT : EINVAL, "read the seed")
    }
    do throws(Bus1Error) {
        guard let message = try place(peer).pointee.peer.seed() else { return -EAGAIN }
        show(message, in: received)
        received.pointee.id = .max
        return 0
    } catch {
        return failure(error)
    }
}
