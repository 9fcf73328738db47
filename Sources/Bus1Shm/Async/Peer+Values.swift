extension Peer {
    /// The messages of one node as values, for `for try await`.
    ///
    ///     for try await order in peer.values(of: Order.self, on: node) { book.add(order) }
    ///
    /// What each costs and what is kept meanwhile is as for ``receive(on:until:)``. Nothing is buffered: who
    /// iterates slowly is sent to slowly. Several tasks of the peer's isolation domain may iterate over one node; each value
    /// goes to one of them.
    ///
    /// - Returns: a sequence that ends when the peer is closed. It throws `mismatch` where a message is not as long as the
    ///   type - that one is gone, and another iteration goes on behind it - and else what a receive throws, `cancelled`
    ///   among it.
    public func values<Value: BitwiseCopyable>(
        of type: Value.Type = Value.self, on node: borrowing Node
    ) -> NodeValues<Value> {
        NodeValues(core: core, node: node.id)
    }
}

/// The messages of one node, as values of one type: see ``Peer/values(of:on:)``.
public struct NodeValues<Value: BitwiseCopyable>: AsyncSequence {
    /// What is sent to the node.
    public typealias Element = Value
    /// What a receive throws.
    public typealias Failure = Bus1Error

    fileprivate let core: PeerCore
    fileprivate let node: NodeID

    init(core: PeerCore, node: NodeID) {
        self.core = core
        self.node = node
    }

    /// Goes on with what was not taken yet.
    public func makeAsyncIterator() -> Iterator { Iterator(values: self) }

    /// Takes one message after the other.
    public struct Iterator: AsyncIteratorProtocol {
        fileprivate let values: NodeValues

        /// The next value; suspends the task until there is one. nil: the peer is closed.
        ///
        /// - Throws: as said at ``Peer/values(of:on:)``.
        public mutating func next() async throws(Bus1Error) -> Value? {
            try await next(isolation: nil)
        }

        /// As ``next()``, in the isolation domain of who asks.
        public mutating func next(
            isolation actor: isolated (any Actor)?
        ) async throws(Bus1Error) -> Value? {
            do throws(Bus1Error) {
                let message = try await values.core.receiveMessage(
                    of: values.node.rawValue, until: .never)
                return try message.load(as: Value.self)
            } catch {
                if error.code == .shutDown { return nil }
                throw error
            }
        }
    }
}

@available(*, unavailable)
extension NodeValues: Sendable {}
@available(*, unavailable)
extension NodeValues.Iterator: Sendable {}
