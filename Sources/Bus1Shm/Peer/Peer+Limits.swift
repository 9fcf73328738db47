import CShmRing

extension Peer {
    /// How much of a resource is in use: by this peer, but of `peers` and `links` by its user.
    ///
    /// - `nodes`, `handles`, `lanes`, `names`, `lookUps`, `tickets`, `rings`: as they are called.
    /// - `messages`: that wait for this peer, in its rings and passed over (``tryReceive(on:)``).
    /// - `bytes`: of slices that are loaned or lent, of the peer's own lane toward the trust domain for which it has most.
    /// - `descriptors`: in messages that were received and not yet given back.
    ///
    /// Asks the broker for those that only it knows: `peers`, `links`, `rings`, `names`, `lookUps`, `tickets`.
    ///
    /// - Throws: `shutDown`, `severed`, `timedOut` when the broker does not answer.
    public func used(_ resource: Resource) throws(Bus1Error) -> Int {
        try core.usage(of: resource).used
    }

    /// How much of a resource may be in use; see ``used(_:)``.
    public func limit(_ resource: Resource) throws(Bus1Error) -> Int {
        try core.usage(of: resource).limit
    }

    /// From now on no more than that much of a resource may be in use. Less than there is now: nothing is taken away, and
    /// new charges fail until use has fallen.
    ///
    /// - Throws: `denied` when it is more than the peer was made with (``Options``), or than the bus allows.
    public func setLimit(_ resource: Resource, _ limit: Int) throws(Bus1Error) {
        try core.setLimit(resource, limit)
    }

    /// Waits until some of a resource may be used that was refused before. Sleeps; does not spin.
    ///
    /// Somebody else may be faster: try again, wait again. What only this thread can give back is waited for in vain:
    /// messages are received, not waited for.
    ///
    /// - Throws: `timedOut`, `shutDown`, `severed`.
    public func room(for resource: Resource, until deadline: Deadline = .never) throws(Bus1Error) {
        try core.waitForRoom(resource, until: deadline)
    }
}

extension PeerCore {
    private var patience: Deadline { .after(.seconds(5)) }

    func usage(of resource: Resource) throws(Bus1Error) -> (used: Int, limit: Int) {
        try requireOpen("ask for limits")
        guard limits.most(of: resource) != nil else {
            return try connection.limits(of: resource, until: patience)
        }
        return (localUse(of: resource), limits[resource])
    }

    /// Of what the peer counts itself.
    private func localUse(of resource: Resource) -> Int {
        switch resource {
        case .nodes: return nodes.withLock { $0.nodes.count }
        case .handles: return handles.used
        case .lanes: return Int(lanesTaken)
        case .messages:
            let waiting = rings.reduce(0) { sum, ring in
                // Relaxed: a number to be told; a hostile sender may write any.
                let tail = shmring_load_relaxed(ring.consumer.pointee.control.pointer(to: \.tail)!)
                let claimed = tail &- ring.consumer.pointee.next
                return sum + Int(min(claimed, ring.consumer.pointee.capacity))
            }
            return waiting + kept.count
        case .bytes:
            return laneState.pools.values.reduce(0) { max($0, Int($1.usage.used_bytes)) }
        case .descriptors: return descriptorsHeld()
        default: return 0
        }
    }

    func setLimit(_ resource: Resource, _ limit: Int) throws(Bus1Error) {
        try requireOpen("set a limit")
        guard let most = limits.most(of: resource) else {
            _ = try connection.limits(of: resource, set: max(0, limit), until: patience)
            return
        }
        guard limit <= most else { throw Bus1Error(.denied, "set a limit") }
        limits[resource] = max(0, limit)
        if resource == .messages { withholdSlots() }
        if resource == .handles || resource == .descriptors { shareCredit() }
        // Raised: who waits may go on.
        shmring_bell_ring(limits.bell)
    }

    /// Lets no more messages wait in each ring than the limit says, one at least.
    func withholdSlots() {
        for ring in rings {
            let consumer = ring.consumer
            let room = consumer.pointee.capacity - consumer.pointee.capacity / 8
            let limit = UInt64(max(1, limits[.messages]))
            let withheld = limit < room ? room - limit : 0
            // Relaxed: a limit that holds from the senders' next reading of head on.
            shmring_store_relaxed(consumer.pointee.control.pointer(to: \.withheld)!, withheld)
            // An eighth of a lap may be more than there is room for.
            consumer.pointee.publish_every = max(
                1, min(consumer.pointee.capacity / 8, limit / 2))
            shmring_consumer_publish_head(consumer, true)
        }
    }

    func waitForRoom(_ resource: Resource, until deadline: Deadline) throws(Bus1Error) {
        try requireOpen("wait for room")
        guard limits.most(of: resource) != nil else {
            _ = try connection.limits(of: resource, waits: true, until: deadline)
            return
        }
        var hasRoom: Bool
        if resource == .bytes {
            // Slices come back from other processes, which ring a bell of their own.
            repeat {
                for pool in laneState.pools.values { pool.collect() }
                hasRoom = localUse(of: resource) < limits[resource]
                guard !hasRoom, !deadline.hasPassed else { break }
                if let pool = laneState.pools.values.max(by: {
                    $0.usage.used_bytes < $1.usage.used_bytes
                }) {
                    _ = shmring_pool_wait(pool.pool, deadline.monotonic_ns)
                }
            } while true
        } else {
            hasRoom = limits.wait(until: deadline) {
                isClosed || localUse(of: resource) < limits[resource]
            }
            try requireOpen("wait for room")
        }
        guard hasRoom else { throw Bus1Error(.timedOut, "wait for room") }
    }

    /// A refusal of something that this peer counts itself.
    func overQuota(_ resource: Resource, _ operation: StaticString) -> Bus1Error {
        Bus1Error(
            .overQuota, operation,
            refusal: .init(
                resource: resource, used: localUse(of: resource), limit: limits[resource],
                account: account))
    }
}
