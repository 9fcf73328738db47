import CShmRing

extension Peer {
    /// Asks somebody, and waits for the answer: the reply that the receiver of the request sends by
    /// ``Message/takeReply()``. Blocks the thread; spins first, as a receive does.
    ///
    /// What else comes for this peer meanwhile is kept for later receives, in its order.
    ///
    /// - Returns: the reply.
    /// - Throws: `replyLost` at once when nobody is going to answer: the callee dropped the request, or died; `timedOut`,
    ///   and then the callee sees that nobody waits (``Reply/isWanted``); as ``send(_:to:until:)-(RawSpan,_,_)``;
    ///   `overQuota` when as many others wait as ``limit(_:)`` of messages allows.
    public func call(
        _ request: RawSpan, on handle: borrowing Handle, until deadline: Deadline
    ) throws(Bus1Error) -> Message {
        guard handle.entry.pointee.token == hot.pointee.token else { throw core.noSuchHandleToSend }
        return try request.withUnsafeBytes { bytes throws(Bus1Error) in
            try core.call(bytes, on: handle.id, until: deadline)
        }
    }

    /// Asks with a value, and waits for an answer that is one, too.
    ///
    /// - Throws: as ``call(_:on:until:)-(RawSpan,_,_)``, and `mismatch` when the reply is not as long as its type.
    public func call<Request: BitwiseCopyable, Answer: BitwiseCopyable>(
        _ request: Request, on handle: borrowing Handle, for answer: Answer.Type = Answer.self,
        until deadline: Deadline
    ) throws(Bus1Error) -> Answer {
        guard handle.entry.pointee.token == hot.pointee.token else { throw core.noSuchHandleToSend }
        return try withUnsafeBytes(of: request) { bytes throws(Bus1Error) in
            let reply = try core.call(bytes, on: handle.id, until: deadline)
            return try reply.load(as: Answer.self)
        }
    }

    /// Asks somebody, and suspends the task until the answer comes. Many calls of one peer may be outstanding: each gets
    /// its own reply.
    ///
    /// - Returns: the reply.
    /// - Throws: as the blocking call, and `cancelled`; then, too, the callee sees that nobody waits.
    nonisolated(nonsending) public func call(
        _ request: RawSpan, on handle: borrowing Handle, until deadline: Deadline
    ) async throws(Bus1Error) -> Message {
        guard handle.entry.pointee.token == hot.pointee.token else { throw core.noSuchHandleToSend }
        let call = try core.beginCall(on: handle.id)
        do throws(Bus1Error) {
            while true {
                let isSent = try request.withUnsafeBytes { bytes throws(Bus1Error) in
                    try core.trySendRequest(bytes, call, until: deadline)
                }
                if isSent { break }
                try await core.laneState.waitPatiently(until: deadline)
            }
            _ = try await core.receiveLater(.call(call), until: deadline)
        } catch {
            core.giveUpCall(call)
            throw error
        }
        return try core.finishCall(call)
    }

    /// Asks with a value, and suspends the task until the answer comes, which is one, too.
    ///
    /// - Throws: as ``call(_:on:until:)-(RawSpan,_,_)``, `cancelled`, and `mismatch` when the reply is not as long as its
    ///   type.
    nonisolated(nonsending) public func call<Request: BitwiseCopyable, Answer: BitwiseCopyable>(
        _ request: Request, on handle: borrowing Handle, for answer: Answer.Type = Answer.self,
        until deadline: Deadline
    ) async throws(Bus1Error) -> Answer {
        let bytes = InlineArray<1, Request>(repeating: request)
        let reply = try await call(bytes.span.bytes, on: handle, until: deadline)
        return try reply.load(as: Answer.self)
    }
}

extension PeerCore {
    /// One call from begin to end, blocking.
    func call(
        _ bytes: UnsafeRawBufferPointer, on handle: HandleID, until deadline: Deadline
    ) throws(Bus1Error) -> Message {
        let call = try beginCall(on: handle)
        do throws(Bus1Error) {
            while try !trySendRequest(bytes, call, until: deadline) {
                guard !deadline.hasPassed else { throw Bus1Error(.timedOut, "call") }
                laneState.waitBlocking(until: deadline)
            }
            try awaitCall(call, until: deadline)
        } catch {
            giveUpCall(call)
            throw error
        }
        return try finishCall(call)
    }
}

extension LaneState {
    /// Sleeps until the obstacle may be gone.
    func waitBlocking(until deadline: Deadline) {
        let soon = Deadline.earlier(deadline, .after(.milliseconds(1)))
        switch obstacle {
        case .room(let link):
            let producer = link.producer
            _ = shmring_producer_wait(producer, producer.pointee.unicast_room, soon.monotonic_ns)
        case .credit(let credit): credit.sleep(until: soon)
        case .something, nil: shmring_pause()
        }
    }
}
