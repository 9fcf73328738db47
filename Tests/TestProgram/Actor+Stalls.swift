#if DEBUG
    import CBus1TestSupport
    import CShmRing
    import Glibc

    @testable import Bus1Shm
    @testable import Bus1TestSupport

    /// Transactions that stand still in the middle.
    extension Actor {
        func stalls(_ verb: String, _ words: [String]) throws -> String {
            switch verb {
            case "stopincommit": return try stopInCommit()
            case "stall": return try stall(tag: UInt32(words[0])!, begun: words[1])
            case "stallall": return try stallAll(tag: UInt32(words[0])!, until: ms(words[1]))
            case "nag": return try nag(words)
            case "inbox":
                let counts = box.peer.core.inbox.pointee.counts
                return "\(counts.aborted) \(counts.stalls)"
            case "credit": return credit()
            default: return "unknown"
            }
        }

        /// The next command stops this process behind the writing, before the stamp.
        private func stopInCommit() throws -> String {
            let core = box.peer.core
            let words = core.lane.pointee.commits!
            let count = (core.laneCount + 1) * UInt32(SHMRING_COMMIT_WORDS)
            let result = test_stop_in_commit(words, count)
            return result == 0 ? "" : "unsupported"
        }

        /// Writes a multicast to all handles that refers to a commit word, and leaves that pending.
        private func write(_ item: Item, index: Int, generation: UInt64, begun: UInt64) throws {
            let core = box.peer.core
            let word = core.lane.pointee.commits! + index
            shmring_store_release(
                word, SHMRING_COMMIT_PENDING_WORD | generation << 32 | begun & 0xffff_ffff)
            for handle in handles {
                let entry = try core.usableEntry(handle)
                let producer = entry.pointee.producer
                var position: UInt64 = 0
                let result = shmring_producer_claim_range(
                    producer, core.lane.pointee.claims, 1, producer.pointee.capacity, &position)
                guard result == 0 else { throw Bus1Error(result: result, "claim") }
                writeSlot(
                    producer, position, grant: entry.pointee.grant, item, bits: 2,
                    stamp: (UInt64(core.lane.pointee.first_index) + UInt64(index)) << 32
                        | generation)
                shmring_producer_finish(producer, core.lane.pointee.claims)
            }
        }

        private var units: UInt64 { shmring_clock_now(box.peer.core.clock) >> 10 }

        /// TAG BEGUN: a multicast whose word is left pending; begun now, in the future, or long ago.
        private func stall(tag: UInt32, begun: String) throws -> String {
            let aside: UInt64 = begun == "future" ? 1 << 30 : begun == "past" ? 0 &- (1 << 30) : 0
            try write(
                Item(tag, .forged, 1), index: 0, generation: UInt64(tag), begun: units &+ aside)
            return ""
        }

        /// TAG MS: one pending multicast after the other, never of one generation, and each in a word of its own.
        private func stallAll(tag: UInt32, until deadline: Deadline) throws -> String {
            var count: UInt64 = 0
            while !deadline.hasPassed {
                count += 1
                do {
                    try write(
                        Item(tag, .forged, count), index: Int(count) % Int(SHMRING_COMMIT_WORDS),
                        generation: count * 100, begun: units)
                } catch { usleep(100) }
            }
            return "\(count)"
        }

        /// HANDLE MS: asks for the abort of whatever the handle's owner has pending, all the time.
        private func nag(_ words: [String]) throws -> String {
            let deadline = ms(words[1])
            let core = box.peer.core
            let entry = try core.usableEntry(handles[Int(words[0])!])
            let link = core.links[Int(entry.pointee.link)]
            var asks = 0
            while !deadline.hasPassed {
                for index in 0..<link.commitWordCount {
                    let word = shmring_load_acquire(
                        UnsafeMutablePointer(mutating: link.commitWords + Int(index)))
                    guard word >> 62 == 2 else { continue }
                    let generation = UInt32(truncatingIfNeeded: word >> 32 & 0x3fff_ffff)
                    try? core.connection.askToAbort(
                        link.peer, commitIndex: index, generation: generation)
                    asks += 1
                }
            }
            return "\(asks)"
        }

        /// What those who write into the own rings are charged and have been given back.
        private func credit() -> String {
            box.peer.core.rings.map { ring in
                let charged = ring.consumer.pointee.control.pointee.charged
                return "\(charged.0) \(charged.1) \(charged.2) \(charged.3)"
            }.joined(separator: " ")
        }
    }
#endif
