import Synchronization

extension Peer {
    /// Answers calls to a node, some at a time, until the task is cancelled or the deadline has passed.
    ///
    /// Each request is answered by a task of its own, a child of this one; no more than `concurrency` of them run, and further
    /// requests wait where they are: in the ring, and then with their senders. The handler never sees the peer, so it may
    /// run anywhere. Its answer is the reply; where it throws, the caller gets `replyLost` at once. What is no call is
    /// handled, too, and its answer dropped. A request that is not as long as its type is not handled.
    ///
    /// One task of the peer's isolation domain at a time for each node. Returns when the deadline has passed and all that was
    /// begun is answered.
    ///
    /// - Throws: `cancelled`, when those handlers have ended, which are cancelled, too; else as ``receive(on:until:)``.
    nonisolated(nonsending) public func serve<
        Request: BitwiseCopyable & Sendable, Answer: BitwiseCopyable & Sendable
    >(
        _ request: Request.Type = Request.self, on node: borrowing Node, atMost concurrency: Int,
        until deadline: Deadline = .never,
        _ answer: @escaping @Sendable (Request) async throws -> Answer
    ) async throws(Bus1Error) {
        try await core.serve(
            node.id, atMost: concurrency, until: deadline,
            read: { message throws(Bus1Error) in try message.load(as: Request.self) },
            answer: { request, reply in
                let answer = try await answer(request)
                try reply.take()?.send(answer)
            })
    }

    /// The same for requests and answers of any length. Allocates an array for each.
    ///
    /// - Throws: as the other one.
    nonisolated(nonsending) public func serve(
        on node: borrowing Node, atMost concurrency: Int, until deadline: Deadline = .never,
        _ answer: @escaping @Sendable ([UInt8]) async throws -> [UInt8]
    ) async throws(Bus1Error) {
        try await core.serve(
            node.id, atMost: concurrency, until: deadline,
            read: { message in message.payload.withUnsafeBytes { Array($0) } },
            answer: { request, reply in
                let answer = try await answer(request)
                try reply.take()?.send(answer.span.bytes)
            })
    }
}

extension PeerCore {
    /// `read`: copies a request out of its message; `answer`: in a task of its own.
    nonisolated(nonsending)
        fileprivate func serve<Request: Sendable>(
            _ node: NodeID, atMost concurrency: Int, until deadline: Deadline,
            read: (borrowing Message) throws(Bus1Error) -> Request,
            answer: @escaping @Sendable (Request, OwedReply) async throws -> Void
        ) async throws(Bus1Error)
    {
        precondition(concurrency > 0, "no request at a time")
        let places = Places(concurrency)
        let failure = await withDiscardingTaskGroup { group -> Bus1Error? in
            do throws(Bus1Error) {
                while true {
                    try await places.take(until: deadline, keeping: self)
                    var message: Message
                    do throws(Bus1Error) {
                        message = try await receiveMessage(of: node.rawValue, until: deadline)
                    } catch {
                        places.give()
                        throw error
                    }
                    let reply = OwedReply(message.takeReply())
                    guard let request = try? read(message) else {
                        places.give()
                        continue
                    }
                    group.addTask {
                        // What it throws is told by the reply that is not sent.
                        try? await answer(request, reply)
                        reply.drop()
                        places.give()
                    }
                }
            } catch {
                if error.code == .cancelled { group.cancelAll() }
                return error
            }
        }
        if let failure, failure.code != .timedOut { throw failure }
    }
}

/// A reply on its way to the task that sends it.
private final class OwedReply: Sendable {
    private let reply: Mutex<Reply?>

    init(_ reply: consuming Reply?) { self.reply = Mutex(reply) }

    func take() -> Reply? {
        reply.withLock { reply in
            var taken: Reply? = nil
            swap(&taken, &reply)
            return taken
        }
    }

    func drop() { _ = take() }
}

/// So many at a time.
private final class Places: Sendable {
    private let state: Mutex<(free: Int, waiting: Wait?)>

    init(_ count: Int) { state = Mutex((count, nil)) }

    func give() {
        let waiting = state.withLock { state -> Wait? in
            state.free += 1
            defer { state.waiting = nil }
            return state.waiting
        }
        waiting?.end(.woken)
    }

    /// Suspends the task until there is one. One task only.
    nonisolated(nonsending)
        func take(until deadline: Deadline, keeping keeps: AnyObject) async throws(Bus1Error)
    {
        while true {
            let wait = Wait(until_ns: deadline.monotonic_ns, words: 0, keeping: keeps)
            let isTaken = state.withLock { state in
                guard state.free == 0 else {
                    state.free -= 1
                    return true
                }
                state.waiting = wait
                return false
            }
            if isTaken { return }
            switch await wait.sleep() {
            case .woken: continue
            case .cancelled: throw Bus1Error(.cancelled, "serve")
            case .timedOut: throw Bus1Error(.timedOut, "serve")
            }
        }
    }
}
