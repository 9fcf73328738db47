import CShmRing

extension Peer {
    /// Sends a copy of some bytes to each of several nodes, at one instant or not at all: whoever gets it gets it at the
    /// same place of one order. Waits for room in all rings.
    ///
    /// - Parameter handles: 256 at most, each held by this peer, none twice. None: nothing happens.
    /// - Throws: `noSuchHandle`, `nodeReleased`, `duplicateDestination`, `tooLarge`, `timedOut`, `severed`; nothing has
    ///   happened then.
    @discardableResult
    public func send(
        _ bytes: RawSpan, to handles: [HandleID], until deadline: Deadline = .never
    ) throws(Bus1Error) -> Stamp {
        try core.laneState.sendToAll(bytes, handles, until: deadline)
    }

    /// The same, with a list that needs no allocation.
    @inlinable
    @discardableResult
    public func send<let count: Int>(
        _ bytes: RawSpan, to handles: InlineArray<count, HandleID>,
        until deadline: Deadline = .never
    ) throws(Bus1Error) -> Stamp {
        try sendToAll(bytes, handles.span, until: deadline)
    }

    @usableFromInline
    func sendToAll(
        _ bytes: RawSpan, _ handles: Span<HandleID>, until deadline: Deadline
    ) throws(Bus1Error) -> Stamp {
        try core.laneState.sendToAll(bytes, handles, until: deadline)
    }
}

extension LaneState {
    func sendToAll(_ bytes: RawSpan, _ handles: [HandleID], until deadline: Deadline)
        throws(Bus1Error) -> Stamp
    {
        try sendToAll(bytes, handles.span, until: deadline)
    }

    func sendToAll(
        _ bytes: RawSpan, _ handles: Span<HandleID>, until deadline: Deadline
    ) throws(Bus1Error) -> Stamp {
        try core.requireOpen("send to several nodes")
        guard handles.count <= Int(SHMRING_CLAIM_WORDS) else {
            throw Bus1Error(.tooLarge, "send to several nodes")
        }
        guard !hasDuplicates(handles) else {
            throw Bus1Error(.duplicateDestination, "send to several nodes")
        }
        reserveLegs(handles.count)
        return try bytes.withUnsafeBytes { buffer throws(Bus1Error) in
            guard try fillLegs(handles, buffer, until: deadline) else {
                return try sendLongToAll(bytes, handles, until: deadline)
            }
            return try commit(handles, until: deadline)
        }
    }

    /// Whether a handle stands there twice: 256 of them are few enough to be looked for in a small table.
    private func hasDuplicates(_ handles: Span<HandleID>) -> Bool {
        handles.withUnsafeBufferPointer { handles in
            guard handles.count > 8 else {
                for i in 0..<handles.count {
                    for j in 0..<i where handles[i] == handles[j] { return true }
                }
                return false
            }
            return withUnsafeTemporaryAllocation(of: UInt64.self, capacity: 512) { table in
                table.initialize(repeating: 0)
                for handle in handles {
                    // The low bits are an index into the peer's handles, so that most have a place of their own.
                    var place = Int(truncatingIfNeeded: handle.rawValue) & 511
                    while table[place] != 0 {
                        if table[place] == handle.rawValue { return true }
                        place = (place + 1) & 511
                    }
                    table[place] = handle.rawValue
                }
                return false
            }
        }
    }

    /// One leg for each destination, all with the same bytes. False: they do not fit a slot of every one.
    private func fillLegs(
        _ handles: Span<HandleID>, _ bytes: UnsafeRawBufferPointer, until deadline: Deadline
    ) throws(Bus1Error) -> Bool {
        let legs = legs
        var isShort = true
        for i in handles.indices {
            let entry = try usableEntry(handles[i])
            while try !bind(entry) {
                guard !deadline.hasPassed else { throw Bus1Error(.timedOut, "bind a handle") }
                shmring_pause()
            }
            let producer = try producer(entry)
            legs[i] = shmring_leg(
                producer: producer, body: bytes.baseAddress, grant: entry.pointee.grant,
                length: UInt32(truncatingIfNeeded: bytes.count), bits: 0, position: 0)
            isShort = isShort && bytes.count <= Int(producer.pointee.body_bytes)
        }
        return isShort
    }

    /// One slice for each trust domain, lent to each of its destinations.
    private func sendLongToAll(
        _ bytes: RawSpan, _ handles: Span<HandleID>, until deadline: Deadline
    ) throws(Bus1Error) -> Stamp {
        var slices: [DomainID: shmring_slice] = [:]
        var lent: [Lender] = []
        references = Array(repeating: shmring_slice_ref(), count: handles.count)
        defer { for (domain, slice) in slices { pools[domain]!.end(slice) } }
        do throws(Bus1Error) {
            for i in handles.indices {
                let index = Int(try usableEntry(handles[i]).pointee.link)
                guard let link = core.link(at: index) else { throw core.noSuchHandleToSend }
                let pool = try pool(toward: link.domain)
                if slices[link.domain] == nil {
                    let slice = try loan(bytes.byteCount, toward: link.domain, until: deadline)
                    bytes.withUnsafeBytes {
                        slice.raw.base.copyMemory(from: $0.baseAddress!, byteCount: $0.count)
                    }
                    slices[link.domain] = slice.takeRaw()
                }
                while true {
                    let slice = Slice(slices[link.domain]!, byteCount: bytes.byteCount, of: pool)
                    let one = Result { () throws(Bus1Error) in
                        try lend(slice, to: index, &references[i])
                    }
                    _ = slice.takeRaw()
                    if let one = try one.get() {
                        lent.append(one)
                        break
                    }
                    guard !deadline.hasPassed else {
                        throw Bus1Error(.timedOut, "send to several nodes")
                    }
                    _ = shmring_pool_wait(
                        pool.pool, Deadline.earlier(deadline, .after(.milliseconds(1))).monotonic_ns
                    )
                }
            }
            return try references.withUnsafeBufferPointer { references throws(Bus1Error) in
                for i in handles.indices {
                    legs[i].body = UnsafeRawPointer(references.baseAddress! + i)
                    legs[i].length = UInt32(MemoryLayout<shmring_slice_ref>.size)
                    legs[i].bits = shmring_header_slice()
                }
                return try commit(handles, until: deadline)
            }
        } catch {
            for (i, one) in lent.enumerated() {
                _ = shmring_pool_take_back(one.pool, one.number, &references[i])
            }
            throw error
        }
    }

    /// Marks the messages behind which another one of this transaction goes to the same peer.
    private func markMore(_ count: Int) {
        guard count > 1 else { return }
        latestMark = latestMark == .max ? 1 : latestMark + 1
        for leg in stride(from: count - 1, through: 0, by: -1) {
            let producer = legs[leg].producer!
            if producer.pointee.mark == latestMark {
                legs[leg].bits |= shmring_header_more()
            } else {
                producer.pointee.mark = latestMark
            }
        }
    }

    /// Commits the legs, again and again until there is room everywhere or the deadline has passed.
    private func commit(_ handles: Span<HandleID>, until deadline: Deadline) throws(Bus1Error)
        -> Stamp
    {
        var stamp: UInt64 = 0
        var attempt: UInt64 = 0
        markMore(handles.count)
        while true {
            var failed: UInt32 = 0
            let result = shmring_transaction_commit(
                lane, core.clock, legs, UInt32(handles.count), attempt > 4, nil, &stamp, &failed)
            switch result {
            case 0: return Stamp(rawValue: stamp)
            case Int32(SHMRING_E_ABORTED.rawValue): continue
            case Int32(SHMRING_E_FULL.rawValue): break
            default: throw Bus1Error(result: result, "send to several nodes")
            }
            guard !deadline.hasPassed else { throw Bus1Error(.timedOut, "send to several nodes") }
            attempt += 1
            // A dead receiver makes no more room: every destination is looked at anew.
            for i in handles.indices { _ = try usableEntry(handles[i]) }
            backOff(attempt, legs[Int(failed)].producer, until: deadline)
        }
    }

    /// Lets others go first after an attempt that found a ring full; waits for room after some.
    func backOff(
        _ attempt: UInt64, _ producer: UnsafeMutablePointer<shmring_producer>?,
        until deadline: Deadline
    ) {
        // Two that get into each other's way meet again at different times.
        for _ in 0..<(stampNoise(attempt) & 63) { shmring_pause() }
        guard attempt > 16, let producer else { return }
        let until = Deadline.earlier(deadline, .after(.milliseconds(1))).monotonic_ns
        let result = shmring_producer_wait(producer, producer.pointee.capacity, until)
        // There is room, but it has its share of this lane's commit words.
        if result == 0, attempt > 32 { _ = shmring_producer_wait_for_head(producer, until) }
    }

    private func stampNoise(_ attempt: UInt64) -> UInt64 {
        var x = shmring_clock_now(core.clock) &+ attempt &* 0x9e37_79b9_7f4a_7c15
        x ^= x >> 29
        return x &* 0xbf58_476d_1ce4_e5b9 >> 32
    }
}
