import CShmRing

// The usual way of handles: one message with a few of them, all of which fits a slot. What the general
// way (LaneState+Prepare.swift) keeps in lists stands on the stack here.

extension LaneState {
    /// Handles of a message that needs no lists.
    static let fewMax = 4

    /// What was done for a message, and has to be undone if it is not sent.
    private struct Few {
        /// Made for its receiver.
        var grants = InlineArray<4, UInt32>(repeating: 0)
        var grantCount = 0
        /// To the receiver's credit.
        var charge = CreditCharge()
        /// The message's own leg, and one for each owner's record.
        var legCount = 1
    }

    /// Sends a message with a few handles. `core`: the lane's, from a caller that has counted its reference. nil: it is not
    /// of the usual kind, or there was no room: nothing has happened.
    func trySendFew(
        _ bytes: RawSpan, _ handle: HandleID, passing: [HandleID], _ core: PeerCore
    ) throws(Bus1Error) -> Stamp? {
        guard passing.count <= Self.fewMax else { return nil }
        try core.requireOpen("send handles")
        let entry = try usableEntry(handle)
        guard try bind(entry), let link = route(at: entry.pointee.link) else { return nil }
        let producer = try producer(entry)
        let headerSize = MemoryLayout<AttachmentHeader>.size
        let recordSize = MemoryLayout<AttachedHandle>.size
        let payload = headerSize + passing.count * recordSize
        let length = payload + bytes.byteCount
        guard length <= Int(producer.pointee.body_bytes) else { return nil }
        reserveBodies(1 + Self.fewMax)
        reserveLegs(1 + Self.fewMax)
        var few = Few()
        do throws(Bus1Error) {
            for i in 0..<passing.count {
                guard let record = try attach(passing[i], for: link, &few, core) else {
                    undo(few, link)
                    return nil
                }
                bodies.storeBytes(
                    of: record, toByteOffset: headerSize + i * recordSize, as: AttachedHandle.self)
            }
        } catch {
            undo(few, link)
            throw error
        }
        let charge = CreditCharge(handles: passing.count)
        guard link.pointee.charge(charge, by: producer) == nil else {
            // The general way says what is missing, or waits for it.
            undo(few, link)
            return nil
        }
        few.charge = charge
        bodies.storeBytes(
            of: AttachmentHeader(
                handleCount: UInt16(passing.count), descriptorCount: 0, marks: []),
            as: AttachmentHeader.self)
        bytes.withUnsafeBytes {
            shmring_copy(bodies + payload, $0.baseAddress, UInt64($0.count))
        }
        legs[0] = shmring_leg(
            producer: producer, body: UnsafeRawPointer(bodies), grant: entry.pointee.grant,
            length: UInt32(length), bits: shmring_header_attached(), position: 0)
        var stamp: UInt64 = 0
        let result = commitFew(few.legCount, core.clock, &stamp)
        if result == 0 { return Stamp(rawValue: stamp) }
        undo(few, link)
        guard
            result == Int32(SHMRING_E_FULL.rawValue) || result == Int32(SHMRING_E_ABORTED.rawValue)
        else { throw Bus1Error.send(result) }
        return nil
    }

    private func commitFew(
        _ count: Int, _ clock: UnsafeMutablePointer<shmring_clock>, _ stamp: inout UInt64
    ) -> Int32 {
        guard count > 1 else {
            let leg = legs[0]
            return shmring_producer_send(
                leg.producer, clock, leg.grant, leg.bits, leg.body, UInt64(leg.length), &stamp)
        }
        var failed: UInt32 = 0
        return shmring_transaction_commit(
            lane, clock, legs, UInt32(count), false, nil, &stamp, &failed)
    }

    private func undo(_ few: Few, _ link: UnsafeMutablePointer<LinkRoute>) {
        link.pointee.takeBack(few.charge)
        for i in 0..<few.grantCount { core.endGrant(few.grants[i]) }
    }

    /// One handle. nil: not this way, or an owner's ring has no room.
    private func attach(
        _ id: HandleID, for link: UnsafeMutablePointer<LinkRoute>, _ few: inout Few,
        _ core: PeerCore
    ) throws(Bus1Error) -> AttachedHandle? {
        let passed = try usableEntry(id)
        let index = Int(passed.pointee.link)
        guard let owner = route(at: passed.pointee.link)?.pointee.peer else { return nil }
        if owner == core.ownPeer {
            guard
                let number = try core.makeGrant(
                    as: passed.pointee.grant, to: link.pointee.index)
            else {
                return nil
            }
            few.grants[few.grantCount] = number
            few.grantCount += 1
            return AttachedHandle(
                owner: core.ownPeer.rawValue, number: number, word: passed.pointee.word,
                rawKind: AttachedHandle.Kind.ofSender.rawValue)
        }
        guard try bind(passed) else { return nil }
        let receiver = link.pointee.peer
        if owner == receiver {
            return AttachedHandle(
                owner: owner.rawValue, number: passed.pointee.grant,
                word: passed.pointee.word, rawKind: AttachedHandle.Kind.ofReceiver.rawValue)
        }
        try core.introduce(owner, receiver, byLane: number)
        let count = core.nextHandOver()
        let body = bodies + few.legCount * Self.bodyStride
        body.storeBytes(
            of: ControlRecord(
                .handOver, number: count, first: receiver.rawValue,
                second: passed.pointee.grant), as: ControlRecord.self)
        legs[few.legCount] = shmring_leg(
            producer: try laneProducer(at: index), body: UnsafeRawPointer(body),
            grant: ReservedGrant.control, length: UInt32(MemoryLayout<ControlRecord>.size),
            bits: 0, position: 0)
        few.legCount += 1
        return AttachedHandle(
            owner: owner.rawValue, number: count, word: passed.pointee.word,
            rawKind: AttachedHandle.Kind.ofThird.rawValue)
    }
}
