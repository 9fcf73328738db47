import CShmRing

// The one way of everything that is more than one plain message: prepare each, claim all, commit once.

extension LaneState {
    /// Commits a transaction. `each`: a destination that refuses is left out.
    func commit(
        _ transaction: inout Transaction, each: Bool, until deadline: Deadline
    ) throws(Bus1Error) -> (stamp: Stamp, refused: [(HandleID, Bus1Error)]) {
        try core.requireOpen("commit a transaction")
        if number != 0 { shmring_gate_enter(gate) }
        defer { if number != 0 { shmring_gate_leave(gate) } }
        let bytes = transaction.bytes
        var batch = Batch(each: each, deadline: deadline)
        do throws(Bus1Error) {
            try prepareAll(transaction.messages, bytes, &batch)
            if !transaction.handles.isEmpty || !transaction.nodes.isEmpty {
                try commitWithReleases(&transaction, &batch)
            } else {
                try commitMessages(&batch)
            }
        } catch {
            for prepared in batch.prepared { undo(prepared.message) }
            throw error
        }
        // Nothing below can fail. Whoever was lent a slice keeps it.
        for prepared in batch.prepared {
            for (slice, pool) in prepared.message.made { pool.end(slice) }
        }
        return (batch.stamp, batch.refused)
    }

    /// What a commit has come to.
    struct Batch {
        let each: Bool
        let deadline: Deadline
        var prepared: [(handle: HandleID, message: PreparedMessage)] = []
        var refused: [(HandleID, Bus1Error)] = []
        var stamp = Stamp(rawValue: 0)

        init(each: Bool, deadline: Deadline) {
            self.each = each
            self.deadline = deadline
        }
    }

    /// Prepares all of them; who has to wait for a receiver's credit waits with nothing prepared.
    private func prepareAll(
        _ messages: [OutgoingMessage], _ bytes: [UInt8], _ batch: inout Batch
    ) throws(Bus1Error) {
        while true {
            creditWait = nil
            do throws(Bus1Error) {
                return try prepareOnce(messages, bytes, &batch)
            } catch {
                guard let wait = creditWait, !batch.deadline.hasPassed else { throw error }
                for prepared in batch.prepared { undo(prepared.message) }
                batch.prepared = []
                if isImpatient {
                    obstacle = .credit(wait)
                    throw error
                }
                wait.sleep(until: batch.deadline)
            }
        }
    }

    private func prepareOnce(
        _ messages: [OutgoingMessage], _ bytes: [UInt8], _ batch: inout Batch
    ) throws(Bus1Error) {
        // A slot for each record at most: bodies do not move while legs refer to them.
        reserveBodies(messages.reduce(1) { $0 + 1 + $1.passing.count })
        for message in messages {
            while true {
                let prepared: PreparedMessage?
                do throws(Bus1Error) {
                    prepared = try bytes.span.bytes.withUnsafeBytes { bytes throws(Bus1Error) in
                        try prepare(
                            message, bytes: bytes, body: batch.prepared.count,
                            until: batch.deadline)
                    }
                } catch {
                    guard batch.each else { throw error }
                    batch.refused.append((message.handle, error))
                    break
                }
                if let prepared {
                    batch.prepared.append((message.handle, prepared))
                    break
                }
                let full = Bus1Error(batch.each ? .overQuota : .timedOut, "bind a handle")
                if isImpatient { obstacle = .something }
                guard !batch.deadline.hasPassed, !isImpatient else {
                    guard batch.each else { throw full }
                    batch.refused.append((message.handle, full))
                    break
                }
                shmring_pause()
            }
        }
    }

    /// Fills in the legs: the messages first, then what owners are told of new holders. The bodies of
    /// the latter stand behind those of the messages. `other`: the lane that commits, if it is not this.
    func fillLegs(_ batch: borrowing Batch, through other: LaneState? = nil) -> Int {
        let lane = other ?? self
        var count = 0
        var body = 0
        for (place, one) in batch.prepared.enumerated() {
            let message = one.message
            let hasLater = batch.prepared[(place + 1)...].contains {
                $0.message.linkIndex == message.linkIndex
            }
            setLeg(
                count,
                shmring_leg(
                    producer: (try? lane.laneProducer(at: message.linkIndex)) ?? message.producer,
                    body: UnsafeRawPointer(bodies + message.body * Self.bodyStride),
                    grant: message.entry.pointee.grant, length: UInt32(message.length),
                    bits: message.bits | (hasLater ? shmring_header_more() : 0), position: 0))
            count += 1
            body = max(body, message.body + 1)
        }
        for (index, records) in handOversByOwner(batch) {
            guard let producer = try? lane.laneProducer(at: index) else { continue }
            count = addRecords(records, to: producer, from: count, &body)
        }
        return count
    }

    private func handOversByOwner(
        _ batch: borrowing Batch
    ) -> [(key: Int, value: [ControlRecord])] {
        var byOwner: [Int: [ControlRecord]] = [:]
        for one in batch.prepared {
            for handOver in one.message.handOvers {
                byOwner[handOver.index, default: []].append(handOver.record)
            }
        }
        return byOwner.sorted { $0.key < $1.key }
    }

    /// Legs with records for one ring: as many as they need slots. Returns how many legs there are then.
    func addRecords(
        _ records: [ControlRecord], to producer: UnsafeMutablePointer<shmring_producer>,
        from first: Int, _ body: inout Int
    ) -> Int {
        var count = first
        let size = MemoryLayout<ControlRecord>.size
        let perSlot = Int(producer.pointee.body_bytes) / size
        var rest = records[...]
        while !rest.isEmpty {
            let some = rest.prefix(perSlot)
            rest = rest.dropFirst(perSlot)
            let place = bodies + body * Self.bodyStride
            for (i, record) in some.enumerated() {
                (place + i * size).storeBytes(of: record, as: ControlRecord.self)
            }
            setLeg(
                count,
                shmring_leg(
                    producer: producer, body: UnsafeRawPointer(place),
                    grant: ReservedGrant.control, length: UInt32(some.count * size), bits: 0,
                    position: 0))
            count += 1
            body += 1
        }
        return count
    }

    private func setLeg(_ index: Int, _ leg: shmring_leg) {
        reserveLegs(index + 1)
        legs[index] = leg
    }

    /// Without releases: one plain message is a unicast, everything else goes by a commit word.
    private func commitMessages(_ batch: inout Batch) throws(Bus1Error) {
        var attempt: UInt64 = 0
        while true {
            let count = fillLegs(batch)
            guard count > 0 else {
                batch.stamp = Stamp(rawValue: shmring_clock_now(core.clock))
                return
            }
            var stamp: UInt64 = 0
            var failed: UInt32 = 0
            let result: Int32
            if count == 1 {
                let leg = legs[0]
                result = shmring_producer_send(
                    leg.producer, core.clock, leg.grant, leg.bits, leg.body, UInt64(leg.length),
                    &stamp)
            } else {
                result = shmring_transaction_commit(
                    lane, core.clock, legs, UInt32(count), attempt > 4, nil, &stamp, &failed)
            }
            if result == 0 {
                batch.stamp = Stamp(rawValue: stamp)
                return
            }
            try goOn(after: result, failed: Int(failed), &attempt, &batch)
        }
    }

    /// After an attempt that came to nothing: leaves somebody out, waits, or gives up.
    func goOn(
        after result: Int32, failed: Int, _ attempt: inout UInt64, _ batch: inout Batch
    ) throws(Bus1Error) {
        switch result {
        case Int32(SHMRING_E_ABORTED.rawValue): return
        case Int32(SHMRING_E_FULL.rawValue): break
        default:
            guard batch.each, leaveOut(failed, Bus1Error.send(result), &batch) else {
                throw Bus1Error(result: result, "commit a transaction")
            }
            return
        }
        let producer = legs[failed].producer!
        if batch.each {
            let refusal = Bus1Error.Refusal(
                resource: .messages, used: Int(producer.pointee.capacity),
                limit: Int(producer.pointee.capacity), account: core.account)
            let full = Bus1Error(.overQuota, "commit a transaction", refusal: refusal)
            guard leaveOut(failed, full, &batch) else { throw full }
            return
        }
        guard !batch.deadline.hasPassed else {
            throw Bus1Error(.timedOut, "commit a transaction")
        }
        attempt += 1
        // A dead receiver makes no more room: every destination is looked at anew.
        for one in batch.prepared { _ = try usableEntry(one.handle) }
        if isImpatient, attempt > 4 {
            // Only the peer's own lane uses the links' own producers.
            let isPlain = number == 0 && failed < batch.prepared.count
            obstacle = isPlain ? .room(batch.prepared[failed].message.link) : .something
            throw Bus1Error(.timedOut, "commit a transaction")
        }
        backOff(attempt, ownProducer(ofLeg: failed, batch), until: batch.deadline)
    }

    /// This lane's own way into the ring of a leg, which another lane may have claimed.
    private func ownProducer(
        ofLeg failed: Int, _ batch: borrowing Batch
    ) -> UnsafeMutablePointer<shmring_producer>? {
        if failed < batch.prepared.count { return batch.prepared[failed].message.producer }
        let ring = legs[failed].producer.pointee.control
        for one in batch.prepared {
            for handOver in one.message.handOvers {
                let producer = try? laneProducer(at: handOver.index)
                if let producer, producer.pointee.control == ring { return producer }
            }
        }
        return nil
    }

    /// Leaves the message out whose leg, or whose hand-over's leg, failed. False: there is none.
    private func leaveOut(_ failed: Int, _ why: Bus1Error, _ batch: inout Batch) -> Bool {
        let ring = legs[failed].producer.pointee.control
        let place =
            failed < batch.prepared.count
            ? failed
            : batch.prepared.firstIndex { one in
                one.message.handOvers.contains {
                    (try? laneProducer(at: $0.index))?.pointee.control == ring
                }
            }
        guard let place else { return false }
        let one = batch.prepared.remove(at: place)
        undo(one.message)
        batch.refused.append((one.handle, why))
        return true
    }

    /// One message, once. False: no room now, nothing has happened.
    func trySendOne(
        _ message: OutgoingMessage, bytes: UnsafeRawBufferPointer, until deadline: Deadline
    ) throws(Bus1Error) -> Bool {
        reserveBodies(1)
        guard let prepared = try prepare(message, bytes: bytes, body: 0, until: deadline) else {
            return false
        }
        var stamp: UInt64 = 0
        let result = shmring_producer_send(
            prepared.producer, core.clock, prepared.entry.pointee.grant, prepared.bits, bodies,
            UInt64(prepared.length), &stamp)
        guard result == 0 else {
            undo(prepared)
            if result == Int32(SHMRING_E_FULL.rawValue) { return false }
            throw Bus1Error.send(result)
        }
        for (slice, pool) in prepared.made { pool.end(slice) }
        return true
    }

    /// Room for so many bodies; what stands there stays.
    func reserveBodies(_ count: Int) {
        guard count > bodyCount else { return }
        let grown = UnsafeMutableRawPointer.allocate(
            byteCount: count * 2 * Self.bodyStride, alignment: 8)
        grown.copyMemory(from: bodies, byteCount: bodyCount * Self.bodyStride)
        bodies.deallocate()
        bodies = grown
        bodyCount = count * 2
    }
}
