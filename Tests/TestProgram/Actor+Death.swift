#if DEBUG
    import CBus1System
    import CShmRing
    import Glibc

    @testable import Bus1Shm
    @testable import Bus1TestSupport

    extension Actor {
        /// From here on another thread uses memory, more and more, until the process is killed for it.
        func eat() -> String {
            var thread = pthread_t()
            let result = pthread_create(
                &thread, nil,
                { _ in
                    while true {
                        let byteCount = 1 << 18
                        guard let memory = malloc(byteCount) else { continue }
                        memset(memory, 1, byteCount)
                        usleep(200)
                    }
                }, nil)
            pthread_detach(thread)
            return "\(result)"
        }

        /// POINT TAG: goes through a multicast to all handles by hand and is killed at a point of it.
        func die(_ words: [String]) throws -> Never {
            let core = box.peer.core
            let claims = core.lane.pointee.claims!
            let word = core.lane.pointee.commits!
            let item = Item(UInt32(words[1])!, .multicast, 1)
            let entries = try handles.map { try core.usableEntry($0) }
            for generation: UInt64 in 1... {
                // As an honest sender says when it began: another time would cost it its lease.
                let begun = shmring_clock_now(core.clock) >> 10 & UInt64(UInt32.max)
                var pending = SHMRING_COMMIT_PENDING_WORD | generation << 32 | begun
                shmring_store_release(word, pending)
                var positions: [UInt64] = []
                for (index, entry) in entries.enumerated() {
                    let producer = entry.pointee.producer
                    let count = words[0] == "full" ? producer.pointee.unicast_room : 1
                    var position: UInt64 = 0
                    var result: Int32
                    // On a busy machine the receiver has not taken yet what others sent before.
                    repeat {
                        result = shmring_producer_claim_range(
                            producer, claims + index, count, producer.pointee.capacity, &position)
                    } while result == Int32(SHMRING_E_FULL.rawValue) && sched_yield() == 0
                    guard result == 0 else { throw Bus1Error(result: result, "claim") }
                    positions.append(position)
                }
                if words[0] == "claimed" || words[0] == "full" { killMyself() }
                for (index, entry) in entries.enumerated() {
                    if words[0] == "half", index == entries.count / 2 { killMyself() }
                    writeSlot(
                        entry.pointee.producer, positions[index], grant: entry.pointee.grant, item,
                        // Class multicast; the reference to commit word 0.
                        bits: 2,
                        stamp: UInt64(core.lane.pointee.first_index) << 32 | generation)
                }
                if words[0] == "written" { killMyself() }
                // Committed; the claim words still name the slots, and nobody was woken.
                if shmring_cas_acq_rel(word, &pending, shmring_clock_now(core.clock)) {
                    killMyself()
                }
                // It took too long, on a busy machine: aborted. Once more.
                for index in entries.indices { shmring_store_release(claims + index, 0) }
            }
            killMyself()
        }

        /// Writes an item into a claimed slot, with whatever route and class.
        func writeSlot(
            _ producer: UnsafeMutablePointer<shmring_producer>, _ position: UInt64, grant: UInt32,
            _ item: Item, bits: UInt64, stamp: UInt64, sender: UInt32? = nil, length: UInt64? = nil
        ) {
            let slot = shmring_producer_slot(producer, position)!
            let body = UnsafeMutableRawPointer(slot) + Int(SHMRING_SLOT_HEADER_BYTES)
            body.storeBytes(of: item, as: Item.self)
            let route =
                UInt64(grant) << 32 | UInt64(sender ?? producer.pointee.sender) << 16
                | (length ?? UInt64(MemoryLayout<Item>.size))
            shmring_slot_publish(slot, position, bits, stamp, route)
        }

        private func killMyself() -> Never {
            kill(getpid(), SIGKILL)
            while true { pause() }
        }

        /// What the messages that are held say.
        func heldItems() -> String {
            messages.map { box in
                box.item.map { "\($0.tag):\($0.sequence)" } ?? "payload"
            }.joined(separator: " ")
        }

    }
#endif
