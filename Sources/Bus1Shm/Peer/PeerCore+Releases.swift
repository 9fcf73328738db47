import CShmRing

// The end of rights, from any thread: handles given up, nodes released.
//
// Lock order: the common lane, then nodes, then what is a few instructions long (links, handles).

extension PeerCore {
    // MARK: The common lane

    /// Uses the common lane. Whoever waits in it, waits with everybody who wants to release something.
    func withCommonLane<R>(_ body: (CommonLane) throws(Bus1Error) -> R) throws(Bus1Error) -> R {
        defer { tellEnded() }
        return try common.withLock { lane throws(Bus1Error) in
            guard let lane else { throw Bus1Error(.shutDown, "use the common lane") }
            return try body(lane)
        }
    }

    // MARK: Handles

    /// Ends a handle; does nothing when it has ended. Never fails, never waits. Any thread.
    func releaseHandle(_ id: HandleID) {
        guard let entry = handles.end(id) else { return }
        giveUp(EndedHandle(entry))
    }

    /// A right that never became a handle, or is none any more.
    func giveUp(_ record: ControlRecord, to link: UnsafeMutablePointer<LinkRoute>) {
        giveUp(EndedHandle(link, record))
    }

    /// Has the node's owner told that this is given up: by this thread, or by the one that is in the common lane now.
    func giveUp(_ handle: EndedHandle) {
        shmring_fault_at(SHMRING_FAULT_RELEASE_ENDED)
        // A forked child holds nothing.
        guard !isClosed, !shmring_forked() else { return }
        let isDone: Void? = common.withLockIfAvailable { lane in lane?.release(handle) }
        if isDone == nil {
            ended.withLock {
                $0.append(handle)
                chores.set(.ended)
            }
        }
        tellEnded()
    }

    private func tellEnded() {
        // SYNC H20 full barrier, pairs with itself in who comes while this thread is in the lane: either that one finds the
        // lane free, or this one, having left it, finds what that one has appended. Without it nobody tells the owner.
        shmring_fence_full()
        guard chores.isThere(.ended) else { return }
        var turns = 0
        while ended.withLock({ !$0.isEmpty }) {
            let isDone: Void? = common.withLockIfAvailable { lane in
                for handle in ended.withLock({ list in
                    defer { list = [] }
                    chores.set(.ended, false)
                    return list
                }) { lane?.release(handle) }
            }
            if isDone == nil {
                // Whoever is in the lane looks once more after leaving it.
                turns += 1
                guard turns < 256 else { return }
                shmring_pause()
            }
        }
    }

    /// Tells owners what they could not be told before. Does nothing most of the time.
    func retryReleases() {
        guard chores.isThere(.releases) else { return }
        // Not now, if another thread is in it: soon again.
        common.withLockIfAvailable { lane in lane?.retry() }
    }

    // MARK: Nodes

    /// Releases a node; does nothing when it has been. Any thread.
    func releaseNode(_ node: NodeID) { _ = try? release([], nodes: [node]) }

    /// Ends handles and nodes at one instant. Any thread.
    ///
    /// - Throws: `noSuchHandle` when one of them is not held, not alive, or stands there twice; `overQuota` when owners
    ///   have not read of thousands of handles given up before. Nothing has happened then.
    @discardableResult
    func release(_ ids: [HandleID], nodes released: [NodeID]) throws(Bus1Error) -> Stamp? {
        try requireOpen("release")
        if ids.isEmpty, released.isEmpty { return nil }
        if ids.isEmpty, released.count == 1, endUnknown(released[0]) { return nil }
        var stamp: UInt64 = 0
        var failed: UInt32 = 0
        while true {
            let result = try attemptReleases(ids, released) { attempt, common in
                attempt.commit(common.state, nil, 0, mayUseReserve: true, &stamp, &failed)
            }
            if result == 0 { return Stamp(rawValue: stamp) }
            guard result == Int32(SHMRING_E_ABORTED.rawValue) else {
                throw Bus1Error(result: result, "release")
            }
        }
    }

    /// Ends handles and nodes by one transaction, or leaves them as they are if that returns anything but 0: with that
    /// result.
    ///
    /// - Throws: as ``release(_:nodes:)``.
    func attemptReleases(
        _ ids: [HandleID], _ released: [NodeID],
        _ commit: (ReleaseAttempt, CommonLane) -> Int32
    ) throws(Bus1Error) -> Int32 {
        try withCommonLane { common throws(Bus1Error) in
            try nodes.withLock { table throws(Bus1Error) in
                let plan = try ReleasePlan(self, common, ids, released, table)
                let result = commit(plan.attempt, common)
                guard result == 0 else {
                    plan.undo()
                    return result
                }
                plan.finish(&table, at: plan.attempt.stamp)
                return 0
            }
        }
    }

    /// A node that nobody else can know of ends without telling anybody.
    private func endUnknown(_ node: NodeID) -> Bool {
        nodes.withLock { table in
            guard let record = table.nodes[node.rawValue], record.state == .alive,
                record.holders == 0, record.pins == 0
            else { return false }
            table.released(node.rawValue, at: 0)
            return true
        }
    }
}

/// The releases of one transaction, from the checks on. Under the locks of the common lane and of the nodes.
struct ReleasePlan {
    let attempt: ReleaseAttempt
    private let core: PeerCore
    private let common: CommonLane
    private let entries: [HandleEntry]
    private let words: [DropWords.Word]
    private let nodes: [NodeID]

    /// Checks everything, and takes the handles out of the table.
    init(
        _ core: PeerCore, _ common: CommonLane, _ ids: [HandleID], _ nodes: [NodeID],
        _ table: NodeTable
    ) throws(Bus1Error) {
        guard Set(nodes).count == nodes.count,
            nodes.allSatisfy({ table.isAlive($0.rawValue) }),
            let entries = core.handles.endAll(ids)
        else { throw Bus1Error(.noSuchHandle, "release") }
        shmring_fault_at(SHMRING_FAULT_RELEASE_ENDED)
        guard let words = common.takeWords(for: entries.map(EndedHandle.init)) else {
            core.handles.restore(entries)
            throw Bus1Error(
                .overQuota, "release",
                refusal: .init(
                    resource: .messages, used: Int(SHMRING_DROP_WORDS),
                    limit: Int(SHMRING_DROP_WORDS), account: core.account))
        }
        self.core = core
        self.common = common
        self.entries = entries
        self.words = words
        self.nodes = nodes
        attempt = ReleaseAttempt(common, drops: words, nodes: nodes, of: table)
    }

    /// As if nothing had been.
    func undo() {
        common.giveBack(words)
        core.handles.restore(entries)
    }

    /// It has happened.
    func finish(_ table: inout NodeTable, at stamp: UInt64) {
        common.told(words)
        core.handles.recycle(entries)
        for node in nodes { table.released(node.rawValue, at: stamp) }
    }
}

extension LaneState {
    /// Messages and releases at one instant. Waits for room outside all locks.
    func commitWithReleases(
        _ transaction: inout Transaction, _ batch: inout Batch
    ) throws(Bus1Error) {
        var attempts: UInt64 = 0
        while true {
            var count = 0
            var stamp: UInt64 = 0
            var failed: UInt32 = 0
            let (handles, nodes) = (transaction.handles, transaction.nodes)
            // On the common lane, messages included: at equal stamps it comes last of this peer's lanes, and so do its
            // notices. On this lane its messages could stand before, and its notices behind, another lane's message.
            let result = try core.attemptReleases(handles, nodes) { attempt, common in
                count = fillLegs(batch, through: common.state)
                return attempt.commit(
                    common.state, legs, count, mayUseReserve: attempts > 4, &stamp, &failed)
            }
            if result == 0 {
                (transaction.handles, transaction.nodes) = ([], [])
                batch.stamp = Stamp(rawValue: stamp)
                return
            }
            if count > 0 {
                try goOn(after: result, failed: Int(failed), &attempts, &batch)
            } else if result != Int32(SHMRING_E_ABORTED.rawValue) {
                throw Bus1Error(result: result, "commit a transaction")
            }
        }
    }
}
