extension Peer {
    /// The next message or notice. Suspends the task until one comes; the thread is free meanwhile.
    ///
    /// Several tasks of the peer's isolation domain may wait at the same time: each delivery goes to one of them, and
    /// messages of a node first to who waits for that node. It resumes soonest in a task of a ``BusExecutor``. Tasks that
    /// wait beside a thread that blocks in ``receive(until:)-(Deadline)`` of the same peer may be late.
    ///
    /// - Throws: as the blocking receive, and `cancelled` when the task is: nothing was taken then.
    nonisolated(nonsending) public func receive(
        until deadline: Deadline = .never
    ) async throws(Bus1Error) -> Delivery {
        if let delivery = try tryReceive() { return delivery }
        return try await core.receiveLater(.anything, until: deadline)!
    }

    /// The next message for one node, out of turn. Suspends the task until one comes.
    ///
    /// What comes before it is kept for other receives, up to ``limit(_:)`` of messages; beyond, it waits until other
    /// tasks have taken theirs.
    ///
    /// - Throws: as the blocking receive on a node, and `cancelled`.
    nonisolated(nonsending) public func receive(
        on node: borrowing Node, until deadline: Deadline = .never
    ) async throws(Bus1Error) -> Message {
        try await core.receiveMessage(of: node.id.rawValue, until: deadline)
    }
}

extension PeerCore {
    nonisolated(nonsending)
        func receiveMessage(of node: UInt64, until deadline: Deadline)
        async throws(Bus1Error) -> Message
    {
        let delivery = try await receiveLater(.node(node), until: deadline)!
        guard case .message(let message) = consume delivery else {
            preconditionFailure("a node gets messages only")
        }
        return message
    }
}
