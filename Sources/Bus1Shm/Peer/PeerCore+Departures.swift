import CShmRing

// What is kept of a dead peer, and until when: nothing, once no thread can be looking at it.

/// A link whose peer is dead. Its place is not free yet.
struct DepartedLink {
    let link: Link
    /// Handles that led there.
    var ended: [HandleEntry]
    /// Lanes that may be in the middle of using it.
    var inside: [LaneGates.Passage]
}

/// Peers of whom nothing else is known any more: whoever still speaks of them is not wrong. The latest ones.
struct RecentlyGone {
    private static let countMax = 1024
    private var peers: Set<PeerID> = []
    private var order: [PeerID] = []
    private var oldest = 0

    var isEmpty: Bool { peers.isEmpty }

    func contains(_ peer: PeerID) -> Bool { peers.contains(peer) }

    mutating func insert(_ peer: PeerID) {
        if order.count < Self.countMax {
            order.append(peer)
        } else {
            peers.remove(order[oldest])
            order[oldest] = peer
            oldest = (oldest + 1) % Self.countMax
        }
        peers.insert(peer)
    }
}

extension PeerCore {
    /// How many links were taken away in all. Any thread.
    var linksGone: UInt64 {
        // SYNC H18 acquire, pairs with H19: links that were taken away say so.
        shmring_load_acquire(linksGoneWord)
    }

    /// A peer's death has taken its place in the order, and nothing that it sent comes behind that: its part of the ring
    /// ends at once. `ended`: its handles, which nobody who comes now finds.
    func depart(_ link: Link, _ ended: [HandleEntry]) {
        (rings + severed).first { $0.id == link.ownRing }?.remove(link)
        if let ring = ringPlace(of: link) {
            nodes.withLock { $0.forgetNumbers(sender: link.itsIndex, ring: ring) }
        }
        shmring_inbox_unwatch(inbox, SHMRING_WATCH_DEATH, UInt64(link.index))
        // Of handles that ended before, too: they are watched until they are told, and these never are.
        shmring_inbox_unwatch_words(inbox, link.peer.rawValue)
        watched = watched.filter { $0.value != link.peer }
        link.drops = [:]
        linkOfPeer[link.peer] = nil
        recentlyGone.insert(link.peer)
        keptReplies.removeAll(of: link.peer)
        connection.dropQuestion(about: link.peer)
        handOvers.withLock { handOvers in
            handOvers.introduced = handOvers.introduced.filter { !$0.has(link.peer) }
            handOvers.refused = handOvers.refused.filter { !$0.key.has(link.peer) }
        }
        linksToTell.removeAll { $0 === link }
        // What it was to get was handed over before it could die.
        for (key, moved) in moves where moved.holder == link.peer {
            moves[key] = nil
            nodes.withLock { $0.newcomers += 1 }
        }
        departed.append(DepartedLink(link: link, ended: ended, inside: gates.inside()))
        letGo()
    }

    /// There is something that will soon be let go of.
    var willLetGo: Bool {
        gates.canWait && departed.contains { !isNeeded($0.link) }
    }

    /// Lets go of the links of the dead at which no thread looks any more, and of all that names their places. Between two
    /// deliveries.
    func letGo() {
        // Whoever is in the common lane may be looking: later, then.
        common.withLockIfAvailable { common in
            guard let common else { return }
            var rest: [DepartedLink] = []
            for var one in departed {
                one.inside = gates.areStillInside(one.inside)
                // A transaction of releases that came to nothing has brought some back.
                let late = endHandles(of: one.link, at: inbox.pointee.last_stamp)
                if !late.isEmpty {
                    one.ended += late
                    one.inside = gates.inside()
                }
                guard one.inside.isEmpty, !isNeeded(one.link) else {
                    rest.append(one)
                    continue
                }
                take(one.link, awayFrom: common)
                handles.recycle(one.ended)
            }
            departed = rest
        }
    }

    private func take(_ link: Link, awayFrom common: CommonLane) {
        let place = Int(link.index)
        routes[place] = nil
        gates.forget(place: place)
        common.state.producers?[place] = nil
        shared.withLock { lists in
            lists.links[place] = nil
            lists.linkOfPeer[link.peer] = nil
        }
        links.remove(at: place)
        link.setGone()
        common.forget(link)
        // SYNC H19 release, pairs with H18: behind the link's own word.
        shmring_store_release(linksGoneWord, linksGone + 1)
        common.state.tidy()
    }
}

extension PairKey {
    func has(_ peer: PeerID) -> Bool { low == peer || high == peer }
}
