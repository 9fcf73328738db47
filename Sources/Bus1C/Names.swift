import CBus1
import Glibc
@_spi(Raw) import Bus1Shm

// In the C interface one number names a node or a handle, and says by its lowest bit which of them.

/// What a number of the C interface names.
enum Name {
    case handle(UInt64)
    case node(UInt64)

    @inline(__always)
    init(_ id: UInt64) { self = id & 1 == 0 ? .handle(id >> 1) : .node(id >> 1) }
}

/// The library's number of a handle. 0 names none: a node's number, too, is no handle's.
@inline(__always)
func handleNumber(_ id: UInt64) -> UInt64 { id & 1 == 0 ? id >> 1 : 0 }

@inline(__always)
func handleID(_ id: UInt64) -> HandleID { .raw(handleNumber(id)) }

@inline(__always)
func nodeID(_ id: UInt64) -> NodeID { .raw(id & 1 == 1 && id != .max ? id >> 1 : 0) }

@inline(__always)
func number(_ id: HandleID) -> UInt64 { id.rawValue << 1 }

@inline(__always)
func number(_ id: NodeID) -> UInt64 { id.rawValue << 1 | 1 }

/// A list that C gave, of handles.
func handleIDs(_ ids: UnsafePointer<UInt64>?, _ count: Int) -> [HandleID] {
    UnsafeBufferPointer(start: ids, count: count).map(handleID)
}

extension Peer {
    /// Releases nodes and handles, mixed.
    func release(mixed ids: UnsafeBufferPointer<UInt64>) throws(Bus1Error) {
        var handles: [HandleID] = []
        var nodes: [NodeID] = []
        for id in ids {
            switch Name(id) {
            case .handle: handles.append(handleID(id))
            case .node: nodes.append(nodeID(id))
            }
        }
        try release(handles, nodes: nodes)
    }
}

/// C's lists are no longer than this: `size_t` has more room than any list.
private let listMax = 1 << 24

/// What is wrong with a list that C gave, if anything: an errno.
func mistake(inList list: UnsafeRawPointer?, _ count: Int) -> Int32? {
    guard (0...listMax).contains(count) else { return EMSGSIZE }
    return list == nil && count != 0 ? EFAULT : nil
}

/// What is wrong with bytes that C gave, if anything: an errno.
@inline(__always)
func mistake(inBytes bytes: UnsafeRawPointer?, _ count: Int) -> Int32? {
    if _fastPath(bytes != nil && count >= 0) { return nil }
    return count == 0 ? nil : count < 0 ? EMSGSIZE : EFAULT
}
