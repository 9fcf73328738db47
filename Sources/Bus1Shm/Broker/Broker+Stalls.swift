import CBus1System
import CShmRing

// Commit words of peers that stand still: whoever waits for one asks, the broker counts its lease and aborts it. One
// ask is enough; asking again changes nothing. What the lease is, shmring_lease.h says.
extension Broker {
    /// A lane whose commit word somebody waits for, or did: how often it was aborted stays.
    struct Stall {
        var lease = shmring_lease()
        var askers: Set<PeerID> = []

        var isWaitedFor: Bool { lease.until_ns != 0 }
    }

    /// Somebody waits for a commit word of a peer that it knows. Not answered: the word itself tells.
    func abortAsk(_ message: ControlMessage, from asker: BrokerPeer) throws(Failure) {
        let body = try whole(message, AbortAskBody.self)
        if shmring_unchecked_lease() { return }
        let id = PeerID(rawValue: body.peer)
        // Nothing is wrong with asking for what is over, or for somebody who has died.
        guard asker.introduced.contains(id), let owner = peers[id] else { return }
        count(body.commitIndex, body.generation, of: owner, waitedForBy: [asker.id])
    }

    /// Begins a word's lease, if it is pending still and has none.
    private func count(
        _ index: UInt32, _ generation: UInt32, of owner: BrokerPeer, waitedForBy askers: Set<PeerID>
    ) {
        guard let age_ns = age(of: index, generation, of: owner) else { return }
        let lane = index / SHMRING_COMMIT_WORDS
        var stall = owner.stalls[lane] ?? Stall()
        let now_ns = monotonicNow_ns()
        if stall.isWaitedFor, stall.lease.index != index {
            // The other one is read later: a lane's thread ends one transaction before it begins the next. Who has both
            // pending lies, and has no lease: else it had one after the other for each word of a lane.
            let otherAge_ns = age(of: stall.lease.index, stall.lease.generation, of: owner)
            end(&stall, of: owner, now_ns, isDue: otherAge_ns.map(isNotYoung) ?? false)
            if otherAge_ns != nil, isNotYoung(age_ns) {
                owner.abort(index, generation: generation)
                owner.stalls[lane] = stall
                for id in askers { peers[id]?.outbox?.attend() }
                return
            }
        }
        if stall.lease.generation != generation {
            end(&stall, of: owner, now_ns, isDue: false)
        }
        stall.askers.formUnion(askers)
        let until_ns = withBudget(of: owner, now_ns) {
            shmring_lease_begin(&stall.lease, &$0, index, generation, now_ns, age_ns)
        }
        owner.stalls[lane] = stall
        stalled.insert(owner.id)
        setAlarm(until_ns)
    }

    /// At an heir whose broker stands still, and somebody waits: does what others wait for in its place. The broker may
    /// go on at any moment: each step is one compare-and-swap, which one of the two makes. True: there is more to come.
    func standIn() -> Bool {
        var isBegun = false
        for peer in peers.values {
            if let number = peer.dyingAs {
                isBegun = true
                // Its own words were settled before, or would be next: they get their lease like others'.
                _ = busPage.announceLate(peer.id, generation: number, clock: clock)
            }
            for word in peer.outbox?.pendingWords(lanes: peer.lanes) ?? [] {
                // Who waits for it is not known here.
                count(word.index, word.generation, of: peer, waitedForBy: peer.introduced)
            }
        }
        judgeStalls()
        return isBegun || !stalled.isEmpty
    }

    /// Some lease is over, or was until its word was seen to be final.
    func judgeStalls() {
        alarm_ns = .max
        var next_ns = UInt64.max
        for id in stalled {
            guard let owner = peers[id] else {
                stalled.remove(id)
                continue
            }
            var isWaitedFor = false
            for lane in owner.stalls.keys {
                guard owner.stalls[lane]!.isWaitedFor else { continue }
                let now_ns = monotonicNow_ns()
                let lease = owner.stalls[lane]!.lease
                let isDue = now_ns >= lease.until_ns
                if isDue || age(of: lease.index, lease.generation, of: owner) == nil {
                    end(&owner.stalls[lane]!, of: owner, now_ns, isDue: isDue)
                } else {
                    isWaitedFor = true
                    next_ns = min(next_ns, lease.until_ns)
                }
            }
            if !isWaitedFor { stalled.remove(id) }
        }
        setAlarm(next_ns)
    }

    /// Whether who has two words of a lane pending may lose one of that age.
    private func isNotYoung(_ age_ns: Int64) -> Bool { age_ns.magnitude > SHMRING_LEASE_MIN_ns }

    /// How long ago a word says that it began; nil when it is not pending in that generation.
    private func age(of index: UInt32, _ generation: UInt32, of owner: BrokerPeer) -> Int64? {
        let word = owner.outbox?.pending(index, generation: generation, lanes: owner.lanes) ?? 0
        guard word != 0 else { return nil }
        return withUnsafePointer(to: clock) { shmring_clock_age_ns($0, word) }
    }

    /// Nobody waits for this word any more: it is final, or it is made so.
    private func end(_ stall: inout Stall, of owner: BrokerPeer, _ now_ns: UInt64, isDue: Bool) {
        guard stall.isWaitedFor else { return }
        let isAborted =
            isDue && owner.abort(stall.lease.index, generation: stall.lease.generation)
        withBudget(of: owner, now_ns) {
            shmring_lease_end(&stall.lease, &$0, now_ns, isAborted)
        }
        if isAborted { aborts += 1 }
        // They may sleep, and nobody else would wake them for this.
        for id in stall.askers { peers[id]?.outbox?.attend() }
        stall.askers.removeAll()
    }

    private func withBudget<R>(
        of owner: BrokerPeer, _ now_ns: UInt64, _ body: (inout shmring_stall_budget) -> R
    ) -> R {
        if stallBudgets.count > 64 {
            // As a new one.
            stallBudgets = stallBudgets.filter {
                withUnsafePointer(to: $0.value) { !shmring_stall_budget_is_full($0, now_ns) }
            }
        }
        var budget = stallBudgets[owner.domain] ?? shmring_stall_budget()
        if budget.at_ns == 0 { shmring_stall_budget_init(&budget, now_ns) }
        defer { stallBudgets[owner.domain] = budget }
        return body(&budget)
    }

    private func setAlarm(_ at_ns: UInt64) {
        guard at_ns < alarm_ns else { return }
        alarm_ns = at_ns
        bus1_sys_alarm_set(alarm.rawValue, at_ns)
        if !isAlarmWatched {
            isAlarmWatched = watchReady(alarm.rawValue, writable: false, Token(.alarm))
        }
    }
}

/// SHMRING_LEASE_MIN_NS, which Swift does not import.
private let SHMRING_LEASE_MIN_ns: UInt64 = 100_000

extension BrokerPeer {
    /// True when the word was pending in that generation, and is aborted now.
    @discardableResult
    func abort(_ index: UInt32, generation: UInt32) -> Bool {
        outbox?.abort(index, generation: generation, lanes: lanes) ?? false
    }
}
