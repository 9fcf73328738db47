#if DEBUG
    import CBus1System
    import CShmRing
    import Glibc

    @testable import Bus1Shm
    @testable import Bus1TestSupport

    /// Further attacks on the first handle's owner, and those on the broker.
    extension Attacker {
        private static let attack_ms = 300
        private var slotBytes: Int { 1 << Int(producer.pointee.slot_shift) }
        private var control: UnsafeMutablePointer<shmring_ring_control> {
            producer.pointee.control!
        }

        func attackFurther(_ what: String, _ dice: inout Dice) throws -> String {
            let deadline = Deadline.after(.milliseconds(Self.attack_ms))
            switch what {
            case "claims":
                // All that there is, again and again, as fast as the victim makes room.
                while !deadline.hasPassed { claimAll() }
            case "replay":
                for lap in [-1, 1, 1 << 20] { replay(lap: lap) }
            case "past":
                // Nothing of before the first of them can be told from a slow sender's.
                for _ in 0..<3 {
                    put(forged, grant: 0x7fff_0000)
                    let head = shmring_load_acquire(control.pointer(to: \.head)!)
                    _ = eventually(within: .milliseconds(300)) {
                        shmring_load_acquire(control.pointer(to: \.head)!) != head
                    }
                }
                for _ in 0..<3 { put(forged, grant: 0x7fff_0000, stamp: 1) }
            case "flood": flood(6000, &dice)
            case "rewrite":
                while !deadline.hasPassed { rewrite(&dice) }
            case "bells":
                while !deadline.hasPassed { stormBells(&dice) }
            case "offsets", "truncate": try lendWhatIsNotThere(truncating: what == "truncate")
            case "fds": try bombWithDescriptors()
            case "hangup":
                // What is mapped stays, and is used as before.
                shutdown(core.connection.descriptor, Int32(SHUT_RDWR))
                for _ in 0..<100 { put(forged, grant: UInt32(truncatingIfNeeded: dice.next())) }
                replay(lap: -1)
            default: return "unknown"
            }
            return ""
        }

        private func ringBell() {
            shmring_producer_ring(
                producer, shmring_load_relaxed(control.pointer(to: \.parked)!) | 2)
        }

        func claimAll() {
            let head = shmring_load_acquire(control.pointer(to: \.head)!)
            shmring_store_release(control.pointer(to: \.tail)!, head &+ producer.pointee.capacity)
            ringBell()
            sched_yield()
        }

        /// So many messages under rights that nobody gave, as long as the victim reads them.
        private func flood(_ count: Int, _ dice: inout Dice) {
            var left = count
            var patience = Deadline.after(.milliseconds(500))
            while left > 0, !patience.hasPassed {
                if put(forged, grant: UInt32(truncatingIfNeeded: dice.next() >> 33)) {
                    left -= 1
                    patience = .after(.milliseconds(500))
                } else {
                    sched_yield()
                }
            }
        }

        /// Slots whose header is of another lap, and such that have all but a header.
        private func replay(lap: Int) {
            // No more than a ring bears, also in a few rounds.
            for turn in 0..<6 {
                var position: UInt64 = 0
                let word = producer.pointee.claim_word!
                guard
                    shmring_producer_claim(
                        producer, word, producer.pointee.unicast_room, &position) == 0
                else { return }
                let of = position &+ UInt64(bitPattern: Int64(lap)) &* producer.pointee.capacity
                let slot = shmring_producer_slot(producer, position)!
                let body = UnsafeMutableRawPointer(slot) + Int(SHMRING_SLOT_HEADER_BYTES)
                body.storeBytes(of: forged, as: Item.self)
                slot.pointee.stamp = now
                slot.pointee.route =
                    UInt64(grant) << 32 | UInt64(producer.pointee.sender) << 16 | 16
                shmring_store_release(
                    slot.pointer(to: \.header)!, turn % 2 == 0 ? of << 8 | Self.unicast : 0)
                shmring_producer_finish(producer, word)
            }
        }

        /// A message to several whose commit word says one thing and then another.
        func rewrite(_ dice: inout Dice) {
            let word = core.lane.pointee.commits!
            let first = UInt64(core.lane.pointee.first_index)
            shmring_store_release(
                word, SHMRING_COMMIT_PENDING_WORD | 7 << 32 | now >> 10 & 0xffff_ffff)
            put(
                forged, grant: 0x7fff_0000, bits: Attacker.multicast, stamp: first << 32 | 7,
                length: 16)
            // Later than the claim: nothing of it can be told from an honest sender's.
            let stamp = now
            for _ in 0..<20 {
                let wild = [stamp, now, 0]
                shmring_store_release(word, wild[Int(dice.next() % 3)])
            }
        }

        /// Everything with which sleep is announced, and ended.
        func stormBells(_ dice: inout Dice) {
            for word in [control.pointer(to: \.parked)!, control.pointer(to: \.flags)!] {
                shmring_store_relaxed(word, dice.next() >> (dice.next() % 64))
            }
            shmring_store_relaxed_u32(
                control.pointer(to: \.waiters)!, UInt32(truncatingIfNeeded: dice.next()))
            ringBell()
            shmring_store_relaxed(control.pointer(to: \.parked)!, 0)
        }

        /// Slices beyond the end of their segment, or of one that is no more when it is read.
        private func lendWhatIsNotThere(truncating: Bool) throws {
            let size = 1 << 20
            // SEAL, SHRINK, GROW, FUTURE_WRITE.
            let descriptor = memory(size, fill: true, seals: truncating ? 0 : 1 | 2 | 4 | 16)
            let number = try actor.box.peer.loan(100).raw.segment & ~0xff | 0x90
            try tell(1, number, UInt64(size), [dup(descriptor)])
            var body = shmring_slice_ref()
            body.segment = number
            body.lend = 1
            body.byte_count = 16
            // The first makes it known; nobody reads its content under a grant that is none.
            put(forged, grant: ReservedGrant.readSocket)
            _ = eventually(within: .milliseconds(200)) {
                shmring_load_acquire(control.pointer(to: \.head)!)
                    == shmring_load_acquire(control.pointer(to: \.tail)!)
            }
            if truncating {
                ftruncate(descriptor, 0)
                put(forged, bits: Attacker.unicast | Attacker.slice, body: body)
            }
            close(descriptor)
            for offset: UInt64 in [UInt64(size) - 15, UInt64(size), 1 << 30, 1 << 40, .max - 7] {
                body.offset = offset
                put(forged, bits: Attacker.unicast | Attacker.slice, body: body)
            }
        }

        /// As many descriptors as the kernel lets be under way.
        private func bombWithDescriptors() throws {
            let socket = try core.linkSocket(of: link)
            var packet: (UInt32, UInt32, UInt64) = (1, 1 << 20, 4096)
            let ends = [Int32](repeating: socket.descriptor.rawValue, count: 100)
            for round in 0..<500 {
                packet.0 = UInt32(round % 4)
                let result = bus1_sys_link_send(
                    socket.descriptor.rawValue, &packet, 16, ends, Int32(1 + round % 100))
                if result != 0 { break }
            }
            for _ in 0..<20 { put(forged, grant: ReservedGrant.readSocket) }
        }
    }

    extension Actor {
        /// WHAT MS: one attack all the time, or as busy without one ("spin"), at the lowest priority: what it costs others
        /// is to be seen, not what the scheduler gives it.
        func assault(_ words: [String]) throws -> String {
            let deadline = ms(words[1])
            let entry = try box.peer.core.usableEntry(handles[0])
            guard let link = box.peer.core.link(at: Int(entry.pointee.link)) else { return "no" }
            let a = Attacker(
                core: box.peer.core, link: link, producer: entry.pointee.producer,
                grant: entry.pointee.grant, actor: self)
            var dice = Dice(7)
            setpriority(__priority_which_t(PRIO_PROCESS.rawValue), 0, 19)
            var turns = 0
            while !deadline.hasPassed {
                turns += 1
                switch words[0] {
                case "spin": for _ in 0..<1000 { shmring_pause() }
                case "claims": a.claimAll()
                case "bells": a.stormBells(&dice)
                case "grant":
                    for _ in 0..<100 {
                        a.put(a.forged, grant: UInt32(truncatingIfNeeded: dice.next()))
                    }
                case "rewrite": a.rewrite(&dice)
                default: _ = try attack(words[0], Dice(dice.next()))
                }
            }
            return "\(turns)"
        }

        /// COUNT: publishes one node under as many names as there may be. How many.
        func squat(_ count: Int) throws -> String {
            let node = try box.peer.makeNode(tag: 0)
            nodes.append(NodeBox(node))
            for index in 0..<count {
                do {
                    try box.peer.publish(
                        nodes[nodes.count - 1].node, as: "squat\(index)", to: .anyone)
                } catch { return "\(index)" }
            }
            return "\(count)"
        }

        /// PATH COUNT: connections that say garbage or nothing, and stay. How many there are.
        func floodBroker(_ words: [String]) throws -> String {
            let directory = try BusAddress(Bus(path: words[0])).openDirectory()
            let garbage = [UInt8](repeating: 0xa5, count: 100)
            for turn in 0..<Int(words[1])! {
                var socket: Int32 = -1
                guard bus1_sys_socket_connect(directory.rawValue, "bus", &socket) == 0 else {
                    sched_yield()
                    continue
                }
                if turn % 4 == 0 {
                    _ = bus1_sys_socket_send(socket, garbage, garbage.count, nil, 0)
                    close(socket)
                } else {
                    blockers.append(socket)
                }
            }
            return "\(blockers.count)"
        }

        func limitDescriptors(_ count: Int) -> String {
            var limit = rlimit()
            getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
            limit.rlim_cur = rlim_t(count)
            setrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
            return ""
        }
    }
#endif
