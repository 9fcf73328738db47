import Bus1Shm
import CBench
import CShmRing

extension CheckActor {
    /// True when there was something.
    mutating func tryReceive() throws -> Bool {
        let before = shmring_fault_act_as(SHMRING_FAULT_RECEIVER.rawValue)
        defer { _ = shmring_fault_act_as(before) }
        let begin = bench_recorder_now()
        guard let delivery = try peer.tryReceive() else { return false }
        try note(delivery, since: begin)
        return true
    }

    /// Waits for something; true when it came.
    mutating func receive(until deadline: Deadline) throws -> Bool {
        let before = shmring_fault_act_as(SHMRING_FAULT_RECEIVER.rawValue)
        defer { _ = shmring_fault_act_as(before) }
        let begin = bench_recorder_now()
        do throws(Bus1Error) {
            let delivery = try peer.receive(until: deadline)
            try note(delivery, since: begin)
            return true
        } catch {
            guard error.code == .timedOut else { throw error }
            return false
        }
    }

    private mutating func note(_ delivery: consuming Delivery, since begin: UInt64)
        throws(Bus1Error)
    {
        mine.pointee.received += 1
        switch delivery {
        case .message(var message):
            let parcel = Parcel(of: message)
            // The tag is the number of the node, as its owner made it.
            takeHandles(&message, parcel)
            bench_recorder_add(
                recorder, BENCH_RECORD_RECEIVE.rawValue, begin, parcel.transaction, items,
                UInt32(items.count))
        case .notice(let notice):
            switch notice.kind {
            case .nodeReleased(let id):
                // 0, which is no node, for a handle that this peer does not hold.
                record(BENCH_RECORD_GONE, since: begin, forget(id) ?? 0)
            case .noHandles(let id):
                record(BENCH_RECORD_NONE, since: begin, ownNodes[id] ?? 0)
                noneLeft = true
            case .replyLost: break
            }
        }
    }
}
