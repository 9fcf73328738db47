import Glibc

@testable import Bus1Shm
@testable import Bus1TestSupport

/// Where the tasks of a test run.
enum Place: CaseIterable, Sendable {
    case defaultPool
    case busExecutor
}

/// Runs a body in a task of its own, on the default pool or on a thread of its own.
func inTask<T: Sendable>(
    _ place: Place, _ body: @escaping @Sendable () async throws -> T
) throws -> Task<T, any Error> {
    switch place {
    case .defaultPool: Task(operation: body)
    case .busExecutor:
        Task(executorPreference: try BusExecutor(name: "test-tasks"), operation: body)
    }
}

func asyncCode(_ body: () async throws -> Void) async -> Bus1Error.Code? {
    do {
        try await body()
        return nil
    } catch { return (error as? Bus1Error)?.code }
}

extension Peer {
    /// The next message, as one number.
    nonisolated(nonsending) func nextNumber(until deadline: Deadline = .after(.seconds(20)))
        async throws -> UInt64
    {
        switch try await receive(until: deadline) {
        case .message(let message): return try message.load(as: UInt64.self)
        case .notice(let notice): throw PeerTestFailure("notice \(notice)")
        }
    }
}
