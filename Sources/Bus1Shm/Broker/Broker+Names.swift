import CShmRing

// Names: chosen by owners, found by whoever the access rule lets.
extension Broker {
    func publish(_ message: ControlMessage, from peer: BrokerPeer) throws(Failure) {
        guard let body = message.body(PublishBody.self), message.header.roles.isEmpty,
            body.reserved == 0,
            body.userCount <= controlUsersMax
        else { throw .sever }
        let usersLength = Int(body.userCount) * MemoryLayout<UInt32>.size
        let name = try name(
            in: message, after: PublishBody.self, from: usersLength, length: body.nameLength)
        let access: Access
        switch body.access {
        case 1 where body.userCount == 0: access = .sameUser
        case 3 where body.userCount == 0: access = .anyone
        case 2:
            access = .users(
                (0..<Int(body.userCount)).map { index in
                    message.tailValue(
                        after: PublishBody.self, UInt32.self, at: index * MemoryLayout<UInt32>.size)!
                })
        default: throw .sever
        }
        guard names[name] == nil else { throw .refuse(Bus1Error(.nameTaken, "publish a node")) }
        guard peer.names.count < Int(peer.limits.names) || shmring_unchecked_names() else {
            throw .refuse(
                overQuota(
                    .names, used: peer.names.count, limit: Int(peer.limits.names), peer.account))
        }
        _ = try ensureRing(of: peer, for: peer)
        let publication = Publication(owner: peer.id, node: body.node, access: access)
        names[name] = publication
        peer.names.insert(name)
        noteName(name, publication)
        shmring_fault_at(SHMRING_FAULT_BROKER_PUBLISHED)
        answer(message, from: peer, EmptyBody())
        for waiting in waiting.removeValue(forKey: name) ?? [] {
            guard let asker = peers[waiting.peer] else { continue }
            give(publication, to: asker, request: waiting.request, name: name)
        }
    }

    func unpublish(_ message: ControlMessage, from peer: BrokerPeer) throws(Failure) {
        guard let body = message.body(NameBody.self), message.header.roles.isEmpty else {
            throw .sever
        }
        let name = try name(in: message, after: NameBody.self, from: 0, length: body.nameLength)
        guard peer.names.remove(name) != nil else {
            throw .refuse(Bus1Error(.noSuchName, "take a name back"))
        }
        names[name] = nil
        noteNameGone(name)
        answer(message, from: peer, EmptyBody())
    }

    func lookUp(_ message: ControlMessage, from peer: BrokerPeer) throws(Failure) {
        guard let body = message.body(NameBody.self), message.header.roles.isEmpty, body.wait <= 1,
            peer.lookUps[message.header.request] == nil
        else { throw .sever }
        let name = try name(in: message, after: NameBody.self, from: 0, length: body.nameLength)
        let request = message.header.request
        guard peer.lookUps.count < Int(peer.limits.lookUps) else {
            throw .refuse(
                overQuota(
                    .lookUps, used: peer.lookUps.count, limit: Int(peer.limits.lookUps),
                    peer.account))
        }
        if let publication = names[name] {
            peer.lookUps[request] = name
            give(publication, to: peer, request: request, name: name)
        } else if body.wait == 1 {
            peer.lookUps[request] = name
            waiting[name, default: []].append(Waiting(peer: peer.id, request: request))
        } else {
            throw .refuse(Bus1Error(.noSuchName, "look a name up"))
        }
    }

    /// A look-up that is not wanted any more is answered, unless its answer is on the way already.
    func cancel(_ message: ControlMessage, from peer: BrokerPeer) throws(Failure) {
        let body = try whole(message, CancelBody.self)
        if let name = peer.lookUps.removeValue(forKey: body.request) {
            stopWaiting(Waiting(peer: peer.id, request: body.request), for: name)
            refuse(.lookUp, body.request, to: peer, Bus1Error(.cancelled, "look a name up"))
        }
        answer(message, from: peer, EmptyBody())
    }

    func stopWaiting(_ asker: Waiting, for name: [UInt8]) {
        guard var askers = waiting[name] else { return }
        askers.removeAll { $0 == asker }
        waiting[name] = askers.isEmpty ? nil : askers
    }

    /// Answers a look-up: checks the rule, introduces, tells the owner of its new holder, then the
    /// holder of its right.
    private func give(
        _ publication: Publication, to asker: BrokerPeer, request: UInt32, name: [UInt8]
    ) {
        func refuse(_ error: Bus1Error) {
            asker.lookUps[request] = nil
            self.refuse(.lookUp, request, to: asker, error)
        }
        guard let owner = peers[publication.owner] else {
            return refuse(Bus1Error(.nodeReleased, "look a name up"))
        }
        guard mayLookUp(publication, owner: owner, asker: asker) else {
            return refuse(Bus1Error(.denied, "look a name up"))
        }
        introduce(asker, owner) { [self] error in
            // Cancelled meanwhile, and answered so.
            guard asker.lookUps[request] != nil else { return }
            if let error { return refuse(error) }
            guard let number = addHolder(asker, of: publication.node, owner: owner) else {
                return refuse(
                    overQuota(.handles, used: Int(Int32.max), limit: Int(Int32.max), owner.account))
            }
            asker.lookUps[request] = nil
            answer(
                .lookUp, request, to: asker, GrantedBody(number, of: owner, node: publication.node))
        }
    }

    private func mayLookUp(_ publication: Publication, owner: BrokerPeer, asker: BrokerPeer) -> Bool
    {
        // The overflow user stands for many, so that having that number in common says nothing.
        let isSameUser = asker.account.uid == owner.account.uid && asker.account.uid != overflowUID
        switch publication.access {
        case .sameUser: return isSameUser || asker.process === owner.process
        case .users(let users):
            return isSameUser
                || asker.account.uid != overflowUID && users.contains(asker.account.uid)
        case .anyone: return true
        }
    }

    /// A name that fills the rest of the message, of 1 to 255 bytes of UTF-8.
    private func name<Body: BitwiseCopyable>(
        in message: ControlMessage, after body: Body.Type, from offset: Int, length: UInt32
    ) throws(Failure) -> [UInt8] {
        let tail = message.tail(after: body)
        guard (1...UInt32(controlNameBytesMax)).contains(length), tail.count == offset + Int(length)
        else { throw .sever }
        let name = Array(tail.dropFirst(offset))
        guard String(validating: name, as: UTF8.self) != nil else { throw .sever }
        return name
    }
}

extension GrantedBody {
    init(_ number: GrantNumber, of owner: BrokerPeer, node: UInt64, ordinal: UInt32 = .max) {
        self.init(
            owner: owner.id.rawValue, number: number.rawValue, ownerUID: owner.account.uid,
            ownerPID: owner.account.pid, ordinal: ordinal, failure: 0,
            word: NodeID(rawValue: node).word)
    }
}
