public import Bus1Shm

/// The values of a topic, from now on.
///
/// A peer of its own on the bus; one thread at a time uses it. Values wait in its ring, of as many slots as it was made with:
/// what becomes of more is the publisher's ``Topic/WhenSlow``.
public struct Subscription<Value: BitwiseCopyable>: ~Copyable {
    /// A value, and how many before it did not come.
    public struct Update {
        /// What was published.
        public let value: Value
        /// How many were published since the one before this that this subscriber did not get, or passed over.
        public let missed: Int
        /// Its number in the topic: 1 is the first that was ever published.
        public let sequence: UInt64
        /// Its place in the order of the bus.
        public let stamp: Stamp
    }

    private let peer: Peer
    private let node: Node
    private let topic: Handle
    /// The next value's number, once the publisher has said.
    private var expected: UInt64?
    private var passesOver = false
    /// No value comes any more.
    private var isOver = false

    /// Subscribes; waits for a topic that comes late.
    ///
    /// - Parameter slots: so many values may wait.
    /// - Throws: `mismatch` when the topic is of another type, `timedOut`, `denied`; else as `Peer.init`.
    public init(
        to name: String, on bus: Bus = .default, carrying type: Value.Type = Value.self,
        slots: Int = 64, until deadline: Deadline = .never
    ) throws(Bus1Error) {
        var options = Peer.Options()
        options.slots = slots
        let peer = try Peer(on: bus, options)
        let node = try peer.makeNode()
        let topic = try peer.lookUp(name, carrying: type, until: deadline).untyped()
        let own = try peer.makeHandle(to: node)
        var request = SubscribeRequest(fingerprint: TypeFingerprint(of: type).rawValue)
        try peer.send(
            Span(_unsafeStart: &request, count: 1).bytes, to: topic, passing: [own.id],
            until: deadline)
        own.release()
        self.peer = peer
        self.node = node
        self.topic = topic
    }

    /// The next value. Spins a little, then sleeps until there is one.
    ///
    /// - Throws: `timedOut`; `nodeReleased` behind the last value, when the topic or its publisher is gone, or this
    ///   subscriber was detached for being slow.
    public mutating func next(until deadline: Deadline = .never) throws(Bus1Error) -> Update {
        while !isOver {
            if let update = try take(try peer.receive(until: deadline)) {
                return try newest(update)
            }
        }
        throw Bus1Error(.nodeReleased, "receive from a topic")
    }

    /// The next value, if it is there. Never waits.
    ///
    /// - Throws: as ``next(until:)-(Deadline)``, but for `timedOut`.
    public mutating func tryNext() throws(Bus1Error) -> Update? {
        while !isOver {
            guard let delivery = try peer.tryReceive() else { return nil }
            if let update = try take(delivery) { return try newest(update) }
        }
        throw Bus1Error(.nodeReleased, "receive from a topic")
    }

    /// The next value; the task is suspended until there is one.
    ///
    /// - Throws: as the blocking one, and `cancelled`.
    nonisolated(nonsending) public mutating func next(
        until deadline: Deadline = .never
    ) async throws(Bus1Error) -> Update {
        while !isOver {
            let delivery = try await peer.receive(until: deadline)
            if let update = try take(delivery) { return try newest(update) }
        }
        throw Bus1Error(.nodeReleased, "receive from a topic")
    }

    /// Readable when ``tryNext()`` may succeed, for event loops.
    ///
    /// - Throws: as `Peer.descriptor()`.
    public func descriptor() throws(Bus1Error) -> Int32 { try peer.descriptor() }

    /// Where the publisher wants it, all but the newest of what is there are passed over.
    private mutating func newest(_ first: Update) throws(Bus1Error) -> Update {
        var update = first
        while passesOver, !isOver, let delivery = try peer.tryReceive() {
            guard let later = try take(delivery) else { continue }
            update = Update(
                value: later.value, missed: update.missed + 1 + later.missed,
                sequence: later.sequence, stamp: later.stamp)
        }
        return update
    }

    private mutating func take(_ delivery: consuming Delivery) throws(Bus1Error) -> Update? {
        switch consume delivery {
        case .notice(let notice):
            switch notice.kind {
            case .noHandles, .nodeReleased: isOver = true
            default: break
            }
            return nil
        case .message(let message): return try take(message)
        }
    }

    private mutating func take(_ message: borrowing Message) throws(Bus1Error) -> Update? {
        if expected == nil {
            let header = try message.load(as: TopicHeader.self)
            passesOver = header.whenSlow == Topic<Value>.WhenSlow.skipToLatest.rawValue
            expected = header.sequence
            return nil
        }
        let record = try message.load(as: TopicRecord<Value>.self)
        // Numbers are the publisher's word: whatever it says, nothing here depends on them but what is told.
        let missed = record.header.sequence &- (expected ?? 0)
        expected = record.header.sequence &+ 1
        return Update(
            value: record.value, missed: Int(truncatingIfNeeded: missed),
            sequence: record.header.sequence, stamp: message.stamp)
    }
}

extension Subscription.Update: Sendable where Value: Sendable {}
