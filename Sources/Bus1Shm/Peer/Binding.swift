import CShmRing
import Synchronization

// A handle that did not come from its owner is known to the owner by a key (`GrantKey`). Before its
// first message the holder tells the owner by which number it calls the handle from then on: one
// record in the owner's ring, which stands before that message.

/// A producer that never has room: of a handle that is not bound yet, so that the short way of a send
/// ends where a full ring does, and nothing has to be asked before.
enum NoRoom {
    /// Never freed, never written but for a claim word that nobody reads.
    nonisolated(unsafe) static let producer: UnsafeMutablePointer<shmring_producer> = {
        // nonisolated(unsafe): made once, and constant from then on.
        let control = UnsafeMutablePointer<shmring_ring_control>.allocate(capacity: 1)
        control.initialize(to: shmring_ring_control())
        control.pointee.tail = 2
        let claimWord = UnsafeMutablePointer<UInt64>.allocate(capacity: 1)
        claimWord.initialize(to: 0)
        let producer = UnsafeMutablePointer<shmring_producer>.allocate(capacity: 1)
        producer.initialize(to: shmring_producer())
        producer.pointee.control = control
        producer.pointee.claim_word = claimWord
        producer.pointee.capacity = 2
        producer.pointee.unicast_room = 1
        producer.pointee.body_bytes = .max
        return producer
    }()
}

extension LaneState {
    /// Tells the owner how this peer calls the handle, if it does not know yet. False: its ring has no
    /// room for that now, and nothing may be sent to the handle.
    @usableFromInline @inline(__always)
    func bind(_ entry: UnsafeMutablePointer<HandleEntry>) throws(Bus1Error) -> Bool {
        // Relaxed: a number, complete in itself; its record was visible before it was stored.
        if shmring_load_relaxed_u32(entry.pointer(to: \.grant)!) != ReservedGrant.unbound,
            number != 0 || entry.pointee.producer != NoRoom.producer
        {
            return true
        }
        return try bindSlowly(entry)
    }

    @usableFromInline @inline(never)
    func bindSlowly(_ entry: UnsafeMutablePointer<HandleEntry>) throws(Bus1Error) -> Bool {
        let word = entry.pointer(to: \.grant)!
        if shmring_load_relaxed_u32(word) != ReservedGrant.unbound {
            if number == 0 { useLinkProducer(entry) }
            return true
        }
        guard let link = core.link(at: Int(entry.pointee.link)) else {
            throw core.noSuchHandleToSend
        }
        let producer = try laneProducer(at: Int(entry.pointee.link))
        let clock = core.clock
        let result: Int32 = core.binding.withLock { _ in
            guard shmring_load_relaxed_u32(word) == ReservedGrant.unbound else { return 0 }
            guard let number = link.takeBoundNumber() else {
                return Int32(SHMRING_E_TOO_LARGE.rawValue)
            }
            let key = entry.pointee.key
            var record = ControlRecord(
                .bind, number: number, first: key.granter, second: key.number)
            var stamp: UInt64 = 0
            let sent = shmring_producer_send(
                producer, clock, ReservedGrant.control, 0, &record,
                UInt64(MemoryLayout<ControlRecord>.size), &stamp)
            if sent == 0 {
                shmring_fault_at(SHMRING_FAULT_OVER_BOUND)
                shmring_store_relaxed_u32(word, number)
            } else {
                link.giveBoundNumber(number)
            }
            return sent
        }
        if result == Int32(SHMRING_E_FULL.rawValue) { return false }
        guard result == 0 else { throw Bus1Error.send(result) }
        if number == 0 { useLinkProducer(entry) }
        return true
    }

    /// Only lane 0 reads the entry's producer.
    private func useLinkProducer(_ entry: UnsafeMutablePointer<HandleEntry>) {
        if let link = core.link(at: Int(entry.pointee.link)) {
            entry.pointee.producer = link.producer
        }
    }
}

extension Peer {
    /// A batch found no room: true if that was only because the handle was not bound yet.
    @usableFromInline @inline(never)
    func bindLate(_ entry: UnsafeMutablePointer<HandleEntry>) throws(Bus1Error) -> Bool {
        guard entry.pointee.producer == NoRoom.producer else { return false }
        return try core.laneState.bind(entry)
    }

    /// The ring seemed full: that is so, or the handle was not bound yet. nil: no room.
    @usableFromInline @inline(never)
    func trySendUnbound(
        bytes: UnsafeRawPointer?, _ count: Int, _ entry: UnsafeMutablePointer<HandleEntry>,
        _ id: HandleID
    ) throws(Bus1Error) -> Stamp? {
        guard entry.pointee.producer == NoRoom.producer, try core.laneState.bind(entry) else {
            return nil
        }
        return try trySend(bytes: bytes, count, entry, id)
    }
}
