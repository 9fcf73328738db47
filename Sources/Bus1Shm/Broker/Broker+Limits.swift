import CShmRing

/// What an operation needs of several resources, all of it or nothing.
struct Charges: Equatable {
    var rings = 0
    var links = 0
    var bytes = 0

    static func + (a: Charges, b: Charges) -> Charges {
        Charges(rings: a.rings + b.rings, links: a.links + b.links, bytes: a.bytes + b.bytes)
    }

    static func - (a: Charges, b: Charges) -> Charges {
        Charges(rings: a.rings - b.rings, links: a.links - b.links, bytes: a.bytes - b.bytes)
    }
}

/// A question that is answered when there is room.
struct RoomWish {
    let resource: Resource
    let request: UInt32
}

// What users and peers may have of the broker, what they have, and who waits for it.
extension Broker {
    /// One side of an introduction: itself, and its return board.
    static let linkCharge = Charges(links: 1, bytes: MemoryLayout<shmring_board>.size)

    // MARK: Charging

    /// Charges a user for everything at once, or refuses, naming the first that is not there.
    func charge(_ account: Account, _ charges: Charges) throws(Failure) {
        if let refusal = tryCharge(account, charges) { throw .refuse(refusal) }
    }

    private func tryCharge(_ account: Account, _ charges: Charges) -> Bus1Error? {
        let limits = limitsOfUser[account.uid] ?? limits
        let used = chargesOfUser[account.uid, default: Charges()]
        let wanted = used + charges
        if charges.rings > 0, wanted.rings > Int(limits.ringsOfUser) {
            return overQuota(.rings, used: used.rings, limit: Int(limits.ringsOfUser), account)
        }
        if charges.links > 0, wanted.links > Int(limits.linksOfUser) {
            return overQuota(.links, used: used.links, limit: Int(limits.linksOfUser), account)
        }
        let bytesMax = Int(clamping: limits.bytesOfUser)
        if charges.bytes > 0, wanted.bytes > bytesMax {
            return overQuota(.bytes, used: used.bytes, limit: bytesMax, account)
        }
        chargesOfUser[account.uid] = wanted
        return nil
    }

    func giveBack(_ uid: UInt32, _ charges: Charges) {
        let left = chargesOfUser[uid, default: Charges()] - charges
        chargesOfUser[uid] = left == Charges() ? nil : left
    }

    /// Charges both sides of an introduction, or neither.
    func chargeLink(_ a: BrokerPeer, _ b: BrokerPeer) throws(Bus1Error) {
        if let refusal = tryCharge(a.account, Self.linkCharge) { throw refusal }
        guard a !== b, let refusal = tryCharge(b.account, Self.linkCharge) else { return }
        giveBack(a.account.uid, Self.linkCharge)
        throw refusal
    }

    func giveBackLink(_ a: BrokerPeer, _ b: BrokerPeer) {
        giveBack(a.account.uid, Self.linkCharge)
        if a !== b { giveBack(b.account.uid, Self.linkCharge) }
    }

    // MARK: Asking

    /// A peer asks what it, or its user, has and may have; is content with less; or waits for room.
    func limits(_ message: ControlMessage, from peer: BrokerPeer) throws(Failure) {
        let body = try whole(message, LimitsBody.self)
        guard let resource = Resource(rawValue: body.resource), body.used == 0,
            let verb = LimitsBody.Verb(rawValue: body.verb), usage(resource, of: peer) != nil
        else { throw .sever }
        switch verb {
        case .ask: break
        case .set: try setLimit(resource, body.limit, of: peer)
        case .wait:
            waitingForRoom[peer.id] = RoomWish(
                resource: resource, request: message.header.request)
            return
        }
        tellUsage(resource, to: peer, message.header.request)
    }

    /// Answers those who waited and for whom there is room now.
    func grantRoom() {
        for (id, wish) in waitingForRoom {
            guard let peer = peers[id], let usage = usage(wish.resource, of: peer),
                usage.used < usage.limit
            else { continue }
            waitingForRoom[id] = nil
            tellUsage(wish.resource, to: peer, wish.request)
        }
    }

    private func tellUsage(_ resource: Resource, to peer: BrokerPeer, _ request: UInt32) {
        guard let usage = usage(resource, of: peer) else { return }
        let body = LimitsBody(
            resource: resource.rawValue, verb: 0, used: UInt64(clamping: usage.used),
            limit: UInt64(clamping: usage.limit))
        answer(.limits, request, to: peer, body)
    }

    /// nil: not for the broker to say.
    private func usage(_ resource: Resource, of peer: BrokerPeer) -> (used: Int, limit: Int)? {
        let uid = peer.account.uid
        let ofUser = limitsOfUser[uid] ?? limits
        let charged = chargesOfUser[uid, default: Charges()]
        switch resource {
        case .peers: return (peersOfUser[uid, default: 0], Int(ofUser.peers))
        case .links: return (charged.links, Int(ofUser.linksOfUser))
        case .rings: return (peer.rings.count, Int(peer.limits.rings))
        case .names: return (peer.names.count, Int(peer.limits.names))
        case .lookUps: return (peer.lookUps.count, Int(peer.limits.lookUps))
        case .tickets: return (peer.tickets.count, Int(peer.limits.tickets))
        case .nodes, .handles, .messages, .bytes, .descriptors, .lanes: return nil
        }
    }

    /// Any peer of a user may lower what the user has; raise it again no further than the bus allows.
    private func setLimit(
        _ resource: Resource, _ limit: UInt64, of peer: BrokerPeer
    ) throws(Failure) {
        let uid = peer.account.uid
        var ofUser = limitsOfUser[uid] ?? limits
        func set(_ field: inout UInt32, atMost most: UInt32) throws(Failure) {
            guard limit <= most else { throw .refuse(Bus1Error(.denied, "set a limit")) }
            field = UInt32(limit)
        }
        switch resource {
        case .peers: try set(&ofUser.peers, atMost: limits.peers)
        case .links: try set(&ofUser.linksOfUser, atMost: limits.linksOfUser)
        case .rings: try set(&peer.limits.rings, atMost: limits.rings)
        case .names: try set(&peer.limits.names, atMost: limits.names)
        case .lookUps: try set(&peer.limits.lookUps, atMost: limits.lookUps)
        case .tickets: try set(&peer.limits.tickets, atMost: limits.tickets)
        case .nodes, .handles, .messages, .bytes, .descriptors, .lanes: return
        }
        limitsOfUser[uid] = ofUser == limits ? nil : ofUser
        noteLimits(of: uid)
        notePeer(peer)
    }
}
