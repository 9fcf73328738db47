/// A thread that runs tasks and sleeps for them: a message wakes the very thread on which the task goes on that waits for
/// it. On any other executor a task resumes by way of that executor's own queue, which takes about twice as long.
///
///     let executor = try BusExecutor()
///     Task(executorPreference: executor) {
///         let peer = try Peer()
///         while true { handle(try await peer.receive()) }
///     }
///
/// It runs one job at a time. A task that blocks or computes for long holds up all others on it; give those executors of
/// their own, or none.
///
/// Keep it for as long as tasks may run on it: when the last reference goes, its thread ends.
///
/// *Corresponds to nothing in bus1.*
public final class BusExecutor: TaskExecutor {
    private let loop: WaitLoop

    /// Starts the thread.
    ///
    /// - Parameter name: of the thread, 15 bytes at most.
    /// - Throws: `system` when no thread can be started.
    public init(name: String = "bus1-tasks") throws(Bus1Error) {
        loop = try WaitLoop.start(String(name.prefix(15)))
        loop.executor = UnownedTaskExecutor(ordinary: self)
    }

    /// Takes a job in, to be run by the thread after those before it. Any thread; called by the Swift runtime.
    public func enqueue(_ job: consuming ExecutorJob) { loop.enqueue(UnownedJob(job)) }

    /// For the Swift runtime.
    public func asUnownedTaskExecutor() -> UnownedTaskExecutor {
        UnownedTaskExecutor(ordinary: self)
    }

    deinit { loop.end() }
}
