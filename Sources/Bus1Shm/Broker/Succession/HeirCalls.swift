import CBus1System
import CShmRing
import Glibc
import Synchronization

/// A thread that waits where peers call for an heir, and passes each call on to a descriptor, which can be waited for
/// together with others: the kernel has no one wait for both that can be relied on everywhere.
final class HeirCalls {
    /// Readable when somebody has called since `wereHeard()`.
    let event: SharedDescriptor
    private let ended: SharedDescriptor
    private let page: BrokerMapping
    private let isOver = Atomic<Bool>(false)

    /// Anybody on the bus can call as often as it likes: it costs the heir no more than one look in that time.
    private static let rest_us: UInt32 = 1000
    /// It looks now and then whether it is to end, should a call to that effect be lost.
    private static let look_ms: UInt32 = 1000

    /// nil: there is no thread or no memory for it, and the heir hears of what happens by its own clock alone.
    init?(_ page: SharedDescriptor) {
        guard let event = try? BrokerThread.makeEvent(), let ended = try? BrokerThread.makeEvent(),
            let mapping = try? BrokerMapping(
                page.rawValue, SHMRING_SEGMENT_BUS, SHMRING_READ_ONLY)
        else { return nil }
        self.event = event
        self.ended = ended
        self.page = mapping
        let kept = Unmanaged.passRetained(self)
        let started = bus1_sys_thread_start(
            "bus1-calls",
            { context in Unmanaged<HeirCalls>.fromOpaque(context!).takeRetainedValue().listen() },
            kept.toOpaque())
        guard started == 0 else {
            kept.release()
            return nil
        }
    }

    private func listen() {
        // Relaxed: a flag, and what else the two threads share is behind a system call.
        while !isOver.load(ordering: .relaxed) {
            guard page.waitForCall(atMost: Self.look_ms) else { continue }
            bus1_sys_event_signal(event.rawValue)
            usleep(Self.rest_us)
        }
        bus1_sys_event_signal(ended.rawValue)
    }

    /// The event is readable again after the next call.
    func wereHeard() { bus1_sys_event_drain(event.rawValue) }

    /// Returns when the thread is at its end.
    func end() {
        isOver.store(true, ordering: .relaxed)
        repeat { page.call() } while bus1_sys_wait_readable(ended.rawValue, 1) == 0
    }
}
