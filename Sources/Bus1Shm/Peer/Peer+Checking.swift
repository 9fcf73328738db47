import CShmRing

/// What a process is for its bus.
@_spi(Checking)
public enum BrokerRole: UInt32, Sendable {
    case none = 1
    /// It keeps the broker's tables, and takes its place when it ends.
    case heir
    case broker

    /// Of this process, which is on one bus.
    @_spi(Checking)
    public static var ofThisProcess: BrokerRole {
        if !BrokerThread.loopNames.isEmpty { return .broker }
        return HeirThread.count > 0 ? .heir : .none
    }
}

extension Peer {
    /// How often each rule of the order acted while this peer received, since it joined. For `bus1-bench check`, which
    /// believes no run in which a rule had nothing to do.
    @_spi(Checking)
    public var ruleCounts: [(name: String, count: UInt64)] {
        let counts = core.inbox.pointee.counts
        return [
            ("passed over", counts.passed_over),
            ("re-read", counts.re_read),
            ("looks", counts.looks),
            ("look-ahead waits", counts.look_waits),
            ("reordered by look-ahead", counts.reordered),
            ("several-rings waits", counts.rings_waits),
            ("notices told", counts.notices),
            ("notice waits", counts.notice_waits),
            ("aborted commits", counts.aborted),
            ("voids", counts.voids),
            ("holes", counts.holes),
            ("indices retired", counts.retired),
            ("indices returned", counts.returned_to_service),
            ("stamps raised", counts.clamped),
            ("parked", counts.parked),
            ("notices withdrawn", core.nodes.withLock { $0.withdrawals }),
            ("commit waits", shmring_clock_waits()),
        ]
    }
}
