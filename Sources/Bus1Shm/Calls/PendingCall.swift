import CShmRing

/// The right to be answered, and what came of it: an own node with one reply handle, which the callee keeps for the next
/// call when it can. One call at a time uses it.
///
/// It ends when its node is released (the caller gave up: the callee sees that at once), or its handle is gone (the callee
/// dropped the reply, or died).
///
/// NOTE - only the peer's isolation domain, but for the wait, which any thread may end.
final class PendingCall {
    enum Outcome {
        case outstanding
        /// The reply: a cell that is this object's until somebody takes it.
        case replied(UnsafeMutablePointer<shmring_cell>)
        case lost
    }

    let node: NodeID
    let target: HandleID
    /// How the callee calls the reply handle that it keeps.
    var number: UInt64?
    var outcome = Outcome.outstanding
    /// The request was sent: from here on somebody is to answer.
    var isSent = false
    /// No call uses it.
    var isIdle = false
    /// How the task sleeps that waits for it.
    var wait: Wait?

    init(node: NodeID, target: HandleID) {
        self.node = node
        self.target = target
    }

    var isOver: Bool {
        if case .outstanding = outcome { false } else { true }
    }

    func end(_ outcome: Outcome) {
        self.outcome = outcome
        wait?.end(.woken)
    }

    /// The reply, and another call may begin.
    func takeReply() -> Message? {
        guard case .replied(let cell) = outcome else { return nil }
        outcome = .outstanding
        isSent = false
        wait = nil
        return Message(cell: cell)
    }

    deinit { _ = takeReply() }
}

/// What is outstanding, and what can be used again.
struct PendingCalls {
    /// Of one handle, as many as are ever outstanding at a time up to this.
    private static let idleMax = 64

    /// By node; idle ones, too.
    private var all: [UInt64: PendingCall] = [:]
    private var idle: [HandleID: [PendingCall]] = [:]
    /// The idle one that was used last, beside the others.
    private var latest: PendingCall?
    /// What a blocking call waits for.
    var awaited: PendingCall?

    var isEmpty: Bool { all.isEmpty }

    subscript(node: UInt64) -> PendingCall? {
        if let awaited, awaited.node.rawValue == node { return awaited }
        return all[node]
    }

    mutating func add(_ call: PendingCall) { all[call.node.rawValue] = call }

    mutating func takeIdle(for handle: HandleID) -> PendingCall? {
        if let call = latest, call.target == handle {
            latest = nil
            call.isIdle = false
            return call
        }
        guard let call = idle[handle]?.popLast() else { return nil }
        call.isIdle = false
        return call
    }

    /// False: there are enough.
    mutating func putIdle(_ call: PendingCall) -> Bool {
        if let before = latest {
            guard idle[before.target, default: []].count < Self.idleMax else { return false }
            idle[before.target, default: []].append(before)
        }
        call.isIdle = true
        latest = call
        return true
    }

    /// It is of no use any more. nil: it was not there.
    mutating func remove(_ node: UInt64) -> PendingCall? {
        guard let call = all.removeValue(forKey: node) else { return nil }
        if latest === call { latest = nil }
        if var others = idle[call.target] {
            others.removeAll { $0 === call }
            idle[call.target] = others.isEmpty ? nil : others
        }
        return call
    }
}
