import CShmRing
import Synchronization

/// A mutex that costs the thread which uses it most no locked instruction (`shmring_biased.h`): for what one thread
/// does with each message, and any other may do now and then.
///
/// NOTE - not recursive.
struct BiasedMutex<Value>: ~Copyable, @unchecked Sendable {
    // @unchecked: `value` is under the lock.
    private let value: UnsafeMutablePointer<Value>
    private let lean: UnsafeMutablePointer<shmring_biased>
    private let mutex = Mutex<Void>(())

    init(_ value: consuming sending Value) {
        self.value = .allocate(capacity: 1)
        self.value.initialize(to: value)
        lean = .allocate(capacity: 1)
        shmring_biased_init(lean)
    }

    @inline(__always)
    func withLock<R, E>(_ body: (inout Value) throws(E) -> R) throws(E) -> R {
        if let place = shmring_biased_enter(lean) {
            defer { shmring_biased_leave(place) }
            return try body(&value.pointee)
        }
        return try withLockSlowly(body)
    }

    @inline(never)
    private func withLockSlowly<R, E>(_ body: (inout Value) throws(E) -> R) throws(E) -> R {
        try mutex.withLock { _ throws(E) in
            shmring_biased_stop(lean)
            defer { shmring_biased_go_on(lean) }
            return try body(&value.pointee)
        }
    }

    deinit {
        value.deinitialize(count: 1)
        value.deallocate()
        lean.deallocate()
    }
}
