import CBus1System
import CShmRing
import Glibc
import Synchronization

/// Keeps the tables of another process's broker, and takes its place when it has ended.
///
/// It holds what the broker holds: the lock, the listening socket, the connections, the memory of every
/// peer. So when the broker is gone, nobody else finds the lock free, nobody's connection has ended, and
/// new ones wait in the socket's queue. It ends when it is dismissed, resigns when it has no room, and
/// leaves without a trace either way.
enum HeirThread {
    /// How often it looks whether the broker answers, when that says nothing by itself.
    private static let tick_ms: Int32 = 500
    /// Unanswered for so many ticks, a broker that was stopped is killed: it still holds what there can
    /// be one of only.
    private static let stoppedTicks = 2
    /// The same for one that is not stopped, and may just be slow: it is somebody's program.
    private static let silentTicks = 20

    /// How many of this process's threads keep a broker's tables.
    static var count: Int { standing.load(ordering: .relaxed) }
    fileprivate static let standing = Atomic<Int>(0)

    private final class Start {
        let journal: SharedDescriptor
        let dismissal: SharedDescriptor

        init(journal: SharedDescriptor, dismissal: SharedDescriptor) {
            self.journal = journal
            self.dismissal = dismissal
        }
    }

    /// Starts the thread. What fails is as if the process had declined.
    static func start(journal: consuming Descriptor, dismissal: consuming Descriptor) {
        let start = Start(
            journal: SharedDescriptor(journal), dismissal: SharedDescriptor(dismissal))
        // A child of this process must not keep the broker from seeing that the heir is gone.
        bus1_sys_close_on_fork(start.journal.rawValue, true)
        let kept = Unmanaged.passRetained(start)
        let started = bus1_sys_thread_start(
            "bus1-heir", { HeirThread.main($0!) }, kept.toOpaque())
        if started != 0 { kept.release() }
    }

    private static func main(_ context: UnsafeMutableRawPointer) {
        let start = Unmanaged<Start>.fromOpaque(context).takeRetainedValue()
        _ = shmring_fault_act_as(SHMRING_FAULT_HEIR.rawValue)
        shmring_fault_at(SHMRING_FAULT_HEIR_ASKED)
        guard let shadow = stand(start) else { return }
        try? BrokerThread.takeOver(shadow.broker, listener: shadow.listener, place: shadow.place)
    }

    /// Until the broker has ended. nil: this is not its heir, or no longer.
    private static func stand(_ start: Start) -> Heir.Shadow? {
        let heir = Heir(JournalSocket(descriptor: start.journal), start.dismissal)
        let mustSucceed = heir.waitUntilBrokerEnds(
            tick_ms: tick_ms, stoppedTicks: stoppedTicks, silentTicks: silentTicks)
        heir.stopListening()
        bus1_sys_close_on_fork(start.journal.rawValue, false)
        if mustSucceed, let shadow = heir.takeShadow() {
            shmring_fault_at(SHMRING_FAULT_HEIR_ALONE)
            return shadow
        }
        heir.forgetSockets()
        return nil
    }
}

/// The tables, and what is not part of them yet.
fileprivate final class Heir {
    struct Shadow {
        let broker: Broker
        let place: Broker.Place
        let listener: SharedDescriptor
    }

    private let journal: JournalSocket
    private let dismissal: SharedDescriptor
    private var shadow: Shadow?
    /// Of an entry whose end has not come.
    private var unfinished: [JournalRecord] = []
    /// The broker, as the kernel knows who made the journal's sockets.
    private var pidfd: SharedDescriptor?
    private var pid: Int32 = 0
    private var silentTicks = 0
    private var hasStood = false
    /// Where those call who wait for something that the broker does not do.
    private var calls: HeirCalls?
    /// The broker stands still, and there is something to be done in its place.
    private var standsIn = false

    init(_ journal: JournalSocket, _ dismissal: SharedDescriptor) {
        self.journal = journal
        self.dismissal = dismissal
        var credentials = bus1_sys_credentials()
        var raw: Int32 = -1
        let socket = journal.descriptor.rawValue
        guard bus1_sys_socket_credentials(socket, &credentials) == 0,
            bus1_sys_socket_pidfd(socket, &credentials, &raw) == 0
        else { return }
        pidfd = SharedDescriptor(Descriptor(owning: raw))
        pid = credentials.pid
    }

    func takeShadow() -> Shadow? { shadow.take() }

    func stopListening() {
        calls?.end()
        calls = nil
    }

    deinit { if hasStood { HeirThread.standing.subtract(1, ordering: .relaxed) } }

    /// Before the descriptors are closed: their numbers will mean something else.
    func forgetSockets() {
        closeOnFork(false)
        for peer in shadow?.broker.peers.values ?? [:].values {
            if let socket = peer.socket { bus1_sys_close_on_fork(socket.rawValue, false) }
        }
    }

    /// A child of this process must not keep the broker's place taken.
    private func closeOnFork(_ closeIt: Bool) {
        guard let shadow else { return }
        bus1_sys_close_on_fork(shadow.listener.rawValue, closeIt)
        bus1_sys_close_on_fork(shadow.place.lock.rawValue, closeIt)
    }

    private var isDismissed: Bool { bus1_sys_wait_readable(dismissal.rawValue, 0) != 0 }

    /// True when the broker is gone and this is its heir; false when it is not, or no longer.
    func waitUntilBrokerEnds(tick_ms: Int32, stoppedTicks: Int, silentTicks most: Int) -> Bool {
        guard pidfd != nil, journal.say(.ready) else { return false }
        shmring_fault_at(SHMRING_FAULT_HEIR_READY)
        let tick = Duration.milliseconds(Int(tick_ms))
        var nextSign = Deadline.after(tick)
        var nextTick = Deadline.after(tick)
        while true {
            if nextSign.hasPassed {
                nextSign = .after(tick)
                _ = journal.say(.ping)
            }
            let wanted = [
                journal.descriptor.rawValue, dismissal.rawValue, pidfd?.rawValue ?? -1,
                calls?.event.rawValue ?? -1,
            ]
            let ready = bus1_sys_wait_any(
                wanted, Int32(wanted.count), standsIn ? 1 : nextTick.pollTimeout_ms)
            guard ready >= 0, ready & 2 == 0 else { return false }
            if ready & 1 != 0 {
                silentTicks = 0
                nextTick = .after(tick)
                switch readJournal() {
                case .goOn: listenForCalls()
                case .resign: return false
                case .brokerEnded: return !isDismissed && shadow != nil
                }
            }
            if ready & 4 != 0 { return readRest() }
            if standsIn || ready & 8 != 0 { standIn() }
            // The time is this thread's own: a machine that stood still as a whole does not count.
            guard ready & 1 == 0, nextTick.hasPassed else { continue }
            nextTick = .after(tick)
            silentTicks += 1
            guard silentTicks > (isBrokerStopped ? stoppedTicks : most) else { continue }
            return killBroker()
        }
    }

    private var isBrokerStopped: Bool {
        bus1_sys_process_state(pid) == Int32(UInt8(ascii: "T"))
    }

    // MARK: In the place of a broker that stands still

    private func listenForCalls() {
        guard calls == nil, let shadow else { return }
        calls = HeirCalls(shadow.broker.busPageReadable)
    }

    /// Somebody waits, and the broker has been told. Only of one that was stopped it is known that it does nothing: one
    /// that is slow counts the leases itself.
    private func standIn() {
        calls?.wereHeard()
        guard let shadow, isBrokerStopped else {
            standsIn = false
            return
        }
        standsIn = shadow.broker.standIn()
    }

    /// It holds the lock and the right to write: there are never two.
    private func killBroker() -> Bool {
        guard let pidfd, !isDismissed else { return false }
        _ = bus1_sys_pidfd_signal(pidfd.rawValue, SIGKILL)
        guard bus1_sys_pidfd_wait(pidfd.rawValue, 10_000) == 1 else { return false }
        shmring_fault_at(SHMRING_FAULT_HEIR_KILLED)
        return readRest()
    }

    /// What it had said before it ended. The kernel may close its end of the journal much later: its loop's operations
    /// keep it open until they are cancelled.
    private func readRest() -> Bool {
        if case .resign = readJournal() { return false }
        return !isDismissed && shadow != nil
    }

    private enum Outcome { case goOn, resign, brokerEnded }

    private func readJournal() -> Outcome {
        while true {
            switch journal.receive() {
            case .nothing: return .goOn
            case .ended: return .brokerEnded
            case .full: return .resign
            case .record(let record):
                do {
                    try take(record)
                } catch {
                    return .resign
                }
            }
        }
    }

    private func take(_ record: JournalRecord) throws {
        if record.kind == .pong { return }
        unfinished.append(record)
        guard record.ends else { return shmring_fault_at(SHMRING_FAULT_HEIR_PACKET) }
        let entry = unfinished
        unfinished = []
        var mustAnswer = false
        for record in entry {
            if shadow == nil {
                let (broker, place, listener) = try Broker.shadow(record)
                shadow = Shadow(broker: broker, place: place, listener: listener)
                closeOnFork(true)
            } else if record.kind == .sync {
                mustAnswer = true
            } else {
                try shadow?.broker.apply(record)
            }
            if !record.ends { shmring_fault_at(SHMRING_FAULT_HEIR_RECORD) }
        }
        shmring_fault_at(SHMRING_FAULT_HEIR_ENTRY)
        // The program whose process this is needs descriptors, too.
        guard let broker = shadow?.broker,
            broker.descriptorCount * 2 < Int(clamping: bus1_sys_descriptor_limit())
        else { throw JournalError() }
        if !hasStood {
            hasStood = true
            HeirThread.standing.add(1, ordering: .relaxed)
        }
        if mustAnswer { _ = journal.say(.synced) }
    }
}
