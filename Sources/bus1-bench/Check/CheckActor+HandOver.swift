import Bus1Shm
import CBench
import Glibc

extension CheckActor {
    /// Passes one or two handles on to each of one or two nodes, at one instant.
    mutating func handOver() throws {
        items.removeAll(keepingCapacity: true)
        var transaction = peer.transaction()
        for _ in 0..<1 + roll(2) {
            let to = handles[roll(handles.count)]
            // Peer 0, which forges, is given nothing: it must know which grants are its own.
            guard !items.contains(to.node), to.node >> 14 != 0 else { continue }
            items.append(to.node)
            var parcel = Parcel(transaction: nextTransaction())
            var passing: [HandleID] = []
            for _ in 0..<1 + roll(2) {
                let one = handles[roll(handles.count)]
                if passing.isEmpty {
                    parcel.carried.0 = one.node
                } else {
                    parcel.carried.1 = one.node
                }
                passing.append(one.id)
                items.append(Self.item(BENCH_ITEM_WITH, one.node))
            }
            try transaction.send(parcel, to: to.id, passing: passing)
        }
        guard !items.isEmpty else { return }
        bench_recorder_begin(
            recorder, BENCH_RECORD_SEND.rawValue, nextTransaction(), items, UInt32(items.count))
        do throws(Bus1Error) {
            // The first time between two peers the broker introduces them, which takes a moment.
            asks(true)
            defer { asks(false) }
            try transaction.commit(until: .after(.milliseconds(20)))
            mine.pointee.passed += 1
            sent(true)
        } catch {
            try expect(error, [.nodeReleased, .noSuchHandle, .timedOut, .overQuota])
        }
    }

    /// Takes the handles out of a message; `items` then says which came.
    mutating func takeHandles(_ message: inout Message, _ parcel: Parcel) {
        items.removeAll(keepingCapacity: true)
        items.append(UInt32(message.tag))
        for index in 0..<min(message.handleCount, 2) {
            let node = index == 0 ? parcel.carried.0 : parcel.carried.1
            // nil: its node was released before.
            guard let handle = message.takeHandle(index) else { continue }
            hold(handle.detach(), node)
            items.append(Self.item(BENCH_ITEM_WITH, node))
        }
    }
}
