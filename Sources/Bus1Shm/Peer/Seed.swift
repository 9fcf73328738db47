import CShmRing
import Glibc

/// The one message that a peer keeps for itself: a copy of some bytes, and handles of its own.
///
/// NOTE - the bytes are never changed; messages that were made of the seed read them, and outlive it.
final class Seed: @unchecked Sendable {
    // @unchecked: nothing changes after init, but for `handles`, which the peer's own domain uses.
    let bytes: UnsafeMutableRawPointer
    let byteCount: Int
    /// Held by the peer beside those that the program knows of.
    let handles: [HandleID]
    let stamp: UInt64

    init?(_ bytes: RawSpan, _ handles: [HandleID], stamp: UInt64) {
        guard let copy = malloc(max(1, bytes.byteCount)) else { return nil }
        bytes.withUnsafeBytes {
            if let base = $0.baseAddress { copy.copyMemory(from: base, byteCount: $0.count) }
        }
        self.bytes = copy
        byteCount = bytes.byteCount
        self.handles = handles
        self.stamp = stamp
    }

    deinit { free(bytes) }
}

extension Peer {
    /// Keeps a message for this peer itself, instead of the one kept before: a copy of some bytes, and copies of handles
    /// that it holds. It outlives ``reset(keepingSeed:)``, and so do own nodes to which its handles lead.
    ///
    /// Whoever takes a service over, or starts again after an error, finds there what it needs.
    ///
    /// - Throws: `noSuchHandle`, `nodeReleased`, `tooLarge` above 253 handles, `overQuota`: the old one is still there then.
    ///
    /// *Corresponds to BUS1_SEND_FLAG_SEED.*
    public func setSeed(_ bytes: RawSpan, passing handles: [HandleID] = []) throws(Bus1Error) {
        try core.setSeed(bytes, handles)
    }

    /// Keeps no message any more.
    public func removeSeed() throws(Bus1Error) {
        try core.requireOpen("remove the seed")
        core.removeSeed()
    }

    /// The message that was kept by ``setSeed(_:passing:)``; nil when there is none. It stays: each call makes another
    /// message, with handles of its own. Its ``Message/node`` names no node, its ``Message/sequence`` is 0.
    ///
    /// - Throws: `overQuota` when there is no room for its handles, `shutDown`, `system`.
    ///
    /// *Corresponds to BUS1_RECV_FLAG_SEED.*
    public func seed() throws(Bus1Error) -> Message? {
        try core.requireOpen("read the seed")
        guard let seed = core.seed else { return nil }
        return try core.message(of: seed)
    }
}

extension PeerCore {
    func setSeed(_ bytes: RawSpan, _ handles: [HandleID]) throws(Bus1Error) {
        let operation: StaticString = "set the seed"
        try requireOpen(operation)
        guard handles.count <= attachedHandlesMax else { throw Bus1Error(.tooLarge, operation) }
        let copies = handles.isEmpty ? [] : try give(handles, to: self)
        guard let made = Seed(bytes, copies, stamp: shmring_clock_now(clock)) else {
            for id in copies { releaseHandle(id) }
            throw Bus1Error(.system, operation, errno: ENOMEM)
        }
        // Nothing below can fail.
        removeSeed()
        seed = made
    }

    func removeSeed() {
        guard let old = seed else { return }
        seed = nil
        for id in old.handles { releaseHandle(id) }
    }

    /// The program does not know the seed's handles: their nodes end without a notice.
    func isOfSeed(_ notice: QueuedNotice) -> Bool {
        guard case .nodeReleased(let id) = notice.kind else { return false }
        return seed?.handles.contains(id) ?? false
    }

    /// Own nodes to which the seed's handles lead.
    var nodesOfSeed: Set<UInt64> {
        var nodes: Set<UInt64> = []
        for id in seed?.handles ?? [] {
            guard let entry = handles.entry(id), let link = link(at: Int(entry.pointee.link)),
                link.peer == ownPeer, let node = ownNode(behind: entry, link)
            else { continue }
            nodes.insert(node.rawValue)
        }
        return nodes
    }

    /// A message like a received one, in a cell of its own.
    func message(of seed: Seed) throws(Bus1Error) -> Message {
        let operation: StaticString = "read the seed"
        var items: [Attachments.Item] = []
        items.reserveCapacity(seed.handles.count)
        do throws(Bus1Error) {
            for id in seed.handles { items.append(try itemOfSeed(id)) }
        } catch {
            for case .handle(let id, _) in items { releaseHandle(id) }
            throw error
        }
        let cell = hot.pointee.arena.pointee.current!
        let message = shmring_cell_message(cell)!
        message.pointee.stamp = seed.stamp
        message.pointee.sequence = 0
        message.pointee.bits = 0
        message.pointee.length = 0
        let kept = shmring_arena_keep(hot.pointee.arena)
        guard kept == 0 else {
            for case .handle(let id, _) in items { releaseHandle(id) }
            throw Bus1Error(result: kept, operation)
        }
        shmring_cell_fill(cell, 0, 0, account.uid, account.pid)
        cell.pointee.payload = UnsafeRawPointer(seed.bytes)
        cell.pointee.byte_count = UInt64(seed.byteCount)
        cell.pointee.owner = Unmanaged.passRetained(seed).toOpaque()
        cell.pointee.give_back = { cell in
            Unmanaged<Seed>.fromOpaque(cell!.pointee.owner).release()
        }
        if !items.isEmpty {
            let items = MostlyOne(items)
            attach(Attachments(self, items, hasReply: false, descriptors: nil, nil), to: cell)
        }
        return Message(cell: cell)
    }

    /// A copy of one of the seed's handles. One whose node has been released is invalid.
    private func itemOfSeed(_ id: HandleID) throws(Bus1Error) -> Attachments.Item {
        do throws(Bus1Error) {
            let copy = try give([id], to: self)[0]
            let entry = handles.entry(copy)
            let link = entry.flatMap { self.link(at: Int($0.pointee.link)) }
            let isOwn = link?.peer == ownPeer
            return .handle(copy, node: isOwn ? ownNode(behind: entry!, link!) : nil)
        } catch {
            guard error.code == .nodeReleased || error.code == .noSuchHandle else { throw error }
            return .invalid
        }
    }
}
