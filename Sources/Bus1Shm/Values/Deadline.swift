import Glibc

/// The moment until which an operation may wait.
public struct Deadline: Sendable, Hashable {
    /// Nanoseconds of CLOCK_MONOTONIC; `UInt64.max` is never.
    let monotonic_ns: UInt64

    /// Wait as long as it takes.
    public static let never = Deadline(monotonic_ns: .max)
    /// Do not wait at all.
    public static let now = Deadline(monotonic_ns: 0)

    /// A moment that lies `duration` from now. Negative durations are now.
    public static func after(_ duration: Duration) -> Deadline {
        let (seconds, attoseconds) = duration.components
        guard seconds >= 0, attoseconds >= 0 else { return .now }
        let (wide, overflow) = UInt64(seconds).multipliedReportingOverflow(by: 1_000_000_000)
        let (sum, overflow2) = wide.addingReportingOverflow(UInt64(attoseconds / 1_000_000_000))
        let (end, overflow3) = sum.addingReportingOverflow(monotonicNow_ns())
        return overflow || overflow2 || overflow3 ? .never : Deadline(monotonic_ns: end)
    }

    /// True once the moment has come.
    public var hasPassed: Bool { monotonic_ns != .max && monotonicNow_ns() >= monotonic_ns }

    /// Milliseconds left, rounded up, for poll(2): -1 is for ever, 0 not at all.
    package var pollTimeout_ms: Int32 {
        guard monotonic_ns != .max else { return -1 }
        let now = monotonicNow_ns()
        guard monotonic_ns > now else { return 0 }
        return Int32(clamping: (monotonic_ns - now + 999_999) / 1_000_000)
    }

    /// The same, bounded.
    func pollTimeout_ms(atMost bound_ms: Int32) -> Int32 {
        let left_ms = pollTimeout_ms
        return left_ms < 0 ? bound_ms : min(left_ms, bound_ms)
    }

    static func earlier(_ a: Deadline, _ b: Deadline) -> Deadline {
        a.monotonic_ns <= b.monotonic_ns ? a : b
    }

    static func later(_ a: Deadline, _ b: Deadline) -> Deadline {
        a.monotonic_ns >= b.monotonic_ns ? a : b
    }
}

/// CLOCK_MONOTONIC in nanoseconds. For deadlines only: stamps have their own clock.
func monotonicNow_ns() -> UInt64 {
    var time = timespec()
    clock_gettime(CLOCK_MONOTONIC, &time)
    return UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
}
