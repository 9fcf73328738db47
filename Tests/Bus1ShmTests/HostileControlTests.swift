import CBus1System
import CShmRing
import Glibc
import Testing

@testable import Bus1Shm
@testable import Bus1TestSupport

/// Peers that say what no honest one says: each is severed, alone, and nobody else notices.
@Suite(.serialized, .timeLimit(.minutes(2)))
struct HostileControlTests {
    /// Packets that must end the connection of a peer that has joined.
    static let malformed: [(String, [UInt8])] = {
        func header(
            _ kind: ControlKind, request: UInt32 = 9, byteCount: Int? = nil, roles: UInt32 = 0,
            body: [UInt8] = []
        )
            -> [UInt8]
        {
            let header = ControlHeader(
                kind: kind.rawValue, request: request, status: 0,
                byteCount: UInt32(byteCount ?? 24 + body.count),
                roles: ControlRoles(rawValue: roles))
            return withUnsafeBytes(of: header) { Array($0) } + body
        }
        func bytes<T: BitwiseCopyable>(_ value: T) -> [UInt8] {
            withUnsafeBytes(of: value) { Array($0) }
        }
        let name = Array("x".utf8)
        return [
            ("one byte", [1]),
            ("half a header", Array(header(.publish).prefix(12))),
            ("a length that lies", header(.ownRing, byteCount: 25)),
            (
                "a kind that is none",
                bytes(ControlHeader(kind: 77, request: 9, status: 0, byteCount: 24, roles: []))
            ),
            ("a kind of the broker's", header(.introduced)),
            ("no request number", header(.ownRing, request: 0)),
            (
                "hello a second time",
                header(.hello, body: [UInt8](repeating: 0, count: MemoryLayout<HelloBody>.size))
            ),
            (
                "descriptors announced that did not come",
                header(.ringEvent, roles: 1 << 6, body: [UInt8](repeating: 0, count: 24))
            ),
            ("roles that are none", header(.ownRing, roles: 1 << 20)),
            (
                "a name longer than the packet",
                header(
                    .publish,
                    body: bytes(PublishBody(node: 1, access: 1, userCount: 0, nameLength: 255))
                        + name)
            ),
            (
                "a name of no length",
                header(
                    .publish,
                    body: bytes(PublishBody(node: 1, access: 1, userCount: 0, nameLength: 0)))
            ),
            (
                "a name that is no text",
                header(
                    .publish,
                    body: bytes(PublishBody(node: 1, access: 1, userCount: 0, nameLength: 1)) + [
                        0xff
                    ])
            ),
            (
                "more users than there may be",
                header(
                    .publish,
                    body: bytes(PublishBody(node: 1, access: 2, userCount: .max, nameLength: 1))
                        + name)
            ),
            (
                "an access rule that is none",
                header(
                    .publish,
                    body: bytes(PublishBody(node: 1, access: 9, userCount: 0, nameLength: 1)) + name
                )
            ),
            (
                "somebody else's ring",
                header(.bury, body: bytes(BuryBody(ring: 12345, position: 0)))
            ),
            (
                "a grant numbered as the broker does",
                header(.grant, body: bytes(GrantBody(node: 1, number: 1 << 31, holder: 1)))
            ),
            (
                "a look at what there is none of",
                header(.inspect, body: bytes(InspectBody(subject: 9)))
            ),
            (
                "a look at a peer that can't be",
                header(.inspect, body: bytes(InspectBody(subject: 5, of: .max)))
            ),
            (
                "more ticket items than the packet has",
                header(
                    .ticket, body: bytes(TicketBody(count: 32)) + [UInt8](repeating: 0, count: 16))
            ),
            (
                "the longest packet, full of ones",
                [UInt8](repeating: 0xff, count: controlMessageBytesMax)
            ),
            ("a packet that is too long", [UInt8](repeating: 0, count: controlMessageBytesMax + 1)),
        ]
    }()

    @Test(arguments: malformed.map(\.0))
    func aMalformedMessageSeversItsSenderAlone(what: String) throws {
        let packet = try #require(Self.malformed.first { $0.0 == what }).1
        try withBus { bus in
            let witness = try TestPeer(bus)
            let liar = try TestPeer(bus)
            #expect(
                bus1_sys_socket_send(liar.connection.descriptor, packet, packet.count, nil, 0) == 0)
            let error = #expect(throws: Bus1Error.self) {
                while true { _ = try liar.event() }
            }
            #expect(error?.code == .severed)
            #expect(throws: Never.self) {
                try witness.connection.publish("alive", node: 1, access: .sameUser)
            }
        }
    }

    @Test func aSilentReaderIsSeveredAndNobodyWaitsForIt() throws {
        try withBus { bus in
            let witness = try TestPeer(bus)
            let silent = try TestPeer(bus)
            // Asks and never reads the answers: they fill its socket, then its queue.
            let packet = ControlMessage(.ownRing, request: 1, EmptyBody()).bytes
            var sent = 0
            while sent < 200_000 {
                let result = bus1_sys_socket_send(
                    silent.connection.descriptor, packet, packet.count, nil, 0)
                if result == -EPIPE || result == -ECONNRESET { break }
                if result == -EAGAIN { sched_yield() } else { sent += 1 }
            }
            #expect(sent < 200_000)
            #expect(throws: Never.self) {
                try witness.connection.publish("alive", node: 1, access: .sameUser)
            }
        }
    }

    /// Descriptors on their way count against the broker's user: those that one peer leaves in its
    /// socket could use all of them up.
    @Test(.enabled(if: getuid() == 0, "only root can become a user for whom that limit holds"))
    func whoLeavesDescriptorsUnreceivedStopsNobodyElse() throws {
        try withBus { bus in
            chmod(String(bus.path.dropLast(4)), 0o1777)
            let broker = try RemotePeer()
            #expect(broker.ask("descriptors 300") == "ok ")
            #expect(broker.ask("setuid 61001") == "ok ")
            chown(String(bus.path.dropLast(4)), 61001, 61001)
            #expect(broker.ask("open \(bus.path)")?.hasPrefix("ok") == true)
            let silent = try TestPeer(bus)
            try silent.connection.publish("service", node: 1, access: .anyone)
            // Each introduction is four descriptors for the silent one, who receives none of them.
            var late = 0
            for _ in 0..<40 {
                let asker = try TestPeer(bus)
                do {
                    _ = try asker.connection.lookUp("service", until: .after(.milliseconds(20)))
                } catch {
                    #expect((error as? Bus1Error)?.code == .timedOut)
                    late += 1
                }
                try asker.connection.goodbye()
            }
            #expect(late > 0, "what is queued for the silent one is bounded")
            // As soon as it receives, whoever waits for it is served.
            let asker = try RemotePeer()
            #expect(asker.ask("open \(bus.path)")?.hasPrefix("ok") == true)
            asker.begin("lookup service 20000")
            while try silent.holderAdded().holder.rawValue < 43 {}
            #expect(asker.answer()?.hasPrefix("ok ") == true)
        }
    }

    @Test func randomPacketsNeverStopTheBroker() throws {
        var random = Dice()
        let seed = random.seed
        try withBus { bus in
            let witness = try TestPeer(bus)
            for round in 0..<400 {
                var socket: Int32 = -1
                let directory = try BusAddress(bus).openDirectory()
                #expect(bus1_sys_socket_connect(directory.rawValue, "bus", &socket) == 0)
                let connection = Descriptor(owning: socket)
                // Half are plausible up to the body.
                var packet = (0..<Int(random.next() % 200)).map { _ in
                    UInt8(truncatingIfNeeded: random.next())
                }
                if random.next() & 1 == 0, packet.count >= 24 {
                    let header = ControlHeader(
                        kind: UInt32(random.next() % 18), request: 1, status: 0,
                        byteCount: UInt32(packet.count), roles: [])
                    withUnsafeBytes(of: header) { packet.replaceSubrange(0..<24, with: $0) }
                }
                _ = bus1_sys_socket_send(connection.rawValue, packet, packet.count, nil, 0)
                if round % 50 == 49 {
                    #expect(throws: Never.self, "seed \(seed)") {
                        try witness.connection.publish("r\(round)", node: 1, access: .sameUser)
                    }
                }
            }
        }
    }

    @Test func limitsAreNamedInTheRefusal() throws {
        try withBus { bus in
            let peer = try TestPeer(bus)
            for i in 0..<256 { try peer.connection.publish("n\(i)", node: 1, access: .sameUser) }
            let error = #expect(throws: Bus1Error.self) {
                try peer.connection.publish("one more", node: 1, access: .sameUser)
            }
            #expect(error?.code == .overQuota)
            #expect(
                error?.refusal
                    == Bus1Error.Refusal(
                        resource: .names, used: 256, limit: 256, account: peer.account))
        }
    }

    @Test func optionsOutOfRangeAreRefused() throws {
        try withBus { bus in
            let lanes = #expect(throws: Bus1Error.self) {
                try TestPeer(bus, ControlOptions(lanes: 65))
            }
            #expect(lanes?.code == .mismatch)
            let slots = #expect(throws: Bus1Error.self) {
                try TestPeer(bus, ControlOptions(slots: 1000))
            }
            #expect(slots?.code == .mismatch)
        }
    }

    @Test func theMessagesAreAsLongAsTheProtocolSays() {
        #expect(MemoryLayout<ControlHeader>.size == 24)
        #expect(MemoryLayout<RefusalBody>.size == 32)
        #expect(MemoryLayout<HelloBody>.size == 48)
        #expect(MemoryLayout<WelcomeBody>.size == 80)
        #expect(MemoryLayout<PublishBody>.size == 24)
        #expect(MemoryLayout<NameBody>.size == 8)
        #expect(MemoryLayout<CancelBody>.size == 8)
        #expect(MemoryLayout<GrantedBody>.size == 32)
        #expect(MemoryLayout<GrantBody>.size == 16)
        #expect(MemoryLayout<TicketBody>.size == 8)
        #expect(MemoryLayout<TicketItem>.size == 16)
        #expect(MemoryLayout<TicketMadeBody>.size == 16)
        #expect(MemoryLayout<PairBody>.size == 8)
        #expect(MemoryLayout<PeerBody>.size == 8)
        #expect(MemoryLayout<RingBody>.size == 24)
        #expect(MemoryLayout<IntroducedBody>.size == 48)
        #expect(MemoryLayout<BuryBody>.size == 16)
        #expect(MemoryLayout<BuryAnswerBody>.size == 8)
        #expect(MemoryLayout<AbortAskBody>.size == 16)
        #expect(MemoryLayout<InspectBody>.size == 24)
        #expect(MemoryLayout<InspectedBus>.size == 48)
        #expect(MemoryLayout<InspectedPeer>.size == 64)
        #expect(MemoryLayout<InspectedUser>.size == 48)
        #expect(MemoryLayout<InspectedName>.size == 16)
        #expect(MemoryLayout<InspectedRing>.size == 32)
        #expect(MemoryLayout<InspectedLink>.size == 8)
        #expect(MemoryLayout<InspectedGrant>.size == 16)
    }
}
