import CShmRing
import Synchronization

/// One suspension of one task: until some words change, a deadline, a cancellation, or a word from the same isolation
/// domain. Whatever comes first resumes the task; what comes later finds it over.
///
/// NOTE - made, filled and slept on by the task; ``end(_:)`` by any thread.
final class Wait: @unchecked Sendable {
    // @unchecked: `words` are written before the wait is given to a loop; the state is behind its lock.
    enum Outcome {
        case woken
        case timedOut
        case cancelled
    }

    private enum State {
        /// Nobody sleeps yet.
        case begun
        case asleep(UnsafeContinuation<Outcome, Never>)
        case over(Outcome)
    }

    private let state = Mutex(State.begun)
    /// Which loop looks after it.
    private let loop = Mutex<WaitLoop?>(nil)
    /// What would change.
    let words: UnsafeMutablePointer<shmring_word>
    var wordCount: UInt32 = 0
    /// There were more words than can be slept on: somebody must look every ms.
    var isIncomplete = false
    var until_ns: UInt64
    /// What the words lie in stays mapped as long as this lives.
    private let keeps: AnyObject

    init(until_ns: UInt64, words capacity: Int, keeping keeps: AnyObject) {
        self.until_ns = until_ns
        self.keeps = keeps
        words = .allocate(capacity: max(1, capacity))
    }

    /// Any thread. Only the first call counts.
    func end(_ outcome: Outcome) {
        let sleeper = state.withLock { state -> UnsafeContinuation<Outcome, Never>? in
            switch state {
            case .over: return nil
            case .begun:
                state = .over(outcome)
                return nil
            case .asleep(let continuation):
                state = .over(outcome)
                return continuation
            }
        }
        sleeper?.resume(returning: outcome)
    }

    var isOver: Bool {
        state.withLock { if case .over = $0 { true } else { false } }
    }

    /// One of the words holds something else by now.
    var hasChanged: Bool {
        for index in 0..<Int(wordCount) where shmring_word_has_changed(words + index) {
            return true
        }
        return false
    }

    /// Suspends the task until somebody ends the wait.
    nonisolated(nonsending) func sleep() async -> Outcome {
        await withTaskCancellationHandler {
            await withUnsafeContinuation { continuation in
                let over = state.withLock { state -> Outcome? in
                    if case .over(let outcome) = state { return outcome }
                    state = .asleep(continuation)
                    return nil
                }
                if let over { return continuation.resume(returning: over) }
                guard wordCount != 0 || until_ns != .max else { return }
                let chosen = WaitLoop.add(self)
                loop.withLock { $0 = chosen }
            }
        } onCancel: {
            end(.cancelled)
            // It must not keep what it waited for until something else happens.
            loop.withLock { $0 }?.ring()
        }
    }

    deinit { words.deallocate() }
}
