// What an heir reads of its broker: packets of the journal, and the tables that it keeps by them.

#if DEBUG
    import CBus1System
    import CShmRing
    import Glibc

    @testable import Bus1Shm

    /// A broker's, with its clock.
    private let busPage = (try? Broker())?.busPageDescriptor

    /// Numbers that meet each other, some of them wild.
    private func number(_ script: inout Script) -> UInt32 {
        let how = script.byte()
        return how < 200 ? UInt32(how % 4) : UInt32(truncatingIfNeeded: script.word())
    }

    private func long(_ script: inout Script) -> UInt64 {
        let how = script.byte()
        return how < 200 ? UInt64(how % 4) : script.word()
    }

    /// Kinds of samples, in the order of `Sample`: nothing special, ring, outbox, board, bus page, claims.
    private func descriptor(_ which: UInt8, _ script: inout Script) -> SharedDescriptor {
        let chosen = script.byte()
        return SharedDescriptor(
            Descriptor(owning: Sample.descriptor(chosen < 220 ? which : chosen)))
    }

    private func limits(_ script: inout Script) -> BusLimits {
        var limits = BusLimits()
        withUnsafeMutableBytes(of: &limits) { raw in
            for byte in script.take(Int(script.byte() % 16)) {
                raw[Int(byte) % raw.count] ^= byte
            }
        }
        return limits
    }

    /// A record as a broker writes it, but for its numbers.
    private func record(_ script: inout Script) -> (
        JournalKind, UInt64, [UInt8], [SharedDescriptor]
    ) {
        let kinds: [JournalKind] = [
            .domain, .process, .peer, .dying, .cut, .died, .ring, .link, .linkSocket, .name,
            .nameGone, .ticket, .ticketGone, .held, .limits, .unburied, .handled, .output, .sent,
            .sync, .pong, .bus,
        ]
        let kind = kinds[Int(script.byte()) % kinds.count]
        let subject = long(&script)
        var body: [UInt8] = []
        var descriptors: [SharedDescriptor] = []
        switch kind {
        case .domain:
            body = bytes(of: DomainRecord(key: long(&script), isUser: number(&script)))
        case .process:
            body = bytes(
                of: ProcessRecord(
                    identity: long(&script), standBy: number(&script), isLikeOwn: number(&script)))
            descriptors = [descriptor(0, &script)]
        case .peer:
            body = bytes(
                of: PeerRecord(
                    process: long(&script), uid: number(&script), pid: 1, phase: number(&script),
                    version: number(&script), lanes: number(&script), slots: number(&script),
                    slotBytes: 64, isolation: number(&script), domainByUser: number(&script),
                    domainByProcess: number(&script), limits: limits(&script),
                    memoryBytes: long(&script), given: long(&script), lastGrant: number(&script),
                    lastSequence: number(&script), lastHandled: number(&script),
                    isOutboxSealed: number(&script), hasSocket: 0, isNew: number(&script)))
            descriptors = [descriptor(5, &script), descriptor(2, &script)]
        case .dying, .sent: body = bytes(of: number(&script))
        case .ring:
            body = bytes(
                of: RingRecord(
                    owner: number(&script), domain: number(&script), slots: 64, slotBytes: 64,
                    payer: number(&script), nextIndex: number(&script),
                    isAcknowledged: number(&script), bytes: long(&script), isNew: number(&script),
                    hasEvent: number(&script)))
            descriptors = [descriptor(1, &script), descriptor(0, &script)]
        case .link:
            for _ in 0..<6 { body += bytes(of: number(&script)) }
        case .linkSocket:
            body = bytes(of: PairBody(first: number(&script), second: number(&script)))
        case .name:
            body = bytes(
                of: NameRecord(
                    node: long(&script), access: number(&script), userCount: number(&script)))
        case .ticket:
            body = bytes(
                of: TicketRecord(
                    key: Ticket(low: long(&script), high: 0), issuer: number(&script),
                    done: number(&script)))
        case .ticketGone: body = bytes(of: Ticket(low: long(&script), high: 0))
        case .held:
            body = bytes(
                of: HeldRecord(
                    node: long(&script), given: long(&script), owner: number(&script),
                    number: number(&script), lastGrant: number(&script)))
        case .limits: body = bytes(of: limits(&script))
        case .unburied: body = bytes(of: UnburiedRecord(uid: number(&script)))
        case .handled:
            body = bytes(
                of: HandledRecord(request: number(&script), isAnswered: number(&script)))
        case .output:
            body = bytes(
                of: ControlHeader(
                    kind: number(&script) &+ 1, request: number(&script), status: 0, byteCount: 24,
                    roles: [], sequence: number(&script)))
        default: break
        }
        return (kind, subject, body, descriptors)
    }

    /// A packet as far honest as the script wants it to be.
    private func packet(_ script: inout Script) -> JournalRecord? {
        var (kind, subject, body, descriptors) = record(&script)
        let how = script.byte()
        if how & 3 == 1 { body += script.take(Int(script.byte() % 64)) }
        if how & 12 == 4 { body = Array(body.dropLast(Int(script.byte()))) }
        if how & 48 == 16 { descriptors = Array(descriptors.dropLast(Int(script.byte() % 3))) }
        var header = JournalHeader(kind: kind.rawValue, ends: UInt32(how >> 7), subject: subject)
        if how & 76 == 76 { header.kind = number(&script) }
        return JournalRecord(bytes(of: header) + body, descriptors)
    }

    /// An heir resigns when it does not understand; it never traps, and its tables agree with each other.
    @Sendable func fuzzJournal(_ script: inout Script) throws {
        let bus = BusRecord(
            limits: limits(&script), deaths: number(&script), lastPeer: number(&script),
            lastRing: number(&script), lastDomain: number(&script), lastProcess: long(&script),
            isPageSealed: 0)
        let first = JournalRecord(
            bytes(of: JournalHeader(kind: JournalKind.bus.rawValue, subject: 0)) + bytes(of: bus)
                + Array("fuzz".utf8),
            (busPage.map { [$0] } ?? []) + (0..<3).map { _ in descriptor(0, &script) })
        guard let first else { return }
        let (broker, _, _) = try Broker.shadow(first)
        for _ in 0..<48 where !script.isOver {
            guard let record = packet(&script) else { continue }
            try broker.apply(record)
            guard broker.peers.allSatisfy({ $0.key == $0.value.id }),
                broker.rings.allSatisfy({ $0.key == $0.value.id })
            else { fatalError("broken: an heir's table names one as another") }
        }
    }
#endif
