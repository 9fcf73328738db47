import CShmRing

// A send that suspends its task where the blocking one puts its thread to sleep. What needs no waiting goes the same way
// as there.

extension Peer {
    /// Sends a value. Suspends the task until there is room.
    ///
    /// - Returns: the stamp, once the message is visible to every processor.
    /// - Throws: as the blocking send, and `cancelled` when the task is: nothing was sent then.
    @discardableResult
    nonisolated(nonsending) public func send<T: BitwiseCopyable>(
        _ value: T, to handle: borrowing Handle, until deadline: Deadline = .never
    ) async throws(Bus1Error) -> Stamp {
        while true {
            if let stamp = try trySend(value, to: handle) { return stamp }
            try await core.roomLater(at: handle.entry, until: deadline)
        }
    }

    /// Sends a copy of some bytes. Suspends the task until there is room.
    ///
    /// - Throws: as the blocking send, and `cancelled` when the task is: nothing was sent then.
    @discardableResult
    nonisolated(nonsending) public func send(
        _ bytes: RawSpan, to handle: borrowing Handle, until deadline: Deadline = .never
    ) async throws(Bus1Error) -> Stamp {
        while true {
            if let stamp = try trySend(bytes, to: handle) { return stamp }
            try await core.roomLater(at: handle.entry, until: deadline)
        }
    }

    /// Sends a slice without a copy. Suspends the task until there is room; the slice is gone in any case.
    ///
    /// - Throws: as the blocking send, and `cancelled`; `overQuota` when the slice must be copied for another trust domain
    ///   and there is no memory for that now.
    @discardableResult
    nonisolated(nonsending) public func send(
        _ slice: consuming Slice, to handle: borrowing Handle, until deadline: Deadline = .never
    ) async throws(Bus1Error) -> Stamp {
        var slice = slice
        guard handle.entry.pointee.token == hot.pointee.token else { throw core.noSuchHandleToSend }
        while true {
            // Looked up in each turn: its owner may have died meanwhile.
            let entry = try core.laneState.usableEntry(handle.id)
            _ = try core.laneState.fit(&slice, to: entry, until: .now)
            var stamp: UInt64 = 0
            if try core.laneState.trySend(slice, entry, &stamp) {
                slice.end()
                return Stamp(rawValue: stamp)
            }
            try await core.roomLater(at: handle.entry, until: deadline)
        }
    }

    /// Sends a copy of some bytes, and with them handles of this peer, of which the receiver gets copies of its own.
    /// Suspends the task until there is room, and credit for the handles at the receiver.
    ///
    /// The first hand-over between two peers that do not know each other asks the broker and blocks the thread for that.
    ///
    /// - Throws: as the blocking send, and `cancelled` when the task is: nothing was sent then.
    @discardableResult
    nonisolated(nonsending) public func send(
        _ bytes: RawSpan, to handle: borrowing Handle, passing: [HandleID],
        descriptors: [Int32] = [], until deadline: Deadline = .never
    ) async throws(Bus1Error) -> Stamp {
        var one = transaction()
        try one.send(bytes, to: handle.id, passing: passing, descriptors: descriptors)
        return try await one.commit(until: deadline)
    }
}

extension Transaction {
    /// Makes everything happen at one instant. Suspends the task until there is room in all rings, and credit.
    ///
    /// The first hand-over between two peers that do not know each other asks the broker and blocks the thread for that.
    ///
    /// - Returns: the instant; for an empty transaction the present.
    /// - Throws: as the blocking commit, and `cancelled` when the task is: nothing has happened then.
    @discardableResult
    nonisolated(nonsending) public consuming func commit(
        until deadline: Deadline = .never
    ) async throws(Bus1Error) -> Stamp {
        var transaction = self
        while true {
            let state = transaction.state
            if let stamp = try state.tryCommit(&transaction, until: deadline) { return stamp }
            try await state.waitPatiently(until: deadline)
        }
    }
}

/// For what somebody who does not wait would have had to wait.
enum Obstacle {
    /// Room in the ring behind a link.
    case room(Link)
    case credit(CreditWait)
    /// Slices that come back, or room for a binding: it is looked for again.
    case something
}

extension LaneState {
    /// Commits, unless that means waiting for others; nil: it does, and `obstacle` says for what.
    func tryCommit(_ transaction: inout Transaction, until deadline: Deadline) throws(Bus1Error)
        -> Stamp?
    {
        isImpatient = true
        obstacle = nil
        defer { isImpatient = false }
        do throws(Bus1Error) {
            return try commit(&transaction, each: false, until: deadline).stamp
        } catch {
            guard obstacle != nil else { throw error }
            return nil
        }
    }

    /// Suspends until the obstacle may be gone.
    nonisolated(nonsending) func waitPatiently(until deadline: Deadline) async throws(Bus1Error) {
        switch obstacle {
        case .room(let link): try await core.roomLater(at: link, until: deadline)
        case .credit(let credit):
            let wait = Wait(
                until_ns: monotonicNow_ns() + 100_000_000, words: 1, keeping: credit.link)
            wait.words[0] = shmring_word_at(credit.ringsWord, credit.announced)
            wait.wordCount = 1
            try await core.sleepToSend(wait, until: deadline)
        case .something, nil:
            let wait = Wait(until_ns: monotonicNow_ns() + 1_000_000, words: 0, keeping: core)
            try await core.sleepToSend(wait, until: deadline)
        }
    }
}

extension PeerCore {
    /// The longest time between two looks: a receiver that idles may miss who waits.
    private static let longestRoom_ns: UInt64 = 10_000_000

    nonisolated(nonsending)
        func roomLater(at entry: UnsafeMutablePointer<HandleEntry>, until deadline: Deadline)
        async throws(Bus1Error)
    {
        guard let link = link(of: entry) else { throw noSuchHandleToSend }
        try await roomLater(at: link, until: deadline)
    }

    /// Suspends until there is room in the ring behind a link, or some ms.
    nonisolated(nonsending)
        func roomLater(at link: Link, until deadline: Deadline) async throws(Bus1Error)
    {
        try requireOpen("send")
        if Task.isCancelled { throw Bus1Error(.cancelled, "send") }
        let wait = Wait(
            until_ns: monotonicNow_ns() + Self.longestRoom_ns, words: 1, keeping: link)
        let producer = link.producer
        // A unicast's room: what is more than that, a transaction finds out by trying.
        let result = shmring_producer_announce(
            producer, producer.pointee.unicast_room, wait.words)
        guard result == Int32(SHMRING_E_FULL.rawValue) else {
            if result == 0 { return await Task.yield() }
            throw Bus1Error.send(result)
        }
        wait.wordCount = 1
        try await sleepToSend(wait, until: deadline)
    }

    /// Any end of the wait means: try again.
    nonisolated(nonsending)
        func sleepToSend(_ wait: Wait, until deadline: Deadline) async throws(Bus1Error)
    {
        guard !deadline.hasPassed else { throw Bus1Error(.timedOut, "send") }
        wait.until_ns = min(wait.until_ns, deadline.monotonic_ns)
        if await wait.sleep() == .cancelled { throw Bus1Error(.cancelled, "send") }
    }
}
