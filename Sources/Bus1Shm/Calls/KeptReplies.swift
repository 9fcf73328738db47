import Synchronization

/// Reply handles that were used once and are good for the next call of the same caller: a call need neither hand a handle
/// over nor end one. The caller names it by a number that came with the first reply.
///
/// NOTE - any thread.
final class KeptReplies: Sendable {
    /// More callers at a time hand a handle over for each call, as strangers do.
    private static let countMax = 4096

    private struct Entry {
        let id: HandleID
        let caller: PeerID
        /// Of this use of the place: a number is never that of another handle.
        let count: UInt32
        var isIdle: Bool
    }

    private struct State {
        var entries: [Entry?] = []
        var free: [Int] = []
        var placeOf: [HandleID: Int] = [:]
        var count: UInt32 = 1
    }

    private let state = Mutex(State())

    /// nil: there are too many.
    func add(_ id: HandleID, of caller: PeerID) -> UInt64? {
        state.withLock { state in
            guard state.placeOf.count < Self.countMax else { return nil }
            state.count = state.count == .max ? 1 : state.count + 1
            let entry = Entry(id: id, caller: caller, count: state.count, isIdle: true)
            let place = state.free.popLast() ?? state.entries.count
            if place == state.entries.count {
                state.entries.append(entry)
            } else {
                state.entries[place] = entry
            }
            state.placeOf[id] = place
            return UInt64(entry.count) << 32 | UInt64(place)
        }
    }

    /// A call came that names it. nil: this caller has none of that number, or it is in use.
    func use(_ number: UInt64, by caller: PeerID) -> HandleID? {
        state.withLock { state in
            let place = Int(number & 0xffff_ffff)
            guard place < state.entries.count, let entry = state.entries[place],
                entry.count == UInt32(number >> 32), entry.caller == caller, entry.isIdle
            else { return nil }
            state.entries[place]!.isIdle = false
            return entry.id
        }
    }

    /// It is about to be used: the next call may come at once. Or was not, after all.
    func setIdle(_ number: UInt64, _ isIdle: Bool) {
        state.withLock { state in
            let place = Int(number & 0xffff_ffff)
            guard place < state.entries.count, state.entries[place]?.count == UInt32(number >> 32)
            else { return }
            state.entries[place]!.isIdle = isIdle
        }
    }

    /// The handle is none any more. False: it was not kept.
    @discardableResult
    func remove(_ id: HandleID) -> Bool {
        state.withLock { state in
            guard let place = state.placeOf.removeValue(forKey: id) else { return false }
            state.entries[place] = nil
            state.free.append(place)
            return true
        }
    }

    /// The caller is dead, and its handles with it.
    func removeAll(of caller: PeerID) {
        state.withLock { state in
            for place in state.entries.indices {
                guard let entry = state.entries[place], entry.caller == caller else { continue }
                state.entries[place] = nil
                state.free.append(place)
                state.placeOf[entry.id] = nil
            }
        }
    }
}
