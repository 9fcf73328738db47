import CShmRing

/// How much this peer may use of each resource that it counts itself, how much it uses of those that nobody else counts,
/// and the bell for those who wait until something is given back.
///
/// NOTE - any thread.
final class Limits: @unchecked Sendable {
    // @unchecked: plain words, each read and written by the ring's own atomic operations.
    private static let count = Int(Resource.links.rawValue) + 1
    private let limits: UnsafeMutablePointer<UInt64>
    private let counts: UnsafeMutablePointer<UInt64>
    let bell: UnsafeMutablePointer<shmring_bell>
    /// What each limit may be raised to.
    private let most: [Resource: Int]

    init(_ options: Peer.Options) {
        limits = .allocate(capacity: Self.count)
        limits.initialize(repeating: .max >> 1, count: Self.count)
        counts = .allocate(capacity: Self.count)
        counts.initialize(repeating: 0, count: Self.count)
        bell = .allocate(capacity: 1)
        bell.initialize(to: shmring_bell())
        most = [
            .nodes: Int(SHMRING_RELEASE_WORDS),
            .handles: max(1, min(options.handlesMax, 1 << Int(HandleTable.indexBits))),
            .messages: max(1024, options.slots),
            .bytes: options.poolBytes,
            .descriptors: 65_536,
            .lanes: options.lanes,
        ]
        for (resource, limit) in most { self[resource] = limit }
    }

    /// What may be used now.
    subscript(resource: Resource) -> Int {
        get { Int(clamping: shmring_load_relaxed(limits + Int(resource.rawValue))) }
        set { shmring_store_relaxed(limits + Int(resource.rawValue), UInt64(newValue)) }
    }

    /// What a limit may be raised to; nil: the broker counts it.
    func most(of resource: Resource) -> Int? { most[resource] }

    /// Of a resource that is counted here.
    func used(_ resource: Resource) -> Int {
        Int(clamping: Int64(bitPattern: shmring_load_relaxed(counts + Int(resource.rawValue))))
    }

    /// Counts some of a resource that is counted here. False: there is not so much left, nothing is counted.
    func charge(_ resource: Resource, _ amount: Int) -> Bool {
        let word = counts + Int(resource.rawValue)
        var used = shmring_load_relaxed(word)
        repeat {
            guard Int(used) + amount <= self[resource] else { return false }
            // SYNC L1 acq_rel, pairs with itself: together never more than the limit.
        } while !shmring_cas_acq_rel(word, &used, used + UInt64(amount))
        return true
    }

    /// Gives back what was charged. Never blocks.
    func giveBack(_ resource: Resource, _ amount: Int) {
        // SYNC L1 acq_rel, as in `charge`.
        _ = shmring_fetch_add_acq_rel(
            counts + Int(resource.rawValue), UInt64(bitPattern: Int64(-amount)))
        shmring_bell_ring(bell)
    }

    /// Sleeps until there is room, as `hasRoom` says. False: the deadline has passed first.
    func wait(until deadline: Deadline, _ hasRoom: () -> Bool) -> Bool {
        while true {
            let announced = shmring_bell_announce(bell)
            if hasRoom() { return true }
            guard !deadline.hasPassed else { return false }
            shmring_bell_sleep(bell, announced, deadline.monotonic_ns)
        }
    }

    deinit {
        limits.deallocate()
        counts.deallocate()
        bell.deallocate()
    }
}
