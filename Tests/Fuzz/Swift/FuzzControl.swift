// Packets of the control protocol: what a peer makes of the broker's, and the broker of its peers'.

#if DEBUG
    import CBus1System
    import CShmRing
    import Glibc

    @testable import Bus1Shm

    /// A packet as far honest as the script wants it to be.
    private func packet(_ script: inout Script) -> [UInt8] {
        let how = script.byte()
        var body = script.take(Int(script.byte()))
        let roles = how & 1 != 0 ? UInt32(script.byte()) : 0
        var header = ControlHeader(
            kind: UInt32(script.byte() % 48), request: UInt32(how >> 4), status: 0,
            byteCount: UInt32(24 + body.count), roles: ControlRoles(rawValue: roles))
        if how & 2 != 0 { header.status = UInt32(truncatingIfNeeded: script.word()) }
        if how & 4 != 0 { header.byteCount = UInt32(truncatingIfNeeded: script.word(near: 24)) }
        if how & 8 != 0 { body = Array(body.dropLast(Int(script.byte()))) }
        return bytes(of: header) + body
    }

    /// What an honest peer might ask, but for its numbers.
    private func question(_ script: inout Script) -> [UInt8] {
        let kinds: [ControlKind] = [
            .publish, .unpublish, .lookUp, .cancel, .grant, .ticket, .ticketCancel, .ownRing,
            .ringAcknowledged, .linkSocket, .ringEvent, .bury, .abortAsk, .goodbye, .introduce,
            .limits, .flagHolders, .inspect,
        ]
        let which = script.byte()
        let kind = kinds[Int(which >> 3) % kinds.count]
        let small = { (script: inout Script) in UInt32(script.byte() % 8) }
        var body: [UInt8] = []
        var roles: ControlRoles = []
        switch kind {
        case .publish:
            body = bytes(
                of: PublishBody(
                    node: UInt64(small(&script)), access: small(&script), userCount: 0,
                    nameLength: 1))
            body.append(97 + script.byte() % 3)
        case .unpublish, .lookUp:
            body = bytes(of: NameBody(nameLength: 1, wait: UInt32(which & 1)))
            body.append(97 + script.byte() % 3)
        case .cancel: body = bytes(of: CancelBody(request: small(&script)))
        case .grant:
            body = bytes(
                of: GrantBody(
                    node: UInt64(small(&script)),
                    number: UInt32(truncatingIfNeeded: script.word(near: 1 << 31)),
                    holder: small(&script)))
        case .ticket:
            body = bytes(of: TicketBody(count: 1))
            body += bytes(
                of: TicketItem(
                    node: UInt64(small(&script)), owner: small(&script),
                    number: UInt32(truncatingIfNeeded: script.word(near: 1 << 31))))
        case .ticketCancel: body = [UInt8](repeating: script.byte(), count: 16)
        case .ringAcknowledged: body = bytes(of: RingBody(ring: small(&script)))
        case .linkSocket: body = bytes(of: PeerBody(peer: small(&script)))
        case .ringEvent:
            body = bytes(of: RingBody(ring: small(&script)))
            roles = .event
        case .bury:
            body = bytes(of: BuryBody(ring: small(&script), position: script.word(near: 64)))
        case .abortAsk:
            body = bytes(
                of: AbortAskBody(
                    peer: small(&script), commitIndex: UInt32(truncatingIfNeeded: script.word()),
                    generation: small(&script)))
        case .introduce:
            body = bytes(of: PairBody(first: small(&script), second: small(&script)))
        case .limits:
            body = bytes(
                of: LimitsBody(
                    resource: small(&script) + UInt32(script.byte() % 16), verb: small(&script),
                    limit: script.word()))
        case .inspect:
            body = bytes(
                of: InspectBody(
                    subject: small(&script), count: UInt32(which >> 7),
                    of: UInt64(small(&script)), cursor: UInt64(small(&script))))
        case .flagHolders: body = bytes(of: FlagHoldersBody(number: small(&script)))
        default: break
        }
        let header = ControlHeader(
            kind: kind.rawValue, request: UInt32(which & 7) + 1, status: 0,
            byteCount: UInt32(24 + body.count), roles: roles)
        return bytes(of: header) + body
    }

    private func descriptors(_ packet: [UInt8], _ script: inout Script) -> [Int32] {
        guard packet.count >= 20 else { return [] }
        let roles = packet[16]
        return (0..<roles.nonzeroBitCount).map { _ in Sample.descriptor(script.byte()) }
    }

    /// The broker's packets at a peer: decoded, and what they bring mapped.
    @Sendable func fuzzControl(_ script: inout Script) throws {
        for _ in 0..<16 where !script.isOver {
            let raw = packet(&script)
            let message = {
                ControlMessage(received: raw, descriptors: descriptors(raw, &$0))
            }
            if let one = message(&script) { _ = Welcome(one) }
            if let one = message(&script) { _ = Bus1Error(refusal: one, "fuzz") }
            if let one = message(&script) {
                _ = one.wholeBody(GrantedBody.self).map(Grant.init)
                _ = one.tailValue(after: NameBody.self, UInt64.self, at: Int(script.byte()))
            }
            guard let one = message(&script), let event = ControlEvent(one) else { continue }
            try? use(event)
        }
    }

    private func use(_ event: consuming ControlEvent) throws(Bus1Error) {
        switch consume event {
        case .ringAdded(let offer): _ = try OwnRing(offer, isForeign: true, nil)
        case .introduced(let introduction):
            let outbox = UnsafeMutablePointer<shmring_outbox>.allocate(capacity: 1)
            let claim = UnsafeMutablePointer<UInt64>.allocate(capacity: 1)
            claim.initialize(to: 0)
            defer {
                outbox.deallocate()
                claim.deallocate()
            }
            _ = try Link(introduction, ownOutbox: outbox, selfRing: nil, claimWord: claim)
        default: break
        }
    }

    /// Three peers at a broker, all of them one process's; whatever they say, its answers are well-formed.
    @Sendable func fuzzBroker(_ script: inout Script) throws {
        let nothing = { SharedDescriptor(Descriptor(owning: Sample.descriptor(0))) }
        let broker = try Broker()
        broker.serve(
            try Broker.Service(
                listener: nothing(), stopEvent: nothing(), mode: .alone,
                place: Broker.Place(
                    lock: nothing(), directory: nothing(), name: "fuzz", isSocketGiven: false)))
        var ends: [Int32] = []
        defer { for end in ends { close(end) } }
        for _ in 0..<3 {
            var pair: [Int32] = [-1, -1]
            guard bus1_sys_socket_pair(&pair) == 0 else { return }
            ends.append(pair[1])
            broker.connected(SharedDescriptor(Descriptor(owning: pair[0])))
        }
        let first = script.byte()
        for index in 0..<3 where first >> UInt8(index) & 1 == 0 {
            join(broker, index, isolation: first >> 4 & 1)
        }
        for _ in 0..<24 where !script.isOver {
            step(broker, &script)
            for end in ends { drain(end) }
        }
    }

    private func deliver(_ broker: Broker, _ index: Int, _ message: ControlMessage?) {
        guard let peer = broker.peers[PeerID(rawValue: UInt32(index + 1))], peer.socket != nil
        else { return }
        // As Broker.received does.
        guard let message else { return broker.sever(peer, .severed) }
        do {
            try broker.handle(message, from: peer)
        } catch {
            switch error {
            case .refuse(let why): broker.refuse(message, from: peer, why)
            case .sever: broker.sever(peer, .severed)
            }
        }
    }

    private func join(_ broker: Broker, _ index: Int, isolation: UInt8) {
        let hello = HelloBody(
            versionMin: controlVersionMin, version: controlVersion,
            layoutMin: SHMRING_LAYOUT_VERSION_MIN, layout: SHMRING_LAYOUT_VERSION, lanes: 1,
            slots: 64, slotBytes: 64, isolation: UInt32(isolation) + 1, ticket: .none)
        let greeting = ControlMessage(.hello, request: 1, hello).bytes
        deliver(broker, index, ControlMessage(received: greeting, descriptors: []))
        let mapped = ControlMessage(.mapped, request: 2, EmptyBody()).bytes
        deliver(broker, index, ControlMessage(received: mapped, descriptors: []))
    }

    private func step(_ broker: Broker, _ script: inout Script) {
        let what = script.byte()
        let index = Int(what >> 4) % 3
        guard let peer = broker.peers[PeerID(rawValue: UInt32(index + 1))] else { return }
        switch what & 15 {
        case 0: broker.hungUp(peer)
        case 1 where what >> 6 == 3: broker.processEnded(1)
        case 2:
            broker.judgeStalls()
            broker.flush(peer)
        default:
            let raw = what & 8 != 0 ? packet(&script) : question(&script)
            deliver(
                broker, index,
                ControlMessage(received: raw, descriptors: descriptors(raw, &script)))
        }
    }

    /// What the broker says is what a peer understands.
    private func drain(_ end: Int32) {
        while true {
            var fds = [Int32](repeating: -1, count: controlDescriptorsMax)
            var count: Int32 = 0
            var received = 0
            let raw = [UInt8](unsafeUninitializedCapacity: controlMessageBytesMax) { buffer, used in
                received = bus1_sys_socket_receive(
                    end, buffer.baseAddress, buffer.count, &fds, &count)
                used = max(0, received)
            }
            guard received > 0 else { return }
            guard
                let message = ControlMessage(
                    received: raw, descriptors: Array(fds.prefix(Int(count))))
            else { fatalError("the broker said something malformed") }
            if message.kind.isUnasked, message.kind != .severed, ControlEvent(message) == nil {
                fatalError("the broker told a peer something malformed")
            }
        }
    }
#endif
