import CShmRing

/// Which tasks wait for deliveries of one peer. One of them, the leader, takes from the rings and sleeps on them; the
/// others follow: they are woken when something for them was taken, or to lead.
///
/// NOTE - only the peer's isolation domain.
struct ReceiverLine {
    /// What one of them wants.
    enum Want {
        /// Whatever comes next.
        case anything
        /// A message for one node.
        case node(UInt64)
        /// The end of a call, which does not come as a delivery.
        case call(PendingCall)
    }

    final class Follower {
        let want: Want
        let wait: Wait
        init(_ want: Want, _ wait: Wait) {
            self.want = want
            self.wait = wait
        }
    }

    /// Somebody takes from the rings, or sleeps on them.
    var hasLeader = false
    /// What the leader sleeps by.
    var leaderWait: Wait?
    private var followers: [Follower] = []

    mutating func append(_ follower: Follower) { followers.append(follower) }

    mutating func remove(_ follower: Follower) { followers.removeAll { $0 === follower } }

    /// Wakes who waits for messages of this node, else who takes anything. False: nobody does.
    @discardableResult
    func wake(for node: UInt64) -> Bool {
        if wakeSpecialist(for: node) { return true }
        for follower in followers {
            if case .anything = follower.want {
                follower.wait.end(.woken)
                return true
            }
        }
        return false
    }

    /// Wakes who waits for messages of this node only. False: nobody does.
    func wakeSpecialist(for node: UInt64) -> Bool {
        for follower in followers {
            if case .node(node) = follower.want {
                follower.wait.end(.woken)
                return true
            }
        }
        return false
    }

    /// Wakes who is to lead, if nobody does.
    func passOn() {
        guard !hasLeader else { return }
        followers.first?.wait.end(.woken)
    }

    /// Somebody took something, or something came, by another way than the line.
    func stir() { leaderWait?.end(.woken) }

    var isEmpty: Bool { followers.isEmpty }
}

extension PeerCore {
    /// How long a leader sleeps at most: hostile senders delay it so long.
    private static let longestSleep_ns: UInt64 = 250_000_000
    /// How long somebody waits for others to take what is kept for them, before it looks again.
    private static let crowded_ns: UInt64 = 5_000_000

    /// What somebody wants who receives asynchronously. nil: only for a call, which has ended.
    ///
    /// - Throws: as a blocking receive, and `cancelled`.
    nonisolated(nonsending)
        func receiveLater(_ want: ReceiverLine.Want, until deadline: Deadline)
        async throws(Bus1Error) -> Delivery?
    {
        do throws(Bus1Error) {
            let delivery = try await receiveInLine(want, until: deadline)
            line.passOn()
            return delivery
        } catch {
            line.passOn()
            throw error
        }
    }

    private nonisolated(nonsending)
        func receiveInLine(_ want: ReceiverLine.Want, until deadline: Deadline)
        async throws(Bus1Error) -> Delivery?
    {
        while true {
            try requireOpen("receive")
            if let delivery = takeReady(want) { return delivery }
            if case .call(let call) = want, call.isOver { return nil }
            if Task.isCancelled { throw Bus1Error.cancelledToReceive }
            if line.hasLeader {
                try await follow(want, until: deadline)
                continue
            }
            var isCrowded = false
            if let delivery = try lookAsLeader(want, &isCrowded) { return delivery }
            if case .call(let call) = want, call.isOver { return nil }
            if isCrowded {
                let soon = Deadline(monotonic_ns: monotonicNow_ns() + Self.crowded_ns)
                line.passOn()
                do throws(Bus1Error) {
                    try await follow(want, until: Deadline.earlier(deadline, soon))
                } catch {
                    guard error.code == .timedOut, !deadline.hasPassed else { throw error }
                }
                continue
            }
            if deadline.hasPassed { throw Bus1Error.timedOutToReceive }
            if let delivery = try await leadAsleep(want, until: deadline) { return delivery }
        }
    }

    /// What was taken before and waits.
    private func takeReady(_ want: ReceiverLine.Want) -> Delivery? {
        switch want {
        case .anything: return kept.isEmpty ? nil : takeKept()
        case .call: return nil
        case .node(let node):
            guard let message = kept.takeFirst(of: node) else { return nil }
            holdInbox()
            return .message(message)
        }
    }

    /// Sleeps until the leader, or whoever stops leading, says so.
    private nonisolated(nonsending)
        func follow(_ want: ReceiverLine.Want, until deadline: Deadline) async throws(Bus1Error)
    {
        let wait = Wait(until_ns: deadline.monotonic_ns, words: 0, keeping: self)
        let follower = ReceiverLine.Follower(want, wait)
        if case .call(let call) = want { call.wait = wait }
        line.append(follower)
        let outcome = await wait.sleep()
        line.remove(follower)
        switch outcome {
        case .woken: return
        case .cancelled: throw Bus1Error.cancelledToReceive
        case .timedOut: throw Bus1Error.timedOutToReceive
        }
    }

    /// Takes what there is, for oneself or for others. nil: nothing for oneself.
    private func lookAsLeader(
        _ want: ReceiverLine.Want, _ isCrowded: inout Bool
    ) throws(Bus1Error) -> Delivery? {
        defer { holdInbox() }
        while true {
            // Each time: a notice that was kept holds it again.
            shmring_inbox_hold(inbox, isClosed)
            if case .call(let call) = want, call.isOver { return nil }
            guard kept.count < limits[.messages] else {
                // Others are to take theirs first; without any of them it would last for ever.
                guard !line.isEmpty || streamCount > 1 else {
                    throw overQuota(.messages, "receive on one node")
                }
                isCrowded = true
                return nil
            }
            guard let delivery = try nextDelivery(until: .now, waiting: false) else { return nil }
            if let own = sort(delivery, want, &isCrowded) { return own }
            if isCrowded { return nil }
        }
    }

    /// Gives a delivery to whom it is for. nil: not the one who asks; `hasToFollow`: it goes on when the other has taken it.
    private func sort(
        _ delivery: consuming Delivery, _ want: ReceiverLine.Want, _ hasToFollow: inout Bool
    ) -> Delivery? {
        switch consume delivery {
        case .message(let message):
            let node = message.node.rawValue
            switch want {
            case .node(node): return .message(message)
            case .anything:
                guard line.wakeSpecialist(for: node) else { return .message(message) }
                // Nothing that was kept is for whoever takes anything: it waits behind the other.
                hasToFollow = true
            default: line.wake(for: node)
            }
            kept.append(.message(message))
        case .notice(let notice):
            if case .anything = want { return .notice(notice) }
            kept.append(.notice(notice))
            line.wake(for: 0)
        }
        return nil
    }

    /// Announces that the peer sleeps, looks once more, and suspends the task.
    private nonisolated(nonsending)
        func leadAsleep(_ want: ReceiverLine.Want, until deadline: Deadline)
        async throws(Bus1Error) -> Delivery?
    {
        let isSoon =
            hasClaimsToBury || hasIdlePools || chores.isThere(.releases) || pendingDeath != nil
            || willLetGo
        let longest_ns = isSoon ? 5_000_000 : Self.longestSleep_ns
        let until = Deadline.earlier(
            deadline, Deadline(monotonic_ns: monotonicNow_ns() + longest_ns))
        let wait = Wait(
            until_ns: 0, words: Int(min(inbox.pointee.ring_count + 1, SHMRING_PARK_WORDS)),
            keeping: self)
        shmring_inbox_hold(inbox, isClosed)
        let message = shmring_cell_message(hot.pointee.arena.pointee.current!)!
        let result = shmring_inbox_park(inbox, message, wait.words, &wait.wordCount)
        guard result == Int32(SHMRING_E_EMPTY.rawValue) else {
            shmring_inbox_unpark(inbox)
            defer { holdInbox() }
            guard let found = try settle(result, until: .now, waiting: false) else { return nil }
            var hasToFollow = false
            return sort(found, want, &hasToFollow)
        }
        holdInbox()
        inbox.pointee.counts.parked += 1
        wait.isIncomplete = inbox.pointee.ring_count > UInt32(SHMRING_FUTEX_RINGS_MAX)
        wait.until_ns = shmring_inbox_sleeps_until(inbox, until.monotonic_ns)
        if case .call(let call) = want { call.wait = wait }
        line.hasLeader = true
        line.leaderWait = wait
        let outcome = await wait.sleep()
        line.hasLeader = false
        line.leaderWait = nil
        shmring_inbox_unpark(inbox)
        switch outcome {
        case .woken, .timedOut: return nil
        case .cancelled: throw Bus1Error.cancelledToReceive
        }
    }
}

extension Bus1Error {
    static let cancelledToReceive = Bus1Error(.cancelled, "receive")
}
