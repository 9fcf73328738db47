import CShmRing

/// A segment as the broker maps it. The one place of the broker that touches shared memory:
/// everything goes through functions of CShmRing, which bound what they read by the mapping.
struct BrokerMapping: ~Copyable {
    private var mapping: shmring_mapping

    init(_ descriptor: Int32, _ kind: shmring_segment_kind, _ access: shmring_access)
        throws(Bus1Error)
    {
        mapping = shmring_mapping()
        let result = shmring_segment_map(
            descriptor, kind, access, 0, false, false, nil, nil, &mapping)
        guard result == 0 else { throw Bus1Error(result: result, "map a segment") }
    }

    deinit {
        var mapping = mapping
        shmring_segment_unmap(&mapping)
    }

    // MARK: Outbox

    /// Counts up the attention word and wakes whoever waits on it.
    func attend() {
        withUnsafePointer(to: mapping) { shmring_outbox_attend($0) }
    }

    /// Aborts every pending commit word.
    func settle(lanes: UInt32) {
        _ = withUnsafePointer(to: mapping) { shmring_outbox_settle($0, lanes) }
    }

    /// The commit word, if it is pending in that generation; else 0.
    func pending(_ index: UInt32, generation: UInt32, lanes: UInt32) -> UInt64 {
        withUnsafePointer(to: mapping) { shmring_outbox_pending($0, lanes, index, generation) }
    }

    /// Aborts one commit word, if it is pending in that generation. True if so.
    func abort(_ index: UInt32, generation: UInt32, lanes: UInt32) -> Bool {
        withUnsafePointer(to: mapping) { shmring_outbox_abort($0, lanes, index, generation) }
    }

    /// Those commit words that are pending now: index and generation.
    func pendingWords(lanes: UInt32) -> [(index: UInt32, generation: UInt32)] {
        var words: [(index: UInt32, generation: UInt32)] = []
        var next: UInt32 = 0
        var word: (index: UInt32, generation: UInt32) = (0, 0)
        while withUnsafePointer(
            to: mapping,
            { shmring_outbox_find_pending($0, lanes, &next, &word.index, &word.generation) })
        {
            words.append(word)
        }
        return words
    }

    /// Whether something waits behind the owner's socket.
    func setQueued(_ isSomething: Bool) {
        withUnsafePointer(to: mapping) {
            shmring_outbox_set_queued(
                $0, isSomething ? SHMRING_QUEUED_SOMETHING : SHMRING_QUEUED_NOTHING)
        }
    }

    func setDead(at stamp: UInt64) {
        withUnsafePointer(to: mapping) { shmring_outbox_set_dead($0, stamp) }
    }

    /// Counts somebody to whom something of the outbox's owner is given, before it is.
    func countNewcomer() {
        withUnsafePointer(to: mapping) { shmring_newcomers_count($0) }
    }

    /// How many there were, as a successor knows: nobody else counts now.
    func setNewcomers(_ count: UInt64) {
        withUnsafePointer(to: mapping) { shmring_newcomers_set($0, count) }
    }

    /// Says that all flags are set that the owner asked for by this number.
    func answerFlags(_ number: UInt32) {
        withUnsafePointer(to: mapping) { shmring_newcomers_answer($0, number) }
    }

    // MARK: Ring

    /// Sets a flag in a ring's control, and wakes its receiver.
    func flag(_ flag: UInt64, event: Int32?) {
        withUnsafePointer(to: mapping) { shmring_newcomers_flag($0, flag, event ?? -1) }
    }

    // MARK: Claims

    /// Those claim words that are not zero, as they are now.
    func claims(lanes: UInt32) -> [shmring_claim] {
        var claims: [shmring_claim] = []
        var next: UInt32 = 0
        let batch = 64
        while true {
            let part = [shmring_claim](unsafeUninitializedCapacity: batch) { buffer, count in
                count = withUnsafePointer(to: mapping) {
                    Int(
                        shmring_claims_copy(
                            $0, lanes, next, buffer.baseAddress, UInt32(batch), &next))
                }
            }
            claims += part
            if part.count < batch { return claims }
        }
    }

    // MARK: Bus page

    /// `clock`: "monotonic": the bus keeps time by CLOCK_MONOTONIC, also where the TSC would do; "coarse", for tests:
    /// in steps of 20 us.
    func initializeBusPage(clock: String?) {
        let force: UInt32 =
            switch clock {
            case "monotonic": SHMRING_CLOCK_MONOTONIC.rawValue
            case "coarse": SHMRING_CLOCK_COARSE
            default: 0
            }
        withUnsafePointer(to: mapping) { shmring_bus_page_init($0, force) }
    }

    /// Whether the clock must be tended, every few seconds.
    var clockMayJump: Bool {
        mapping.base.assumingMemoryBound(to: shmring_bus_page.self).pointee.clock_source
            == SHMRING_CLOCK_TSC.rawValue
    }

    /// Notices whether the clock has jumped since, and makes it go on.
    func tendClock(_ keeper: inout shmring_clock_keeper) {
        _ = shmring_clock_tend(mapping.base.assumingMemoryBound(to: shmring_bus_page.self), &keeper)
    }

    func clock() throws(Bus1Error) -> shmring_clock {
        var clock = shmring_clock()
        let result = withUnsafePointer(to: mapping) { shmring_bus_page_clock($0, &clock) }
        guard result == 0 else { throw Bus1Error(result: result, "choose a clock") }
        return clock
    }

    /// Goes on with the end of a peer that a broker, which stands still, has begun to announce. True: it is announced.
    func announceLate(_ dead: PeerID, generation: UInt32, clock: shmring_clock) -> Bool {
        withUnsafePointer(to: mapping) { page in
            withUnsafePointer(to: clock) {
                shmring_bus_announce_late(page, $0, generation, dead.rawValue)
            }
        }
    }

    /// Waits until a peer calls for an heir. False: none has, in that time.
    func waitForCall(atMost timeout_ms: UInt32) -> Bool {
        withUnsafePointer(to: mapping) { shmring_bus_wait_for_call($0, timeout_ms) }
    }

    /// Ends the wait of another thread.
    func call() {
        withUnsafePointer(to: mapping) { page in
            shmring_bus_call(
                UnsafePointer(
                    page.pointee.base.assumingMemoryBound(to: shmring_bus_page.self)
                        .pointer(to: \.called)!))
        }
    }

    /// Announces the end of a peer; its stamp. `isBegun`: a former broker may have come to any point of it.
    func announce(
        _ dead: PeerID, generation: UInt32, clock: shmring_clock, isBegun: Bool = false
    ) -> UInt64 {
        withUnsafePointer(to: mapping) { page in
            withUnsafePointer(to: clock) {
                isBegun
                    ? shmring_bus_announce_again(page, $0, generation, dead.rawValue)
                    : shmring_bus_announce(page, $0, generation, dead.rawValue)
            }
        }
    }
}
