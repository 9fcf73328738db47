#if DEBUG
    import CBus1System
    import CShmRing
    import Glibc

    @testable import Bus1Shm
    @testable import Bus1TestSupport

    /// Someone who joined as everybody does, and then writes what the MMU lets it write.
    struct Attacker {
        let core: PeerCore
        let link: Link
        let producer: UnsafeMutablePointer<shmring_producer>
        let grant: UInt32
        let actor: Actor

        static let unicast: UInt64 = 1
        static let multicast: UInt64 = 2
        static let slice: UInt64 = 0x10

        var forged: Item { Item(66, .forged, 0) }
        var now: UInt64 { shmring_clock_now(core.clock) }
        /// The ring of the victim, all of it.
        var ring: UnsafeMutableRawBufferPointer {
            let capacity = UInt32(producer.pointee.capacity)
            let bytes = shmring_ring_bytes(capacity, 1 << producer.pointee.slot_shift)
            return .init(
                start: UnsafeMutableRawPointer(producer.pointee.control), count: Int(bytes))
        }

        /// Claims as an honest sender does, and writes what it likes. False: the ring is full.
        @discardableResult
        func put(
            _ item: Item, grant: UInt32? = nil, bits: UInt64 = Self.unicast, stamp: UInt64? = nil,
            sender: UInt32? = nil, length: UInt64? = nil, body: shmring_slice_ref? = nil
        ) -> Bool {
            var position: UInt64 = 0
            let word = producer.pointee.claim_word!
            guard
                shmring_producer_claim(producer, word, producer.pointee.unicast_room, &position)
                    == 0
            else { return false }
            if var body {
                let slot = UnsafeMutableRawPointer(shmring_producer_slot(producer, position)!)
                withUnsafeBytes(of: &body) {
                    (slot + Int(SHMRING_SLOT_HEADER_BYTES)).copyMemory(
                        from: $0.baseAddress!, byteCount: 32)
                }
                let route =
                    UInt64(grant ?? self.grant) << 32 | UInt64(producer.pointee.sender) << 16 | 32
                shmring_slot_publish(
                    slot.assumingMemoryBound(to: shmring_slot.self), position, bits, now, route)
            } else {
                actor.writeSlot(
                    producer, position, grant: grant ?? self.grant, item, bits: bits,
                    stamp: stamp ?? now, sender: sender, length: length)
            }
            shmring_producer_finish(producer, word)
            return true
        }

        /// A packet on the link's socket, with descriptors that are closed here afterwards.
        func tell(
            _ kind: UInt32, _ segment: UInt32, _ byteCount: UInt64, _ descriptors: [Int32] = []
        ) throws {
            var packet = (kind, segment, byteCount)
            let socket = try core.linkSocket(of: link)
            _ = bus1_sys_socket_send(
                socket.descriptor.rawValue, &packet, 16, descriptors, Int32(descriptors.count))
            for descriptor in descriptors { close(descriptor) }
        }

        /// memfd_create(2), which Swift does not import.
        private static func createMemory(_ name: String, _ flags: UInt32) -> Int32 {
            typealias Create = @convention(c) (UnsafePointer<CChar>, UInt32) -> Int32
            return unsafeBitCast(dlsym(nil, "memfd_create"), to: Create.self)(name, flags)
        }

        func memory(_ byteCount: Int, fill: Bool, seals: Int32) -> Int32 {
            let descriptor = Self.createMemory("hostile", 3 /* MFD_CLOEXEC | MFD_ALLOW_SEALING */)
            ftruncate(descriptor, byteCount)
            if fill { posix_fallocate(descriptor, 0, byteCount) }
            _ = fcntl(descriptor, 1033 /* F_ADD_SEALS */, seals)
            return descriptor
        }
    }

    extension Actor {
        /// What the first handle's owner must survive.
        func attack(_ what: String, _ dice: Dice) throws -> String {
            var dice = dice
            let core = box.peer.core
            let entry = try core.usableEntry(handles[0])
            guard let link = core.link(at: Int(entry.pointee.link)) else { return "no link" }
            let a = Attacker(
                core: core, link: link, producer: entry.pointee.producer,
                grant: entry.pointee.grant,
                actor: self)
            let control = a.producer.pointee.control!
            switch what {
            case "honest":
                a.put(Item(66, .unicast, 1))
            case "tail":
                // Beyond what the victim can have dealt with before it looks.
                for wild in [
                    0, UInt64.max, dice.next(),
                    control.pointee.head &+ 2 * a.producer.pointee.capacity &+ 1,
                ] {
                    shmring_store_release(control.pointer(to: \.tail)!, wild)
                }
                shmring_producer_ring(a.producer, control.pointee.parked)
            case "class":
                for bits: UInt64 in [0, 4, 9, 15, 0xff] { a.put(a.forged, bits: bits) }
            case "length":
                a.put(a.forged, length: 0xffff)
            case "stamp":
                a.put(a.forged, stamp: a.now &+ 1 << 50)
                a.put(a.forged, stamp: .max)
            case "grant":
                for _ in 0..<200 { a.put(a.forged, grant: UInt32(truncatingIfNeeded: dice.next())) }
                for near in 0..<200 where UInt32(near) != a.grant {
                    a.put(a.forged, grant: UInt32(near))
                    if UInt32(near) | 1 << 31 != a.grant {
                        a.put(a.forged, grant: UInt32(near) | 1 << 31)
                    }
                }
            case "sender":
                // As whoever holds one of the first grants.
                for sender: UInt32 in [0, 1, 2, 3, 7, 0xffff]
                where sender != a.producer.pointee.sender {
                    for grant: UInt32 in 0..<8 {
                        a.put(a.forged, grant: grant, sender: sender)
                        a.put(a.forged, grant: grant | 1 << 31, sender: sender)
                    }
                }
            case "commit":
                for _ in 0..<100 {
                    a.put(
                        a.forged, bits: Attacker.multicast, stamp: 1 << 40 | dice.next() >> 8,
                        sender: UInt32(dice.next() & 0xffff))
                    a.put(
                        a.forged, bits: Attacker.multicast,
                        stamp: 0x7fff_ffff << 32 | dice.next() >> 34)
                }
            case "slice":
                let own = try box.peer.loan(4096)
                for i in 0..<300 {
                    var body = shmring_slice_ref()
                    body.segment =
                        i % 2 == 0 ? own.raw.segment : UInt32(truncatingIfNeeded: dice.next())
                    body.lend_index = UInt32(
                        truncatingIfNeeded: i % 3 == 0 ? dice.next() : dice.next() % 480)
                    body.lend = i % 5 == 0 ? 0 : dice.next()
                    body.offset = dice.next() >> (dice.next() % 64)
                    body.byte_count = dice.next() | 1 << 40
                    a.put(a.forged, bits: Attacker.unicast | Attacker.slice, body: body)
                }
            case "segments":
                try announceWhatIsNone(a, &dice)
            case "boards":
                for board in [link.boardIn, link.boardOut] {
                    let words = UnsafeMutableRawBufferPointer(
                        start: board, count: Int(SHMRING_PAGE_BYTES))
                    for i in stride(from: 64, to: words.count, by: 8) {
                        words.storeBytes(of: dice.next(), toByteOffset: i, as: UInt64.self)
                    }
                }
            case "everything":
                let ring = a.ring
                for i in stride(from: 0, to: ring.count, by: 8) {
                    ring.storeBytes(of: dice.next(), toByteOffset: i, as: UInt64.self)
                }
            default: return try a.attackFurther(what, &dice)
            }
            return ""
        }

        /// Garbage on the link's socket, and descriptors of what is no segment; then slices in them.
        private func announceWhatIsNone(_ a: Attacker, _ dice: inout Dice) throws {
            // SEAL, SHRINK, GROW, WRITE, FUTURE_WRITE.
            let (seal, shrink, grow, future): (Int32, Int32, Int32, Int32) = (1, 2, 4, 16)
            let all = seal | shrink | grow | future
            let page = 4096
            let offers: [(Int32, UInt64)] = [
                (a.memory(page, fill: true, seals: 0), UInt64(page)),
                (a.memory(page, fill: true, seals: seal | shrink | grow), UInt64(page)),
                (a.memory(1 << 20, fill: false, seals: all), 1 << 20),
                (a.memory(1 << 44, fill: false, seals: all), 1 << 44),
                (a.memory(page, fill: true, seals: all), 1 << 60),
                (a.memory(page, fill: true, seals: all), 0),
                (a.memory(0, fill: false, seals: all), UInt64(page)),
                (open("/dev/null", O_RDWR | O_CLOEXEC), UInt64(page)),
                (open("/dev/zero", O_RDWR | O_CLOEXEC), UInt64(page)),
                (open("/", O_RDONLY | O_CLOEXEC), UInt64(page)),
                (open("/proc/self/exe", O_RDONLY | O_CLOEXEC), UInt64(page)),
                (socket(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0), UInt64(page)),
            ]
            let first = try box.peer.loan(100).raw.segment & ~0xff | 0x80
            for (index, offer) in offers.enumerated() {
                try a.tell(1, first + UInt32(index), offer.1, [offer.0])
            }
            // Kinds that are none, packets without or with too many descriptors, retired and unknown ones.
            for kind in [0, 1, 2, 3, UInt32.max] { try a.tell(kind, first + 20, 4096) }
            for _ in 0..<20 {
                try a.tell(
                    1, UInt32(truncatingIfNeeded: dice.next()), dice.next(),
                    (0..<8).map { _ in dup(1) })
                try a.tell(2, UInt32(truncatingIfNeeded: dice.next()), 0)
                let socket = try a.core.linkSocket(of: a.link)
                let bytes = (0..<Int(dice.next() % 64 + 1)).map { _ in
                    UInt8(truncatingIfNeeded: dice.next())
                }
                _ = bus1_sys_socket_send(socket.descriptor.rawValue, bytes, bytes.count, nil, 0)
                a.put(a.forged, grant: ReservedGrant.readSocket)
            }
            for index in offers.indices {
                var body = shmring_slice_ref()
                body.segment = first + UInt32(index)
                body.lend = 1
                body.byte_count = 16
                a.put(a.forged, bits: Attacker.unicast | Attacker.slice, body: body)
            }
        }
    }
#endif
