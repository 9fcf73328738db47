import Bus1Shm
import CBench
import Glibc

// The round trip by tasks: each side suspends at every message, on an executor whose thread sleeps on the rings.

extension Bus1Endpoint {
    /// Runs one side of a round trip in a task, and waits for its end.
    func runInTask(_ part: Part, _ job: bench_job) throws -> bench_outcome {
        let errand = Errand(self, part, job)
        let executor = try BusExecutor(name: "bench-tasks")
        Task(executorPreference: executor) {
            do {
                errand.outcome = .success(try await errand.run())
            } catch {
                errand.outcome = .failure(error)
            }
            sem_post(errand.done)
        }
        while sem_wait(errand.done) != 0 {}
        return try errand.outcome!.get()
    }

    /// What a task and the thread that waits for it share.
    private final class Errand: @unchecked Sendable {
        // @unchecked: the thread sleeps until the task has ended.
        let endpoint: Bus1Endpoint
        let part: Part
        var job: bench_job
        var outcome: Swift.Result<bench_outcome, any Error>?
        let done = UnsafeMutablePointer<sem_t>.allocate(capacity: 1)

        init(_ endpoint: Bus1Endpoint, _ part: Part, _ job: bench_job) {
            self.endpoint = endpoint
            self.part = part
            self.job = job
            sem_init(done, 0, 0)
        }

        deinit { done.deallocate() }

        func run() async throws -> bench_outcome {
            try await part == .ping ? ping() : pong()
        }

        private func ping() async throws -> bench_outcome {
            var outcome = bench_outcome()
            var check = bench_check()
            bench_check_begin(&check, &job)
            outcome.begin = bench_ticks()
            var before = outcome.begin
            for i in 0..<job.count {
                if job.interval_ticks != 0 { before = bench_pace(&job, outcome.begin, i) }
                _ = bench_fill(
                    endpoint.scratch.baseAddress!, job.payload_bytes, job.first_sequence + i)
                try await send()
                _ = try await receive(&check)
                before = bench_sample(&job, i, before)
            }
            outcome.end = bench_ticks()
            bench_check_end(&check, &outcome)
            return outcome
        }

        private func pong() async throws -> bench_outcome {
            var outcome = bench_outcome()
            var check = bench_check()
            bench_check_begin(&check, &job)
            while check.remaining != 0 {
                let sequence = try await receive(&check)
                _ = bench_fill(endpoint.scratch.baseAddress!, job.payload_bytes, sequence)
                try await send()
            }
            bench_check_end(&check, &outcome)
            return outcome
        }

        private func send() async throws {
            let bytes = UnsafeRawBufferPointer(
                rebasing: endpoint.scratch[..<Int(job.payload_bytes)])
            let to = endpoint.handles[0]
            try await endpoint.peer.send(bytes.bytes, to: to.handle)
        }

        private func receive(_ check: inout bench_check) async throws -> UInt64 {
            while true {
                guard case .message(let message) = try await endpoint.peer.receive() else {
                    continue
                }
                return try endpoint.note(message, &check, job.payload_bytes)
            }
        }
    }
}
