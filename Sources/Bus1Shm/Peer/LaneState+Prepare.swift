import CShmRing
import Synchronization

// Everything that a message needs before anything is claimed: binding, grants, introductions, slices,
// descriptors. What was done is written down, so that it can be undone.

extension LaneState {
    /// Bytes between the bodies in the lane's buffer.
    static let bodyStride = Int(SHMRING_SLOT_BYTES_MAX)

    /// Prepares one message. nil: an owner's ring has no room for what must be told before; nothing
    /// has been done.
    func prepare(
        _ message: OutgoingMessage, bytes: UnsafeRawBufferPointer, body: Int,
        until deadline: Deadline
    ) throws(Bus1Error) -> PreparedMessage? {
        let entry = try usableEntry(message.handle)
        guard try bind(entry) else { return nil }
        let index = Int(entry.pointee.link)
        guard let link = core.link(at: index) else { throw core.noSuchHandleToSend }
        var prepared = PreparedMessage(
            entry: entry, link: link, linkIndex: index, producer: try laneProducer(at: index),
            body: body)
        do throws(Bus1Error) {
            guard message.hasAttachments else {
                try encodePayload(message.payload, bytes, into: &prepared, until: deadline)
                return prepared
            }
            try link.charge(
                message.charge, by: prepared.producer, account: core.account, &creditWait)
            prepared.charge = message.charge
            guard let records = try attach(message, to: &prepared, until: deadline) else {
                undo(prepared)
                return nil
            }
            try encode(message, records, bytes, into: &prepared, until: deadline)
            return prepared
        } catch {
            undo(prepared)
            throw error
        }
    }

    /// Takes back what was done for a message that is not sent.
    func undo(_ prepared: PreparedMessage) {
        prepared.link.takeBack(prepared.charge)
        for number in prepared.grants { core.endGrant(number) }
        if let lent = prepared.lent {
            var reference = lent.reference
            _ = shmring_pool_take_back(lent.lender.pool, lent.lender.number, &reference)
        }
        for (slice, pool) in prepared.made { pool.end(slice) }
        if let attempt = prepared.attempt {
            core.abandonDescriptors(
                attempt: attempt, link: prepared.link, by: prepared.producer)
        }
    }

    /// Grants, hand-overs and descriptors; the bytes that stand in front of the payload. nil: a ring
    /// has no room for a binding.
    private func attach(
        _ message: OutgoingMessage, to prepared: inout PreparedMessage, until deadline: Deadline
    ) throws(Bus1Error) -> [UInt8]? {
        guard message.passing.count <= attachedHandlesMax else {
            throw Bus1Error(.tooLarge, "send handles")
        }
        var handles: [AttachedHandle] = []
        for id in message.passing {
            guard let record = try attach(id, to: &prepared, until: deadline) else { return nil }
            handles.append(record)
        }
        if let node = message.replyNode {
            let number = try core.makeGrant(
                node, to: prepared.link, oneShot: !message.keepsReply)
            prepared.grants.append(number)
            handles.append(
                AttachedHandle(
                    owner: core.ownPeer.rawValue, number: number, word: node.word,
                    rawKind: AttachedHandle.Kind.ofSender.rawValue,
                    oneShot: message.keepsReply ? 0 : 1))
        }
        var bytes: [UInt8] = []
        let descriptors = message.allDescriptors
        if !descriptors.isEmpty {
            let attempt = try core.sendDescriptors(
                descriptors, over: prepared.link, lane: number, by: prepared.producer,
                until: deadline)
            prepared.attempt = attempt
            withUnsafeBytes(of: attempt) { bytes.append(contentsOf: $0) }
        }
        for record in handles { withUnsafeBytes(of: record) { bytes.append(contentsOf: $0) } }
        return bytes
    }

    /// One handle that is passed on.
    private func attach(
        _ id: HandleID, to prepared: inout PreparedMessage, until deadline: Deadline
    ) throws(Bus1Error) -> AttachedHandle? {
        let passed = try usableEntry(id)
        guard let owner = core.link(at: Int(passed.pointee.link)) else {
            throw core.noSuchHandleToSend
        }
        if owner.peer == core.ownPeer {
            guard let node = core.ownNode(behind: passed, owner) else {
                throw Bus1Error.nodeReleasedToSend
            }
            let number = try core.makeGrant(node, to: prepared.link, oneShot: false)
            prepared.grants.append(number)
            return AttachedHandle(
                owner: core.ownPeer.rawValue, number: number, word: node.word,
                rawKind: AttachedHandle.Kind.ofSender.rawValue)
        }
        guard try bind(passed) else { return nil }
        if owner.peer == prepared.link.peer {
            return AttachedHandle(
                owner: owner.peer.rawValue, number: passed.pointee.grant,
                word: passed.pointee.word, rawKind: AttachedHandle.Kind.ofReceiver.rawValue)
        }
        try core.introduce(
            owner.peer, prepared.link.peer, byLane: number, until: deadline)
        let count = core.nextHandOver()
        prepared.handOvers.append(
            (
                owner, Int(passed.pointee.link),
                ControlRecord(
                    .handOver, number: count, first: prepared.link.peer.rawValue,
                    second: passed.pointee.grant)
            ))
        return AttachedHandle(
            owner: owner.peer.rawValue, number: count, word: passed.pointee.word,
            rawKind: AttachedHandle.Kind.ofThird.rawValue)
    }

    // MARK: Bodies

    private func place(_ prepared: PreparedMessage) -> UnsafeMutableRawPointer {
        bodies + prepared.body * Self.bodyStride
    }

    /// A message without attachments.
    private func encodePayload(
        _ payload: OutgoingMessage.Payload, _ bytes: UnsafeRawBufferPointer,
        into prepared: inout PreparedMessage, until deadline: Deadline
    ) throws(Bus1Error) {
        let room = Int(prepared.producer.pointee.body_bytes)
        switch payload {
        case .copied(let range) where range.count <= room:
            if !range.isEmpty {
                place(prepared).copyMemory(
                    from: bytes.baseAddress! + range.lowerBound, byteCount: range.count)
            }
            prepared.length = range.count
        case .copied(let range):
            let slice = try makeSlice(range.count, for: &prepared, until: deadline)
            slice.copyMemory(from: bytes.baseAddress! + range.lowerBound, byteCount: range.count)
            try lendMade(range.count, in: &prepared, at: 0, until: deadline)
        case .slice(let raw, let byteCount, let pool):
            try lend(raw, byteCount, pool, in: &prepared, at: 0, until: deadline)
        case .sealed: preconditionFailure("a sealed payload is an attachment")
        }
    }

    /// A message with attachments: in the slot what fits there.
    private func encode(
        _ message: OutgoingMessage, _ records: [UInt8], _ bytes: UnsafeRawBufferPointer,
        into prepared: inout PreparedMessage, until deadline: Deadline
    ) throws(Bus1Error) {
        let headerSize = MemoryLayout<AttachmentHeader>.size
        let referenceSize = MemoryLayout<shmring_slice_ref>.size
        let room = Int(prepared.producer.pointee.body_bytes)
        var header = AttachmentHeader(
            handleCount: UInt16(message.passing.count + (message.replyNode == nil ? 0 : 1)),
            descriptorCount: UInt16(message.allDescriptors.count), marks: [])
        if message.replyNode != nil { header.marks.insert(.reply) }
        if message.keepsReply { header.marks.insert(.keep) }
        prepared.bits = shmring_header_attached()

        var payload: UnsafeRawBufferPointer
        var sealedLength: UInt64 = 0
        switch message.payload {
        case .slice(let raw, let byteCount, let pool)
        where headerSize + records.count + referenceSize <= room:
            write(header, records, to: prepared)
            return try lend(
                raw, byteCount, pool, in: &prepared, at: headerSize + records.count,
                until: deadline)
        case .slice(let raw, let byteCount, _):
            // Too many records beside it: payload and records are copied into one slice.
            copiesForRecords += 1
            payload = UnsafeRawBufferPointer(start: raw.base, count: byteCount)
        case .copied(let range):
            payload = UnsafeRawBufferPointer(rebasing: bytes[range])
        case .sealed(_, let byteCount):
            header.marks.insert(.sealedPayload)
            sealedLength = UInt64(byteCount)
            payload = UnsafeRawBufferPointer(start: nil, count: 0)
        }
        try withUnsafeBytes(of: &sealedLength) { length throws(Bus1Error) in
            if header.marks.contains(.sealedPayload) { payload = UnsafeRawBufferPointer(length) }
            let rest = records.count + payload.count
            guard headerSize + rest > room else {
                write(header, records, to: prepared)
                if let base = payload.baseAddress {
                    (place(prepared) + headerSize + records.count).copyMemory(
                        from: base, byteCount: payload.count)
                }
                prepared.length = headerSize + rest
                return
            }
            header.marks.insert(.recordsInSlice)
            let slice = try makeSlice(rest, for: &prepared, until: deadline)
            records.withUnsafeBytes {
                if let base = $0.baseAddress {
                    slice.copyMemory(from: base, byteCount: $0.count)
                }
            }
            if let base = payload.baseAddress {
                (slice + records.count).copyMemory(from: base, byteCount: payload.count)
            }
            write(header, [], to: prepared)
            try lendMade(rest, in: &prepared, at: headerSize, until: deadline)
        }
    }

    private func write(_ header: AttachmentHeader, _ records: [UInt8], to prepared: PreparedMessage)
    {
        let place = place(prepared)
        place.storeBytes(of: header, as: AttachmentHeader.self)
        records.withUnsafeBytes {
            if let base = $0.baseAddress {
                (place + MemoryLayout<AttachmentHeader>.size).copyMemory(
                    from: base, byteCount: $0.count)
            }
        }
    }

    // MARK: Slices

    /// A slice of this lane's pool toward the receiver's domain. It is ended in any case.
    private func makeSlice(
        _ byteCount: Int, for prepared: inout PreparedMessage, until deadline: Deadline
    ) throws(Bus1Error) -> UnsafeMutableRawPointer {
        let pool = try pool(toward: prepared.link.domain)
        let slice = try loan(byteCount, toward: prepared.link.domain, until: deadline)
        let base = slice.raw.base!
        prepared.made.append((slice.takeRaw(), pool))
        return base
    }

    private func lendMade(
        _ byteCount: Int, in prepared: inout PreparedMessage, at offset: Int,
        until deadline: Deadline
    ) throws(Bus1Error) {
        let (raw, pool) = prepared.made[prepared.made.count - 1]
        try lendRaw(raw, byteCount, pool, in: &prepared, at: offset, until: deadline)
    }

    /// Lends the program's slice; one of another domain's or lane's is copied first.
    private func lend(
        _ raw: shmring_slice, _ byteCount: Int, _ pool: Unmanaged<SlicePool>,
        in prepared: inout PreparedMessage, at offset: Int, until deadline: Deadline
    ) throws(Bus1Error) {
        let own = try self.pool(toward: prepared.link.domain)
        let given = pool._withUnsafeGuaranteedRef { $0 }
        if given === own {
            return try lendRaw(raw, byteCount, own, in: &prepared, at: offset, until: deadline)
        }
        foreignCopies += 1
        let copy = try makeSlice(byteCount, for: &prepared, until: deadline)
        copy.copyMemory(from: raw.base, byteCount: byteCount)
        try lendMade(byteCount, in: &prepared, at: offset, until: deadline)
    }

    private func lendRaw(
        _ raw: shmring_slice, _ byteCount: Int, _ pool: SlicePool,
        in prepared: inout PreparedMessage, at offset: Int, until deadline: Deadline
    ) throws(Bus1Error) {
        var reference = shmring_slice_ref()
        while true {
            // Its owner goes on owning it: the value made here must not end it.
            let slice = Slice(raw, byteCount: byteCount, of: pool)
            let lent = Result { () throws(Bus1Error) in
                try lend(slice, to: prepared.linkIndex, &reference)
            }
            _ = slice.takeRaw()
            if let lender = try lent.get() {
                prepared.lent = (lender, reference)
                break
            }
            if isImpatient { obstacle = .something }
            guard !deadline.hasPassed, !isImpatient else {
                throw Bus1Error(.timedOut, "lend a slice")
            }
            _ = shmring_pool_wait(
                pool.pool, Deadline.earlier(deadline, .after(.milliseconds(1))).monotonic_ns)
        }
        (place(prepared) + offset).copyMemory(
            from: &reference, byteCount: MemoryLayout<shmring_slice_ref>.size)
        prepared.length = offset + MemoryLayout<shmring_slice_ref>.size
        prepared.bits |= shmring_header_slice()
    }
}

/// Handles in one message.
let attachedHandlesMax = 253
