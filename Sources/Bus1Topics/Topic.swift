public import Bus1Shm

/// One publisher of values of one type, for subscribers that come and go.
///
/// All subscribers that have room get a value at one instant, and each gets the values in order. It is a peer of its own on the
/// bus, so that the program's other receiving goes on undisturbed; one thread at a time uses it.
///
/// NOTE - subscribers are taken in when something is published, or by ``accept()``.
public struct Topic<Value: BitwiseCopyable>: ~Copyable {
    /// What becomes of a value that a subscriber has no room for.
    public enum WhenSlow: UInt64, Sendable {
        /// The publisher waits. A subscriber that stands still stops it.
        case wait = 1
        /// That subscriber does not get it; it is told how many it missed.
        case dropNewest = 2
        /// The same, but it gets the newest one as soon as there is room and something is published, or
        /// ``Topic/accept()`` is called; and the subscriber itself passes over all but the newest that it has.
        case skipToLatest = 3
        /// That subscriber is no subscriber any more, and is told so behind what it has got.
        case detach = 4
    }

    private let peer: Peer
    private let node: Node
    private let whenSlow: WhenSlow
    private let fingerprint = TypeFingerprint(of: Value.self)
    private var history: [TopicRecord<Value>] = []
    private let historyCount: Int
    private var sequence: UInt64 = 0
    private var subscribers: [HandleID] = []
    /// Those that have not got the newest value.
    private var behind: Set<HandleID> = []

    /// Publishes a topic under a name.
    ///
    /// - Parameter history: so many of the latest values are sent to who subscribes later.
    /// - Throws: as `Peer.init` and `Peer.publish`: `nameTaken` when there is such a topic.
    public init(
        _ name: String, on bus: Bus = .default, carrying type: Value.Type = Value.self,
        to access: Access = .sameUser, history: Int = 0, whenSlow: WhenSlow = .skipToLatest
    ) throws(Bus1Error) {
        precondition(history >= 0, "a history of fewer than no values")
        var options = Peer.Options()
        options.spin = .zero
        let peer = try Peer(on: bus, options)
        let node = try peer.makeNode()
        try peer.publish(node, as: name, carrying: type, to: access)
        self.peer = peer
        self.node = node
        self.whenSlow = whenSlow
        historyCount = history
    }

    /// How many subscribers there are, as far as is known.
    public var subscriberCount: Int { subscribers.count }

    /// Sends a value to all subscribers.
    ///
    /// Blocks only with ``WhenSlow/wait``, until the deadline: who has no room by then misses the value. O(subscribers).
    ///
    /// - Returns: how many get it.
    /// - Throws: `severed` when the broker and its heir are gone, `system`. Others may have got it then.
    @discardableResult
    public mutating func publish(_ value: Value, until deadline: Deadline = .never)
        throws(Bus1Error)
        -> Int
    {
        try takeNewcomers()
        sequence += 1
        let record = TopicRecord(
            header: TopicHeader(sequence: sequence, whenSlow: whenSlow.rawValue), value: value)
        if max(historyCount, whenSlow == .skipToLatest ? 1 : 0) > 0 {
            if history.count == max(historyCount, 1) { history.removeFirst() }
            history.append(record)
        }
        behind = []
        var reached = 0
        for start in stride(from: 0, to: subscribers.count, by: Self.atOnce) {
            let some = Array(subscribers[start..<min(subscribers.count, start + Self.atOnce)])
            reached += try send(record, to: some, until: deadline)
        }
        drop(gone)
        gone = []
        return reached
    }

    /// Takes in those who have subscribed since, and gives the newest value to those who had no room for it. Never
    /// blocks. For a publisher that is silent for long.
    public mutating func accept() throws(Bus1Error) {
        try takeNewcomers()
        guard let newest = history.last else { return }
        let due = behind
        behind = []
        for id in due { _ = try sendAlone(newest, to: id, until: .now) }
        drop(gone)
        gone = []
    }

    /// Readable when somebody may have subscribed, for an event loop that calls ``accept()`` then.
    ///
    /// - Throws: as `Peer.descriptor()`.
    public func descriptor() throws(Bus1Error) -> Int32 { try peer.descriptor() }

    // MARK: Sending

    private static var atOnce: Int { 256 }
    /// To be dropped: their nodes or they themselves are gone, or they were too slow.
    private var gone: Set<HandleID> = []

    private mutating func send(
        _ record: TopicRecord<Value>, to some: [HandleID], until deadline: Deadline
    ) throws(Bus1Error) -> Int {
        do throws(Bus1Error) {
            var record = record
            try withBytes(of: &record) { bytes throws(Bus1Error) in
                _ = try peer.send(bytes, to: some, until: .now)
            }
            return some.count
        } catch {
            guard Self.isOfOne(error) else { throw error }
        }
        // Not all of them can: each for itself, in the order in which they came.
        var reached = 0
        for id in some where try sendAlone(record, to: id, until: deadline) { reached += 1 }
        return reached
    }

    /// Whether it got it.
    private mutating func sendAlone(
        _ record: TopicRecord<Value>, to id: HandleID, until deadline: Deadline
    ) throws(Bus1Error) -> Bool {
        do throws(Bus1Error) {
            var record = record
            try withBytes(of: &record) { bytes throws(Bus1Error) in
                _ = try peer.send(bytes, to: [id], until: whenSlow == .wait ? deadline : .now)
            }
            return true
        } catch {
            guard Self.isOfOne(error) else { throw error }
            guard error.code == .timedOut || error.code == .overQuota else {
                gone.insert(id)
                return false
            }
            switch whenSlow {
            case .wait, .dropNewest: break
            case .skipToLatest: behind.insert(id)
            case .detach: gone.insert(id)
            }
            return false
        }
    }

    /// One of several destinations is full or gone; the topic goes on.
    private static func isOfOne(_ error: Bus1Error) -> Bool {
        switch error.code {
        case .timedOut, .overQuota, .nodeReleased, .noSuchHandle: true
        default: false
        }
    }

    private mutating func drop(_ ids: Set<HandleID>) {
        guard !ids.isEmpty else { return }
        subscribers.removeAll { ids.contains($0) }
        behind.subtract(ids)
        // A handle of the dead has ended by itself.
        for id in ids { try? peer.release(id) }
    }

    // MARK: Subscribers

    private mutating func takeNewcomers() throws(Bus1Error) {
        while let delivery = try peer.tryReceive() {
            switch consume delivery {
            case .message(var message): try takeIn(&message)
            case .notice(let notice):
                if case .nodeReleased(let id) = notice.kind { drop([id]) }
            }
        }
    }

    private mutating func takeIn(_ message: inout Message) throws(Bus1Error) {
        // Whoever sends anything else gets no answer.
        guard let request = try? message.load(as: SubscribeRequest.self),
            request.fingerprint == fingerprint.rawValue, message.handleCount == 1,
            let handle = message.takeHandle()
        else { return }
        let id = handle.detach()
        let earlier = history.suffix(historyCount)
        var header = TopicHeader(
            sequence: (earlier.first?.header.sequence ?? sequence + 1), whenSlow: whenSlow.rawValue)
        do throws(Bus1Error) {
            try withBytes(of: &header) { bytes throws(Bus1Error) in
                _ = try peer.send(bytes, to: [id], until: .now)
            }
        } catch {
            guard Self.isOfOne(error) else { throw error }
            return drop([id])
        }
        subscribers.append(id)
        for record in earlier { _ = try sendAlone(record, to: id, until: .now) }
        drop(gone)
        gone = []
    }

    private func withBytes<T: BitwiseCopyable>(
        of value: inout T, _ body: (RawSpan) throws(Bus1Error) -> Void
    ) throws(Bus1Error) {
        try body(Span(_unsafeStart: &value, count: 1).bytes)
    }
}
