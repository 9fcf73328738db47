import CShmRing

// What has a place in the order besides messages: nodes of others that are released, rights that others gave up by a
// word, deaths. The inbox watches their words and says when their turn has come.

extension PeerCore {
    /// Makes the inbox ask for what is to be watched.
    func beginToWatch() {
        inbox.pointee.collect_context = Unmanaged.passUnretained(self).toOpaque()
        inbox.pointee.collect = { _, ring, flags, context in
            let core = Unmanaged<PeerCore>.fromOpaque(context!).takeUnretainedValue()
            return ring == .max ? core.collectDeaths() : core.collect(ring: Int(ring), flags)
        }
    }

    // MARK: What to watch

    /// A look has taken a ring's flags. 0, or why it failed.
    private func collect(ring: Int, _ flags: UInt64) -> Int32 {
        guard ring < rings.count else { return 0 }
        for link in rings[ring].senders {
            guard let link else { continue }
            if flags & RingFlag.releases != 0 {
                let result = collectReleases(of: link)
                guard result == 0 else { return result }
            }
            if flags & RingFlag.drops != 0 {
                let result = collectDrops(of: link)
                guard result == 0 else { return result }
            }
        }
        return 0
    }

    private func collectReleases(of link: Link) -> Int32 {
        // SYNC H8 acquire, pairs with N6: a counter that is seen changed is later than the words that refer.
        let count = shmring_load_acquire(
            UnsafeMutablePointer(mutating: link.outbox).pointer(to: \.releases)!)
        guard count != link.releasesSeen else { return 0 }
        var result: Int32 = 0
        handles.forEach(ofLink: link.index) { entry in
            if result == 0 { result = watchIfReleased(entry, link) }
        }
        // Not before all are watched: the look that failed asks again.
        if result == 0 { link.releasesSeen = count }
        return result
    }

    /// A handle that was received: its node may have been released before anybody could tell this peer. Only the
    /// receiving thread, between two deliveries.
    func watchIfReleased(_ id: HandleID) {
        guard let entry = handles.entry(id), let link = link(of: entry) else {
            return
        }
        _ = watchIfReleased(entry, link)
    }

    /// The same, of a handle with this release word: mostly that says nothing.
    @inline(__always)
    func watchIfReleased(_ id: HandleID, word: UnsafePointer<UInt64>) {
        // Relaxed, as below.
        if shmring_load_relaxed(word) != 0 { watchIfReleased(id) }
    }

    private func watchIfReleased(_ entry: UnsafeMutablePointer<HandleEntry>, _ link: Link) -> Int32
    {
        // Relaxed: the inbox reads it again; what was pending before the flag or the message is seen.
        guard shmring_load_relaxed(entry.pointee.released) != 0,
            watched.updateValue(link.peer, forKey: entry.pointee.id) == nil
        else { return 0 }
        let result = shmring_inbox_watch(
            inbox, SHMRING_WATCH_RELEASE, entry.pointee.released, link.commitWords,
            link.commitWordCount, link.peer.rawValue, 0, entry.pointee.id)
        if result != 0 { watched[entry.pointee.id] = nil }
        return result
    }

    private func collectDrops(of link: Link) -> Int32 {
        // SYNC H9 acquire, pairs with H4: no word beyond the count is looked at, and what is counted names its grant.
        let count = shmring_load_acquire(
            UnsafeMutablePointer(mutating: link.outbox).pointer(to: \.drops)!)
        for index in 0..<Int(min(count, UInt64(SHMRING_DROP_WORDS))) {
            let place = UnsafeMutablePointer(mutating: link.dropWord(index))
            // SYNC H12 acquire, pairs with N4: what it names was written before it referred or ended.
            let word = shmring_load_acquire(place.pointer(to: \.word)!)
            // Relaxed: whose it is, which is asked again when its turn comes.
            let what = shmring_load_relaxed(place.pointer(to: \.what)!)
            guard word != 0, what >> 32 == UInt64(ownPeer.rawValue),
                link.drops[index]?.isDone(word) != false
            else { continue }
            let result = shmring_inbox_watch(
                inbox, SHMRING_WATCH_DROP, place.pointer(to: \.word)!, link.commitWords,
                link.commitWordCount, link.peer.rawValue, 0,
                UInt64(link.index) << 32 | UInt64(index))
            guard result == 0 else { return result }
            link.drops[index] = Link.Drop(seen: word)
        }
        return 0
    }

    /// The death word has changed, or the broker told of a death. 0, or why it failed.
    func collectDeaths() -> Int32 {
        let word = UnsafeMutablePointer(mutating: inbox.pointee.death!)
        let page = busPage
        // SYNC H13 acquire, pairs with B5, B6 and B8: the peer's number belongs to the word if that is the same before
        // and after.
        var value = shmring_load_acquire(word)
        var dead = shmring_load_acquire(page.pointer(to: \.dead_peer)!)
        while true {
            let again = shmring_load_acquire(word)
            if again == value { break }
            value = again
            dead = shmring_load_acquire(page.pointer(to: \.dead_peer)!)
        }
        // A pending word whose broker is gone is never committed as far as this peer can know: that death is not
        // told, and nobody waits for it. Whoever follows the broker settles the word for those who come later.
        let isPending = Int64(bitPattern: value) < 0 && !connection.hasEnded
        if isPending, let index = linkOfPeer[PeerID(rawValue: UInt32(truncatingIfNeeded: dead))],
            !links[index].isDead
        {
            pendingDeath = UInt64(index)
            let result = shmring_inbox_watch(
                inbox, SHMRING_WATCH_DEATH, word, links[index].dead, 0, links[index].peer.rawValue,
                value, UInt64(index))
            guard result == 0 else { return result }
        }
        // Committed, and perhaps not copied to the dead one's outbox yet: the name belongs to this stamp.
        let named =
            value != 0 && value >> 62 == 0
            ? linkOfPeer[PeerID(rawValue: UInt32(truncatingIfNeeded: dead))] : nil
        for link in links where !link.isDead && !link.isDeathWatched {
            // SYNC H5 acquire, as in isStillThere.
            var stamp = shmring_load_acquire(UnsafeMutablePointer(mutating: link.dead))
            if stamp == 0, let named, link.index == named { stamp = value }
            guard stamp != 0 else { continue }
            link.isDeathWatched = true
            let result = shmring_inbox_watch(
                inbox, SHMRING_WATCH_DEATH, nil, nil, 0, link.peer.rawValue, stamp,
                UInt64(link.index))
            guard result == 0 else {
                link.isDeathWatched = false
                return result
            }
        }
        return 0
    }

    /// The broker is gone in the middle of a death: see `collectDeaths`.
    func forgetPendingDeath() {
        guard let pending = pendingDeath else { return }
        try? readEvents()
        guard connection.hasEnded else { return }
        pendingDeath = nil
        if !links[Int(pending)].isDeathWatched {
            shmring_inbox_unwatch(inbox, SHMRING_WATCH_DEATH, pending)
        }
    }

    // MARK: What has taken its place

    /// Something watched is next in the order.
    func take(watched kind: UInt32, _ cookie: UInt64, _ message: UnsafePointer<shmring_message>) {
        let stamp = message.pointee.stamp
        switch kind {
        case SHMRING_WATCH_RELEASE.rawValue:
            watched[cookie] = nil
            let id = HandleID(rawValue: cookie)
            guard let entry = handles.end(id) else { break }
            notices.append(QueuedNotice(.nodeReleased(id), stamp))
            // The owner learns that this holder has read its word.
            giveUp(EndedHandle(entry))
        case SHMRING_WATCH_DROP.rawValue:
            applyDrop(Int(cookie >> 32), Int(cookie & UInt64(UInt32.max)), at: stamp)
        case SHMRING_WATCH_DEATH.rawValue:
            applyDeath(Int(cookie), at: stamp)
        default: break
        }
    }

    private func applyDrop(_ linkIndex: Int, _ index: Int, at stamp: UInt64) {
        // Of a peer that is dead and gone: its words were not watched to the end.
        guard let link = link(at: linkIndex), link.drops[index] != nil else { return }
        let place = UnsafeMutablePointer(mutating: link.dropWord(index))
        // Relaxed: only to know it again.
        let word = shmring_load_relaxed(place.pointer(to: \.word)!)
        guard let record = dropRecord(place, index, of: link, at: stamp) else {
            if word >> 62 == 0, word > shmring_clock_now(clock) {
                // Of the future, which no honest owner's is: nothing ends by it.
                refused += 1
                link.drops[index] = Link.Drop(seen: word, done: stamp)
                return
            }
            // Watched for an attempt that was aborted, and taken for something else since, perhaps for this peer again:
            // its flag may have come while the former was watched.
            link.drops[index] = nil
            if collectDrops(of: link) != 0, let ring = ringPlace(of: link) {
                // No memory for it: with the next look.
                shmring_consumer_flag(rings[Int(ring)].consumer, RingFlag.drops)
            }
            return
        }
        // By then it may refer to another attempt than when it was first seen.
        link.drops[index] = Link.Drop(seen: word, done: stamp)
        if let ring = ringPlace(of: link) {
            applyControl(record, from: link.route, ring: ring, stamp: stamp)
        }
        link.dropsDone += 1
        // SYNC H11 release, pairs with H10 in DropWords.takeBack: behind the reading of the word.
        shmring_store_release(link.boardIn.pointer(to: \.drops_seen)!, link.dropsDone)
    }

    /// What a drop word says that ended at this stamp. nil: it is not that transaction's any more, so that it never was
    /// one of this peer's, whose words stay until they are counted.
    private func dropRecord(
        _ place: UnsafeMutablePointer<shmring_drop>, _ index: Int, of link: Link, at stamp: UInt64
    ) -> ControlRecord? {
        // SYNC H15 acquire, pairs with H14 in DropWords.take: if the word is still the same behind this, then this is what
        // it speaks of.
        let what = shmring_load_acquire(place.pointer(to: \.what)!)
        let which = UInt32(truncatingIfNeeded: what)
        var key: UInt64 = 0
        if which == ReservedGrant.unbound, index + 1 < Int(SHMRING_DROP_WORDS) {
            key = shmring_load_acquire((place + 1).pointer(to: \.what)!)
        }
        var ended: UInt64 = 0
        let result = shmring_word_state(
            place.pointer(to: \.word)!, link.commitWords, link.commitWordCount, &ended)
        guard result == 0, ended == stamp, what >> 32 == UInt64(ownPeer.rawValue) else {
            return nil
        }
        return which == ReservedGrant.unbound
            ? ControlRecord(
                .releaseUnbound, number: 0, first: UInt32(truncatingIfNeeded: key >> 32),
                second: UInt32(truncatingIfNeeded: key))
            : ControlRecord(.release, number: which)
    }

    /// A peer's death: its handles to our nodes are gone, and its nodes are released, all at one instant.
    private func applyDeath(_ index: Int, at stamp: UInt64) {
        guard let link = link(at: index), !link.isDead else { return }
        // What the broker said before it is older.
        try? readEvents()
        guard !link.isDead else { return }
        link.isDead = true
        if pendingDeath == UInt64(index) { pendingDeath = nil }
        let ended = endHandles(of: link, at: stamp)
        endDescriptors(of: link)
        link.segmentCharges = [:]
        link.endView()
        buryCredit(of: link)
        let told = nodes.withLock { $0.removeHolder(link: link.index, at: stamp) }
        notices += told
        forgetMoves(by: link.peer)
        laneState.forget(link)
        depart(link, ended)
    }

    /// All handles of a dead peer's nodes; their entries as they were.
    func endHandles(of link: Link, at stamp: UInt64) -> [HandleEntry] {
        let ended = handles.remove(link: Int(link.index))
        for entry in ended {
            if watched.removeValue(forKey: entry.id) != nil {
                shmring_inbox_unwatch(inbox, SHMRING_WATCH_RELEASE, entry.id)
            }
            notices.append(QueuedNotice(.nodeReleased(HandleID(rawValue: entry.id)), stamp))
        }
        return ended
    }
}
