// Release builds have no testable modules; the tests run in debug builds.
#if DEBUG
    import CBus1System
    import CShmRing
    import Glibc

    @testable import Bus1Shm

    /// A peer as the broker sees one: its connection and its words, without a data path.
    final class TestPeer {
        let connection: ControlConnection
        let id: PeerID
        let domain: DomainID
        let account: Account
        let broker: Account
        let lanes: UInt32
        let grantsOfTicket: Int
        private(set) var claims = shmring_mapping()
        private(set) var outbox = shmring_mapping()
        private(set) var busPage = shmring_mapping()

        init(
            _ bus: Bus, _ options: ControlOptions = .init(),
            until deadline: Deadline = .after(.seconds(20))
        ) throws {
            connection = try ControlConnection.open(bus, options, until: deadline)
            let welcome = connection.takeWelcome()
            id = welcome.peer
            domain = welcome.domain
            account = welcome.account
            broker = welcome.broker
            lanes = welcome.lanes
            grantsOfTicket = welcome.grantsOfTicket
            claims = try Self.map(welcome.claims, SHMRING_SEGMENT_CLAIMS, SHMRING_READ_WRITE)
            outbox = try Self.map(welcome.outbox, SHMRING_SEGMENT_OUTBOX, SHMRING_READ_WRITE)
            busPage = try Self.map(welcome.busPage, SHMRING_SEGMENT_BUS, SHMRING_READ_ONLY)
            try connection.confirmMapped(until: deadline)
        }

        deinit {
            shmring_segment_unmap(&claims)
            shmring_segment_unmap(&outbox)
            shmring_segment_unmap(&busPage)
        }

        static func map(
            _ descriptor: borrowing Descriptor, _ kind: shmring_segment_kind,
            _ access: shmring_access,
            sealed: Bool = false
        ) throws -> shmring_mapping {
            var mapping = shmring_mapping()
            let result = shmring_segment_map(
                descriptor.rawValue, kind, access, 0, sealed, false, nil, nil, &mapping)
            guard result == 0 else { throw Bus1Error(result: result, "map a segment") }
            return mapping
        }

        /// What the broker counts up when it has said something unasked.
        var attention: UInt32 {
            withUnsafeMutablePointer(
                to: &outbox.base.assumingMemoryBound(to: shmring_outbox.self).pointee.attention
            ) { shmring_load_acquire_u32($0) }
        }

        /// Waits until the broker has said something unasked, and takes it.
        func event(until deadline: Deadline = .after(.seconds(20))) throws -> ControlEvent {
            while true {
                if let event = try connection.nextEvent() { return event }
                guard !deadline.hasPassed else { throw Bus1Error(.timedOut, "wait for an event") }
                _ = bus1_sys_wait_readable(connection.descriptor, deadline.pollTimeout_ms)
            }
        }

        /// Takes events until the one that is asked for.
        func introduction(to peer: PeerID? = nil) throws -> Introduction {
            while true {
                if case .introduced(let introduction) = try event() {
                    if peer == nil || introduction.peer == peer { return introduction }
                }
            }
        }

        func holderAdded() throws -> HolderAdded {
            while true { if case .holderAdded(let added) = try event() { return added } }
        }

        func granted() throws -> TicketGrant {
            while true { if case .granted(let grant) = try event() { return grant } }
        }

        func died() throws -> PeerID {
            while true { if case .peerDied(let peer) = try event() { return peer } }
        }

        func setClaim(word index: Int, count: UInt32, ring: RingID, position: UInt64) {
            let words = claims.base.assumingMemoryBound(to: UInt8.self) + Int(SHMRING_CLAIMS_OFFSET)
            let word = UInt64(count) << 52 | UInt64(ring.rawValue) << 32 | position & 0xffff_ffff
            words.withMemoryRebound(to: UInt64.self, capacity: index + 1) {
                shmring_store_release($0 + index, word)
            }
        }

        func setCommit(word index: Int, to value: UInt64) {
            withCommits { shmring_store_release($0 + index, value) }
        }

        func commit(word index: Int) -> UInt64 { withCommits { shmring_load_acquire($0 + index) } }

        private func withCommits<R>(_ body: (UnsafeMutablePointer<UInt64>) -> R) -> R {
            body(
                (outbox.base + MemoryLayout<shmring_outbox>.size).assumingMemoryBound(
                    to: UInt64.self))
        }
    }
#endif
