import CShmRing
import Glibc
import Synchronization

// Passing on handles to nodes of others.

extension PeerCore {
    /// Sees to it that a node's owner and the new holder know each other. Only the peer's own thread can ask the
    /// broker: a lane leaves it a wish, and waits until it has received, or until the deadline.
    func introduce(
        _ owner: PeerID, _ holder: PeerID, byLane lane: UInt32,
        until deadline: Deadline = .after(.seconds(10))
    ) throws(Bus1Error) {
        guard holder != ownPeer else { return }
        let pair = PairKey(owner, holder)
        if handOvers.withLock({ $0.introduced.contains(pair) }) { return }
        guard lane == 0 else { return try wish(owner, holder, pair, until: deadline) }
        try takingRings { () throws(Bus1Error) in
            try connection.introduce(owner, holder, until: .after(.seconds(10)))
        }
        shmring_fault_at(SHMRING_FAULT_OVER_INTRODUCED)
        handOvers.withLock { _ = $0.introduced.insert(pair) }
    }

    private func wish(
        _ owner: PeerID, _ holder: PeerID, _ pair: PairKey, until deadline: Deadline
    ) throws(Bus1Error) {
        let operation: StaticString = "pass on a handle from a lane to somebody new"
        wishes.withLock { list in
            if !list.contains(where: { PairKey($0.0, $0.1) == pair }) {
                list.append((owner, holder))
            }
        }
        // As if the broker had said something: the peer's thread comes to `grantWishes`.
        var own = outboxMapping.raw
        shmring_outbox_attend(&own)
        var turns = 0
        while true {
            let (isDone, refused) = handOvers.withLock { state in
                (state.introduced.contains(pair), state.refused.removeValue(forKey: pair))
            }
            if isDone { return }
            if let refused { throw refused }
            try requireOpen(operation)
            guard !deadline.hasPassed else { throw Bus1Error(.timedOut, operation) }
            turns += 1
            if turns < 1000 { shmring_pause() } else { usleep(100) }
        }
    }

    /// Introduces whom lanes have to pass handles to. Only the peer's own thread.
    func grantWishes() {
        let wished = wishes.withLock { list in
            defer { list = [] }
            return list
        }
        for (owner, holder) in wished {
            do throws(Bus1Error) {
                try introduce(owner, holder, byLane: 0)
            } catch {
                handOvers.withLock { $0.refused[PairKey(owner, holder)] = error }
            }
        }
    }

    /// The own node to which a held handle leads. Any thread, but for handles to own nodes that were
    /// looked up or received: those only the peer's own.
    func ownNode(behind entry: UnsafeMutablePointer<HandleEntry>, _ link: Link) -> NodeID? {
        let number = shmring_load_relaxed_u32(entry.pointer(to: \.grant)!)
        guard number < PeerHot.grantsMax else {
            return nodeID(of: entry.pointee.key, named: number, by: link)
        }
        return nodes.withLock { NodeID(rawValue: $0.node(of: number)) }
    }

    /// The number of the next hand-over. 2^32 of them are not used up by honest means: one each
    /// microsecond lasts for more than an hour, and the keys of an hour ago are bound.
    func nextHandOver() -> UInt32 {
        handOvers.withLock {
            $0.count &+= 1
            return $0.count
        }
    }

    /// Copies of held handles for another peer of this process. All or none.
    func give(_ ids: [HandleID], to other: PeerCore) throws(Bus1Error) -> [HandleID] {
        let operation: StaticString = "give handles"
        try requireOpen(operation)
        try other.requireOpen(operation)
        for id in ids { _ = try usableEntry(id) }
        guard other.handles.used + ids.count <= other.limits[.handles] else {
            throw other.tooManyHandles(operation)
        }
        var made: [HandleID] = []
        var grants: [UInt32] = []
        var records: [Int: [ControlRecord]] = [:]
        do throws(Bus1Error) {
            let way = other === self ? try selfLink().0 : try link(to: other)
            for id in ids {
                made.append(try give(id, to: other, way, &grants, &records))
            }
            try laneState.commitRecords(records, until: .after(.seconds(10)))
        } catch {
            for id in made { _ = other.handles.remove(id) }
            for number in grants { endGrant(number) }
            throw error
        }
        return made
    }

    /// One of them; what its owner is to be told is added to `records`.
    private func give(
        _ id: HandleID, to other: PeerCore, _ way: Link, _ grants: inout [UInt32],
        _ records: inout [Int: [ControlRecord]]
    ) throws(Bus1Error) -> HandleID {
        let entry = try usableEntry(id)
        guard let owner = link(at: Int(entry.pointee.link)) else {
            throw noSuchHandleToSend
        }
        let word = entry.pointee.word
        if owner.peer == ownPeer {
            guard let node = ownNode(behind: entry, owner) else {
                throw Bus1Error.nodeReleasedToSend
            }
            let number = try makeGrant(node, to: way, oneShot: false)
            grants.append(number)
            let index = try other.indexOfLink(to: ownPeer)
            return try other.addHandle(at: index, grant: number, word: word)
        }
        guard try laneState.bind(entry) else { throw Bus1Error(.timedOut, "give handles") }
        if owner.peer == other.ownPeer {
            // The other's own node: it makes its handle itself.
            let index = try other.indexOfLink(to: ownPeer)
            let back = other.links[index]
            guard
                let node = other.nodeID(
                    of: entry.pointee.key, named: entry.pointee.grant, by: back)
            else { throw Bus1Error.nodeReleasedToSend }
            return try other.makeOwnHandle(node)
        }
        if other !== self { try introduce(owner.peer, other.ownPeer, byLane: 0) }
        let count = nextHandOver()
        records[Int(entry.pointee.link), default: []].append(
            ControlRecord(
                .handOver, number: count, first: other.ownPeer.rawValue,
                second: entry.pointee.grant))
        return try other.addHandle(
            at: try other.indexOfLink(to: owner.peer), grant: ReservedGrant.unbound, word: word,
            key: GrantKey(granter: ownPeer.rawValue, number: count))
    }

    /// This peer's way to another peer of its process.
    private func link(to other: PeerCore) throws(Bus1Error) -> Link {
        if linkOfPeer[other.ownPeer] == nil {
            try takingRings { () throws(Bus1Error) in
                try connection.introduce(ownPeer, other.ownPeer, until: .after(.seconds(10)))
            }
        }
        // The list may grow while the index is found.
        let index = try indexOfLink(to: other.ownPeer)
        return links[index]
    }

    private func indexOfLink(to peer: PeerID) throws(Bus1Error) -> Int {
        if linkOfPeer[peer] == nil { try readAllEvents() }
        guard let index = linkOfPeer[peer], !links[index].isDead else {
            throw Bus1Error(.nodeReleased, "give handles")
        }
        return index
    }

    private func addHandle(
        at index: Int, grant: UInt32, word: UInt32,
        key: GrantKey = GrantKey(granter: 0, number: 0)
    ) throws(Bus1Error) -> HandleID {
        guard let id = handles.add(links[index].route, grant: grant, word: word, key: key)
        else { throw tooManyHandles("give handles") }
        return id
    }

    /// A right to an own node, for a ticket: under a number that nobody has.
    func setAside(
        _ entry: UnsafeMutablePointer<HandleEntry>, of link: Link,
        _ contents: inout [ControlConnection.TicketContent]
    ) throws(Bus1Error) -> UInt32 {
        guard let node = ownNode(behind: entry, link),
            let number = nodes.withLock({ $0.setAside(node.rawValue) })
        else { throw Bus1Error.nodeReleasedToSend }
        contents.append(.own(node: node.rawValue, number: GrantNumber(rawValue: number)))
        return number
    }
}

extension LaneState {
    /// Tells owners of new holders, at one instant. Waits for room.
    func commitRecords(
        _ records: [Int: [ControlRecord]], until deadline: Deadline
    ) throws(Bus1Error) {
        guard !records.isEmpty else { return }
        reserveBodies(records.values.reduce(0) { $0 + $1.count })
        var count = 0
        var body = 0
        for (index, some) in records.sorted(by: { $0.key < $1.key }) {
            count = addRecords(some, to: try laneProducer(at: index), from: count, &body)
        }
        var attempt: UInt64 = 0
        while true {
            var stamp: UInt64 = 0
            var failed: UInt32 = 0
            let result = shmring_transaction_commit(
                lane, core.clock, legs, UInt32(count), attempt > 4, nil, &stamp, &failed)
            switch result {
            case 0: return
            case Int32(SHMRING_E_ABORTED.rawValue): continue
            case Int32(SHMRING_E_FULL.rawValue): break
            default: throw Bus1Error(result: result, "tell an owner of a new holder")
            }
            guard !deadline.hasPassed else {
                throw Bus1Error(.timedOut, "tell an owner of a new holder")
            }
            attempt += 1
            backOff(attempt, legs[Int(failed)].producer, until: deadline)
        }
    }
}
