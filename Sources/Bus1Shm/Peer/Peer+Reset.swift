import CShmRing

extension Peer {
    /// Begins anew: releases all nodes of this peer at one instant and all handles that it holds, and drops what waits to
    /// be received. Values of nodes and handles that the program still has are of no use any more.
    ///
    /// - Parameter keepingSeed: keep the message of ``setSeed(_:passing:)``, its handles, and the own nodes to which these
    ///   lead. Otherwise it goes, too.
    /// - Throws: `shutDown`, `severed`; `system` when there is no memory.
    ///
    /// *Corresponds to BUS1_PEER_RESET_FLAG_FLUSH, and BUS1_PEER_RESET_FLAG_FLUSH_SEED.*
    public func reset(keepingSeed: Bool = true) throws(Bus1Error) {
        try core.reset(keepingSeed: keepingSeed)
    }
}

extension PeerCore {
    func reset(keepingSeed: Bool) throws(Bus1Error) {
        try requireOpen("reset")
        // What others are still about to give.
        try readEventsToReceive()
        if !keepingSeed { removeSeed() }
        let spared = nodesOfSeed
        let ending = nodes.withLock { table in
            table.nodes.alive.filter { !spared.contains($0) }
        }
        var end = Stamp(rawValue: shmring_clock_now(clock))
        if !ending.isEmpty {
            end = try release([], nodes: ending.map { NodeID(rawValue: $0) }) ?? end
        }
        let ofSeed = Set(seed?.handles ?? [])
        for id in handles.all where !ofSeed.contains(id) { releaseHandle(id) }
        given = []
        for index in inherited.indices { inherited[index] = nil }
        try dropQueue(upTo: end)
    }

    /// Drops what waits to be received and lies before an instant. What comes later stays.
    private func dropQueue(upTo end: Stamp) throws(Bus1Error) {
        kept.removeAll()
        holdInbox()
        while let delivery = try nextDelivery(until: .now, waiting: false) {
            if delivery.stamp > end {
                kept.append(delivery)
                break
            }
        }
        holdInbox()
    }
}

extension Delivery {
    /// Its place in the order of the bus.
    public var stamp: Stamp {
        switch self {
        case .message(let message): message.stamp
        case .notice(let notice): notice.stamp
        }
    }
}
