import CBus1System
import CShmRing
import Glibc
import Synchronization

/// A thread that sleeps on the words of many waits at once, as a blocking receive does on those of its peer, and runs
/// tasks if it is an executor's.
///
/// The words are those of the rings: a sender wakes this thread by the same futex as any parked receiver. There is one
/// loop for each ``BusExecutor``, and one for all other tasks (more when their words are more than one thread can sleep
/// on).
///
/// NOTE - any thread; what is only the loop's own thread's says so.
final class WaitLoop: @unchecked Sendable {
    // @unchecked: everything that other threads touch is behind the lock, or the bell, a plain atomic word.

    /// Besides the bell.
    private static let wordsMax = Int(SHMRING_PARK_WORDS) - 1
    private static let poll_ns: UInt64 = 1_000_000

    private struct Shared {
        var jobs: [UnownedJob] = []
        var added: [Wait] = []
        /// Of all waits here.
        var wordCount = 0
        var isAsleep = false
        var isEnding = false
    }

    private let shared = Mutex(Shared())
    /// Changes when the loop is to look at its lists.
    private let bell: UnsafeMutablePointer<UInt32>
    /// Before the first job.
    @exclusivity(unchecked) var executor: UnownedTaskExecutor?
    /// The loop's own thread's.
    @exclusivity(unchecked) private var waits: [Wait] = []
    private let sleepsOn: UnsafeMutablePointer<shmring_word>

    private init() {
        bell = .allocate(capacity: 1)
        bell.initialize(to: 0)
        sleepsOn = .allocate(capacity: Int(SHMRING_PARK_WORDS))
    }

    /// Starts a thread, which ends some time after ``end()``.
    static func start(_ name: String) throws(Bus1Error) -> WaitLoop {
        let loop = WaitLoop()
        let started = bus1_sys_thread_start(
            name, { Unmanaged<WaitLoop>.fromOpaque($0!).takeRetainedValue().run() },
            Unmanaged.passRetained(loop).toOpaque())
        guard started == 0 else {
            Unmanaged.passUnretained(loop).release()
            throw Bus1Error(.system, "start a thread for waits", errno: -started)
        }
        return loop
    }

    deinit {
        bell.deallocate()
        sleepsOn.deallocate()
    }

    // MARK: Any thread

    /// Finds a loop for a wait: that of the thread itself, or a common one.
    static func add(_ wait: Wait) -> WaitLoop {
        if let own = current, own.add(wait, whateverItTakes: false) { return own }
        return common.withLock { loops in
            for loop in loops where loop.add(wait, whateverItTakes: false) { return loop }
            if let loop = try? start("bus1-waits") {
                loops.append(loop)
                _ = loop.add(wait, whateverItTakes: true)
                return loop
            }
            // No thread to be had: the first looks every ms, then.
            guard let loop = loops.first ?? current else {
                preconditionFailure("no thread can be started to wait in")
            }
            _ = loop.add(wait, whateverItTakes: true)
            return loop
        }
    }

    private static let common = Mutex<[WaitLoop]>([])

    private func add(_ wait: Wait, whateverItTakes: Bool) -> Bool {
        let isIn = shared.withLock { shared -> Bool? in
            let sum = shared.wordCount + Int(wait.wordCount)
            guard sum <= Self.wordsMax || whateverItTakes, !shared.isEnding else { return nil }
            shared.wordCount = sum
            shared.added.append(wait)
            return shared.isAsleep
        }
        guard let isAsleep = isIn else { return false }
        if isAsleep { ring() }
        return true
    }

    func enqueue(_ job: UnownedJob) {
        let isAsleep = shared.withLock { shared in
            shared.jobs.append(job)
            return shared.isAsleep
        }
        if isAsleep { ring() }
    }

    func end() {
        shared.withLock { $0.isEnding = true }
        ring()
    }

    /// Has the loop look at everything.
    func ring() {
        // SYNC W5 acq_rel, pairs with W6 in sleep: the futex compares this word, so that a loop which is about to sleep
        // does not.
        _ = shmring_fetch_add_acq_rel_u32(bell, 1)
        shmring_word_wake(bell)
    }

    // MARK: The loop's own thread

    private static let key: pthread_key_t = {
        var key = pthread_key_t()
        precondition(pthread_key_create(&key, nil) == 0, "no thread-specific key is left")
        return key
    }()

    /// Of the calling thread, if it is one of an executor's.
    private static var current: WaitLoop? {
        guard let raw = pthread_getspecific(key) else { return nil }
        return Unmanaged<WaitLoop>.fromOpaque(raw).takeUnretainedValue()
    }

    private func run() {
        pthread_setspecific(Self.key, Unmanaged.passUnretained(self).toOpaque())
        var jobs: [UnownedJob] = []
        while true {
            let isEnding = shared.withLock { shared in
                swap(&jobs, &shared.jobs)
                waits += shared.added
                shared.added.removeAll(keepingCapacity: true)
                return shared.isEnding
            }
            for job in jobs { job.runSynchronously(on: executor!) }
            let isBusy = !jobs.isEmpty
            jobs.removeAll(keepingCapacity: true)
            let next_ns = look()
            if isEnding && waits.isEmpty && !isBusy { return }
            if !isBusy, let next_ns { sleep(until_ns: next_ns) }
        }
    }

    /// Ends the waits whose time has come. When the next may be due; nil: one has just ended.
    private func look() -> UInt64? {
        var next_ns = UInt64.max
        var now_ns: UInt64 = 0
        var kept = 0
        var words = 0
        for index in waits.indices {
            let wait = waits[index]
            if !wait.isOver {
                if wait.until_ns != .max, now_ns == 0 { now_ns = monotonicNow_ns() }
                if wait.hasChanged {
                    wait.end(.woken)
                } else if wait.until_ns <= now_ns {
                    wait.end(.timedOut)
                } else {
                    next_ns = min(next_ns, wait.until_ns)
                    if wait.isIncomplete {
                        next_ns = min(next_ns, monotonicNow_ns() + Self.poll_ns)
                    }
                    waits[kept] = wait
                    kept += 1
                    continue
                }
            }
            words += Int(wait.wordCount)
        }
        guard kept < waits.count else { return next_ns }
        waits.removeLast(waits.count - kept)
        shared.withLock { $0.wordCount -= words }
        return nil
    }

    private func sleep(until_ns: UInt64) {
        // SYNC W6 acquire, pairs with W5: read before the lists, so that whoever adds to them later changes it.
        let rung = shmring_load_acquire_u32(bell)
        let mayset = shared.withLock { shared in
            shared.isAsleep = shared.jobs.isEmpty && shared.added.isEmpty
            return shared.isAsleep
        }
        guard mayset else { return }
        sleepsOn[0] = shmring_word_at(bell, rung)
        var count = 1
        var until_ns = until_ns
        for wait in waits {
            for index in 0..<Int(wait.wordCount) {
                guard count <= Self.wordsMax else { break }
                sleepsOn[count] = wait.words[index]
                count += 1
            }
        }
        if waits.reduce(1, { $0 + Int($1.wordCount) }) > count {
            until_ns = min(until_ns, monotonicNow_ns() + Self.poll_ns)
        }
        shmring_words_sleep(sleepsOn, UInt32(count), until_ns)
        shared.withLock { $0.isAsleep = false }
    }
}
