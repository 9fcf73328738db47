import Glibc

// What the bus has, for who looks at it: all of it for processes of the broker's user and of root, for others what
// concerns their own user. Page by page: what changes in between may be missing or stand there twice.
extension Broker {
    func inspect(_ message: ControlMessage, from asker: BrokerPeer) throws(Failure) {
        let body = try whole(message, InspectBody.self)
        guard asker.version >= controlVersionOfInspection, body.count == 0,
            let subject = InspectBody.Subject(rawValue: body.subject)
        else { throw .sever }
        var page = Page(after: body.cursor)
        switch subject {
        case .bus: page.add(1, theBus(for: asker))
        case .peers:
            page.add(peers.values.filter { isShown($0, to: asker) }, by: { UInt64($0.id.rawValue) })
            {
                inspected($0)
            }
        case .users:
            let known = Set(peersOfUser.keys).union(chargesOfUser.keys)
            // The user 0 comes behind the cursor 0, too.
            page.add(known.filter { isShown(user: $0, to: asker) }, by: { UInt64($0) + 1 }) {
                inspected(user: $0)
            }
        case .names, .rings, .links, .grants:
            guard let id = UInt32(exactly: body.of) else { throw .sever }
            // Nobody, or nobody to be told of: there is nothing.
            if let peer = peers[PeerID(rawValue: id)], isShown(peer, to: asker) {
                addParts(subject, of: peer, to: &page)
            }
        }
        answer(
            .inspect, message.header.request, to: asker,
            InspectBody(
                subject: body.subject, count: page.count, of: body.of,
                cursor: page.isFull ? page.last : 0),
            tail: page.bytes)
    }

    private func addParts(
        _ subject: InspectBody.Subject, of peer: BrokerPeer, to page: inout Page
    ) {
        switch subject {
        case .names:
            let sorted = peer.names.sorted { $0.lexicographicallyPrecedes($1) }
            for (index, name) in sorted.enumerated() {
                guard let publication = names[name] else { continue }
                let record = InspectedName(
                    node: publication.node, access: rule(of: publication.access),
                    nameLength: UInt32(name.count))
                page.add(UInt64(index) + 1, record, tail: name)
            }
        case .rings:
            page.add(Array(peer.rings.values), by: { UInt64($0.id.rawValue) }) { ring in
                InspectedRing(
                    ring: ring.id.rawValue, domain: ring.domain.rawValue, slots: ring.slots,
                    slotBytes: ring.slotBytes, senders: UInt32(ring.senders.count),
                    payer: ring.payer, isAcknowledged: ring.isAcknowledged ? 1 : 0)
            }
        case .links:
            page.add(Array(peer.introduced), by: { UInt64($0.rawValue) }) {
                InspectedLink(peer: $0.rawValue)
            }
        case .grants:
            page.add(
                Array(peer.held),
                by: { UInt64($0.key.owner.rawValue) << 32 | UInt64($0.key.number.rawValue) }
            ) {
                InspectedGrant(
                    owner: $0.key.owner.rawValue, number: $0.key.number.rawValue, node: $0.value)
            }
        case .bus, .peers, .users: break
        }
    }

    // MARK: Who is told of whom

    /// Of the broker's own user, or root, as the kernel vouched.
    private func seesAll(_ asker: BrokerPeer) -> Bool {
        let uid = asker.account.uid
        return uid != overflowUID && (uid == 0 || uid == geteuid())
    }

    private func isShown(_ peer: BrokerPeer, to asker: BrokerPeer) -> Bool {
        seesAll(asker) || peer.process === asker.process
            || isShown(user: peer.account.uid, to: asker)
    }

    /// The overflow user stands for many: what it has is none of theirs.
    private func isShown(user uid: UInt32, to asker: BrokerPeer) -> Bool {
        seesAll(asker) || uid == asker.account.uid && uid != overflowUID
    }

    // MARK: Records

    private func theBus(for asker: BrokerPeer) -> InspectedBus {
        let heirPID = heir?.process.peers.first.flatMap { peers[$0]?.account.pid } ?? 0
        return InspectedBus(
            brokerUID: geteuid(), brokerPID: getpid(), heirPID: heirPID,
            mode: service?.mode == .alone ? 2 : 1, version: controlVersion,
            isWhole: seesAll(asker) ? 1 : 0, connections: UInt32(clamping: connectionCount),
            names: UInt32(clamping: names.count), rings: UInt32(clamping: rings.count),
            deaths: deaths, aborts: aborts)
    }

    /// As `PublishBody.access`.
    private func rule(of access: Access) -> UInt32 {
        switch access {
        case .sameUser: 1
        case .users: 2
        case .anyone: 3
        }
    }

    private func inspected(_ peer: BrokerPeer) -> InspectedPeer {
        let process = peer.process
        return InspectedPeer(
            peer: peer.id.rawValue, uid: peer.account.uid, pid: peer.account.pid,
            phase: peer.phase.rawValue, isolation: peer.isolation.rawValue,
            domain: peer.domain.rawValue, version: peer.version, lanes: peer.lanes,
            rings: UInt32(clamping: peer.rings.count),
            links: UInt32(clamping: peer.introduced.count),
            names: UInt32(clamping: peer.names.count),
            lookUps: UInt32(clamping: peer.lookUps.count),
            tickets: UInt32(clamping: peer.tickets.count),
            grants: UInt32(clamping: peer.held.count), queued: UInt32(clamping: peer.queue.count),
            flags: (heir?.process === process ? 1 : 0) | (process.standBy != nil ? 2 : 0))
    }

    private func inspected(user uid: UInt32) -> InspectedUser {
        let limits = limitsOfUser[uid] ?? limits
        let charged = chargesOfUser[uid, default: Charges()]
        return InspectedUser(
            uid: uid, peers: UInt32(clamping: peersOfUser[uid, default: 0]), peersMax: limits.peers,
            rings: UInt32(clamping: charged.rings), ringsMax: limits.ringsOfUser,
            links: UInt32(clamping: charged.links), linksMax: limits.linksOfUser,
            bytes: UInt64(clamping: charged.bytes), bytesMax: limits.bytesOfUser)
    }

    /// As many records as a message has room for, of those behind a cursor.
    private struct Page {
        private static let room =
            controlMessageBytesMax - MemoryLayout<ControlHeader>.size
            - MemoryLayout<InspectBody>.size

        let after: UInt64
        private(set) var bytes: [UInt8] = []
        private(set) var count: UInt32 = 0
        /// The key of the last record in it.
        private(set) var last: UInt64 = 0
        /// More follow.
        private(set) var isFull = false

        init(after cursor: UInt64) { after = cursor }

        /// Keys come in rising order.
        mutating func add<Record: BitwiseCopyable>(
            _ key: UInt64, _ record: Record, tail: [UInt8] = []
        ) {
            guard key > after, !isFull else { return }
            guard bytes.count + MemoryLayout<Record>.size + tail.count <= Self.room else {
                isFull = true
                return
            }
            withUnsafeBytes(of: record) { bytes.append(contentsOf: $0) }
            bytes += tail
            count += 1
            last = key
        }

        mutating func add<Item, Record: BitwiseCopyable>(
            _ items: [Item], by key: (Item) -> UInt64, _ record: (Item) -> Record
        ) {
            let behind = items.filter { key($0) > after }.sorted { key($0) < key($1) }
            for item in behind where !isFull { add(key(item), record(item)) }
        }
    }
}
