import CShmRing
import Synchronization

/// The gates of a peer's further lanes: whether a thread is in the middle of using one.
///
/// A lane's thread finds links and handles by words that the peer's own thread takes away when somebody dies. It looks
/// there between two passages of its gate only; the peer's thread takes the words away, then waits until every lane has
/// been seen outside of its gate, and only then lets go of what stood behind them.
final class LaneGates: Sendable {
    private struct State: @unchecked Sendable {
        // @unchecked: what a lane's gate and table are stays valid until it leaves.
        var lanes: [ObjectIdentifier: LaneState] = [:]
        var canWait = false
    }

    private let state = Mutex(State())

    /// How far a lane had come.
    struct Passage {
        fileprivate let lane: ObjectIdentifier
        fileprivate let passes: UInt64
    }

    /// A lane begins.
    func add(_ lane: LaneState) {
        state.withLock { state in
            if state.lanes.isEmpty { state.canWait = shmring_gate_prepare() == 0 }
            state.lanes[ObjectIdentifier(lane)] = lane
        }
    }

    /// It will look nothing up any more.
    func remove(_ lane: LaneState) {
        _ = state.withLock { $0.lanes.removeValue(forKey: ObjectIdentifier(lane)) }
    }

    /// Lanes can be waited for; else only their end.
    var canWait: Bool { state.withLock { $0.lanes.isEmpty || $0.canWait } }

    /// Lanes that may still use what was taken away before: to be asked for again by ``areStillInside(_:)``.
    func inside() -> [Passage] {
        state.withLock { state in
            guard !state.lanes.isEmpty else { return [] }
            // Without such a barrier a lane is waited for until it ends.
            let isSeen = state.canWait && shmring_gate_barrier() == 0
            return state.lanes.compactMap { id, lane in
                let passes = isSeen ? shmring_gate_passes(lane.gate) : .max
                return passes % 2 == 0 ? nil : Passage(lane: id, passes: passes)
            }
        }
    }

    /// Those of them that may still be.
    func areStillInside(_ passages: [Passage]) -> [Passage] {
        guard !passages.isEmpty else { return [] }
        return state.withLock { state in
            passages.filter { one in
                guard let lane = state.lanes[one.lane] else { return false }
                return one.passes == .max || shmring_gate_passes(lane.gate) == one.passes
            }
        }
    }

    /// No lane finds its way into the ring behind a link at this place any more.
    func forget(place: Int) {
        state.withLock { state in
            for lane in state.lanes.values { lane.producers?[place] = nil }
        }
    }
}
