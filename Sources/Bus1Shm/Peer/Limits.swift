import CShmRing

/// How much this peer may use of each resource that it counts itself, and the bell for those who wait until something is given back.
///
/// NOTE - any thread.
final class Limits: @unchecked Sendable {
    // @unchecked: plain words, each read and written by the ring's own atomic operations.
    private static let count = Int(Resource.links.rawValue) + 1
    private let limits: UnsafeMutablePointer<UInt64>
    let bell: UnsafeMutablePointer<shmring_bell>
    /// What each limit may be raised to.
    private let most: [Resource: Int]

    init(_ options: Peer.Options) {
        limits = .allocate(capacity: Self.count)
        limits.initialize(repeating: .max >> 1, count: Self.count)
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
        bell.deallocate()
    }
}
