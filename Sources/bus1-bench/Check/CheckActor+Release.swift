import Bus1Shm
import CBench
import Glibc

extension CheckActor {
    /// Gives up several handles at one instant, those to secret nodes first.
    mutating func dropSeveral(_ count: Int) throws {
        let isSecret = { (one: Held) in one.node & Self.secretBit != 0 }
        var chosen = Array(handles.filter(isSecret).prefix(count))
        chosen += handles.filter { !isSecret($0) }.prefix(count - chosen.count)
        items = chosen.map { Self.item(BENCH_ITEM_DROP, $0.node) }
        bench_recorder_begin(
            recorder, BENCH_RECORD_SEND.rawValue, nextTransaction(), items, UInt32(items.count))
        do throws(Bus1Error) {
            try peer.release(chosen.map(\.id))
            sent(true)
            for one in chosen { _ = forget(one.id) }
        } catch {
            // One of them leads to a node that is gone, and the notice of that is on its way.
            try expect(error, [.noSuchHandle, .overQuota])
        }
    }

    /// Gives up the only handles to several own nodes at one instant, or makes them.
    mutating func cross() throws {
        if privateHandles.isEmpty {
            for place in privates { try holdPrivate(place) }
            return
        }
        items = privateHandles.map { Self.item(BENCH_ITEM_DROP, $0.node) }
        bench_recorder_begin(
            recorder, BENCH_RECORD_SEND.rawValue, nextTransaction(), items, UInt32(items.count))
        try peer.release(privateHandles.map(\.id))
        sent(true)
        privateHandles = []
    }

    /// The first notice that none are left has come: makes handles to others, whose notices wait.
    mutating func crossBack() throws {
        noneLeft = false
        for place in secrets where roll(2) == 0 { try holdOwn(place) }
        guard privateHandles.isEmpty else { return }
        for place in privates where roll(2) == 0 { try holdPrivate(place) }
    }

    private mutating func holdPrivate(_ place: Place) throws {
        guard let id = try makeOwnHandle(place) else { return }
        privateHandles.append(Held(id: id, node: place.number))
    }

    /// Releases an own node, alone or in one transaction with a message, and makes another one.
    mutating func releaseNode() throws {
        guard nodesMade < 8000 else { return }
        let isSecret = !habits.releasesPublished || roll(2) == 0
        let index = roll(isSecret ? secrets.count : places.count)
        let place = isSecret ? secrets[index] : places[index]
        if !isSecret { bench_check_store(bench_check_place(stage, UInt32(me), UInt32(index)), 0) }
        let released = Self.item(BENCH_ITEM_RELEASE, place.number)
        let parcel = Parcel(transaction: nextTransaction())
        if roll(2) == 0 {
            items = [released]
            bench_recorder_begin(
                recorder, BENCH_RECORD_SEND.rawValue, parcel.transaction, items, 1)
            place.node = nil
            sent(true)
        } else {
            let to = handles[roll(handles.count)]
            items = [released, to.node]
            bench_recorder_begin(
                recorder, BENCH_RECORD_SEND.rawValue, parcel.transaction, items, 2)
            try releaseWithMessage(place, parcel, to)
        }
        mine.pointee.released += 1
        if isSecret { secrets[index] = try makeNode(isSecret: true) } else { try addPlace(index) }
    }

    private mutating func releaseWithMessage(_ place: Place, _ parcel: Parcel, _ to: Held) throws {
        var transaction = peer.transaction()
        try transaction.send(parcel, to: to.id)
        transaction.release(place.node.take()!)
        do throws(Bus1Error) {
            try transaction.commit(until: .after(.milliseconds(20)))
        } catch {
            // The message was not sent; the node was released in any case.
            guard [.nodeReleased, .noSuchHandle, .timedOut].contains(error.code) else {
                throw error
            }
            bench_recorder_shorten(recorder, 1)
        }
        sent(true)
    }

    static func item(_ kind: bench_item_kind, _ node: UInt32) -> UInt32 {
        kind.rawValue << UInt32(BENCH_ITEM_SHIFT) | node
    }
}
